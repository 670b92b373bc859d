//! What an inode or a block of pointers leads to: nested lists of pointers, leaves, entries.
//!
//! The blank lines, and offsets that count pointers instead of their places below the first level, are the tool's.

use std::io::Write as _;

use gfs_check::inspect::{Entry, Inode, InspectError, Volume};
use gfs_format::directory::{LEAF_BYTES, records};
use gfs_format::{Leaf, MetaHeader, MetaType};
use zerocopy::{FromBytes, FromZeros};

use super::{put, structure};

/// Prints what an inode leads to: nothing for a file inside its inode.
pub(super) async fn print(out: &mut Vec<u8>, volume: &Volume, inode: &Inode) -> Result<(), InspectError> {
    let height = inode.dinode.height.get();
    if inode.is_directory() && !inode.is_hashed() {
        put!(out, "\n");
        let entries = inode.dinode.entries.get();
        // Its line has a leaf's fields, all 0.
        directory_line(out, &Leaf::new_zeroed(), entries);
        entries_of(out, inode.body());
        return Ok(());
    }
    if height == 0 && !inode.is_hashed() {
        return Ok(());
    }
    let printer = Printer { volume, inode, height };
    let rows = printer.rows(inode.body());
    if inode.is_directory() {
        put!(out, "This directory contains {} indirect blocks\n", rows.len());
    } else {
        put!(out, "This inode contains {} indirect blocks  (at height 0 of {height})\n", rows.len());
    }
    put!(out, "Indirect blocks:\n");
    Box::pin(printer.list(out, rows, 0, 0)).await
}

/// A leaf by itself.
pub(super) fn leaf(out: &mut Vec<u8>, bytes: &[u8]) {
    put!(out, "\n");
    leaf_lines(out, bytes);
}

/// A block of pointers by itself.
pub(super) fn pointers(out: &mut Vec<u8>, area: &[u8]) {
    let found = nonzero(area);
    if found.is_empty() {
        return;
    }
    put!(out, "This indirect block contains {} indirect blocks\nIndirect blocks:\n", found.len());
    for (number, (index, pointer)) in found.into_iter().enumerate() {
        put!(out, "{number}: 0x{index:x} => 0x{pointer:x} / {pointer}\n");
    }
    put!(out, "\n");
}

/// A pointer with what stands before it.
#[derive(Clone, Copy)]
struct Row {
    number: u64,
    index: u64,
    pointer: u64,
}

struct Printer<'a> {
    volume: &'a Volume,
    inode: &'a Inode,
    height: u16,
}

