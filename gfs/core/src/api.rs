//! The facade's vocabulary: what a caller asks of the filesystem and what it gets.

use base::WallTime;

/// Block address of an inode: its number for users (`st_ino`), and the kernel's node id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeNumber(pub u64);

/// An inode as a caller remembers it: every request checks the generation under the glock, so that
/// an address that was freed and used again is noticed (`ESTALE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeRef {
    pub number: InodeNumber,
    /// Formal inode number.
    pub generation: u64,
}

/// Who asks: the caller's ids and mask, for ownership of what it makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// Permissions that what it makes does not get, unless the directory has a default access
    /// control list.
    pub umask: u32,
}

/// Attributes as `stat` shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub inode: InodeNumber,
    /// Formal inode number: tells a reused address from its predecessor.
    pub generation: u64,
    /// File type and permission bits, as `st_mode`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub link_count: u32,
    /// Bytes.
    pub size: u64,
    /// 512-byte units in use.
    pub sectors: u64,
    pub atime: WallTime,
    pub mtime: WallTime,
    pub ctime: WallTime,
    pub device_major: u32,
    pub device_minor: u32,
    /// Preferred I/O size: the filesystem's block size.
    pub block_size: u32,
}

/// How long the kernel may believe an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Not at all.
    None,
    /// Until it is told otherwise: the glock is held and will be drained before it goes.
    WhileHeld,
}

/// Attributes and how long they may be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributesReply {
    pub attributes: Attributes,
    pub lifetime: Lifetime,
}

/// A name that was looked up or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub attributes: Attributes,
    pub name_lifetime: Lifetime,
    pub attributes_lifetime: Lifetime,
}

/// What a lookup found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    Found(Entry),
    /// No such name, and how long that may be believed.
    Missing(Lifetime),
}

/// A time stamp to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    Now,
    To(WallTime),
}

/// What `setattr` changes; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Permission bits (07777).
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// Clear set-user-id and set-group-id as a write by a non-owner does.
    pub clear_suid: bool,
}

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewInode {
    /// Regular file, with permission bits.
    File {
        mode: u32,
    },
    Directory {
        mode: u32,
    },
    Symlink {
        target: Vec<u8>,
    },
    /// Device, FIFO or socket: `mode` with its type bits.
    Special {
        mode: u32,
        major: u32,
        minor: u32,
    },
}

/// An entry of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    pub name: Vec<u8>,
    pub inode: InodeNumber,
    /// `DT_*` of dirent.h.
    pub kind: u8,
    /// Where to go on after this entry.
    pub next: u64,
}

/// Rename's flags (`RENAME_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
}

/// How a write finds its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteAt {
    Offset(u64),
    /// At the end of the file as it is under the exclusive glock (O_APPEND).
    End,
}

/// Which of an inode's access control lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclKind {
    /// What applies to the inode.
    Access,
    /// What is made in the directory begins with.
    Default,
}

/// An access control list to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAcl<'a> {
    /// As `system.posix_acl_*` has it.
    pub list: &'a [u8],
    /// The caller is not in the owning group: set-group-id goes.
    pub clears_set_group_id: bool,
}

/// Whether allocating blocks behind a file's end makes it longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeChange {
    Keep,
    Grow,
}

/// What a seek looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekFor {
    /// The first byte that is not in a hole.
    Data,
    /// The first byte of a hole; the end of the file counts as one.
    Hole,
}

/// Where a write request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOrigin {
    /// A system call that holds no page lock.
    Call,
    /// The kernel's page cache: a page lock may be held until it is answered, so it is served
    /// even while the glock is drained.
    PageCache,
}

/// Space and inodes, as `statfs` shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub block_size: u32,
    pub blocks: u64,
    pub blocks_free: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}
