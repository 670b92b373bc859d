//! What a device seems to contain, so that a user can be asked before it is overwritten.
//!
//! Looks for the signatures that people are most likely to regret; it does not replace blkid.

use std::sync::Arc;

use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset};

/// A signature: where, what, and what it means.
struct Signature {
    at: usize,
    bytes: &'static [u8],
    kind: Kind,
    name: &'static str,
}

/// What sort of content a signature stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Filesystem,
    Partitions,
    Raid,
}

/// Content that was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub kind: Kind,
    pub name: &'static str,
}

impl Found {
    /// The sentence shown to the user.
    pub fn sentence(&self) -> String {
        match self.kind {
            Kind::Filesystem => format!("It appears to contain an existing filesystem ({})", self.name),
            Kind::Partitions => format!("It appears to contain a partition table ({}).", self.name),
            Kind::Raid => format!("It appears to contain a volume or RAID member ({})", self.name),
        }
    }
}

const SIGNATURES: &[Signature] = &[
    Signature { at: 0x10000, bytes: b"\x01\x16\x19\x70", kind: Kind::Filesystem, name: "gfs2" },
    Signature { at: 0, bytes: b"XFSB", kind: Kind::Filesystem, name: "xfs" },
    Signature { at: 0x438, bytes: b"\x53\xef", kind: Kind::Filesystem, name: "ext2/3/4" },
    Signature { at: 0x10040, bytes: b"_BHRfS_M", kind: Kind::Filesystem, name: "btrfs" },
    Signature { at: 0x2000, bytes: b"OCFSV2", kind: Kind::Filesystem, name: "ocfs2" },
    Signature { at: 3, bytes: b"NTFS    ", kind: Kind::Filesystem, name: "ntfs" },
    Signature { at: 3, bytes: b"EXFAT   ", kind: Kind::Filesystem, name: "exfat" },
    Signature { at: 0x36, bytes: b"FAT1", kind: Kind::Filesystem, name: "vfat" },
    Signature { at: 0x52, bytes: b"FAT32", kind: Kind::Filesystem, name: "vfat" },
    Signature { at: 0x8001, bytes: b"CD001", kind: Kind::Filesystem, name: "iso9660" },
    Signature { at: 0, bytes: b"hsqs", kind: Kind::Filesystem, name: "squashfs" },
    Signature { at: 0x400, bytes: b"\x10\x20\xf5\xf2", kind: Kind::Filesystem, name: "f2fs" },
    Signature { at: 0xff6, bytes: b"SWAPSPACE2", kind: Kind::Filesystem, name: "swap" },
    Signature { at: 0, bytes: b"LUKS\xba\xbe", kind: Kind::Filesystem, name: "crypto_LUKS" },
    Signature { at: 0x218, bytes: b"LVM2 001", kind: Kind::Raid, name: "LVM2_member" },
    Signature { at: 0x18, bytes: b"LVM2 001", kind: Kind::Raid, name: "LVM2_member" },
    Signature { at: 0x1000, bytes: b"\xfc\x4e\x2b\xa9", kind: Kind::Raid, name: "linux_raid_member" },
    Signature { at: 0, bytes: b"\xfc\x4e\x2b\xa9", kind: Kind::Raid, name: "linux_raid_member" },
    Signature { at: 0x200, bytes: b"EFI PART", kind: Kind::Partitions, name: "gpt" },
    Signature { at: 0x1fe, bytes: b"\x55\xaa", kind: Kind::Partitions, name: "dos" },
];

/// Looks at the front of `device`; `None` when nothing is recognised.
pub async fn probe(device: &Arc<dyn BlockDevice>) -> Result<Option<Found>, BlockError> {
    let front = ByteLen(device.geometry().size().0.min(0x11000));
    let bytes = device.read(ByteOffset(0), front).await?;
    Ok(SIGNATURES
        .iter()
        .find(|s| bytes.get(s.at..s.at + s.bytes.len()) == Some(s.bytes))
        .map(|s| Found { kind: s.kind, name: s.name }))
}
