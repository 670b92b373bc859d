//! The program: parses, opens, asks, formats, reports. Reached as `mkfs.gfs2` and `corral mkfs`.
//!
//! Exit codes are the established tool's: 0, 1 when the device cannot be opened, 255 for
//! everything else that goes wrong.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use block_core::{BlockDevice, DevName};

use crate::cli::{self, Command, Request};
use crate::{Plan, Step, Summary, open, probe, write};

const REFUSED: u8 = 255;
const CANNOT_OPEN: u8 = 1;

/// Runs the program with the arguments behind its name.
pub async fn run(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let request = match cli::parse(arguments) {
        Ok(Command::Help) => return say(cli::HELP),
        Ok(Command::ExtendedHelp) => return say(cli::EXTENDED_HELP),
        Ok(Command::Version) => return say(concat!("mkfs.gfs2 (Corral) ", env!("CARGO_PKG_VERSION"))),
        Ok(Command::Make(request)) => *request,
        Err(error) => {
            if let cli::UsageError::ExtendedOption { .. } = error {
                println!("{}", cli::EXTENDED_HELP);
            }
            return fail(&error, REFUSED);
        }
    };
    make(request).await
}

async fn make(mut request: Request) -> ExitCode {
    if let Err(error) = fill_in(&mut request) {
        return fail(&error, REFUSED);
    }
    let name = match open::parse(&request.device) {
        Ok(name) => name,
        Err(error) => return fail(&error, CANNOT_OPEN),
    };
    let opened = match open::open(&name).await {
        Ok(opened) => opened,
        Err(error) if error.is_too_small() => return fail(&error, REFUSED),
        Err(error) => return fail(&error, CANNOT_OPEN),
    };
    let code = make_on(&opened.device, &name, &request).await;
    opened.close().await;
    code
}

async fn make_on(device: &Arc<dyn BlockDevice>, name: &DevName, request: &Request) -> ExitCode {
    let plan = match crate::plan(device, &request.options) {
        Ok(plan) => plan,
        Err(error) => return fail(&error, REFUSED),
    };
    match probe::probe(device).await {
        Ok(None) => {}
        Ok(Some(found)) => println!("{}", found.sentence()),
        Err(error) => return fail(&format_args!("{name}: {error}"), REFUSED),
    }
    println!("This will destroy any data on {name}");
    if !request.override_question && !agreed() {
        return ExitCode::from(REFUSED);
    }
    let mut progress =
        Progress { quiet: request.quiet, debug: request.debug, is_file: open::is_file(name), plan: &plan, open: false };
    if let Err(error) = write::write(device, &plan, request.options.discard, |step| progress.step(step)).await {
        return fail(&error, REFUSED);
    }
    if !request.quiet {
        print!("{}", Summary::new(&plan, &request.options).with_device(&name.to_string()));
    }
    ExitCode::SUCCESS
}

/// The time of day and, unless given, a random UUID from the kernel.
fn fill_in(request: &mut Request) -> Result<(), io::Error> {
    // The one place of this program that reads the clock.
    #[allow(clippy::disallowed_methods)]
    let now = std::time::SystemTime::now();
    request.options.seconds = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if !request.uuid_given {
        let mut uuid = [0; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut uuid)?;
        // Version 4, variant 1 (RFC 9562).
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        request.options.uuid = uuid;
    }
    Ok(())
}

/// Asks; anything but yes is no.
fn agreed() -> bool {
    print!("Are you sure you want to proceed? [y/n] ");
    // A prompt that cannot be shown is answered with no below.
    if io::stdout().flush().is_err() {
        return false;
    }
    let mut answer = String::new();
    match io::stdin().lock().read_line(&mut answer) {
        Ok(0) | Err(_) => {
            println!();
            false
        }
        Ok(_) => matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES"),
    }
}

fn say(text: &str) -> ExitCode {
    println!("{text}");
    ExitCode::SUCCESS
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(code)
}

/// Shows what is being done: counting on a terminal, one line a step elsewhere.
struct Progress<'a> {
    quiet: bool,
    debug: bool,
    /// Discarding only makes a hole, in no time, and is not worth a line.
    is_file: bool,
    plan: &'a Plan,
    /// A line has been begun that says what is being done.
    open: bool,
}

impl Progress<'_> {
    fn step(&mut self, step: Step) {
        if self.quiet {
            return;
        }
        match step {
            Step::Discard if self.is_file => {}
            Step::Discard => self.begin("Discarding device contents (may take a while on large devices): "),
            Step::Journal(0, _) => self.begin("Adding journals: "),
            Step::Group(0, _) => self.begin("Building resource groups: "),
            Step::Files => self.begin("Creating quota file: "),
            Step::Superblock => self.begin("Writing superblock and syncing: "),
            Step::Done => self.end(),
            Step::Journal(..) | Step::Group(..) => {}
        }
        if let Step::Journal(index, count) | Step::Group(index, count) = step
            && io::stdout().is_terminal()
        {
            let text = format!("[{}/{count}]", index + 1);
            print!("{text}{}", "\u{8}".repeat(text.len()));
            flush_progress();
        }
        if let Step::Group(index, _) = step
            && self.debug
        {
            let group = &self.plan.geometry.groups[index];
            println!(
                "  ri_addr: {}  ri_length: {}  ri_data0: {}  ri_data: {}  ri_bitbytes: {}",
                group.address,
                group.length,
                group.data_start,
                group.data_blocks,
                group.bitmap_bytes()
            );
        }
    }

    fn begin(&mut self, text: &str) {
        self.end();
        print!("{text}");
        flush_progress();
        self.open = true;
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            println!("Done");
        }
    }
}

/// Progress that cannot be shown is no reason to stop.
fn flush_progress() {
    let _ = io::stdout().flush();
}
