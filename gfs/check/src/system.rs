//! The system files below the master directory, found by name: the resource index before the walk,
//! the counters and journals after it.

use gfs_format::dinode::flags;
use gfs_format::directory::{LEAF_BYTES, records};
use gfs_format::small_files::StatfsChange;
use gfs_format::{LogHeader, MetaHeader, MetaType, log};
use zerocopy::FromBytes;

use crate::report::{JournalState, Kind, Report};
use crate::source::{CheckError, Source};
use crate::walk::{Inode, all_pointers, content, data_blocks, peek};

/// Bytes of the largest log; the tools make none above a gigabyte.
const LOG_MAX: u64 = 1 << 32;
/// Blocks of a log that are read at once.
const LOG_RUN: u64 = 256;

/// Finds the inode that `name` leads to, without claiming anything. `None` when it is not there.
pub(crate) async fn lookup(source: &Source, directory: &Inode, name: &[u8]) -> Result<Option<Inode>, CheckError> {
    let find = |area: &[u8]| {
        records(area)
            .map_while(Result::ok)
            .find(|record| record.is_entry() && record.name == name)
            .map(|record| record.dirent.inode.address.get())
    };
    if !directory.flag(flags::EXHASH) {
        return match find(directory.body()) {
            Some(address) => peek(source, address).await,
            None => Ok(None),
        };
    }
    let table = content(source, directory).await?;
    let hash = u64::from(gfs_format::directory::name_hash(name));
    let depth = u64::from(directory.dinode.depth.get()).min(17);
    let index = (hash << depth >> 32) as usize;
    let mut leaf = all_pointers(&table).nth(index).unwrap_or(0);
    // A chain longer than this is a loop.
    for _ in 0..1024 {
        if leaf == 0 || leaf >= source.blocks {
            break;
        }
        let bytes = source.read(leaf).await?;
        if MetaHeader::check(&bytes, MetaType::Leaf).is_err() {
            break;
        }
        if let Some(address) = find(&bytes[LEAF_BYTES..]) {
            return peek(source, address).await;
        }
        leaf = gfs_format::Leaf::ref_from_prefix(&bytes).map_or(0, |(leaf, _)| leaf.next.get());
    }
    Ok(None)
}

/// Finds a system file by its path below `from`, with a finding if it is missing.
pub(crate) async fn system_file(
    source: &Source,
    from: &Inode,
    path: &[&str],
    report: &mut Report,
) -> Result<Option<Inode>, CheckError> {
    let mut at: Option<Inode> = None;
    for name in path {
        let directory = at.as_ref().unwrap_or(from);
        let Some(next) = lookup(source, directory, name.as_bytes()).await? else {
            let expected = format!("a system file \"{name}\"");
            report.note(Kind::SystemFile, directory.address, expected, "none");
            return Ok(None);
        };
        at = Some(next);
    }
    Ok(at)
}

/// The master's totals plus every node's unsynced difference are what the bitmaps say.
pub(crate) async fn check_statfs(
    source: &Source,
    master: &Inode,
    journals: u32,
    report: &mut Report,
) -> Result<(), CheckError> {
    let Some(file) = system_file(source, master, &["statfs"], report).await? else { return Ok(()) };
    let Some(mut sum) = change(source, &file).await? else {
        report.note(Kind::SystemFile, file.address, "three counters", "less");
        return Ok(());
    };
    for index in 0..journals {
        let name = format!("statfs_change{index}");
        let Some(local) = system_file(source, master, &["per_node", &name], report).await? else { continue };
        if let Some(local) = change(source, &local).await? {
            // Differences are in two's complement.
            sum.total = sum.total.get().wrapping_add(local.total.get()).into();
            sum.free = sum.free.get().wrapping_add(local.free.get()).into();
            sum.dinodes = sum.dinodes.get().wrapping_add(local.dinodes.get()).into();
        }
    }
    let counts = report.counts;
    for (what, expected, found) in [
        ("blocks", counts.blocks, sum.total.get()),
        ("free blocks", counts.free, sum.free.get()),
        ("inodes", counts.dinodes + counts.unlinked, sum.dinodes.get()),
    ] {
        if expected != found {
            report.note(Kind::Statfs, file.address, format_args!("{expected} {what}"), found as i64);
        }
    }
    Ok(())
}

