//! Why a filesystem was not made. The words are the established tool's where it has any.

use std::fmt;

use block_core::BlockError;

/// Refusals come before the first write; [`MkfsError::Device`] may come at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MkfsError {
    NoLockTable,
    EmptyLockTable,
    LockTable(String),
    LockProtocol {
        found: String,
    },
    BlockSize,
    /// The device cannot address blocks this small, in bytes.
    SectorSize {
        block: u64,
        sector: u64,
    },
    NoJournals,
    JournalSize,
    /// `max_mb` is the largest journal that leaves half of the device for files.
    JournalsTooLarge {
        journals: u32,
        max_mb: u64,
    },
    GroupSize,
    QuotaChangeSize,
    Format {
        found: u32,
    },
    StripeUnit {
        unit: u64,
        block: u64,
    },
    StripeWidth {
        width: u64,
        unit: u64,
    },
    /// More blocks were asked for than there are.
    LargerThanDevice {
        blocks: u64,
        block: u64,
    },
    DoesNotFit,
    Device(BlockError),
}

impl fmt::Display for MkfsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLockTable => write!(f, "No lock table specified."),
            Self::EmptyLockTable => write!(f, "Lock table is empty."),
            Self::LockTable(fault) => write!(f, "Invalid lock table: {fault}"),
            Self::LockProtocol { found } => write!(f, "Invalid lock protocol: {found}"),
            Self::BlockSize => write!(f, "Block size must be a power of two between 512 and 4096"),
            Self::SectorSize { block, sector } => {
                write!(f, "Block size {block} is smaller than the device's sectors of {sector} bytes")
            }
            Self::NoJournals => write!(f, "No journals specified"),
            Self::JournalSize => write!(f, "Bad journal size"),
            Self::JournalsTooLarge { journals, max_mb } => write!(
                f,
                "gfs2 will not fit on this device.\nMaximum size for {journals} journals on this device is {max_mb}MB."
            ),
            Self::GroupSize => write!(f, "Bad resource group size"),
            Self::QuotaChangeSize => write!(f, "Bad quota change size"),
            Self::Format { found } => write!(f, "Invalid filesystem format: {found}"),
            Self::StripeUnit { unit, block } => {
                write!(f, "Stripe unit ({unit}) must be a multiple of block size ({block})")
            }
            Self::StripeWidth { width, unit } => {
                write!(f, "Stripe width ({width}) must be a multiple of stripe unit ({unit})")
            }
            Self::LargerThanDevice { blocks, block } => write!(
                f,
                "Specified size is bigger than the device.Device size: {:.2} GB ({blocks} blocks)",
                gigabytes(*blocks, *block)
            ),
            Self::DoesNotFit => write!(f, "gfs2 will not fit on this device."),
            Self::Device(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for MkfsError {}

impl From<BlockError> for MkfsError {
    fn from(error: BlockError) -> MkfsError {
        MkfsError::Device(error)
    }
}

/// Blocks as the gigabytes (2^30) that summaries show.
pub(crate) fn gigabytes(blocks: u64, block: u64) -> f64 {
    blocks as f64 / (1u64 << 30) as f64 * block as f64
}
