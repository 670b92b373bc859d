//! Why a filesystem is not changed. Nothing of the change has been written unless the device failed on the way, and
//! then the journal finishes or forgets it.

use std::fmt;

use block_core::BlockError;
use gfs_check::CheckError;
use gfs_check::inspect::InspectError;

/// What stood in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    Inspect(InspectError),
    Check(CheckError),
    Device(BlockError),
    /// Somebody has it mounted, or it waits for a replay.
    NotClean {
        journal: u32,
    },
    /// A journal that the index has cannot be read.
    Journals {
        found: usize,
        finding: String,
    },
    NoJournals,
    JournalSize,
    QuotaChangeSize,
    /// Blocks, per journal and in all.
    NoSpace {
        journals: u32,
        journal_mb: u32,
        quota_change_mb: u32,
        each: u64,
        free: u64,
    },
    /// No free block is left for what a change needs.
    Full,
    /// The log cannot hold the change in one transaction.
    LogTooSmall {
        needed: u64,
        blocks: u64,
    },
    GroupTooSmall {
        blocks: u64,
    },
    /// A system file of a form that no tool makes.
    SystemFile {
        name: &'static str,
        inode: u64,
    },
    /// A name in a system directory that is not text.
    SystemName {
        inode: u64,
    },
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inspect(error) => write!(f, "{error}"),
            Self::Check(error) => write!(f, "{error}"),
            Self::Device(error) => write!(f, "{error}"),
            Self::NotClean { journal } => write!(
                f,
                "journal {journal} is not clean: the filesystem is mounted somewhere, or was not unmounted. \
                 Unmount it on every machine; if none has it, replay with 'corral journal replay DEV' first"
            ),
            Self::Journals { found, finding } => {
                write!(f, "only {found} journals can be read ({finding}): repair the filesystem first")
            }
            Self::NoJournals => write!(f, "no journals specified"),
            Self::JournalSize => write!(f, "bad journal size"),
            Self::QuotaChangeSize => write!(f, "bad quota change size"),
            Self::NoSpace { journals, journal_mb, quota_change_mb, each, free } => write!(
                f,
                "Insufficient space on the device to add {journals} {journal_mb}MB journals \
                 ({quota_change_mb}MB QC size)\n\nRequired space  : {:>10} blks ({each} blks per journal)\n\
                 Available space : {free:>10} blks",
                each * u64::from(*journals)
            ),
            Self::Full => write!(f, "no free block is left on the filesystem"),
            Self::LogTooSmall { needed, blocks } => {
                write!(f, "the change takes {needed} blocks of journal 0, which has {blocks}: make it in smaller steps")
            }
            Self::GroupTooSmall { blocks } => {
                write!(f, "The calculated resource group size is too small: {blocks} blocks")
            }
            Self::SystemFile { name, inode } => {
                write!(f, "block {inode}: {name} is of a form that cannot be changed here")
            }
            Self::SystemName { inode } => write!(f, "block {inode}: a name in this system directory is not text"),
        }
    }
}

impl std::error::Error for ChangeError {}

impl From<InspectError> for ChangeError {
    fn from(error: InspectError) -> ChangeError {
        ChangeError::Inspect(error)
    }
}

impl From<CheckError> for ChangeError {
    fn from(error: CheckError) -> ChangeError {
        ChangeError::Check(error)
    }
}

impl From<BlockError> for ChangeError {
    fn from(error: BlockError) -> ChangeError {
        ChangeError::Device(error)
    }
}
