//! `tunegfs2`: shows the superblock's label and changes it.
//!
//! Exit codes are those of sysexits.h, as that tool has them: 0, 64 wrong usage, 65 a value that cannot be, 74 the
//! device. Stricter than the tool: a lock table is checked as mkfs checks it, and a UUID that is none is said to be.

use std::process::ExitCode;

use gfs_format::Superblock;

use crate::fs::label::{self, Change};
use crate::fs::uuid_text;
use crate::output;

const USAGE: u8 = 64;
const DATA: u8 = 65;
const IO: u8 = 74;

const USAGE_LINE: &str = "Usage: tunegfs2 [-hlV] [-L <label>] [-U <UUID>] [-o <mount options>] [-r <version>] <device>";

/// What the command line asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Request {
    list: bool,
    change: Change,
    format: Option<String>,
    device: String,
}

/// Runs the tool with the arguments behind its name.
pub(super) fn run(arguments: &[String]) -> ExitCode {
    let mut request = match parse(arguments) {
        Ok(Parsed::Help) => {
            println!("{USAGE_LINE}");
            return ExitCode::SUCCESS;
        }
        Ok(Parsed::Version) => {
            println!("tunegfs2 (Corral) {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Parsed::Request(request)) => request,
        Err(message) => {
            eprintln!("{message}");
            println!("{USAGE_LINE}");
            return ExitCode::from(USAGE);
        }
    };
    let superblock = match label::read(&request.device) {
        Ok(superblock) => superblock,
        Err(message) => return fail(&words(&request.device, &message), IO),
    };
    if let Some(format) = &request.format {
        match format.parse::<u32>() {
            Ok(wanted) if !gfs_format::superblock::FORMATS.contains(&wanted) => {
                return fail(&format!("Invalid format option '{format}'"), DATA);
            }
            Err(_) => return fail(&format!("Invalid format option '{format}'"), DATA),
            Ok(wanted) if wanted < superblock.fs_format.get() => {
                return fail("Regressing the filesystem format is not supported", DATA);
            }
            Ok(wanted) => request.change.format = Some(wanted),
        }
    }
    if request.change != Change::default() {
        if let Err(message) = label::changed(superblock, &request.change) {
            return fail(&message, DATA);
        }
        if let Err(message) = label::write(&request.device, &request.change) {
            return fail(&message, IO);
        }
    }
    if request.list {
        match label::read(&request.device) {
            Ok(superblock) => output::print(&list(&superblock)),
            Err(message) => return fail(&message, IO),
        }
    }
    ExitCode::SUCCESS
}

/// The lines of `-l`.
fn list(superblock: &Superblock) -> String {
    let table = label::text(superblock.lock_table());
    format!(
        "File system volume name: {table}\nFile system UUID: {}\nFile system magic number: 0x{:x}\n\
         File system format version: {}\nBlock size: {}\nBlock shift: {}\nRoot inode: {}\nMaster inode: {}\n\
         Lock protocol: {}\nLock table: {table}\n",
        uuid_text(&superblock.uuid),
        superblock.header.magic.get(),
        superblock.fs_format.get(),
        superblock.block_size.get(),
        superblock.block_size_shift.get(),
        superblock.root_directory.address.get(),
        superblock.master_directory.address.get(),
        label::text(superblock.lock_protocol()),
    )
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Help,
    Version,
    Request(Request),
}

/// Options may stand in one word and before or behind the device.
fn parse(arguments: &[String]) -> Result<Parsed, String> {
    let mut request = Request::default();
    let mut operands: Vec<String> = Vec::new();
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            operands.push(word.clone());
            continue;
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            match letter {
                'h' => return Ok(Parsed::Help),
                'V' => return Ok(Parsed::Version),
                'l' => request.list = true,
                'L' | 'U' | 'o' | 'r' => {
                    let here: String = letters.by_ref().collect();
                    let value = if here.is_empty() { rest.next().cloned() } else { Some(here) };
                    let missing = || format!("tunegfs2: option requires an argument -- '{letter}'");
                    take(&mut request, letter, value.ok_or_else(missing)?);
                }
                other => return Err(format!("tunegfs2: invalid option -- '{other}'")),
            }
        }
    }
    match operands.as_slice() {
        [device] => request.device.clone_from(device),
        _ => return Err("Incorrect number of arguments".into()),
    }
    Ok(Parsed::Request(request))
}

fn take(request: &mut Request, letter: char, value: String) {
    match letter {
        'L' => request.change.table = Some(value),
        'U' => request.change.uuid = Some(value),
        'r' => request.format = Some(value),
        // Options that are not the superblock's are for mount(8) and no concern of this one.
        _ => {
            for option in value.split(',') {
                match option.split_once('=') {
                    Some(("lockproto", name)) => request.change.protocol = Some(name.to_string()),
                    Some(("locktable", name)) => request.change.table = Some(name.to_string()),
                    _ => {}
                }
            }
        }
    }
}

/// The tool's own words for the two things that go wrong most often.
fn words(device: &str, message: &str) -> String {
    if message.contains("No such file") {
        return format!("Unable to open device {device}: No such file or directory");
    }
    if message.contains("not a GFS2 superblock") || message.contains("cannot hold the filesystem") {
        return "Device does not contain a GFS or GFS2 file system".into();
    }
    message.to_string()
}

fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("{message}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_of(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_string).collect()
    }

    #[test]
    fn options_stand_where_they_like() {
        let change = Change { table: Some("a:b".into()), protocol: Some("lock_dlm".into()), ..Change::default() };
        let expected = Request { list: true, change, format: None, device: "disk".into() };
        for line in ["-l -L a:b -o lockproto=lock_dlm disk", "disk -lLa:b -olockproto=lock_dlm,noatime"] {
            assert_eq!(parse(&words_of(line)), Ok(Parsed::Request(expected.clone())), "{line}");
        }
        assert_eq!(parse(&words_of("-l")), Err("Incorrect number of arguments".into()));
        assert!(parse(&words_of("-Z disk")).is_err());
    }
}
