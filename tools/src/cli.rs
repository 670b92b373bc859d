//! Names, options and exit codes of the command line.
//!
//! Called as `mkfs.gfs2` or `mount.gfs2` it is that tool and takes that tool's options. Exit codes: 0 done, 1 failed,
//! 2 wrong usage; umount fails with 32, as umount(8) does, and mount with what the mount process says.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::{demo, faces, fs, fsck, iscsi, journal, links, mount, output, sibling, status, target};

/// Corral: one GFS2 filesystem on one shared disk, mounted by several machines at once.
#[derive(Parser, Debug)]
#[command(name = "corral", version, arg_required_else_help = true)]
struct Cli {
    /// Which node or target a command talks to (also CORRAL_STATE)
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Mount the filesystem on DEV at DIR; returns when the mount is usable
    Mount {
        /// Stay in the foreground
        #[arg(short = 'f')]
        foreground: bool,
        /// Mount options, separated by commas; may be repeated
        #[arg(short = 'o', value_name = "OPTS")]
        options: Vec<String>,
        /// A path, or iscsi://[user%secret@]host[:port]/target-iqn/lun
        #[arg(value_name = "DEV")]
        device: OsString,
        #[arg(value_name = "DIR")]
        dir: OsString,
    },
    /// Unmount DIR and wait until its mount process has written everything back and ended
    Umount {
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Give up after this many seconds; the unmount may still complete later
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        timeout: u64,
    },
    /// Make a filesystem; takes the options of mkfs.gfs2
    #[command(disable_help_flag = true)]
    Mkfs {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        arguments: Vec<OsString>,
    },
    /// Replay dirty journals and check the structure; takes the options of fsck.gfs2 and ends with its exit codes
    #[command(disable_help_flag = true)]
    Fsck {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        arguments: Vec<OsString>,
    },
    /// Show journals, what is in them, and replay them
    Journal {
        #[command(subcommand)]
        what: journal::JournalCommand,
    },
    /// Show the mounts of this machine, and the processes of the quickstart cluster
    Status {
        /// As one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Look at a GFS2 volume: superblock, groups, inodes, directories, blocks, space; change its label and size
    Fs {
        #[command(subcommand)]
        what: fs::FsCommand,
    },
    /// Look at iSCSI targets and units, and measure them
    Iscsi {
        #[command(subcommand)]
        what: iscsi::IscsiCommand,
    },
    /// Look at a running corral-target, shut initiators out, make units larger
    Target(target::Arguments),
    /// Start a target and three nodes on this machine (what ./quickstart runs once everything is built)
    Quickstart,
    /// End everything that quickstart started: no process, mount or namespace stays
    Down {
        /// Delete the run folder as well, the disk with it
        #[arg(long)]
        purge: bool,
    },
    /// Make links to Corral's programs under the names other tools expect; never over another's file
    Links {
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Runs the command line; `arguments` starts with the name the program was called by.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let called = arguments.first().map(PathBuf::from).unwrap_or_default();
    let rest = arguments.get(1..).unwrap_or_default();
    match called.file_name().and_then(|n| n.to_str()) {
        Some("mkfs.gfs2") => failed("mkfs.gfs2", &sibling::become_program("mkfs.gfs2", rest.to_vec()), 1),
        Some("mount.gfs2") => mount_helper(rest),
        Some("fsck.gfs2") => fsck::run("fsck.gfs2", rest),
        Some(name) if faces::NAMES.contains(&name) => faces::run(name, rest).unwrap_or(ExitCode::FAILURE),
        _ => match Cli::parse_from(arguments) {
            Cli { state, command: Command::Target(arguments) } => target::run(&arguments, state),
            Cli { command: other, .. } => command(other),
        },
    }
}

fn command(command: Command) -> ExitCode {
    match command {
        Command::Mount { foreground, options, device, dir } => {
            failed("corral mount", &mount::mount(foreground, &options, device, dir), 32)
        }
        Command::Umount { dir, timeout } => match mount::umount(&dir, Duration::from_secs(timeout)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => failed("corral umount", &message, 32),
        },
        Command::Mkfs { arguments } => failed("corral mkfs", &sibling::become_program("mkfs.gfs2", arguments), 1),
        Command::Fsck { arguments } => fsck::run("corral fsck", &arguments),
        Command::Journal { what } => journal::run(what),
        Command::Status { json } => match status::collect() {
            Ok(status) if json => {
                output::print_json(&serde_json::json!(status));
                ExitCode::SUCCESS
            }
            Ok(status) => {
                output::print(&status.text());
                ExitCode::SUCCESS
            }
            Err(e) => failed("corral status", &e.to_string(), 1),
        },
        Command::Fs { what } => fs::run(what),
        Command::Iscsi { what } => match iscsi::run(what) {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => failed("corral iscsi", &message, 1),
        },
        Command::Target(arguments) => target::run(&arguments, None),
        Command::Quickstart => demo::quickstart(),
        Command::Down { purge } => demo::down(purge),
        Command::Links { dir } => make_links(&dir),
    }
}

fn mount_helper(arguments: &[OsString]) -> ExitCode {
    match mount::HelperCall::parse(arguments) {
        Ok(call) if call.pretend => ExitCode::SUCCESS,
        Ok(call) => failed("mount.gfs2", &mount::mount(false, &call.options, call.device, call.dir), 32),
        Err(message) => failed("mount.gfs2", &message, 1),
    }
}

fn make_links(dir: &Path) -> ExitCode {
    match links::make(dir) {
        Ok((made, refused)) => {
            output::print(&format!("{}: {}\n", dir.display(), made.join(" ")));
            for refusal in &refused {
                eprintln!("corral links: left alone: {refusal}");
            }
            if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => failed("corral links", &format!("{}: {e}", dir.display()), 1),
    }
}

/// Says what failed and gives the exit code.
fn failed(who: &str, message: &str, code: u8) -> ExitCode {
    eprintln!("{who}: {message}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mkfs_hands_every_option_on() {
        let cli = Cli::try_parse_from(["corral", "mkfs", "-q", "-O", "-p", "lock_nolock", "d.img"]).expect("parses");
        let Command::Mkfs { arguments } = cli.command else { panic!("not mkfs") };
        assert_eq!(arguments, ["-q", "-O", "-p", "lock_nolock", "d.img"]);
    }
}
