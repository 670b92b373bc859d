//! `corral fsck`: replays dirty journals, then checks the whole structure. Takes the options of `fsck.gfs2` and ends
//! with its exit codes.
//!
//! It reads only, apart from the replay: damage is told with its block, and not repaired. With `-n` nothing is
//! written, and a filesystem with dirty journals is checked as it would be after their replay.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use block_core::BlockDevice;
use gfs_check::journal::{Journal, Journals, Log, Plan, Replayed};
use gfs_check::{CheckError, Report, Severity};
use serde_json::{Value, json};

use crate::device::{self, Access, Opened};
use crate::output;
use crate::recovery;

/// Exit codes of fsck(8).
mod exit {
    pub const CLEAN: u8 = 0;
    pub const CORRECTED: u8 = 1;
    pub const UNCORRECTED: u8 = 4;
    pub const OPERATIONAL: u8 = 8;
    pub const USAGE: u8 = 16;
}

const USAGE: &str = "\
Usage: corral fsck [-afhnpqvVy] [--json] DEV

DEV is a file, a block device, or iscsi://[user%secret@]host[:port]/target-iqn/lun.

  -n      Write nothing: dirty journals are not replayed, the check sees the filesystem as it would be then
  -y      Replay without asking (which is what happens without -n as well)
  -p, -a  Replay only what is safe to: with lock_dlm other nodes may have it mounted; a clean filesystem is not checked
  -f      With -p: check a clean filesystem, too
  -q      Say nothing but errors
  -v      Also say what is not an error, and what was counted
  --json  One JSON document
  -V      Print the version
  -h      Print this

Replaying journals is all that it corrects; damage is shown and not repaired (fsck.gfs2 does that).
Exit codes: 0 clean, 1 journals were replayed and it is clean now, 4 errors are left, 8 it cannot be read, 16 wrong usage.
";

/// What was asked.
#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    device: String,
    is_dry: bool,
    is_yes: bool,
    is_preen: bool,
    is_forced: bool,
    is_quiet: bool,
    is_verbose: bool,
    is_json: bool,
}

/// What a call asks for instead of a check.
#[derive(Debug, PartialEq, Eq)]
enum Other {
    Help,
    Version,
    Wrong(String),
}

impl Call {
    fn parse(arguments: &[OsString]) -> Result<Call, Other> {
        let mut call = Call::default();
        let mut names = Vec::new();
        let mut options_ended = false;
        for argument in arguments {
            let Some(text) = argument.to_str() else {
                return Err(Other::Wrong(format!("{}: not a name that can be used", argument.display())));
            };
            match text.strip_prefix('-') {
                Some("-") => options_ended = true,
                Some("-json") => call.is_json = true,
                Some("-help") => return Err(Other::Help),
                Some("-version") => return Err(Other::Version),
                Some(letters) if !options_ended && !letters.is_empty() => {
                    for letter in letters.chars() {
                        call.set(letter)?;
                    }
                }
                Some(_) | None => names.push(text.to_owned()),
            }
        }
        if u8::from(call.is_preen) + u8::from(call.is_yes) + u8::from(call.is_dry) > 1 {
            return Err(Other::Wrong("Options -p/-a, -y and -n may not be used together".into()));
        }
        match <[String; 1]>::try_from(names) {
            Ok([device]) => Ok(Call { device, ..call }),
            Err(names) if names.is_empty() => {
                Err(Other::Wrong("No device specified (Please use '-h' for help)".into()))
            }
            Err(names) => Err(Other::Wrong(format!("More than one device specified: {}", names.join(" ")))),
        }
    }

    fn set(&mut self, letter: char) -> Result<(), Other> {
        match letter {
            'n' => self.is_dry = true,
            'y' => self.is_yes = true,
            'p' | 'a' => self.is_preen = true,
            'f' => self.is_forced = true,
            'q' => self.is_quiet = true,
            'v' => self.is_verbose = true,
            'h' => return Err(Other::Help),
            'V' => return Err(Other::Version),
            other => return Err(Other::Wrong(format!("invalid option -- '{other}' (Please use '-h' for help)"))),
        }
        Ok(())
    }
}

