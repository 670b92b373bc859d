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
        if options.stripe.is_some_and(|stripe| stripe.unit.max(stripe.width) > device_bytes) {
            return Err(MkfsError::DoesNotFit);
        }
        let journal_mb = journal_mb(block, blocks, options)?;
        let journal_blocks = u64::from(journal_mb) * MIB / block.bytes();
        let align = Alignment::new(block, options);
        let mut at = align.first(SUPERBLOCK_OFFSET / block.bytes() + 1);
        // The last block of the device is left out, as it always was.
        let end = blocks.checked_sub(1).ok_or(MkfsError::DoesNotFit)?;

        let in_journal = TreeShape::of_file(block, journal_blocks).blocks().next_multiple_of(4);
        let journal_span = align.up(header_blocks(block, in_journal) + in_journal);
        let mut groups = Vec::new();
        for _ in 0..options.journals {
            groups.extend(group_within(block, at, journal_span)?);
            at += journal_span;
            if at > end {
                return Err(MkfsError::DoesNotFit);
            }
        }

        let rest = end.checked_sub(at).filter(|rest| align.down(*rest) > 0).ok_or(MkfsError::DoesNotFit)?;
        let wanted = u64::from(options.group_mb.unwrap_or(GROUP_MB_DEFAULT)) * MIB / block.bytes();
        let count = align.down(rest).div_ceil(align.up(wanted));
        let share = align.down(rest / count);
        // What is left over goes to the first groups, a stripe to each.
        let longer = (rest - share * count) / align.width;
        for index in 0..count {
            let span = if index < longer { share + align.width } else { share };
            groups.extend(group_within(block, at, span)?);
            at += span;
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
pub(crate) fn group_within(block: BlockSize, address: u64, span: u64) -> Result<Option<Group>, MkfsError> {
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

/// Lets each group be some stripes and one unit long, so that the headers of the groups, which are
/// busy, lie on one member of the stripe after the other.
#[derive(Clone, Copy, Debug)]
struct Alignment {
    /// Blocks; 0 and 1 without a stripe.
    unit: u64,
    width: u64,
}

impl Alignment {
    fn new(block: BlockSize, options: &Options) -> Alignment {
        match options.stripe {
            Some(Stripe { unit, width }) if options.align && unit > 0 && width > 0 => {
                Alignment { unit: unit / block.bytes(), width: width / block.bytes() }
            }
            _ => Alignment { unit: 0, width: 1 },
        }
    }

    /// The first block at or behind `at` where a group may start.
    fn first(self, at: u64) -> u64 {
        at.next_multiple_of(self.unit.max(1))
    }

    /// The shortest group of at least so many blocks.
    fn up(self, blocks: u64) -> u64 {
        blocks.next_multiple_of(self.width) + self.unit
    }

    /// The longest group of at most so many blocks; 0 if there is none.
    fn down(self, blocks: u64) -> u64 {
        match blocks.checked_sub(self.unit) {
            Some(stripes) if stripes >= self.width => stripes / self.width * self.width + self.unit,
            _ => 0,
        }
    }
}
