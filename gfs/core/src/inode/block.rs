//! A dinode being read or changed: the whole block, seen as header and payload.

use base::WallTime;
use bytes::Bytes;
use gfs_format::dinode::{DINODE_BYTES, flags};
use gfs_format::geometry::{DIRECTORY_DEPTH_MAX, META_HEIGHT_MAX};
use gfs_format::{BlockSize, Dinode, MetaHeader, MetaType};
use zerocopy::FromBytes;

use crate::api::{Attributes, InodeNumber};
use crate::error::{Error, Result};

/// File types of `st_mode`.
pub mod kind {
    pub const MASK: u32 = 0o170_000;
    pub const DIRECTORY: u32 = 0o040_000;
    pub const FILE: u32 = 0o100_000;
    pub const SYMLINK: u32 = 0o120_000;
}

/// A copy of an inode's block.
pub struct DinodeBlock {
    bytes: Vec<u8>,
}

impl DinodeBlock {
    /// Checks what was read at `address`.
    pub fn decode(block: &Bytes, address: u64, size: BlockSize) -> Result<DinodeBlock> {
        let corrupt =
            |expected: &str, found: String| Error::Corrupt { block: address, expected: expected.into(), found };
        MetaHeader::check(block, MetaType::Dinode).map_err(|error| corrupt("a dinode", error.to_string()))?;
        let this = DinodeBlock { bytes: block.to_vec() };
        let head = this.head();
        if head.number.address.get() != address {
            return Err(corrupt("a dinode that names its own block", head.number.address.get().to_string()));
        }
        if head.height.get() > META_HEIGHT_MAX {
            return Err(corrupt("a height of at most 10", head.height.get().to_string()));
        }
        if head.depth.get() > DIRECTORY_DEPTH_MAX {
            return Err(corrupt("a depth of at most 17", head.depth.get().to_string()));
        }
        if this.is_directory() && this.is_hashed() && head.size.get() != 8 << head.depth.get() {
            return Err(corrupt("a hash table of 8 bytes for each of 2^depth", head.size.get().to_string()));
        }
        if head.height.get() == 0 && !this.is_device() && head.size.get() > size.stuffed_bytes() {
            return Err(corrupt("a stuffed size that fits the block", head.size.get().to_string()));
        }
        Ok(this)
    }

    /// A new, empty block for an inode.
    pub fn new(size: BlockSize) -> DinodeBlock {
        let mut this = DinodeBlock { bytes: vec![0; size.as_usize()] };
        this.head_mut().header = MetaHeader::new(MetaType::Dinode);
        this
    }

    pub fn head(&self) -> &Dinode {
        Dinode::ref_from_prefix(&self.bytes).expect("invariant: a block holds a dinode").0
    }

    pub fn head_mut(&mut self) -> &mut Dinode {
        Dinode::mut_from_prefix(&mut self.bytes).expect("invariant: a block holds a dinode").0
    }

    /// Stuffed data, pointers or directory entries.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[DINODE_BYTES..]
    }

    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[DINODE_BYTES..]
    }

    /// The block for a transaction.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.bytes)
    }

    pub fn address(&self) -> u64 {
        self.head().number.address.get()
    }

    pub fn file_type(&self) -> u32 {
        self.head().mode.get() & kind::MASK
    }

    pub fn is_directory(&self) -> bool {
        self.file_type() == kind::DIRECTORY
    }

    pub fn is_file(&self) -> bool {
        self.file_type() == kind::FILE
    }

    pub fn is_symlink(&self) -> bool {
        self.file_type() == kind::SYMLINK
    }

    fn is_device(&self) -> bool {
        !(self.is_directory() || self.is_file() || self.is_symlink())
    }

    pub fn is_stuffed(&self) -> bool {
        self.head().height.get() == 0
    }

    pub fn is_hashed(&self) -> bool {
        self.head().flags.get() & flags::EXHASH != 0
    }

    /// Whether its data goes through the journal: a directory's hash table, or a file that asks
    /// for it.
    pub fn has_journaled_data(&self) -> bool {
        self.is_directory() || self.head().flags.get() & flags::JDATA != 0
    }

    /// `DT_*` of a directory entry for this inode.
    pub fn entry_kind(&self) -> u8 {
        u8::try_from(self.file_type() >> 12).expect("invariant: the type has four bits")
    }

    /// Sets change and, if `is_content`, modification time: never back (another node's
    /// clock may be ahead).
    pub fn touch(&mut self, now: WallTime, is_content: bool) {
        let head = self.head_mut();
        let seconds = now.seconds.cast_unsigned();
        let ctime = (head.ctime.get().cast_signed(), head.ctime_nanos.get());
        if (now.seconds, now.nanos) > ctime {
            head.ctime = seconds.into();
            head.ctime_nanos = now.nanos.into();
        }
        if is_content && (now.seconds, now.nanos) > (head.mtime.get().cast_signed(), head.mtime_nanos.get()) {
            head.mtime = seconds.into();
            head.mtime_nanos = now.nanos.into();
        }
    }

    /// As `stat` shows it.
    pub fn attributes(&self, size: BlockSize) -> Attributes {
        let head = self.head();
        let time = |seconds: u64, nanos: u32| WallTime { seconds: seconds.cast_signed(), nanos };
        Attributes {
            inode: InodeNumber(self.address()),
            generation: head.number.formal.get(),
            mode: head.mode.get(),
            uid: head.uid.get(),
            gid: head.gid.get(),
            link_count: head.link_count.get(),
            size: head.size.get(),
            sectors: head.blocks.get() << (size.shift() - 9),
            atime: time(head.atime.get(), head.atime_nanos.get()),
            mtime: time(head.mtime.get(), head.mtime_nanos.get()),
            ctime: time(head.ctime.get(), head.ctime_nanos.get()),
            device_major: head.device_major.get(),
            device_minor: head.device_minor.get(),
            block_size: u32::try_from(size.bytes()).expect("invariant: at most 65536"),
        }
    }
}
