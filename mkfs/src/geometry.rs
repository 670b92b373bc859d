//! Where everything goes: device size and options in, resource groups out. Pure arithmetic.
//!
//! Each journal has a resource group of its own at the front of the device, as large as the
//! journal and its pointers; the rest is divided evenly. The same sizes as the established tool
//! chooses, so that a filesystem made here and one made there have the same resource index.

use gfs_format::BlockSize;
use gfs_format::superblock::SUPERBLOCK_OFFSET;

use crate::error::MkfsError;
use crate::options::{GROUP_MB_DEFAULT, JOURNAL_MB_MAX, JOURNAL_MB_MIN, Options, Stripe};
use crate::tree::TreeShape;

const MIB: u64 = 1 << 20;

/// Block counts from which the default journal grows, and its size in blocks from there on.
const JOURNAL_STEPS: [(u64, u64); 7] = [
    (1 << 31, 262_144),
    (1 << 28, 131_072),
    (1 << 22, 32_768),
    (1 << 21, 16_384),
    (1 << 19, 8_192),
    (1 << 17, 4_096),
    (0, 2_048),
];

/// One resource group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Block of its header.
    pub address: u64,
    /// Blocks of header and bitmaps.
    pub length: u32,
    /// First block that its bitmap describes.
    pub data_start: u64,
    /// Number of them, a multiple of four.
    pub data_blocks: u32,
}

impl Group {
    /// The first block behind it.
    pub fn end(&self) -> u64 {
        self.data_start + u64::from(self.data_blocks)
    }

    /// Bytes of bitmap.
    pub fn bitmap_bytes(&self) -> u32 {
        self.data_blocks / 4
    }
}

/// The layout of a filesystem to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub block: BlockSize,
    /// Blocks of the device.
    pub device_blocks: u64,
    /// Megabytes of each journal.
    pub journal_mb: u32,
    /// The first `journals` of them hold one journal each.
    pub groups: Vec<Group>,
    pub journals: u32,
}

impl Geometry {
    /// Lays `options` out on a device of `device_bytes`. The options have been checked.
    pub fn new(device_bytes: u64, options: &Options) -> Result<Geometry, MkfsError> {
        let block = options.block_size()?;
        let device_blocks = device_bytes / block.bytes();
        let blocks = options.blocks.unwrap_or(device_blocks);
        if blocks > device_blocks {
            return Err(MkfsError::LargerThanDevice { blocks: device_blocks, block: block.bytes() });
        }
        let journal_mb = journal_mb(block, blocks, options)?;
        let journal_blocks = u64::from(journal_mb) * MIB / block.bytes();
        let mut align = Alignment::new(block, options);
        let mut at = SUPERBLOCK_OFFSET / block.bytes() + 1;
        // The last block of the device is left out, as it always was.
        let end = blocks.checked_sub(1).ok_or(MkfsError::DoesNotFit)?;

        let mut groups = Vec::new();
        let in_journal = TreeShape::of_file(block, journal_blocks).blocks().next_multiple_of(4);
        for _ in 0..options.journals {
            let address = align.next(at);
            let length = header_blocks(block, in_journal);
            let data_start = address + length;
            at = data_start + in_journal;
            if at > end {
                return Err(MkfsError::DoesNotFit);
            }
            groups.push(Group { address, length: narrow(length)?, data_start, data_blocks: narrow(in_journal)? });
        }

        let rest = end.checked_sub(at).filter(|n| *n > 0).ok_or(MkfsError::DoesNotFit)?;
        let wanted = u64::from(options.group_mb.unwrap_or(GROUP_MB_DEFAULT)) * MIB / block.bytes();
        let count = rest.div_ceil(align.round(wanted));
        let (share, longer) = (rest / count, rest % count);
        for index in 0..count {
            let span = share + u64::from(index < longer);
            let address = align.next(at);
            at += span;
            if let Some(group) = group_within(block, address, at.min(end).saturating_sub(address))? {
                groups.push(group);
            }
        }
        if groups.len() as u64 <= u64::from(options.journals) {
            return Err(MkfsError::DoesNotFit);
        }
        Ok(Geometry { block, device_blocks, journal_mb, groups, journals: options.journals })
    }

