//! `gfs2_tool`: the verbs `sb` and `journals` of a tool that left the distributions and stayed in the tutorials.
//!
//! The other verbs acted on a mounted kernel filesystem; each is refused with what does that now.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;

use block_core::BlockDevice;
use gfs_check::journal::Journals;
use gfs_format::Superblock;

use crate::device::{self, Access};
use crate::fs::label::{self, Change};
use crate::fs::uuid_text;
use crate::mounts;
use crate::output;

const USAGE: &str = "\
Usage:
gfs2_tool sb <device> {proto|table|ondisk|multihost|uuid|all} [new value]
gfs2_tool journals <device or mount point>
";

/// Runs the tool with the arguments behind its name.
pub(super) fn run(arguments: &[String]) -> ExitCode {
    let override_question = arguments.iter().any(|word| word == "-O");
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| *word != "-O").collect();
    let result = match words.as_slice() {
        [] | ["help" | "-h" | "--help"] => Ok(USAGE.to_string()),
        ["version" | "-V"] => Ok(format!("gfs2_tool (Corral) {}\n", env!("CARGO_PKG_VERSION"))),
        ["sb", device, "proto" | "table" | "uuid", value] if !override_question && !agreed() => {
            Err(format!("{device}: not changed to {value}"))
        }
        ["sb", device, field] => superblock(device, field),
        ["sb", device, field, value] => set(device, field, value),
        ["journals", device] => journals(device),
        [verb, ..] => Err(elsewhere(verb)),
    };
    match result {
        Ok(text) => {
            output::print(&text);
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("gfs2_tool: {message}");
            ExitCode::FAILURE
        }
    }
}

fn superblock(device: &str, field: &str) -> Result<String, String> {
    let sb = label::read(device)?;
    Ok(match field {
        "proto" => format!("current lock protocol name = \"{}\"\n", label::text(sb.lock_protocol())),
        "table" => format!("current lock table name = \"{}\"\n", label::text(sb.lock_table())),
        "ondisk" => format!("current ondisk format = {}\n", sb.fs_format.get()),
        "multihost" => format!("current multihost format = {}\n", sb.multihost_format.get()),
        "uuid" => format!("current uuid = {}\n", uuid_text(&sb.uuid)),
        "all" => all(&sb),
        other => return Err(format!("unknown field {other}: proto, table, ondisk, multihost, uuid or all")),
    })
}

/// Every field, one a line.
fn all(sb: &Superblock) -> String {
    let (master, root) = (sb.master_directory, sb.root_directory);
    let numbers = [
        ("mh_type", u64::from(sb.header.kind.get())),
        ("mh_format", sb.header.format.get().into()),
        ("sb_fs_format", sb.fs_format.get().into()),
        ("sb_multihost_format", sb.multihost_format.get().into()),
        ("sb_bsize", sb.block_size.get().into()),
        ("sb_bsize_shift", sb.block_size_shift.get().into()),
        ("no_formal_ino", master.formal.get()),
        ("no_addr", master.address.get()),
        ("no_formal_ino", root.formal.get()),
        ("no_addr", root.address.get()),
    ];
    let mut text = format!("  mh_magic = 0x{:08x}\n", sb.header.magic.get());
    for (name, value) in numbers {
        text.push_str(&format!("  {name} = {value}\n"));
    }
    text.push_str(&format!("  sb_lockproto = {}\n", label::text(sb.lock_protocol())));
    text.push_str(&format!("  sb_locktable = {}\n", label::text(sb.lock_table())));
    text.push_str(&format!("  uuid = {}\n", uuid_text(&sb.uuid)));
    text
}

fn set(device: &str, field: &str, value: &str) -> Result<String, String> {
    let before = label::read(device)?;
    let value = value.to_string();
    let (name, old, change) = match field {
        "proto" => {
            let old = label::text(before.lock_protocol());
            ("lock protocol name", format!("\"{old}\""), Change { protocol: Some(value), ..Change::default() })
        }
        "table" => {
            let old = label::text(before.lock_table());
            ("lock table name", format!("\"{old}\""), Change { table: Some(value), ..Change::default() })
        }
        "uuid" => ("uuid", uuid_text(&before.uuid), Change { uuid: Some(value), ..Change::default() }),
        "ondisk" | "multihost" => return Err(format!("{field} is not changed here; tunegfs2 -r raises the format")),
        other => return Err(format!("field {other} cannot be changed: proto, table or uuid")),
    };
    let after = label::write(device, &change)?;
    let new = match field {
        "proto" => format!("\"{}\"", label::text(after.lock_protocol())),
        "table" => format!("\"{}\"", label::text(after.lock_table())),
        _ => uuid_text(&after.uuid),
    };
    Ok(format!("current {name} = {old}\nnew {name} = {new}\nDone\n"))
}

fn agreed() -> bool {
    print!("You shouldn't change any of these values if the filesystem is mounted.\n\nAre you sure? [y/n] ");
    let mut answer = String::new();
    let is_shown = io::stdout().flush().is_ok();
    let is_read = is_shown && io::stdin().lock().read_line(&mut answer).is_ok();
    println!();
    is_read && answer.trim().eq_ignore_ascii_case("y")
}

/// The newest journal first, as the tool listed them.
fn journals(named: &str) -> Result<String, String> {
    let device = device_of(named);
    let found = device::with(&device, Access::Read, async |device: Arc<dyn BlockDevice>| {
        Journals::open(device).await.map_err(|error| format!("{named}: {error}"))
    })?;
    let mut text = String::new();
    for journal in found.list.iter().rev() {
        text.push_str(&format!("journal{} - {}MB\n", journal.index, journal.bytes >> 20));
    }
    text.push_str(&format!("{} journal(s) found.\n", found.list.len()));
    Ok(text)
}

/// The device behind a mount point of Corral's; anything else is taken for a device.
fn device_of(named: &str) -> String {
    let Ok(path) = std::path::Path::new(named).canonicalize() else { return named.to_string() };
    let mounted = mounts::all().unwrap_or_default();
    mounted.into_iter().find(|mount| mount.dir == path).map_or(named.to_string(), |mount| mount.source)
}

/// Where what a verb did is done now.
fn elsewhere(verb: &str) -> String {
    let instead = match verb {
        "freeze" | "unfreeze" => "corral fs freeze and unfreeze, or fsfreeze(8) for a kernel mount",
        "lockdump" => "corral glocks",
        "df" => "df(1), or corral fs space DEV",
        "list" => "corral status",
        "gettune" | "settune" => "options of corral mount",
        "setflag" | "clearflag" => "chattr(1)",
        "withdraw" | "reclaim" | "shrink" => "nothing: a mount withdraws and reclaims by itself",
        "layout" => "corral fs inode DEV PATH",
        _ => return format!("unknown verb {verb}\n{}", USAGE.trim_end()),
    };
    format!("{verb}: instead there is {instead}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_that_went_elsewhere_says_where() {
        assert!(elsewhere("df").contains("corral fs space"));
        assert!(elsewhere("nonsense").contains("Usage"));
    }
}
