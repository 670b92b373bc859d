//! The content of a new directory: records in the dinode, or a hash table with leaves.

use gfs_format::directory::{DIRENT_FORMAT, LEAF_BYTES, dirent_size, name_hash};
use gfs_format::geometry::DIRECTORY_DEPTH_MAX;
use gfs_format::{BlockSize, Dirent, InodeNumberPair, Leaf, MetaHeader, MetaType};
use zerocopy::IntoBytes;

use crate::error::MkfsError;

/// `DT_DIR` and `DT_REG` of dirent.h.
pub const KIND_DIRECTORY: u16 = 4;
pub const KIND_FILE: u16 = 8;

/// A name in a directory.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub inode: InodeNumberPair,
    pub kind: u16,
}

impl Entry {
    pub fn new(name: impl Into<String>, inode: InodeNumberPair, kind: u16) -> Entry {
        Entry { name: name.into(), inode, kind }
    }

    fn hash(&self) -> u32 {
        name_hash(self.name.as_bytes())
    }

    fn size(&self) -> usize {
        dirent_size(self.name.len())
    }
}

/// How a directory is kept.
#[derive(Clone, Debug)]
pub enum Shape {
    /// In the dinode.
    Stuffed,
    /// A hash table of 2^`depth` pointers, and the entries of each leaf with the leaf's own depth,
    /// in the order of the table.
    Hashed { depth: u16, leaves: Vec<(u16, Vec<Entry>)> },
}

impl Shape {
    /// Chooses how `entries` are kept.
    pub fn choose(block: BlockSize, entries: &[Entry]) -> Result<Shape, MkfsError> {
        if entries.iter().map(Entry::size).sum::<usize>() as u64 <= block.stuffed_bytes() {
            return Ok(Shape::Stuffed);
        }
        // The smallest table fills half a block; the kernel makes no smaller one.
        let smallest = (block.bytes() / 16).trailing_zeros() as u16;
        (smallest..=DIRECTORY_DEPTH_MAX)
            .find_map(|depth| {
                let mut leaves = Vec::new();
                split(block, entries.to_vec(), 0, depth, &mut leaves).then_some(Shape::Hashed { depth, leaves })
            })
            .ok_or(MkfsError::DoesNotFit)
    }
}

/// Halves `entries` by the hash bit at `depth` until each part fits a leaf; false when the table's
/// depth does not suffice.
fn split(block: BlockSize, entries: Vec<Entry>, depth: u16, table: u16, leaves: &mut Vec<(u16, Vec<Entry>)>) -> bool {
    if entries.iter().map(Entry::size).sum::<usize>() as u64 <= block.leaf_bytes() {
        leaves.push((depth, entries));
        return true;
    }
    if depth == table {
        return false;
    }
    let (low, high) = entries.into_iter().partition(|entry| entry.hash() << depth >> 31 == 0);
    split(block, low, depth + 1, table, leaves) && split(block, high, depth + 1, table, leaves)
}

/// The hash table: each leaf's address as often as its depth says.
pub fn table(depth: u16, leaves: &[(u16, u64)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 << depth);
    for (leaf_depth, address) in leaves {
        for _ in 0..1u32 << (depth - leaf_depth) {
            bytes.extend_from_slice(&address.to_be_bytes());
        }
    }
    bytes
}

/// A leaf block.
pub fn leaf(block: BlockSize, directory: u64, depth: u16, seconds: u64, entries: &[Entry]) -> Vec<u8> {
    let header = Leaf {
        header: MetaHeader::new(MetaType::Leaf),
        depth: depth.into(),
        entries: (entries.len() as u16).into(),
        dirent_format: DIRENT_FORMAT.into(),
        next: 0.into(),
        inode: directory.into(),
        distance: 1.into(),
        changed_nanos: 0.into(),
        changed_seconds: seconds.into(),
        reserved: [0; 40],
    };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(&records(entries, block.as_usize() - LEAF_BYTES));
    bytes
}

/// Records one after the other; the last reaches the end of the `space` bytes.
pub fn records(entries: &[Entry], space: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(space);
    for (index, entry) in entries.iter().enumerate() {
        let start = bytes.len();
        let record_len = if index + 1 == entries.len() { space - start } else { entry.size() };
        let dirent = Dirent {
            inode: entry.inode,
            hash: entry.hash().into(),
            record_len: (record_len as u16).into(),
            name_len: (entry.name.len() as u16).into(),
            kind: entry.kind.into(),
            read_ahead: 0.into(),
            reserved: [0; 12],
        };
        bytes.extend_from_slice(dirent.as_bytes());
        bytes.extend_from_slice(entry.name.as_bytes());
        bytes.resize(start + record_len, 0);
    }
    if entries.is_empty() {
        let whole = Dirent {
            inode: InodeNumberPair::default(),
            hash: 0.into(),
            record_len: (space as u16).into(),
            name_len: 0.into(),
            kind: 0.into(),
            read_ahead: 0.into(),
            reserved: [0; 12],
        };
        bytes.extend_from_slice(whole.as_bytes());
    }
    bytes.resize(space, 0);
    bytes
}
