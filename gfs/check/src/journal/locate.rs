//! Finds the journals of a filesystem by name, with the files of the node that writes each.

use std::sync::Arc;

use block_core::BlockDevice;
use bytes::Bytes;
use gfs_format::{BlockSize, Superblock};

use crate::report::{Finding, Kind, Report};
use crate::source::{CheckError, Source};
use crate::system::{lookup, system_file};
use crate::walk::{Inode, data_blocks, peek};

/// Bytes of the largest log; the tools make none above a gigabyte.
const LOG_MAX: u64 = 1 << 32;
/// Journals that are looked for at most.
const JOURNALS_MAX: u32 = 1 << 16;
/// Blocks of a log that are read at once.
const RUN: usize = 256;

/// One journal.
#[derive(Clone, Debug)]
pub struct Journal {
    pub index: u32,
    /// Dinode of the log.
    pub inode: u64,
    /// Bytes of the log.
    pub bytes: u64,
    /// Disk address of each block of the log; never empty.
    pub map: Vec<u64>,
    /// Dinodes of its node's statfs_change and quota_change; 0 if there is none.
    pub statfs_inode: u64,
    pub quota_inode: u64,
}

/// The journals of a filesystem.
pub struct Journals {
    pub(crate) source: Source,
    pub superblock: Superblock,
    /// Dinode of the filesystem's totals.
    pub statfs_inode: u64,
    /// In order of their numbers; one that is damaged is left out.
    pub list: Vec<Journal>,
    /// What is wrong with those that were left out, and with the index.
    pub findings: Vec<Finding>,
}

impl Journals {
    /// Finds them.
    pub async fn open(device: Arc<dyn BlockDevice>) -> Result<Journals, CheckError> {
        let (source, superblock) = Source::open(device).await?;
        let address = superblock.master_directory.address.get();
        let Some(master) = peek(&source, address).await? else {
            let expected = "the master directory's inode".into();
            let finding =
                Finding { kind: Kind::Superblock, block: address, inode: None, expected, found: "none".into() };
            return Err(CheckError::Damaged(Box::new(finding)));
        };
        let mut report = Report::default();
        let list = locate(&source, &master, &mut report).await?;
        let statfs = system_file(&source, &master, &["statfs"], &mut report).await?;
        let statfs_inode = statfs.map_or(0, |inode| inode.address);
        Ok(Journals { source, superblock, statfs_inode, list, findings: report.findings })
    }

    /// The journal of that number.
    pub fn get(&self, index: u32) -> Option<&Journal> {
        self.list.iter().find(|journal| journal.index == index)
    }

    pub fn block_size(&self) -> BlockSize {
        self.source.block
    }

    /// Blocks of the device.
    pub fn device_blocks(&self) -> u64 {
        self.source.blocks
    }

    /// One block of the device; the caller has seen to it that it has it.
    pub async fn read_block(&self, block: u64) -> Result<Bytes, CheckError> {
        self.source.read(block).await
    }
}

impl Journal {
    /// Reads blocks of the log from `at` on, as many as lie together, at most `most`; at least one.
    pub(crate) async fn read_from(&self, source: &Source, at: usize, most: usize) -> Result<Bytes, CheckError> {
        let most = most.clamp(1, RUN);
        let run = self.map[at..].iter().zip(self.map[at]..).take(most).take_while(|(block, next)| **block == *next);
        source.read_run(self.map[at], run.count() as u64).await
    }
}

/// Finds every journal below the index; those that cannot be one become findings.
pub(crate) async fn locate(source: &Source, master: &Inode, report: &mut Report) -> Result<Vec<Journal>, CheckError> {
    let Some(jindex) = system_file(source, master, &["jindex"], report).await? else { return Ok(Vec::new()) };
    let per_node = system_file(source, master, &["per_node"], report).await?;
    let mut list = Vec::new();
    let mut index = 0;
    while index < JOURNALS_MAX {
        let Some(inode) = lookup(source, &jindex, format!("journal{index}").as_bytes()).await? else { break };
        if let Some((bytes, map)) = log_blocks(source, &inode, report).await? {
            let mut own = [0; 2];
            for (address, what) in own.iter_mut().zip(["statfs_change", "quota_change"]) {
                let Some(per_node) = &per_node else { continue };
                let found = lookup(source, per_node, format!("{what}{index}").as_bytes()).await?;
                *address = found.map_or(0, |inode| inode.address);
            }
            let [statfs_inode, quota_inode] = own;
            list.push(Journal { index, inode: inode.address, bytes, map, statfs_inode, quota_inode });
        }
        index += 1;
    }
    let named = jindex.dinode.entries.get();
    if index == 0 || Some(index) != named.checked_sub(2) {
        let expected = format!("journals numbered from 0 and no other names ({index} found)");
        report.note(Kind::Journal, jindex.address, expected, format_args!("{named} entries"));
    }
    Ok(list)
}

/// Size and blocks of a log.
async fn log_blocks(
    source: &Source,
    inode: &Inode,
    report: &mut Report,
) -> Result<Option<(u64, Vec<u64>)>, CheckError> {
    let size = inode.dinode.size.get();
    let blocks = size / source.block.bytes();
    if !inode.is_file() || !size.is_multiple_of(1 << 20) || size == 0 || size > LOG_MAX || blocks > source.blocks {
        let expected = format!("a log of whole megabytes, up to {LOG_MAX} bytes and the device's size");
        report.note(Kind::Journal, inode.address, expected, format_args!("{size} bytes"));
        return Ok(None);
    }
    let map = data_blocks(source, inode, blocks as usize).await?;
    if let Some(hole) = (0..blocks).find(|at| map.get(*at as usize).is_none_or(|b| *b == 0 || *b >= source.blocks)) {
        report.note(Kind::Journal, inode.address, "a log without holes", format_args!("one at its block {hole}"));
        return Ok(None);
    }
    Ok(Some((size, map)))
}
