//! What the caller wants: every option with its limits, checked before anything is written.
//!
//! The limits and the words of the refusals are those of the established tool, so that scripts
//! that match on them keep working. Called by the command line, by tests and by the simulator.

use gfs_format::BlockSize;

use crate::error::MkfsError;

/// Locking protocol recorded in the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Shared: locks go through the distributed lock manager.
    Dlm,
    /// One machine.
    Nolock,
}

impl Protocol {
    /// The name on disk and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Dlm => "lock_dlm",
            Protocol::Nolock => "lock_nolock",
        }
    }

    /// From the name on the command line.
    pub fn parse(name: &str) -> Result<Protocol, MkfsError> {
        match name {
            "lock_dlm" => Ok(Protocol::Dlm),
            "lock_nolock" => Ok(Protocol::Nolock),
            other => Err(MkfsError::LockProtocol { found: other.to_owned() }),
        }
    }
}

/// A stripe of the device below, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stripe {
    pub unit: u64,
    pub width: u64,
}

/// Largest cluster name in a lock table, in bytes.
pub const CLUSTER_NAME_MAX: usize = 32;
/// Largest filesystem name in a lock table, in bytes.
pub const FILESYSTEM_NAME_MAX: usize = 30;
/// Block sizes that the kernel mounts on machines with 4 KiB pages.
pub const BLOCK_SIZE_MIN: u32 = 512;
pub const BLOCK_SIZE_MAX: u32 = 4096;
/// Megabytes of one journal.
pub const JOURNAL_MB_MIN: u32 = 8;
pub const JOURNAL_MB_MAX: u32 = 1024;
/// Megabytes of one resource group.
pub const GROUP_MB_MIN: u32 = 32;
pub const GROUP_MB_MAX: u32 = 2048;
pub const GROUP_MB_DEFAULT: u32 = 256;
/// Megabytes of one quota change file.
pub const QUOTA_CHANGE_MB_MIN: u32 = 1;
pub const QUOTA_CHANGE_MB_MAX: u32 = 64;

/// Everything that decides what is written. Two calls with equal options on equal devices write
/// the same bytes.
#[derive(Clone, Debug)]
pub struct Options {
    pub protocol: Protocol,
    /// `cluster:filesystem`; may be empty with [`Protocol::Nolock`].
    pub table: String,
    pub journals: u32,
    /// Megabytes; `None` chooses by the device's size.
    pub journal_mb: Option<u32>,
    /// Bytes; `None` is 4096.
    pub block_size: Option<u32>,
    /// Megabytes; `None` is [`GROUP_MB_DEFAULT`].
    pub group_mb: Option<u32>,
    pub quota_change_mb: u32,
    /// 1801 or 1802.
    pub format: u32,
    pub uuid: [u8; 16],
    /// Size in filesystem blocks; `None` takes the whole device.
    pub blocks: Option<u64>,
    pub stripe: Option<Stripe>,
    /// Whether resource groups are aligned to `stripe`.
    pub align: bool,
    /// Whether the device is told first that all its bytes are unneeded.
    pub discard: bool,
    /// Time stamp of every inode, in seconds since 1970.
    pub seconds: u64,
}

impl Options {
    /// One journal and every default, on a filesystem with this protocol, lock table and UUID.
    pub fn new(protocol: Protocol, table: impl Into<String>, uuid: [u8; 16]) -> Options {
        Options {
            protocol,
            table: table.into(),
            journals: 1,
            journal_mb: None,
            block_size: None,
            group_mb: None,
            quota_change_mb: 1,
            format: 1802,
            uuid,
            blocks: None,
            stripe: None,
            align: true,
            discard: false,
            seconds: 0,
        }
    }

    /// Refuses whatever can be refused without looking at the device.
    pub fn check(&self) -> Result<(), MkfsError> {
        self.check_table()?;
        if let Some(bytes) = self.block_size
            && (!bytes.is_power_of_two() || !(BLOCK_SIZE_MIN..=BLOCK_SIZE_MAX).contains(&bytes))
        {
            return Err(MkfsError::BlockSize);
        }
        if self.journals == 0 {
            return Err(MkfsError::NoJournals);
        }
        if self.journal_mb.is_some_and(|mb| !(JOURNAL_MB_MIN..=JOURNAL_MB_MAX).contains(&mb)) {
            return Err(MkfsError::JournalSize);
        }
        if self.group_mb.is_some_and(|mb| !(GROUP_MB_MIN..=GROUP_MB_MAX).contains(&mb)) {
            return Err(MkfsError::GroupSize);
        }
        if !(QUOTA_CHANGE_MB_MIN..=QUOTA_CHANGE_MB_MAX).contains(&self.quota_change_mb) {
            return Err(MkfsError::QuotaChangeSize);
        }
        if !gfs_format::superblock::FORMATS.contains(&self.format) {
            return Err(MkfsError::Format { found: self.format });
        }
        self.check_stripe()
    }

    /// The block size that was asked for or the default.
    pub fn block_size(&self) -> Result<BlockSize, MkfsError> {
        BlockSize::new(self.block_size.unwrap_or(BLOCK_SIZE_MAX)).ok_or(MkfsError::BlockSize)
    }

    fn check_table(&self) -> Result<(), MkfsError> {
        if self.table.is_empty() {
            return match self.protocol {
                Protocol::Dlm => Err(MkfsError::NoLockTable),
                Protocol::Nolock => Ok(()),
            };
        }
        let Some((cluster, filesystem)) = self.table.split_once(':') else {
            return Err(MkfsError::LockTable("missing colon".into()));
        };
        if filesystem.contains(':') {
            return Err(MkfsError::LockTable("contains more than one colon".into()));
        }
        if let Some(found) = self.table.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_:".contains(*c))) {
            return Err(MkfsError::LockTable(format!("invalid character '{found}'")));
        }
        let fault = match (cluster.len(), filesystem.len()) {
            (0, _) => "cluster name is missing",
            (n, _) if n > CLUSTER_NAME_MAX => "cluster name is too long",
            (_, 0) => "file system name is missing",
            (_, n) if n > FILESYSTEM_NAME_MAX => "file system name is too long",
            _ => return Ok(()),
        };
        Err(MkfsError::LockTable(fault.into()))
    }

    fn check_stripe(&self) -> Result<(), MkfsError> {
        let Some(Stripe { unit, width }) = self.stripe else { return Ok(()) };
        let block = self.block_size()?.bytes();
        if unit == 0 || width == 0 {
            return Ok(());
        }
        if unit % block != 0 {
            return Err(MkfsError::StripeUnit { unit, block });
        }
        if width % unit != 0 {
            return Err(MkfsError::StripeWidth { width, unit });
        }
        Ok(())
    }
}
