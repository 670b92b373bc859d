//! Reading blocks. The only part that touches the device, and it never writes.

use std::fmt;
use std::sync::Arc;

use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset};
use bytes::Bytes;
use gfs_format::BlockSize;
use gfs_format::superblock::{SUPERBLOCK_OFFSET, Superblock, SuperblockError};

use crate::report::Finding;

/// Why nothing could be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckError {
    Device(BlockError),
    NotAFilesystem(SuperblockError),
    /// So damaged that nothing more can be read.
    Damaged(Box<Finding>),
    /// Smaller than the superblock's place, or its sectors are larger than the filesystem's blocks.
    Unusable {
        size: ByteLen,
        sector: u32,
    },
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => write!(f, "{error}"),
            Self::NotAFilesystem(error) => write!(f, "{error}"),
            Self::Damaged(finding) => write!(f, "{finding}"),
            Self::Unusable { size, sector } => {
                write!(f, "a device of {size} in sectors of {sector} bytes cannot hold the filesystem")
            }
        }
    }
}

impl std::error::Error for CheckError {}

impl From<BlockError> for CheckError {
    fn from(error: BlockError) -> CheckError {
        CheckError::Device(error)
    }
}

/// The blocks of a filesystem.
pub(crate) struct Source {
    device: Arc<dyn BlockDevice>,
    pub(crate) block: BlockSize,
    /// Blocks of the device.
    pub(crate) blocks: u64,
}

impl Source {
    /// Reads the superblock.
    pub(crate) async fn open(device: Arc<dyn BlockDevice>) -> Result<(Source, Superblock), CheckError> {
        let geometry = device.geometry();
        let unusable = CheckError::Unusable { size: geometry.size(), sector: geometry.sector };
        let len = u64::from(geometry.sector).max(512);
        if !SUPERBLOCK_OFFSET.is_multiple_of(len) || geometry.size().0 < SUPERBLOCK_OFFSET + len {
            return Err(unusable);
        }
        let bytes = device.read(ByteOffset(SUPERBLOCK_OFFSET), ByteLen(len)).await?;
        let sb = Superblock::decode(&bytes).map_err(CheckError::NotAFilesystem)?;
        let block = sb.block_size();
        if block.bytes() < u64::from(geometry.sector) {
            return Err(unusable);
        }
        let blocks = geometry.size().0 / block.bytes();
        Ok((Source { device, block, blocks }, sb))
    }

    /// One block. The caller has seen to it that the device has it.
    pub(crate) async fn read(&self, block: u64) -> Result<Bytes, CheckError> {
        self.read_run(block, 1).await
    }

    /// Blocks one behind the other.
    pub(crate) async fn read_run(&self, block: u64, count: u64) -> Result<Bytes, CheckError> {
        let size = self.block.bytes();
        Ok(self.device.read(ByteOffset(block * size), ByteLen(count * size)).await?)
    }
}
