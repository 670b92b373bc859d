//! Directories and paths.

use bytes::Bytes;
use gfs_format::directory::{LEAF_BYTES, name_hash, records};
use gfs_format::{Leaf, validate};

use super::error::InspectError;
use super::volume::{Inode, Volume};

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    pub formal: u64,
    /// Block of the inode.
    pub address: u64,
    /// `DT_*` of dirent.h.
    pub kind: u16,
    pub hash: u32,
    /// Block that has the record: the inode or a leaf.
    pub block: u64,
}

/// What a path starts with that begins in the master directory instead of the root.
pub const MASTER_PREFIX: &str = "//";

impl Volume {
    /// All entries, in the order in which they lie.
    pub async fn entries(&self, directory: &Inode) -> Result<Vec<Entry>, InspectError> {
        let mut found = Vec::new();
        if !directory.is_directory() {
            let mode = directory.dinode.mode.get();
            return Err(InspectError::NotADirectory { inode: directory.address, mode });
        }
        if !directory.is_hashed() {
            collect(directory.address, directory.body(), &mut found)?;
            return Ok(found);
        }
        for (block, bytes) in self.leaves(directory).await? {
            collect(block, bytes.get(LEAF_BYTES..).unwrap_or_default(), &mut found)?;
        }
        Ok(found)
    }

    /// The entry `name`; reads one chain of leaves at most.
    pub async fn find(&self, directory: &Inode, name: &[u8]) -> Result<Option<Entry>, InspectError> {
        if !directory.is_hashed() {
            return Ok(self.entries(directory).await?.into_iter().find(|entry| entry.name == name));
        }
        let depth = u32::from(directory.dinode.depth.get());
        let table = self.content(directory).await?;
        // The first bits of the hash are the place in the table; shifting by 32 is what a depth of 0 needs.
        let index = (u64::from(name_hash(name)) >> (32 - depth)) as usize;
        let Some(pointer) = table.as_chunks::<8>().0.get(index) else { return Ok(None) };
        let mut found = Vec::new();
        self.chain(directory, u64::from_be_bytes(*pointer), &mut found).await?;
        for (block, bytes) in found {
            let mut entries = Vec::new();
            collect(block, bytes.get(LEAF_BYTES..).unwrap_or_default(), &mut entries)?;
            if let Some(entry) = entries.into_iter().find(|entry| entry.name == name) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// The inode that a path leads to from the root, or from the master directory if it starts with `//`. Symbolic
    /// links are not followed.
    pub async fn lookup(&self, path: &[u8]) -> Result<Inode, InspectError> {
        let mut at =
            if path.starts_with(MASTER_PREFIX.as_bytes()) { self.master().await? } else { self.root().await? };
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let entry = self.find(&at, name).await?;
            let entry = entry.ok_or_else(|| InspectError::NoEntry { directory: at.address, name: name.to_vec() })?;
            at = self.inode(entry.address).await?;
        }
        Ok(at)
    }

    /// The leaves of a hashed directory, in the order of the table.
    pub(super) async fn leaves(&self, directory: &Inode) -> Result<Vec<(u64, Bytes)>, InspectError> {
        let table = self.content(directory).await?;
        validate::pointers(directory.address, &table, self.reach)?;
        let mut found = Vec::new();
        let mut before = 0;
        for pointer in table.as_chunks::<8>().0 {
            let block = u64::from_be_bytes(*pointer);
            if block != before {
                self.chain(directory, block, &mut found).await?;
                before = block;
            }
        }
        Ok(found)
    }

    /// A leaf and those that follow it.
    async fn chain(&self, directory: &Inode, first: u64, into: &mut Vec<(u64, Bytes)>) -> Result<(), InspectError> {
        let mut next = first;
        while next != 0 {
            if into.len() as u64 > self.source.blocks {
                let device_blocks = self.source.blocks;
                return Err(InspectError::Endless { inode: directory.address, device_blocks });
            }
            let bytes = self.block(next).await?;
            let leaf: &Leaf = validate::leaf(next, &bytes, directory.dinode.depth.get(), self.reach)?;
            let after = leaf.next.get();
            into.push((next, bytes));
            next = after;
        }
        Ok(())
    }
}

fn collect(block: u64, area: &[u8], into: &mut Vec<Entry>) -> Result<(), InspectError> {
    for record in records(area) {
        let record = record.map_err(|error| InspectError::DirectoryRecord { block, error })?;
        if record.is_entry() {
            into.push(Entry {
                name: record.name.to_vec(),
                formal: record.dirent.inode.formal.get(),
                address: record.dirent.inode.address.get(),
                kind: record.dirent.kind.get(),
                hash: record.dirent.hash.get(),
                block,
            });
        }
    }
    Ok(())
}