    /// Blocks up to the end of the last group.
    pub fn filesystem_blocks(&self) -> u64 {
        self.groups.last().map_or(0, Group::end)
    }

    /// Blocks of each journal.
    pub fn journal_blocks(&self) -> u64 {
        u64::from(self.journal_mb) * MIB / self.block.bytes()
    }
}

/// The journal size asked for, or the default; refuses what would take more than half.
fn journal_mb(block: BlockSize, blocks: u64, options: &Options) -> Result<u32, MkfsError> {
    let share = blocks / u64::from(options.journals);
    let largest_mb = share / 2 * block.bytes() / MIB;
    if largest_mb < u64::from(JOURNAL_MB_MIN) {
        return Err(MkfsError::DoesNotFit);
    }
    match options.journal_mb {
        Some(mb) if u64::from(mb) > largest_mb => {
            Err(MkfsError::JournalsTooLarge { journals: options.journals, max_mb: largest_mb })
        }
        Some(mb) => Ok(mb),
        None => {
            let blocks = JOURNAL_STEPS.iter().find(|(from, _)| share >= *from).map_or(2_048, |(_, size)| *size);
            let mb = (blocks * block.bytes() / MIB).clamp(u64::from(JOURNAL_MB_MIN), u64::from(JOURNAL_MB_MAX));
            narrow(mb)
        }
    }
}

/// Blocks of header and bitmaps that `data_blocks` need.
fn header_blocks(block: BlockSize, data_blocks: u64) -> u64 {
    let in_first = block.group_header_bitmap_bytes() * 4;
    1 + data_blocks.saturating_sub(in_first).div_ceil(block.group_bitmap_bytes() * 4)
}

/// The largest group that fits into `span` blocks from `address`; `None` if not even one does.
fn group_within(block: BlockSize, address: u64, span: u64) -> Result<Option<Group>, MkfsError> {
    // Grow the header until what it describes and itself fill the span.
    let mut length = 1;
    while length < span && header_blocks(block, span - length) > length {
        length += 1;
    }
    let data_blocks = span.saturating_sub(length) & !3;
    if data_blocks == 0 {
        return Ok(None);
    }
    Ok(Some(Group {
        address,
        length: narrow(length)?,
        data_start: address + length,
        data_blocks: narrow(data_blocks)?,
    }))
}

fn narrow(n: u64) -> Result<u32, MkfsError> {
    u32::try_from(n).map_err(|_| MkfsError::DoesNotFit)
}

/// Keeps group headers on the stripe and spreads them over its members, so that the headers do not
/// all lie on one disk.
#[derive(Clone, Copy, Debug)]
struct Alignment {
    unit: u64,
    width: u64,
    /// Member, counted from the stripe's start in units, that the next header goes to.
    member: u64,
}

impl Alignment {
    fn new(block: BlockSize, options: &Options) -> Alignment {
        let stripe = options.stripe.filter(|s| options.align && s.unit > 0 && s.width > 0);
        let Stripe { unit, width } = stripe.unwrap_or(Stripe { unit: block.bytes(), width: block.bytes() });
        Alignment { unit: unit / block.bytes(), width: width / block.bytes(), member: 0 }
    }

    /// The first allowed block at or behind `at`.
    fn next(&mut self, at: u64) -> u64 {
        if self.width <= 1 {
            return at;
        }
        let stripe = at.next_multiple_of(self.width);
        let target = stripe + self.member * self.unit;
        self.member = (self.member + 1) % (self.width / self.unit);
        target
    }

    fn round(&self, blocks: u64) -> u64 {
        blocks.next_multiple_of(self.width.max(1))
    }
}