/// Runs `corral fsck` or, called so, `fsck.gfs2`.
pub fn run(who: &str, arguments: &[OsString]) -> ExitCode {
    let call = match Call::parse(arguments) {
        Ok(call) => call,
        Err(Other::Help) => {
            output::print(USAGE);
            return ExitCode::SUCCESS;
        }
        Err(Other::Version) => {
            output::print(&format!("{who} {}\n", env!("CARGO_PKG_VERSION")));
            return ExitCode::SUCCESS;
        }
        Err(Other::Wrong(message)) => {
            eprintln!("{who}: {message}");
            return ExitCode::from(exit::USAGE);
        }
    };
    let outcome = device::block_on(async {
        let access = if call.is_dry { Access::Read } else { Access::Write };
        let opened = match device::open(&call.device, access).await {
            Ok(opened) => opened,
            Err(message) => return Err((exit::USAGE, message)),
        };
        let Opened { device, .. } = &opened;
        let result = check(&call, device).await;
        opened.close().await;
        result.map_err(|message| (exit::OPERATIONAL, message))
    });
    let (code, message) = match outcome {
        Ok(Ok(outcome)) => {
            outcome.show(&call);
            return ExitCode::from(outcome.code);
        }
        Ok(Err(failed)) => failed,
        Err(message) => (exit::OPERATIONAL, message),
    };
    eprintln!("{who}: {message}");
    ExitCode::from(code)
}

/// What came of it.
struct Outcome {
    code: u8,
    /// What happened, in order.
    said: Vec<String>,
    replayed: Vec<u32>,
    dirty: Vec<u32>,
    /// `None` when it was not checked.
    report: Option<Report>,
}