impl Printer<'_> {
    /// The pointers of an inode or of a block of pointers, those that are 0 left out.
    fn rows(&self, area: &[u8]) -> Vec<Row> {
        if self.inode.is_hashed() && self.height == 0 {
            // The table lies in the inode: each leaf once.
            let mut found: Vec<Row> = Vec::new();
            for (_, pointer) in nonzero(area) {
                if found.last().is_none_or(|last| last.pointer != pointer) {
                    found.push(Row { number: found.len() as u64, index: 0, pointer });
                }
            }
            return found;
        }
        let pointers = nonzero(area).into_iter().enumerate();
        pointers.map(|(number, (index, pointer))| Row { number: number as u64, index, pointer }).collect()
    }

    /// The rows at `level`, each with what it leads to. `base` is the offset in the file that the list starts with.
    async fn list(&self, out: &mut Vec<u8>, rows: Vec<Row>, level: u16, base: u64) -> Result<(), InspectError> {
        let indent = " ".repeat(3 * usize::from(level));
        for row in rows {
            let Row { number, index, pointer } = row;
            put!(out, "{indent}{number}: 0x{index:x} => 0x{pointer:x} / {pointer}");
            // Below the first level the tool takes a pointer's number for its place.
            let place = if level == 0 { index } else { number };
            let offset = base.saturating_add(place.saturating_mul(self.span(level)));
            if !self.inode.is_directory() {
                put!(out, "     (data offset 0x{offset:x} / {offset} / {})   ", size_text(offset));
            }
            put!(out, "\n");
            if self.inode.is_directory() {
                self.of_directory(out, row, level).await?;
            } else if level + 1 < self.height {
                let bytes = self.volume.typed(pointer, MetaType::Indirect).await?;
                let below = self.rows(&bytes[size_of::<MetaHeader>()..]);
                Box::pin(self.list(out, below, level + 1, offset)).await?;
                put!(out, "\n");
            }
        }
        put!(out, "\n");
        Ok(())
    }

    async fn of_directory(&self, out: &mut Vec<u8>, row: Row, level: u16) -> Result<(), InspectError> {
        if level >= self.height {
            return self.leaf(out, row.pointer).await;
        }
        if level + 1 < self.height {
            let bytes = self.volume.typed(row.pointer, MetaType::Indirect).await?;
            let below = self.rows(&bytes[size_of::<MetaHeader>()..]);
            Box::pin(self.list(out, below, level + 1, 0)).await?;
        } else {
            // A piece of the hash table: each leaf once, at the place where it begins.
            let bytes = self.volume.typed(row.pointer, MetaType::JournaledData).await?;
            let mut before = 0;
            for (index, pointer) in nonzero(&bytes[size_of::<MetaHeader>()..]) {
                if pointer != before {
                    let indent = " ".repeat(3 * usize::from(level + 1));
                    put!(out, "{indent}{index}: 0x{index:x} => 0x{pointer:x} / {pointer}\n");
                    self.leaf(out, pointer).await?;
                    before = pointer;
                }
            }
            put!(out, "\n");
        }
        put!(out, "\n");
        Ok(())
    }

    async fn leaf(&self, out: &mut Vec<u8>, block: u64) -> Result<(), InspectError> {
        let bytes = self.volume.typed(block, MetaType::Leaf).await?;
        leaf_lines(out, &bytes);
        put!(out, "\n");
        Ok(())
    }

    /// Bytes of the file that one pointer at `level` leads to.
    fn span(&self, level: u16) -> u64 {
        let size = self.volume.block_size();
        let below = u32::from(self.height.saturating_sub(level + 1));
        let blocks = u128::from(size.indirect_pointers()).saturating_pow(below);
        u64::try_from(blocks.saturating_mul(u128::from(size.bytes()))).unwrap_or(u64::MAX)
    }
}

fn nonzero(area: &[u8]) -> Vec<(u64, u64)> {
    let all = area.as_chunks::<8>().0.iter().map(|pointer| u64::from_be_bytes(*pointer));
    (0..).zip(all).filter(|(_, pointer)| *pointer != 0).collect()
}

fn leaf_lines(out: &mut Vec<u8>, bytes: &[u8]) {
    let Ok((leaf, _)) = Leaf::ref_from_prefix(bytes) else { return };
    directory_line(out, leaf, leaf.entries.get().into());
    entries_of(out, bytes.get(LEAF_BYTES..).unwrap_or_default());
}

fn directory_line(out: &mut Vec<u8>, leaf: &Leaf, entries: u32) {
    // The tool prints this one number with its bytes in the machine's order.
    let format = u32::from_le_bytes(leaf.dirent_format.to_bytes());
    put!(
        out,
        "Directory block: lf_depth:{}, lf_entries:{}, lf_inode: 0x{:x}, lf_dist: {}, lf_nsec: {}, lf_sec: {}, \
         fmt:{format} next=0x{:x} ({entries} dirents).\n",
        leaf.depth.get(),
        leaf.entries.get(),
        leaf.inode.get(),
        leaf.distance.get(),
        leaf.changed_nanos.get(),
        leaf.changed_seconds.get(),
        leaf.next.get(),
    );
}

fn entries_of(out: &mut Vec<u8>, area: &[u8]) {
    let found = records(area).map_while(Result::ok).filter(|record| record.is_entry());
    for (number, record) in (1..).zip(found) {
        let entry = Entry {
            name: record.name.to_vec(),
            formal: record.dirent.inode.formal.get(),
            address: record.dirent.inode.address.get(),
            kind: record.dirent.kind.get(),
            hash: record.dirent.hash.get(),
            block: 0,
        };
        structure::entry(out, number, &entry, record.dirent.read_ahead.get());
    }
}

/// Bytes as `  7.95M`: kilobytes at least, two digits behind the point; a full unit still goes by the smaller one.
fn size_text(bytes: u64) -> String {
    const UNITS: [(u32, char); 5] = [(50, 'P'), (40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')];
    let (shift, unit) = UNITS.into_iter().find(|(shift, _)| bytes > 1 << shift).unwrap_or((10, 'K'));
    format!("{:6.2}{unit}", bytes as f64 / (1u64 << shift) as f64)
}
