//! The kernel's FUSE protocol as bytes: structs, opcodes and flags, native endian.
//!
//! The names and layouts are those of `linux/fuse.h` at ABI 7.45 (BSD-licensed text of libfuse's
//! `fuse_kernel.h`; Debian 12's copy stops at 7.38). The structs are the layout; nothing else in
//! this crate knows an offset.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub const MAJOR: u32 = 7;
/// Newest minor this layer knows.
pub const MINOR: u32 = 45;
/// Oldest minor it serves: 7.31 (Linux 5.4) brought `max_pages` and what the structs below assume.
pub const MINOR_OLDEST: u32 = 31;
/// First minor with `FUSE_NOTIFY_INC_EPOCH`.
pub const MINOR_EPOCH: u32 = 44;
/// The kernel's number for the root directory.
pub const ROOT_ID: u64 = 1;

macro_rules! wire {
    ($(#[$doc:meta])* $name:ident = $size:literal { $($(#[$fdoc:meta])* $field:ident : $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type),* }
        const _: () = assert!(size_of::<$name>() == $size);
    };
}

wire! {
    /// Before every request.
    InHeader = 40 {
        len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32,
        /// Thread id of the caller in the mount's pid namespace; 0 if it has none there.
        pid: u32,
        /// Length of extensions in 8-byte units.
        total_extlen: u16, padding: u16,
    }
}
wire! {
    /// Before every reply and notification; `error` is a negated errno, or the notification's code
    /// when `unique` is 0.
    OutHeader = 16 { len: u32, error: i32, unique: u64 }
}
wire! { Attr = 88 {
    ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64,
    atimensec: u32, mtimensec: u32, ctimensec: u32,
    mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, flags: u32,
} }
wire! { EntryOut = 128 {
    nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64,
    entry_valid_nsec: u32, attr_valid_nsec: u32, attr: Attr,
} }
wire! { AttrOut = 104 { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr } }
wire! { OpenOut = 16 { fh: u64, open_flags: u32, backing_id: i32 } }
wire! { CreateOut = 144 { entry: EntryOut, open: OpenOut } }
wire! { WriteOut = 8 { size: u32, padding: u32 } }
wire! { StatfsOut = 80 {
    blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64,
    bsize: u32, namelen: u32, frsize: u32, padding: u32, spare: [u32; 6],
} }
wire! { LseekOut = 8 { offset: u64 } }
wire! {
    /// The attribute's size, to one who asked for no more.
    GetxattrOut = 8 { size: u32, padding: u32 }
}
wire! {
    /// Followed by the output.
    IoctlOut = 16 { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 }
}

wire! { ForgetIn = 8 { nlookup: u64 } }
wire! { ForgetOne = 16 { nodeid: u64, nlookup: u64 } }
wire! { BatchForgetIn = 8 { count: u32, dummy: u32 } }
wire! { GetattrIn = 16 { getattr_flags: u32, dummy: u32, fh: u64 } }
wire! { SetattrIn = 88 {
    valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64,
    atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32,
} }
wire! { MknodIn = 16 { mode: u32, rdev: u32, umask: u32, padding: u32 } }
wire! { MkdirIn = 8 { mode: u32, umask: u32 } }
wire! { RenameIn = 8 { newdir: u64 } }
wire! { Rename2In = 16 { newdir: u64, flags: u32, padding: u32 } }
wire! { LinkIn = 8 { oldnodeid: u64 } }
wire! { OpenIn = 8 { flags: u32, open_flags: u32 } }
wire! { CreateIn = 16 { flags: u32, mode: u32, umask: u32, open_flags: u32 } }
wire! { ReleaseIn = 24 { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 } }
wire! { FlushIn = 24 { fh: u64, unused: u32, padding: u32, lock_owner: u64 } }
wire! { ReadIn = 40 {
    fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32,
} }
wire! { WriteIn = 40 {
    fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32,
} }
wire! { FsyncIn = 16 { fh: u64, fsync_flags: u32, padding: u32 } }
wire! {
    /// Followed by name and value. A kernel without `SETXATTR_EXT` (before Linux 5.13) sends the
    /// first 8 bytes only.
    SetxattrIn = 16 { size: u32, flags: u32, setxattr_flags: u32, padding: u32 }
}
/// Bytes of a `SetxattrIn` without its extension.
pub const SETXATTR_OLD_LEN: usize = 8;
wire! { GetxattrIn = 8 { size: u32, padding: u32 } }
wire! {
    /// Followed by the input.
    IoctlIn = 32 { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32 }
}
wire! { AccessIn = 8 { mask: u32, padding: u32 } }
wire! { InterruptIn = 8 { unique: u64 } }
wire! { FallocateIn = 32 { fh: u64, offset: u64, length: u64, mode: u32, padding: u32 } }
wire! { LseekIn = 24 { fh: u64, offset: u64, whence: u32, padding: u32 } }
wire! {
    /// A kernel older than 7.36 sends the first 16 bytes only.
    InitIn = 64 {
        major: u32, minor: u32, max_readahead: u32, flags: u32, flags2: u32, unused: [u32; 11],
    }
}
wire! { InitOut = 64 {
    major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16, congestion_threshold: u16,
    max_write: u32, time_gran: u32, max_pages: u16, map_alignment: u16, flags2: u32, max_stack_depth: u32,
    request_timeout: u16, unused: [u16; 11],
} }
wire! {
    /// Before each name of a directory listing; the name follows, padded to 8 bytes.
    Dirent = 24 { ino: u64, off: u64, namelen: u32, kind: u32 }
}
wire! { InvalInodeOut = 24 { ino: u64, off: i64, len: i64 } }
wire! { InvalEntryOut = 16 { parent: u64, namelen: u32, flags: u32 } }
wire! { DeleteOut = 24 { parent: u64, child: u64, namelen: u32, padding: u32 } }

/// Operations, by number.
pub mod opcode {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const TMPFILE: u32 = 51;
}

/// Notifications, by number (sent in `OutHeader::error`).
pub mod notify {
    pub const INVAL_INODE: i32 = 2;
    pub const INVAL_ENTRY: i32 = 3;
    pub const DELETE: i32 = 6;
    pub const INC_EPOCH: i32 = 8;
    /// Flag of INVAL_ENTRY.
    pub const EXPIRE_ONLY: u32 = 1;
}

/// Flags of INIT; bits from 32 on travel in `flags2`.
pub mod init {
    pub const ASYNC_READ: u64 = 1 << 0;
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub const BIG_WRITES: u64 = 1 << 5;
    pub const DONT_MASK: u64 = 1 << 6;
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    pub const POSIX_ACL: u64 = 1 << 20;
    pub const ABORT_ERROR: u64 = 1 << 21;
    pub const MAX_PAGES: u64 = 1 << 22;
    pub const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub const SETXATTR_EXT: u64 = 1 << 29;
    pub const INIT_EXT: u64 = 1 << 30;
    pub const HAS_EXPIRE_ONLY: u64 = 1 << 35;
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub const NO_EXPORT_SUPPORT: u64 = 1 << 38;
}

/// Flags of an OPEN reply.
pub mod fopen {
    pub const DIRECT_IO: u32 = 1 << 0;
    pub const KEEP_CACHE: u32 = 1 << 1;
    pub const NOFLUSH: u32 = 1 << 5;
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

/// `SetattrIn::valid`.
pub mod fattr {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// `WriteIn::write_flags`.
pub mod write_flags {
    /// Write-back of a cached page; the handle is any that is open for writing.
    pub const CACHE: u32 = 1 << 0;
    /// Set for direct I/O only: it names the process whose POSIX locks apply.
    pub const LOCKOWNER: u32 = 1 << 1;
    pub const KILL_SUIDGID: u32 = 1 << 2;
}

/// `ReadIn::read_flags`: set for direct I/O only.
pub const READ_LOCKOWNER: u32 = 1 << 1;
/// `GetattrIn::getattr_flags`: `fh` is valid.
pub const GETATTR_FH: u32 = 1 << 0;
/// `FsyncIn::fsync_flags`.
pub const FSYNC_DATA_ONLY: u32 = 1 << 0;
/// `OpenIn::open_flags` and `CreateIn::open_flags`.
pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// In `InterruptIn` handling: an answer to INTERRUPT carries the interrupted request's number plus 1.
pub const UNIQUE_INTERRUPT: u64 = 1;

/// `SetxattrIn::setxattr_flags`: an access control list, by a caller who is not in the owning group.
pub const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;

/// Commands of `IoctlIn::cmd` (`linux/fs.h`).
pub mod ioctl {
    pub const GET_FLAGS: u32 = 0x8008_6601;
    pub const SET_FLAGS: u32 = 0x4008_6602;
    pub const GET_XFLAGS: u32 = 0x801c_581f;
    pub const SET_XFLAGS: u32 = 0x401c_5820;
}

wire! {
    /// `struct fsxattr`: flags in the form of XFS, and what GFS2 has none of.
    FsXattr = 28 { xflags: u32, extent_size: u32, extents: u32, project: u32, cow_extent_size: u32, padding: [u8; 8] }
}

/// Flags of `FS_IOC_GETFLAGS` (`FS_*_FL`).
pub mod fs_flags {
    pub const SYNC: u32 = 0x8;
    pub const IMMUTABLE: u32 = 0x10;
    pub const APPEND: u32 = 0x20;
    pub const NOATIME: u32 = 0x80;
    pub const INDEX: u32 = 0x1000;
    pub const JOURNAL_DATA: u32 = 0x4000;
    pub const TOPDIR: u32 = 0x2_0000;
}

/// Flags of `FsXattr::xflags` (`FS_XFLAG_*`).
pub mod xflags {
    pub const IMMUTABLE: u32 = 0x8;
    pub const APPEND: u32 = 0x10;
    pub const SYNC: u32 = 0x20;
    pub const NOATIME: u32 = 0x40;
}

/// Size of a directory record with a name of `name_len` bytes.
pub fn dirent_len(name_len: usize) -> usize {
    (size_of::<Dirent>() + name_len).next_multiple_of(8)
}