async fn check(call: &Call, device: &Arc<dyn BlockDevice>) -> Result<Outcome, String> {
    let mut outcome =
        Outcome { code: exit::CLEAN, said: Vec::new(), replayed: Vec::new(), dirty: Vec::new(), report: None };
    let journals = match Journals::open(device.clone()).await {
        Ok(journals) => journals,
        Err(CheckError::Damaged(finding)) => {
            let mut report = Report::default();
            report.findings.push(*finding);
            return Ok(Outcome { code: exit::UNCORRECTED, report: Some(report), ..outcome });
        }
        Err(error) => return Err(error.to_string()),
    };
    let mut dirty = Vec::new();
    for journal in &journals.list {
        // One without a head is found again by the check.
        match Log::read(&journals, journal).await {
            Ok(log) if !log.is_clean() => dirty.push((journal, log)),
            Ok(_) | Err(CheckError::Damaged(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    outcome.dirty = dirty.iter().map(|(journal, _)| journal.index).collect();
    if call.is_preen {
        let is_shared = journals.superblock.lock_protocol() != b"lock_nolock";
        if dirty.is_empty() && !call.is_forced {
            outcome.said.push("clean: not checked without -f".into());
            return Ok(outcome);
        }
        if is_shared && !dirty.is_empty() {
            let said = "its journals are dirty, and with lock_dlm another node may have it mounted: unmount it \
                        everywhere and run without -p";
            outcome.said.push(said.into());
            return Ok(Outcome { code: exit::UNCORRECTED, ..outcome });
        }
    }
    let mut seen = device.clone();
    if !dirty.is_empty() && call.is_dry {
        seen = as_replayed(device, &journals, &dirty, &mut outcome).await?;
    } else if !dirty.is_empty() {
        replay(device, &journals, &dirty, &mut outcome).await;
    }
    let report = match gfs_check::check(seen).await {
        Ok(report) => report,
        Err(error) => return Err(error.to_string()),
    };
    if !report.is_consistent() {
        outcome.code = exit::UNCORRECTED;
    }
    outcome.report = Some(report);
    Ok(outcome)
}

/// The device as it would be after the replay of the dirty journals.
async fn as_replayed(
    device: &Arc<dyn BlockDevice>,
    journals: &Journals,
    dirty: &[(&Journal, Log)],
    outcome: &mut Outcome,
) -> Result<Arc<dyn BlockDevice>, String> {
    outcome.code = exit::UNCORRECTED;
    let mut plans = Vec::new();
    for (journal, log) in dirty {
        match Plan::of(journals, log) {
            Ok(plan) => plans.push(plan),
            Err(error) => {
                outcome.said.push(format!("journal {} cannot be replayed: {error}", journal.index));
                return Ok(device.clone());
            }
        }
    }
    let numbers: Vec<String> = outcome.dirty.iter().map(u32::to_string).collect();
    let said =
        format!("journal {} is dirty and not replayed (-n): checked as it would be after that", numbers.join(", "));
    outcome.said.push(said);
    let seen = Replayed::new(device.clone(), journals, &plans).await.map_err(|error| error.to_string())?;
    Ok(Arc::new(seen))
}

async fn replay(device: &Arc<dyn BlockDevice>, journals: &Journals, dirty: &[(&Journal, Log)], outcome: &mut Outcome) {
    let chosen: Vec<&Journal> = dirty.iter().map(|(journal, _)| *journal).collect();
    match recovery::replay(device, journals, &chosen).await {
        Ok(done) => {
            outcome.code = exit::CORRECTED;
            for (journal, done) in chosen.iter().zip(done) {
                let Some(done) = done else { continue };
                outcome.replayed.push(journal.index);
                outcome.said.push(format!("journal {} replayed: {} blocks", journal.index, done.blocks));
            }
        }
        Err(error) => {
            outcome.code = exit::UNCORRECTED;
            outcome.said.push(format!("the journals cannot be replayed: {error}"));
        }
    }
}

impl Outcome {
    fn show(&self, call: &Call) {
        if call.is_json {
            return output::print_json(&self.json(call));
        }
        let mut text = String::new();
        let quiet = call.is_quiet && self.code < exit::UNCORRECTED;
        if !quiet {
            self.said.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        }
        if let Some(report) = &self.report {
            for finding in &report.findings {
                if finding.severity() == Severity::Error || call.is_verbose {
                    text.push_str(&format!("{finding}\n"));
                }
            }
            if report.omitted > 0 {
                text.push_str(&format!("and {} more\n", report.omitted));
            }
            if call.is_verbose {
                let counts = &report.counts;
                text.push_str(&format!(
                    "{} blocks, {} free; {} inodes, {} of them directories; {} unlinked; {} journals\n",
                    counts.blocks,
                    counts.free,
                    counts.dinodes,
                    counts.directories,
                    counts.unlinked,
                    report.journals.len()
                ));
            }
            let errors = report.errors().count() as u64 + report.omitted;
            match errors {
                0 if quiet => {}
                0 if self.code == exit::UNCORRECTED => text.push_str("no other error\n"),
                0 => text.push_str("clean\n"),
                n => text.push_str(&format!("{n} errors: this build replays journals and repairs nothing else\n")),
            }
        }
        output::print(&text);
    }

    fn json(&self, call: &Call) -> Value {
        let findings = self.report.iter().flat_map(|report| &report.findings).map(|finding| {
            json!({
                "severity": if finding.severity() == Severity::Error { "error" } else { "notice" },
                "kind": format!("{:?}", finding.kind),
                "block": finding.block,
                "inode": finding.inode,
                "expected": finding.expected,
                "found": finding.found,
            })
        });
        let counts = self.report.as_ref().map(|report| {
            let counts = &report.counts;
            json!({
                "blocks": counts.blocks, "free": counts.free, "inodes": counts.dinodes,
                "directories": counts.directories, "unlinked": counts.unlinked,
            })
        });
        json!({
            "device": call.device,
            "exit_code": self.code,
            "dirty_journals": self.dirty,
            "replayed_journals": self.replayed,
            "messages": self.said,
            "findings": findings.collect::<Vec<Value>>(),
            "findings_omitted": self.report.as_ref().map_or(0, |report| report.omitted),
            "counts": counts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Call, Other> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        Call::parse(&arguments)
    }

    #[test]
    fn the_options_are_those_of_fsck_gfs2() {
        let call = parse(&["-nv", "disk.img"]).expect("parses");
        assert_eq!((call.device.as_str(), call.is_dry, call.is_verbose), ("disk.img", true, true));
        assert_eq!(parse(&["-V"]), Err(Other::Version));
        assert_eq!(parse(&["-h", "x"]), Err(Other::Help));
        assert!(parse(&["--", "-n"]).is_ok_and(|call| call.device == "-n"));
    }

    #[test]
    fn a_wrong_call_is_told_and_nothing_is_opened() {
        for wrong in [&["-n", "-y", "x"][..], &["-p", "-n", "x"], &[], &["-Z", "x"], &["x", "y"]] {
            assert!(matches!(parse(wrong), Err(Other::Wrong(_))), "{wrong:?}");
            let arguments: Vec<OsString> = wrong.iter().map(OsString::from).collect();
            assert_eq!(format!("{:?}", run("fsck", &arguments)), format!("{:?}", ExitCode::from(16)));
        }
    }
}
