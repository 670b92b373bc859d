//! The system files below the master directory, found by name: the resource index before the walk,
//! the counters and journals after it.

use gfs_format::dinode::flags;
use gfs_format::directory::{LEAF_BYTES, records};
use gfs_format::small_files::StatfsChange;
use gfs_format::{MetaHeader, MetaType, log};
use zerocopy::FromBytes;

use crate::journal::{Journal, find_headers, locate};
use crate::report::{JournalState, Kind, Report};
use crate::source::{CheckError, Source};
use crate::walk::{Inode, all_pointers, content, data_blocks, peek};

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
    let journals = locate(source, master, report).await?;
    for journal in &journals {
        check_journal(source, journal, report).await?;
    }
    Ok(journals.len() as u32)
}

async fn check_journal(source: &Source, journal: &Journal, report: &mut Report) -> Result<(), CheckError> {
    let (index, inode) = (journal.index, journal.inode);
    let headers = find_headers(source, journal).await?;
    let Some(head) = headers.head else {
        report.note(Kind::Journal, inode, "a log header", "none in the log");
        return Ok(());
    };
    if let Some((at, sequence, before)) = headers.disorder {
        let (block, expected) = (journal.map[at as usize], "log headers with rising sequences");
        report.note_of(Kind::Journal, inode, block, expected, format_args!("{sequence} behind {before}"));
    }
    let clean = head.flags.get() & log::flags::UNMOUNT != 0;
    if !clean {
        let found = format!("journal {index} with changes up to sequence {}", head.sequence.get());
        report.note(Kind::DirtyJournal, inode, "a clean journal", found);
    }
    report.journals.push(JournalState {
        index,
        inode,
        blocks: journal.map.len() as u64,
        sequence: head.sequence.get(),
        head: head.block.get(),
        tail: head.tail.get(),
        clean,
    });
    Ok(())
}
