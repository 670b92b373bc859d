//! Between the filesystem's vocabulary and the kernel's structs.

use base::WallTime;
use gfs_core::{Attributes, InodeFlags, Lifetime, RenameMode, SetAttributes, SetTime, Space};
use zerocopy::IntoBytes;

use crate::answer::FOREVER;
use crate::wire::{self, fattr, fs_flags, xflags};

/// In seconds.
pub fn lifetime(lifetime: Lifetime) -> u64 {
    match lifetime {
        Lifetime::None => 0,
        Lifetime::WhileHeld => FOREVER,
    }
}

pub fn attributes(from: &Attributes) -> wire::Attr {
    wire::Attr {
        ino: from.inode.0,
        size: from.size,
        blocks: from.sectors,
        // The kernel takes seconds as signed.
        atime: from.atime.seconds.cast_unsigned(),
        mtime: from.mtime.seconds.cast_unsigned(),
        ctime: from.ctime.seconds.cast_unsigned(),
        atimensec: from.atime.nanos,
        mtimensec: from.mtime.nanos,
        ctimensec: from.ctime.nanos,
        mode: from.mode,
        nlink: from.link_count,
        uid: from.uid,
        gid: from.gid,
        rdev: join_device(from.device_major, from.device_minor),
        blksize: from.block_size,
        flags: 0,
    }
}

/// What a SETATTR changes.
pub fn set_attributes(asked: &wire::SetattrIn) -> SetAttributes {
    let has = |bit: u32| asked.valid & bit != 0;
    let time = |set: u32, now: u32, seconds: u64, nanos: u32| {
        if has(now) {
            Some(SetTime::Now)
        } else {
            has(set).then_some(SetTime::To(WallTime { seconds: seconds.cast_signed(), nanos }))
        }
    };
    let changes_owner = has(fattr::UID) || has(fattr::GID);
    SetAttributes {
        mode: has(fattr::MODE).then_some(asked.mode & 0o7777),
        uid: has(fattr::UID).then_some(asked.uid),
        gid: has(fattr::GID).then_some(asked.gid),
        size: has(fattr::SIZE).then_some(asked.size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, asked.atime, asked.atimensec),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, asked.mtime, asked.mtimensec),
        // The kernel leaves clearing set-user-id on chown to us (HANDLE_KILLPRIV_V2), unless it
        // sets the mode in the same call.
        clear_suid: has(fattr::KILL_SUIDGID) || changes_owner && !has(fattr::MODE),
    }
}

/// `renameat2`'s flags; whiteouts and what is unknown are refused.
pub fn rename_mode(flags: u32) -> Option<RenameMode> {
    match flags {
        0 => Some(RenameMode::Replace),
        libc::RENAME_NOREPLACE => Some(RenameMode::NoReplace),
        libc::RENAME_EXCHANGE => Some(RenameMode::Exchange),
        _ => None,
    }
}

pub fn space(from: Space) -> wire::StatfsOut {
    wire::StatfsOut {
        blocks: from.blocks,
        bfree: from.blocks_free,
        bavail: from.blocks_free,
        files: from.inodes,
        ffree: from.inodes_free,
        bsize: from.block_size,
        namelen: 255,
        frsize: from.block_size,
        ..Default::default()
    }
}

/// Appends an entry to a listing, unless it would make it longer than `len_max`.
pub fn push_entry(listing: &mut Vec<u8>, len_max: usize, entry: &gfs_core::DirectoryEntry) -> bool {
    let len = wire::dirent_len(entry.name.len());
    if listing.len() + len > len_max {
        return false;
    }
    let end = listing.len() + len;
    let head = wire::Dirent {
        ino: entry.inode.0,
        off: entry.next,
        // Names have at most 255 bytes.
        namelen: entry.name.len() as u32,
        kind: u32::from(entry.kind),
    };
    listing.extend_from_slice(head.as_bytes());
    listing.extend_from_slice(&entry.name);
    listing.resize(end, 0);
    true
}

/// `FS_*_FL` of an inode.
pub fn fs_flags(from: InodeFlags) -> u32 {
    let of = |is_set, flag| if is_set { flag } else { 0 };
    of(from.is_immutable, fs_flags::IMMUTABLE)
        | of(from.is_append_only, fs_flags::APPEND)
        | of(from.keeps_atime, fs_flags::NOATIME)
        | of(from.is_synchronous, fs_flags::SYNC)
        | of(from.is_journaled, fs_flags::JOURNAL_DATA)
        | of(from.is_top_directory, fs_flags::TOPDIR)
        | of(from.is_hashed, fs_flags::INDEX)
}

/// Flags to set, from `FS_*_FL`; `None` if there is one that GFS2 does not have. That a directory
/// is hashed is nobody's choice, and not looked at.
pub fn inode_flags(bits: u32) -> Option<InodeFlags> {
    let has = |flag| bits & flag != 0;
    let flags = InodeFlags {
        is_immutable: has(fs_flags::IMMUTABLE),
        is_append_only: has(fs_flags::APPEND),
        keeps_atime: has(fs_flags::NOATIME),
        is_synchronous: has(fs_flags::SYNC),
        is_journaled: has(fs_flags::JOURNAL_DATA),
        is_top_directory: has(fs_flags::TOPDIR),
        is_hashed: false,
    };
    (bits & !fs_flags::INDEX == fs_flags(flags)).then_some(flags)
}

/// `FS_XFLAG_*` of an inode.
pub fn xflags(from: InodeFlags) -> u32 {
    let of = |is_set, flag| if is_set { flag } else { 0 };
    of(from.is_immutable, xflags::IMMUTABLE)
        | of(from.is_append_only, xflags::APPEND)
        | of(from.keeps_atime, xflags::NOATIME)
        | of(from.is_synchronous, xflags::SYNC)
}

/// An inode's flags with those that `FS_XFLAG_*` can express changed; `None` for others.
pub fn with_xflags(old: InodeFlags, asked: &wire::FsXattr) -> Option<InodeFlags> {
    let has = |flag| asked.xflags & flag != 0;
    let flags = InodeFlags {
        is_immutable: has(xflags::IMMUTABLE),
        is_append_only: has(xflags::APPEND),
        keeps_atime: has(xflags::NOATIME),
        is_synchronous: has(xflags::SYNC),
        ..old
    };
    let has_others = asked.extent_size != 0 || asked.project != 0 || asked.cow_extent_size != 0;
    (asked.xflags == xflags(flags) && !has_others).then_some(flags)
}

/// The kernel's 32-bit device number: minor bits 0-7, major 8-19, the rest of minor 20-31.
pub fn join_device(major: u32, minor: u32) -> u32 {
    minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// Major and minor of such a number.
pub fn split_device(device: u32) -> (u32, u32) {
    ((device & 0xf_ff00) >> 8, device & 0xff | (device >> 12) & 0xf_ff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_way_to_the_kernel_and_back() {
        for (major, minor) in [(0, 0), (8, 1), (253, 255), (259, 256), (4095, 0xf_ffff)] {
            assert_eq!(split_device(join_device(major, minor)), (major, minor));
        }
    }

    #[test]
    fn a_chown_clears_set_user_id_but_not_when_the_mode_is_set_too() {
        let asked = |valid| wire::SetattrIn { valid, ..Default::default() };
        assert!(set_attributes(&asked(fattr::UID)).clear_suid);
        assert!(!set_attributes(&asked(fattr::UID | fattr::MODE)).clear_suid);
        assert!(!set_attributes(&asked(fattr::SIZE)).clear_suid);
        assert!(set_attributes(&asked(fattr::SIZE | fattr::KILL_SUIDGID)).clear_suid);
    }
}
