//! Is a block what it should be? Called after every read and before every write of metadata, by whoever may not trust
//! a disk: magic and type, an inode's own address, heights, depths, sizes, pointers against the range of the resource
//! groups. Pure; never panics on any bytes.
//!
//! An [`Invalid`] carries the block, what was expected there and what was found.

use std::fmt;

use zerocopy::FromBytes;

use crate::dinode::{Dinode, flags};
use crate::directory::{DIRENT_FORMAT, Leaf};
use crate::geometry::{BlockSize, DIRECTORY_DEPTH_MAX, META_HEIGHT_MAX};
use crate::header::{HeaderError, MetaHeader, MetaType};
use crate::log::{LogDescriptor, descriptor};
use crate::resource_group::{ResourceGroup, ResourceIndexEntry};

/// Blocks that inodes, pointers and entries may name: from behind the superblock to the end of the last group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The first of them.
    pub start: u64,
    /// The first block behind them.
    pub end: u64,
}

impl Reach {
    /// Whether `block` may be named.
    pub fn has(&self, block: u64) -> bool {
        (self.start..self.end).contains(&block)
    }
}

/// A block that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub block: u64,
    pub fault: Fault,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Header(HeaderError),
    /// A field holds another value than the one that follows from the rest.
    Field {
        name: &'static str,
        expected: u64,
        found: u64,
    },
    /// A field is above what the format allows.
    Limit {
        name: &'static str,
        max: u64,
        found: u64,
    },
    /// File type bits that no inode has.
    Mode {
        found: u32,
    },
    /// A pointer that leads out of the resource groups.
    Pointer {
        /// Which pointer of the block, from 0.
        index: u64,
        found: u64,
        reach: Reach,
    },
    /// A descriptor of a kind that does not exist.
    Descriptor {
        found: u32,
    },
    /// The checksum in a resource group's header.
    Checksum {
        expected: u32,
        found: u32,
    },
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}: ", self.block)?;
        match self.fault {
            Fault::Header(error) => write!(f, "{error}"),
            Fault::Field { name, expected, found } => write!(f, "{name}: expected {expected}, found {found}"),
            Fault::Limit { name, max, found } => write!(f, "{name}: expected at most {max}, found {found}"),
            Fault::Mode { found } => write!(f, "di_mode: expected the type of a file, found 0{found:o}"),
            Fault::Pointer { index, found, reach } => {
                write!(f, "pointer {index}: expected a block from {} to {}, found {found}", reach.start, reach.end - 1)
            }
            Fault::Descriptor { found } => write!(
                f,
                "ld_type: expected {}, {} or {}, found {found}",
                descriptor::METADATA,
                descriptor::REVOKE,
                descriptor::JOURNALED_DATA
            ),
            Fault::Checksum { expected, found } => {
                write!(f, "rg_crc: expected 0x{expected:08x}, found 0x{found:08x}")
            }
        }
    }
}

impl std::error::Error for Invalid {}

/// A block of type `kind`.
pub fn header(block: u64, bytes: &[u8], kind: MetaType) -> Result<(), Invalid> {
    MetaHeader::check(bytes, kind).map_err(|error| Invalid { block, fault: Fault::Header(error) })
}

/// The dinode at `block`, with a height, a depth and a size that fit each other.
pub fn dinode(block: u64, bytes: &[u8], size: BlockSize, reach: Reach) -> Result<&Dinode, Invalid> {
    let dinode: &Dinode = view(block, bytes, MetaType::Dinode)?;
    let check = Check { block };
    check.equal("no_addr", block, dinode.number.address.get())?;
    let (mode, height, depth) = (dinode.mode.get(), dinode.height.get(), dinode.depth.get());
    if !matches!(mode >> 12, 1 | 2 | 4 | 6 | 8 | 10 | 12) || mode >> 16 != 0 {
        return check.fail(Fault::Mode { found: mode });
    }
    check.at_most("di_height", META_HEIGHT_MAX.into(), height.into())?;
    check.at_most("di_depth", DIRECTORY_DEPTH_MAX.into(), depth.into())?;
    let is_directory = mode >> 12 == 4;
    let is_hashed = dinode.flags.get() & flags::EXHASH != 0;
    match (is_directory, is_hashed) {
        (true, true) => {
            check.equal("di_size", 8 << depth, dinode.size.get())?;
            check.at_most("di_size", size.journaled_tree_bytes(height), dinode.size.get())?;
        }
        (true, false) => {
            check.equal("di_height", 0, height.into())?;
            check.equal("di_depth", 0, depth.into())?;
            check.at_most("di_size", size.stuffed_bytes(), dinode.size.get())?;
        }
        // The size of a file with pointers may lie beyond what they reach: the rest is a hole.
        (false, _) if height == 0 => check.at_most("di_size", size.stuffed_bytes(), dinode.size.get())?,
        (false, _) => {}
    }
    if dinode.eattr.get() != 0 && !reach.has(dinode.eattr.get()) {
        return check.fail(Fault::Pointer { index: 0, found: dinode.eattr.get(), reach });
    }
    Ok(dinode)
}

