//! Directories: records, leaves, hash tables, and the entries in them.

use std::collections::BTreeSet;

use gfs_format::dinode::flags;
use gfs_format::directory::{DIRENT_FORMAT, LEAF_BYTES, Record, dirent_size, name_hash, records};
use gfs_format::{BlockState, Leaf, MetaType};
use zerocopy::FromBytes;

use crate::report::Kind;
use crate::source::CheckError;
use crate::walk::{Inode, Walk, all_pointers};

/// A name in a directory.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) address: u64,
    pub(crate) formal: u64,
    /// `DT_*`.
    pub(crate) kind: u16,
    /// Block of the record.
    pub(crate) block: u64,
}

/// Part of the hash table that points at one leaf.
#[derive(Clone, Copy)]
struct Part {
    leaf: u64,
    start: u64,
    count: u64,
}

impl Walk<'_> {
    /// Claims the leaves of a hashed directory; gives their number. What they contain is looked at
    /// by [`Walk::entries`].
    pub(crate) async fn leaves(&mut self, inode: &Inode) -> Result<u64, CheckError> {
        let mut blocks = 0;
        for part in self.parts(inode).await? {
            let mut next = part.leaf;
            while next != 0 {
                blocks += 1;
                if !self.claim(inode.address, next, BlockState::Used) {
                    break;
                }
                let Some(bytes) = self.typed(inode.address, next, MetaType::Leaf).await? else { break };
                let Ok((leaf, _)) = Leaf::ref_from_prefix(&bytes) else { break };
                next = leaf.next.get();
            }
        }
        Ok(blocks)
    }

    /// The hash table as runs of equal pointers.
    async fn parts(&mut self, inode: &Inode) -> Result<Vec<Part>, CheckError> {
        let table = self.content(inode).await?;
        let mut parts: Vec<Part> = Vec::new();
        for (index, leaf) in (0..).zip(all_pointers(&table)) {
            match parts.last_mut() {
                Some(part) if part.leaf == leaf => part.count += 1,
                _ => parts.push(Part { leaf, start: index, count: 1 }),
            }
        }
        Ok(parts)
    }

    /// All entries of a directory, after its structure has been checked.
    pub(crate) async fn entries(&mut self, inode: &Inode) -> Result<Vec<Entry>, CheckError> {
        let mut entries = Vec::new();
        if inode.flag(flags::EXHASH) {
            for part in self.parts(inode).await? {
                self.part_entries(inode, part, &mut entries).await?;
            }
        } else {
            let body = inode.body().to_vec();
            self.area_entries(inode, inode.address, &body, &mut entries);
        }
        let stated = u64::from(inode.dinode.entries.get());
        if stated != entries.len() as u64 {
            let expected = format!("{} entries in the inode", entries.len());
            self.report.note(Kind::Directory, inode.address, expected, stated);
        }
        let mut names = BTreeSet::new();
        for entry in &entries {
            if !names.insert(&entry.name) {
                let found = format!("{} twice", text(&entry.name));
                self.report.note_of(Kind::Directory, inode.address, entry.block, "each name once", found);
            }
        }
        Ok(entries)
    }

    /// The entries of one leaf and its overflow chain.
    async fn part_entries(&mut self, inode: &Inode, part: Part, entries: &mut Vec<Entry>) -> Result<(), CheckError> {
        let depth = inode.dinode.depth.get();
        let mut next = part.leaf;
        let mut seen = BTreeSet::new();
        while next != 0 && next < self.source.blocks && seen.insert(next) {
            let at = next;
            let bytes = self.source.read(at).await?;
            // A block of another type has been reported with its claim.
            if gfs_format::MetaHeader::check(&bytes, MetaType::Leaf).is_err() {
                return Ok(());
            }
            let Ok((leaf, _)) = Leaf::read_from_prefix(&bytes) else { return Ok(()) };
            next = leaf.next.get();
            if leaf.dirent_format.get() != DIRENT_FORMAT {
                let found = leaf.dirent_format.get();
                self.report.note_of(Kind::Directory, inode.address, at, format_args!("format {DIRENT_FORMAT}"), found);
            }
            let leaf_depth = leaf.depth.get();
            if leaf_depth > depth || part.count != 1 << (depth - leaf_depth) || !part.start.is_multiple_of(part.count) {
                let expected = format!("a leaf for {} parts from {} of 2^{depth}", part.count, part.start);
                self.report.note_of(Kind::Directory, inode.address, at, expected, format_args!("depth {leaf_depth}"));
            }
            let first = entries.len();
            self.area_entries(inode, at, &bytes[LEAF_BYTES..], entries);
            let counted = entries.len() - first;
            if usize::from(leaf.entries.get()) != counted {
                let expected = format!("{counted} entries in the leaf's header");
                self.report.note_of(Kind::Directory, inode.address, at, expected, leaf.entries.get());
            }
            for entry in &entries[first..] {
                let hash = u64::from(name_hash(&entry.name));
                let index = if depth == 0 { 0 } else { hash >> (32 - depth) };
                if !(part.start..part.start + part.count).contains(&index) {
                    let expected = format!("{} in part {index} of 2^{depth}", text(&entry.name));
                    let found = format!("{} to {}", part.start, part.start + part.count - 1);
                    self.report.note_of(Kind::Directory, inode.address, at, expected, found);
                }
            }
        }
        Ok(())
    }

    /// A record without an entry can only be the first: any other has been merged with the one
    /// before it, and the kernel refuses a block where it has not.
    fn check_empty(&mut self, inode: &Inode, at: u64, record: &Record<'_>) {
        let record_len = usize::from(record.dirent.record_len.get());
        if record.offset != 0 {
            let found = format!("one at byte {} of the records", record.offset);
            self.report.note_of(Kind::Directory, inode.address, at, "an empty record only as the first", found);
        }
        let name_len = usize::from(record.dirent.name_len.get());
        if dirent_size(name_len) > record_len {
            let expected = format!("a name that fits {record_len} bytes in an empty record");
            self.report.note_of(Kind::Directory, inode.address, at, expected, format_args!("{name_len} bytes"));
        }
    }

    /// The entries of one area of records.
    fn area_entries(&mut self, inode: &Inode, at: u64, area: &[u8], entries: &mut Vec<Entry>) {
        for record in records(area) {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    let expected = "directory records that fill the block";
                    self.report.note_of(Kind::Directory, inode.address, at, expected, error);
                    return;
                }
            };
            if !record.is_entry() {
                self.check_empty(inode, at, &record);
                continue;
            }
            let hash = name_hash(record.name);
            if hash != record.dirent.hash.get() {
                let expected = format!("hash 0x{hash:08x} of {}", text(record.name));
                let found = format!("0x{:08x}", record.dirent.hash.get());
                self.report.note_of(Kind::Directory, inode.address, at, expected, found);
            }
            if record.name.contains(&0) || record.name.contains(&b'/') {
                let found = text(record.name);
                self.report.note_of(Kind::Directory, inode.address, at, "a name without / and NUL", found);
            }
            entries.push(Entry {
                name: record.name.to_vec(),
                address: record.dirent.inode.address.get(),
                formal: record.dirent.inode.formal.get(),
                kind: record.dirent.kind.get(),
                block: at,
            });
        }
    }
}

/// A name for a message.
pub(crate) fn text(name: &[u8]) -> String {
    format!("\"{}\"", name.escape_ascii())
}
