//! Listing a directory in the order of hashes, so that a listing that is interrupted by changes
//! neither repeats nor skips what did not change.

use std::sync::Arc;

use super::records::{self, Record};
use super::table::{corrupt_records, index_of};
use crate::api::{DirectoryEntry, InodeNumber, InodeRef};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::{Glock, RequestClass};
use crate::inode::DinodeBlock;

/// Place of `.` and `..` in a listing; other names follow.
const FIRST_HASHED: u64 = 3;
/// Names with one hash that can be told apart.
const SAME_HASH_BITS: u32 = 16;

/// Where a listing goes on after the `duplicate`th name of a hash.
fn position(hash: u32, duplicate: u64) -> u64 {
    FIRST_HASHED + (u64::from(hash) << SAME_HASH_BITS) + duplicate.min((1 << SAME_HASH_BITS) - 1)
}

impl Fs {
    /// Entries from position `from` on (0 is the start), at most `max_entries`.
    pub async fn readdir(&self, dir: InodeRef, from: u64, max_entries: usize) -> Result<Vec<DirectoryEntry>> {
        let glock = self.inode_glock(dir.number.0);
        let guard = glock.shared(RequestClass::Ordinary).await?;
        let dinode = self.inode(guard.glock(), dir).await?;
        if !dinode.is_directory() {
            return Err(Error::NotDirectory);
        }
        let mut out = Vec::new();
        if !dinode.is_hashed() {
            let all = records::list(dinode.payload()).map_err(corrupt_records(dinode.address()))?;
            append(&mut out, all, from, max_entries);
            return Ok(out);
        }
        let depth = dinode.head().depth.get();
        // `.` and `..` lie wherever their hashes put them, and come first all the same.
        if from < FIRST_HASHED {
            let mut dots = Vec::new();
            for name in [&b"."[..], b".."] {
                dots.extend(self.find_entry(&glock, &dinode, name).await?.map(|place| place.record));
            }
            append(&mut out, dots, from, max_entries);
        }
        let start_hash = u32::try_from(from.saturating_sub(FIRST_HASHED) >> SAME_HASH_BITS).unwrap_or(u32::MAX);
        let mut index = index_of(start_hash, depth);
        let entries = 1u64 << depth;
        while index < entries && out.len() < max_entries {
            let (all, leaf_depth) = self.list_chain(&glock, &dinode, index).await?;
            let left = max_entries - out.len();
            let names = all.into_iter().filter(|record| record.name != b"." && record.name != b"..").collect();
            append(&mut out, names, from, left);
            // The next pointer that leads to another leaf.
            let span = 1u64 << depth.saturating_sub(leaf_depth);
            index = (index & !(span - 1)) + span;
        }
        Ok(out)
    }

    /// Entries of a chain of leaves, and the depth of its first.
    async fn list_chain(&self, glock: &Arc<Glock>, dir: &DinodeBlock, index: u64) -> Result<(Vec<Record>, u16)> {
        let mut next = self.table_pointer(glock, dir, index).await?;
        let mut all = Vec::new();
        let mut depth = None;
        let mut chain = 0;
        while next != 0 {
            let leaf = self.read_leaf(glock, next).await?;
            depth = depth.or(Some(leaf.head().depth.get()));
            all.extend(records::list(leaf.region()).map_err(corrupt_records(next))?);
            next = leaf.head().next.get();
            self.check_chain(&mut chain, next)?;
        }
        Ok((all, depth.unwrap_or(dir.head().depth.get())))
    }

    /// Whether a directory holds nothing but `.` and `..`.
    pub(crate) fn is_empty_directory(dir: &DinodeBlock) -> bool {
        dir.head().entries.get() <= 2
    }
}

/// Adds what lies at or behind `from`, in order.
fn append(out: &mut Vec<DirectoryEntry>, mut records: Vec<Record>, from: u64, max_entries: usize) {
    records.sort_by(|a, b| (rank(a), a.hash, &a.name).cmp(&(rank(b), b.hash, &b.name)));
    let mut previous: Option<(u32, u64)> = None;
    let limit = out.len() + max_entries;
    for record in records {
        let at = match rank(&record) {
            2 => {
                let duplicate = previous.filter(|(hash, _)| *hash == record.hash).map_or(0, |(_, n)| n + 1);
                previous = Some((record.hash, duplicate));
                position(record.hash, duplicate)
            }
            dot => u64::from(dot),
        };
        if at < from {
            continue;
        }
        if out.len() == limit {
            return;
        }
        out.push(DirectoryEntry {
            name: record.name,
            inode: InodeNumber(record.inode.address.get()),
            kind: record.kind,
            next: at + 1,
        });
    }
}

fn rank(record: &Record) -> u8 {
    match &record.name[..] {
        b"." => 0,
        b".." => 1,
        _ => 2,
    }
}