/// A leaf of a directory whose hash table has depth `depth`.
pub fn leaf(block: u64, bytes: &[u8], depth: u16, reach: Reach) -> Result<&Leaf, Invalid> {
    let leaf: &Leaf = view(block, bytes, MetaType::Leaf)?;
    let check = Check { block };
    check.at_most("lf_depth", depth.into(), leaf.depth.get().into())?;
    check.equal("lf_dirent_format", DIRENT_FORMAT.into(), leaf.dirent_format.get().into())?;
    let next = leaf.next.get();
    if next != 0 && !reach.has(next) {
        return check.fail(Fault::Pointer { index: 0, found: next, reach });
    }
    Ok(leaf)
}

/// The pointers in `area` (behind a header): each 0 or in reach. `block` is the block that has them.
pub fn pointers(block: u64, area: &[u8], reach: Reach) -> Result<(), Invalid> {
    for (pointer, index) in area.as_chunks::<8>().0.iter().zip(0u64..) {
        let found = u64::from_be_bytes(*pointer);
        if found != 0 && !reach.has(found) {
            return Err(Invalid { block, fault: Fault::Pointer { index, found, reach } });
        }
    }
    Ok(())
}

/// The header of the group that `entry` of the resource index describes.
pub fn resource_group<'a>(bytes: &'a [u8], entry: &ResourceIndexEntry) -> Result<&'a ResourceGroup, Invalid> {
    let block = entry.address.get();
    let group: &ResourceGroup = view(block, bytes, MetaType::ResourceGroup)?;
    let check = Check { block };
    check.at_most("rg_free", entry.data_blocks.get().into(), group.free.get().into())?;
    check.at_most("rg_dinodes", entry.data_blocks.get().into(), group.dinodes.get().into())?;
    let mut sealed = *group;
    sealed.seal();
    if !group.is_sealed() {
        return check.fail(Fault::Checksum { expected: sealed.crc.get(), found: group.crc.get() });
    }
    Ok(group)
}

/// An entry of the resource index on a device of `device_blocks`; `block` is the index's inode, `from` the first block
/// that the group may lie on.
pub fn resource_index_entry(
    block: u64,
    entry: &ResourceIndexEntry,
    size: BlockSize,
    from: u64,
    device_blocks: u64,
) -> Result<(), Invalid> {
    let check = Check { block };
    let (address, length, data) = (entry.address.get(), entry.length.get(), entry.data_blocks.get());
    let reach = Reach { start: from, end: device_blocks.max(from + 1) };
    if !reach.has(address) {
        return check.fail(Fault::Pointer { index: 0, found: address, reach });
    }
    check.equal("ri_data0", address.saturating_add(length.into()), entry.data_start.get())?;
    check.equal("ri_bitbytes", u64::from(data).div_ceil(4), entry.bitmap_bytes.get().into())?;
    let room = u128::from(size.group_header_bitmap_bytes())
        + u128::from(length.saturating_sub(1)) * u128::from(size.group_bitmap_bytes());
    check.at_most("ri_bitbytes", u64::try_from(room).unwrap_or(u64::MAX), entry.bitmap_bytes.get().into())?;
    let end = entry.data_start.get().saturating_add(data.into());
    check.at_most("ri_data", device_blocks, end)
}

