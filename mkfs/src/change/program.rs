//! The command lines `gfs2_jadd` and `gfs2_grow`, also reached as `corral fs add-journals` and `corral fs grow`.
//!
//! Options and texts are the established tools'; they name a device instead of a mount point, because a mounted
//! filesystem is refused. Exit codes: 0, 1 wrong usage or refused.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::{Added, ChangeError, Grown, NewJournals, add_journals, grow};
use crate::open;
use crate::options::{JOURNAL_MB_MAX, JOURNAL_MB_MIN, QUOTA_CHANGE_MB_MAX, QUOTA_CHANGE_MB_MIN};

const JADD_HELP: &str = "\
Usage:
gfs2_jadd [options] <device>

Adds journals to a GFS2 filesystem that is mounted nowhere.

Options:
 -c <size>          Size of quota change file, in megabytes
 -D                 Enable debugging code
 -h                 Display this help, then exit
 -J <size>          Size of journals, in megabytes
 -j <number>        Number of journals
 -q                 Don't print anything
 -V                 Display version information, then exit";

const GROW_HELP: &str = "\
Usage:
    gfs2_grow [options] <device>

Grows a GFS2 filesystem that is mounted nowhere to the size of its device

Options:
 -h                 Display this usage information
 -q                 Quiet, reduce verbosity
 -T                 Do everything except update file system
 -V                 Display version information
 -v                 Increase verbosity";

/// Megabytes of a journal unless asked for otherwise: gfs2_jadd's own default.
const JOURNAL_MB: u32 = 32;

/// `gfs2_jadd` with the arguments behind its name.
pub async fn run_jadd(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let parsed = match Parsed::new("gfs2_jadd", "cJj", "DhqV", arguments) {
        Ok(parsed) => parsed,
        Err(message) => return fail(&message),
    };
    if parsed.has('h') {
        return say(JADD_HELP);
    }
    if parsed.has('V') {
        return say(concat!("gfs2_jadd (Corral) ", env!("CARGO_PKG_VERSION")));
    }
    let number = |option, default: u32| parsed.value(option).map_or(default, |text| text.parse().unwrap_or(0));
    let wanted = NewJournals {
        count: number('j', 1),
        journal_mb: number('J', JOURNAL_MB),
        quota_change_mb: number('c', QUOTA_CHANGE_MB_MIN),
        seconds: now(),
    };
    let refused = if wanted.count == 0 {
        Some(ChangeError::NoJournals)
    } else if !(JOURNAL_MB_MIN..=JOURNAL_MB_MAX).contains(&wanted.journal_mb) {
        Some(ChangeError::JournalSize)
    } else if !(QUOTA_CHANGE_MB_MIN..=QUOTA_CHANGE_MB_MAX).contains(&wanted.quota_change_mb) {
        Some(ChangeError::QuotaChangeSize)
    } else {
        None
    };
    if let Some(error) = refused {
        return fail(&error.to_string());
    }
    let device = match parsed.device() {
        Ok(device) => device,
        Err(message) => return fail(&message),
    };
    let opened = match opened(&device).await {
        Ok(opened) => opened,
        Err(message) => return fail(&message),
    };
    let result = add_journals(&opened.device, &wanted).await;
    opened.close().await;
    match result {
        Ok(Added { before, after }) => {
            if !parsed.has('q') {
                show(&format!("Filesystem: {device}\nOld journals: {before}\nNew journals: {after}\n"));
            }
            ExitCode::SUCCESS
        }
        Err(error @ ChangeError::NoSpace { .. }) => fail(&error.to_string()),
        Err(error) => fail(&format!("{device}: {error}\nFailed to add journals")),
    }
}

