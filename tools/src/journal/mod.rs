//! `corral journal`: the journals of a filesystem, every transaction in them, and their replay.
//!
//! Map: `list`, `show` and `replay` are the commands; `names` is how blocks, flags and types are called.

mod list;
mod names;
mod replay;
mod show;

use std::process::ExitCode;

use clap::Subcommand;

/// What `corral journal` does.
#[derive(Subcommand, Debug)]
pub enum JournalCommand {
    /// Show each journal's size, and whether it is clean, dirty or in use
    List {
        /// A path, or iscsi://[user%secret@]host[:port]/target-iqn/lun
        #[arg(value_name = "DEV")]
        device: String,
        /// As one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show what is in a journal: every transaction with its header, its blocks and whose they are, its revokes
    Show {
        #[arg(value_name = "DEV")]
        device: String,
        /// Number of the journal
        #[arg(value_name = "N")]
        journal: u32,
        /// Only what a replay would look at: from tail to head
        #[arg(long)]
        live: bool,
        /// Do not look for the files that the blocks belong to, which takes a walk over the whole filesystem
        #[arg(long)]
        no_files: bool,
        /// As one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Replay dirty journals, all or one; refused while the device is in use on this machine
    Replay {
        /// Write nothing; show which blocks would be written and whose they are
        #[arg(long)]
        dry_run: bool,
        #[arg(value_name = "DEV")]
        device: String,
        /// Number of the journal; without it, all
        #[arg(value_name = "N")]
        journal: Option<u32>,
        /// As one JSON document
        #[arg(long)]
        json: bool,
    },
}

/// Runs it.
pub fn run(command: JournalCommand) -> ExitCode {
    let (what, result) = match command {
        JournalCommand::List { device, json } => ("list", list::list(&device, json)),
        JournalCommand::Show { device, journal, live, no_files, json } => {
            ("show", show::show(&device, journal, show::Wanted { live, files: !no_files, json }))
        }
        JournalCommand::Replay { dry_run: true, device, journal, json } => {
            ("replay", replay::dry_run(&device, journal, json))
        }
        JournalCommand::Replay { dry_run: false, device, journal, json } => {
            ("replay", replay::replay(&device, journal, json))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("corral journal {what}: {message}");
            ExitCode::FAILURE
        }
    }
}