/// Every block of a quota change file has its header; its size is whole blocks.
pub(crate) async fn check_quota_changes(
    source: &Source,
    master: &Inode,
    journals: u32,
    report: &mut Report,
) -> Result<(), CheckError> {
    for index in 0..journals {
        let name = format!("quota_change{index}");
        let Some(file) = system_file(source, master, &["per_node", &name], report).await? else { continue };
        let size = file.dinode.size.get();
        let blocks = size / source.block.bytes();
        if !size.is_multiple_of(source.block.bytes()) || blocks > source.blocks {
            report.note(Kind::SystemFile, file.address, "a size of whole blocks", format_args!("{size} bytes"));
            continue;
        }
        for block in data_blocks(source, &file, blocks as usize).await? {
            if block == 0 || block >= source.blocks {
                let found = format!("a pointer to {block}");
                report.note(Kind::SystemFile, file.address, format_args!("{blocks} blocks in {name}"), found);
                break;
            }
            if let Err(error) = MetaHeader::check(&source.read(block).await?, MetaType::QuotaChange) {
                report.note_of(Kind::Header, file.address, block, "a block of type QuotaChange", error);
            }
        }
    }
    Ok(())
}

async fn change(source: &Source, file: &Inode) -> Result<Option<StatfsChange>, CheckError> {
    let content = content(source, file).await?;
    Ok(StatfsChange::read_from_prefix(&content).ok().map(|(change, _)| change))
}

/// Finds each journal's head; gives the number of journals.
pub(crate) async fn check_journals(source: &Source, master: &Inode, report: &mut Report) -> Result<u32, CheckError> {
    let Some(jindex) = system_file(source, master, &["jindex"], report).await? else { return Ok(0) };
    let mut index = 0;
    while let Some(journal) = lookup(source, &jindex, format!("journal{index}").as_bytes()).await? {
        check_journal(source, index, &journal, report).await?;
        index += 1;
    }
    let named = jindex.dinode.entries.get();
    if index == 0 || index + 2 != named {
        let expected = format!("journals numbered from 0 and no other names ({index} found)");
        report.note(Kind::Journal, jindex.address, expected, format_args!("{named} entries"));
    }
    Ok(index)
}

async fn check_journal(source: &Source, index: u32, journal: &Inode, report: &mut Report) -> Result<(), CheckError> {
    let size = journal.dinode.size.get();
    let blocks = size / source.block.bytes();
    if !journal.is_file() || !size.is_multiple_of(1 << 20) || blocks == 0 || size > LOG_MAX {
        let expected = format!("a file of whole megabytes up to {LOG_MAX} bytes");
        report.note(Kind::Journal, journal.address, expected, format_args!("{size} bytes"));
        return Ok(());
    }
    let map = data_blocks(source, journal, blocks as usize).await?;
    if let Some(hole) = (0..blocks).find(|at| map.get(*at as usize).is_none_or(|b| *b == 0 || *b >= source.blocks)) {
        report.note(Kind::Journal, journal.address, "a log without holes", format_args!("one at its block {hole}"));
        return Ok(());
    }
    let mut head: Option<LogHeader> = None;
    let mut at = 0;
    while at < map.len() {
        let run = map[at..].iter().zip(map[at]..).take_while(|(block, expected)| **block == *expected);
        let run = run.take(LOG_RUN as usize).count();
        let bytes = source.read_run(map[at], run as u64).await?;
        for (block, bytes) in (at as u32..).zip(bytes.chunks_exact(source.block.as_usize())) {
            if let Ok(header) = LogHeader::decode(bytes, block)
                && head.is_none_or(|head| head.sequence.get() < header.sequence.get())
            {
                head = Some(header);
            }
        }
        at += run;
    }
    let Some(head) = head else {
        report.note(Kind::Journal, journal.address, "a log header", "none in the log");
        return Ok(());
    };
    let clean = head.flags.get() & log::flags::UNMOUNT != 0;
    if !clean {
        let found = format!("journal {index} with changes up to sequence {}", head.sequence.get());
        report.note(Kind::DirtyJournal, journal.address, "a clean journal", found);
    }
    report.journals.push(JournalState {
        index,
        inode: journal.address,
        blocks,
        sequence: head.sequence.get(),
        head: head.block.get(),
        tail: head.tail.get(),
        clean,
    });
    Ok(())
}
