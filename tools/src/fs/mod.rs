//! `corral fs`: what is on a GFS2 volume, as text for people and as JSON for programs.
//!
//! The reading is `gfs_check::inspect`; this is the command line and the words. Nothing here writes but `label`.
//! Called by `cli` only.

mod block;
mod fields;
mod inode;
pub mod label;
mod show;

use std::process::ExitCode;
use std::sync::Arc;

use block_core::BlockDevice;
use clap::Subcommand;
use gfs_check::inspect::{InspectError, Volume};
use serde_json::Value;

use crate::device::{self, Access};
use crate::{output, sibling};

pub use fields::{mode_text, time_text, uuid_text};

/// `corral fs …`. DEV is a file, a block device or iscsi://host[:port]/target/lun.
#[derive(Subcommand, Debug)]
pub enum FsCommand {
    /// Show the superblock
    Sb {
        #[arg(value_name = "DEV")]
        device: String,
        /// As one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show the resource groups and what is in use in each
    Rgrps {
        #[arg(value_name = "DEV")]
        device: String,
        #[arg(long)]
        json: bool,
    },
    /// Show the system files: journals, statfs, inum, quota and the files of each node
    System {
        #[arg(value_name = "DEV")]
        device: String,
        #[arg(long)]
        json: bool,
    },
    /// Show an inode: every field, its extents, its attributes
    Inode {
        #[arg(value_name = "DEV")]
        device: String,
        /// A path, //path below the master directory, or the inode's block number
        #[arg(value_name = "PATH|BLOCK")]
        what: String,
        #[arg(long)]
        json: bool,
    },
    /// List a directory
    Ls {
        #[arg(value_name = "DEV")]
        device: String,
        #[arg(value_name = "PATH|BLOCK", default_value = "/")]
        what: String,
        #[arg(long)]
        json: bool,
    },
    /// Show a block: its type, its fields, its state in the bitmap, the file that owns it
    Block {
        #[arg(value_name = "DEV")]
        device: String,
        /// Decimal, or hexadecimal with 0x
        #[arg(value_name = "BLOCK")]
        block: String,
        #[arg(long)]
        json: bool,
    },
    /// Show the blocks that a path leads to; from a block, the path that owns it
    Path {
        #[arg(value_name = "DEV")]
        device: String,
        #[arg(value_name = "PATH|BLOCK")]
        what: String,
        #[arg(long)]
        json: bool,
    },
    /// Show free space and how it is scattered
    Space {
        #[arg(value_name = "DEV")]
        device: String,
        #[arg(long)]
        json: bool,
    },
    /// Show or change the lock table, the UUID and the locking protocol; the volume must not be mounted anywhere
    Label {
        #[arg(value_name = "DEV")]
        device: String,
        /// cluster:filesystem
        #[arg(long, value_name = "CLUSTER:NAME")]
        table: Option<String>,
        /// A UUID, random, time or clear
        #[arg(long, value_name = "UUID")]
        uuid: Option<String>,
        /// lock_dlm or lock_nolock
        #[arg(long, value_name = "NAME")]
        protocol: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Add journals, so that more machines can mount; takes the options of gfs2_jadd
    #[command(disable_help_flag = true)]
    AddJournals {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Grow the filesystem to the size of its device; takes the options of gfs2_grow
    #[command(disable_help_flag = true)]
    Grow {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        arguments: Vec<std::ffi::OsString>,
    },
}

/// What a command found, for both kinds of reader.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) json: Value,
}

/// Runs a command. Exit codes: 0 done, 1 failed.
pub fn run(command: FsCommand) -> ExitCode {
    match command {
        FsCommand::Sb { device, json } => say("sb", json, look(&device, async |volume| Ok(show::superblock(&volume)))),
        FsCommand::Rgrps { device, json } => say("rgrps", json, look(&device, async |v| show::groups(&v).await)),
        FsCommand::System { device, json } => say("system", json, look(&device, async |v| show::system(&v).await)),
        FsCommand::Space { device, json } => say("space", json, look(&device, async |v| show::space(&v).await)),
        FsCommand::Inode { device, what, json } => {
            say("inode", json, look(&device, async |volume| inode::inode(&volume, &what).await))
        }
        FsCommand::Ls { device, what, json } => {
            say("ls", json, look(&device, async |volume| inode::list(&volume, &what).await))
        }
        FsCommand::Block { device, block, json } => {
            say("block", json, with_device(&device, async |volume, device| block::block(&volume, device, &block).await))
        }
        FsCommand::Path { device, what, json } => {
            say("path", json, with_device(&device, async |volume, device| block::path(&volume, device, &what).await))
        }
        FsCommand::Label { device, table, uuid, protocol, json } => {
            let change = label::Change { table, uuid, protocol, format: None };
            say("label", json, label::label(&device, &change))
        }
        FsCommand::AddJournals { arguments } => hand_on("gfs2_jadd", arguments),
        FsCommand::Grow { arguments } => hand_on("gfs2_grow", arguments),
    }
}

/// Becomes the program that also makes filesystems, under another name.
pub fn hand_on(name: &str, arguments: Vec<std::ffi::OsString>) -> ExitCode {
    eprintln!("{name}: {}", sibling::become_called("mkfs.gfs2", name, arguments));
    ExitCode::FAILURE
}

fn say(command: &str, json: bool, result: Result<Answer, String>) -> ExitCode {
    match result {
        Ok(answer) if json => output::print_json(&answer.json),
        Ok(answer) => output::print(&answer.text),
        Err(message) => {
            eprintln!("corral fs {command}: {message}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn look(name: &str, work: impl AsyncFnOnce(Volume) -> Result<Answer, String>) -> Result<Answer, String> {
    with_device(name, async |volume, _| work(volume).await)
}

fn with_device(
    name: &str,
    work: impl AsyncFnOnce(Volume, Arc<dyn BlockDevice>) -> Result<Answer, String>,
) -> Result<Answer, String> {
    device::with(name, Access::Read, async |device| {
        let volume = Volume::open(device.clone()).await.map_err(|error| format!("{name}: {error}"))?;
        work(volume, device).await.map_err(|error| format!("{name}: {error}"))
    })
}

/// A number as people write it: decimal, or hexadecimal with `0x`.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        None => None,
    }
}

pub(crate) fn words(error: InspectError) -> String {
    error.to_string()
}