/// A descriptor at `block` of a log of `log_blocks` blocks.
pub fn log_descriptor(block: u64, bytes: &[u8], size: BlockSize, log_blocks: u64) -> Result<&LogDescriptor, Invalid> {
    let found: &LogDescriptor = view(block, bytes, MetaType::LogDescriptor)?;
    let check = Check { block };
    check.at_most("ld_length", log_blocks, found.length.get().into())?;
    let count = u64::from(found.count.get());
    let length = u64::from(found.length.get());
    match found.kind.get() {
        // Journaled data has two words a block, of which the second says whether it was escaped.
        descriptor::METADATA => check.at_most("ld_data1", size.descriptor_blocks(), count)?,
        descriptor::JOURNALED_DATA => check.at_most("ld_data1", size.descriptor_blocks() / 2, count)?,
        descriptor::REVOKE => {
            let room = size.descriptor_revokes() + length.saturating_sub(1) * size.continuation_revokes();
            check.at_most("ld_data1", room, count)?;
        }
        found => return check.fail(Fault::Descriptor { found }),
    }
    Ok(found)
}

fn view<T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned>(
    block: u64,
    bytes: &[u8],
    kind: MetaType,
) -> Result<&T, Invalid> {
    header(block, bytes, kind)?;
    let short = Invalid { block, fault: Fault::Header(HeaderError::TooShort { len: bytes.len() }) };
    T::ref_from_prefix(bytes).map(|(whole, _)| whole).map_err(|_| short)
}

/// Comparisons that know their block.
#[derive(Clone, Copy)]
struct Check {
    block: u64,
}

impl Check {
    fn fail<T>(self, fault: Fault) -> Result<T, Invalid> {
        Err(Invalid { block: self.block, fault })
    }

    fn equal(self, name: &'static str, expected: u64, found: u64) -> Result<(), Invalid> {
        if expected == found { Ok(()) } else { self.fail(Fault::Field { name, expected, found }) }
    }

    fn at_most(self, name: &'static str, max: u64, found: u64) -> Result<(), Invalid> {
        if found <= max { Ok(()) } else { self.fail(Fault::Limit { name, max, found }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe;

    const SIZE: u32 = 4096;
    const REACH: Reach = Reach { start: 18, end: 1000 };

    fn size() -> BlockSize {
        BlockSize::new(SIZE).expect("a power of two")
    }

    /// A sound block of a file at block 20, with the named fields changed.
    fn inode(changes: &[(&str, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; SIZE as usize];
        let usual = [("mh_magic", 0x0116_1970), ("mh_type", 4), ("no_addr", 20), ("di_mode", 0o100_644)];
        for (name, value) in usual.iter().chain(changes) {
            assert!(describe::DINODE.field(name).expect("a field").set(&mut bytes, *value), "{name}");
        }
        bytes
    }

    #[test]
    fn a_dinode_is_refused_by_the_field_that_is_wrong() {
        assert!(dinode(20, &inode(&[]), size(), REACH).is_ok());
        let directory = ("di_mode", 0o040_755);
        let cases: [(&[(&str, u64)], &str); 9] = [
            (&[("mh_magic", 1)], "block 20: expected magic 0x01161970, found 0x00000001"),
            (&[("mh_type", 5)], "block 20: expected a block of type 4 (Dinode), found type 5"),
            (&[("no_addr", 21)], "block 20: no_addr: expected 20, found 21"),
            (&[("di_height", 11)], "block 20: di_height: expected at most 10, found 11"),
            (&[("di_depth", 18)], "block 20: di_depth: expected at most 17, found 18"),
            (&[("di_size", 3865)], "block 20: di_size: expected at most 3864, found 3865"),
            (&[("di_mode", 0o170_000)], "block 20: di_mode: expected the type of a file, found 0170000"),
            (&[directory, ("di_flags", 2), ("di_depth", 9)], "block 20: di_size: expected 4096, found 0"),
            (&[("di_eattr", 1000)], "block 20: pointer 0: expected a block from 18 to 999, found 1000"),
        ];
        for (changes, expected) in cases {
            let error = dinode(20, &inode(changes), size(), REACH).expect_err(expected);
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_pointer_out_of_reach_is_named_by_its_index() {
        let area = [0u64, 18, 999, 17].map(u64::to_be_bytes).concat();
        let error = pointers(30, &area, REACH).expect_err("17 is the superblock's side");
        assert_eq!(error.fault, Fault::Pointer { index: 3, found: 17, reach: REACH });
    }

    #[test]
    fn nothing_is_read_behind_the_end_of_short_bytes() {
        let whole = inode(&[]);
        for len in 0..size_of::<Dinode>() {
            assert!(dinode(20, &whole[..len], size(), REACH).is_err());
            assert!(leaf(20, &whole[..len], 3, REACH).is_err());
            assert!(log_descriptor(20, &whole[..len], size(), 100).is_err());
        }
    }
}