/// `gfs2_grow` with the arguments behind its name.
pub async fn run_grow(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let parsed = match Parsed::new("gfs2_grow", "", "DhqTVv", arguments) {
        Ok(parsed) => parsed,
        Err(message) => return fail(&message),
    };
    if parsed.has('h') {
        return say(GROW_HELP);
    }
    if parsed.has('V') {
        return say(concat!("gfs2_grow (Corral) ", env!("CARGO_PKG_VERSION")));
    }
    let device = match parsed.device() {
        Ok(device) => device,
        Err(_) => return fail(GROW_HELP),
    };
    let opened = match opened(&device).await {
        Ok(opened) => opened,
        Err(message) => return fail(&message),
    };
    let result = grow(&opened.device, parsed.has('T'), now()).await;
    opened.close().await;
    let is_quiet = parsed.has('q');
    match result {
        Ok((grown, done)) => {
            if !is_quiet {
                show(&grown_text(&device, &grown, done.is_some(), parsed.has('T')));
            }
            ExitCode::SUCCESS
        }
        Err(error) => fail(&format!("{device}: {error}")),
    }
}

fn grown_text(device: &str, grown: &Grown, has_grown: bool, is_trial: bool) -> String {
    let Grown { block_size, before, device: blocks, added, groups } = *grown;
    let mut text = format!("FS: Device:{device:>24}\nFS: Size:  {before:>24} (0x{before:x})\n");
    text.push_str(&format!("DEV: Length:{blocks:>23} (0x{blocks:x})\n"));
    if !has_grown {
        text.push_str(&format!("{device} has not grown by as much as a resource group.\n"));
        return text;
    }
    let mb = (added * block_size) >> 20;
    text.push_str(&format!("The file system will grow by {mb}MB ({groups} resource groups).\n"));
    text.push_str(if is_trial { "Nothing was written.\n" } else { "gfs2_grow complete.\n" });
    text
}

async fn opened(device: &str) -> Result<open::Opened, String> {
    if Path::new(device).is_dir() {
        return Err(format!(
            "{device}: a directory. A mounted filesystem cannot be changed: unmount it on every machine and name its device"
        ));
    }
    let name = open::parse(device).map_err(|error| error.to_string())?;
    open::open(&name).await.map_err(|error| error.to_string())
}

/// Options in one word or several, and one operand.
struct Parsed {
    options: Vec<(char, Option<String>)>,
    operands: Vec<String>,
}

impl Parsed {
    fn new(
        program: &str,
        with_value: &str,
        without: &str,
        arguments: impl IntoIterator<Item = String>,
    ) -> Result<Parsed, String> {
        let mut parsed = Parsed { options: Vec::new(), operands: Vec::new() };
        let mut arguments = arguments.into_iter();
        while let Some(word) = arguments.next() {
            let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
                parsed.operands.push(word);
                continue;
            };
            let mut letters = letters.chars();
            while let Some(option) = letters.next() {
                if with_value.contains(option) {
                    let here: String = letters.by_ref().collect();
                    let value = if here.is_empty() { arguments.next() } else { Some(here) };
                    let missing =
                        || format!("{program}: option requires an argument -- '{option}'\nPlease use '-h' for help.");
                    parsed.options.push((option, Some(value.ok_or_else(missing)?)));
                } else if without.contains(option) {
                    parsed.options.push((option, None));
                } else {
                    return Err(format!("{program}: invalid option -- '{option}'\nPlease use '-h' for help."));
                }
            }
        }
        Ok(parsed)
    }

    fn has(&self, option: char) -> bool {
        self.options.iter().any(|(found, _)| *found == option)
    }

    fn value(&self, option: char) -> Option<&str> {
        self.options.iter().rev().find(|(found, _)| *found == option).and_then(|(_, value)| value.as_deref())
    }

    fn device(&self) -> Result<String, String> {
        match self.operands.as_slice() {
            [] => Err("no path specified (try -h for help)".into()),
            [device] => Ok(device.clone()),
            [_, second, ..] => Err(format!("Unrecognized argument: {second}")),
        }
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    // The time stamp of new inodes; nothing below a program reads the clock.
    #[allow(clippy::disallowed_methods)]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn say(text: &str) -> ExitCode {
    show(&format!("{text}\n"));
    ExitCode::SUCCESS
}

/// A reader that went away is not an error worth a message.
fn show(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}
