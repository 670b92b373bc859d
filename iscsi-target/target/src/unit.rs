//! A logical unit: a block device with the name and the limits it has as a SCSI disk.

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use block_core::{BlockDevice, ByteLen, Durability};
use block_file::{FileDevice, OpenOptions};
use iscsi_target_proto::scsi::{Capacity, InquiryIdentity, ModeProfile, UnitProfile};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::config::LunOptions;

/// Most data of one command, in bytes. Initiators learn it from the block limits page.
pub const TRANSFER_MAX: u64 = 16 * 1024 * 1024;
/// A transfer that is best for speed, in bytes.
const TRANSFER_BEST: u64 = 1024 * 1024;

/// A logical unit.
pub struct LogicalUnit {
    pub number: u16,
    pub device: Arc<dyn BlockDevice>,
    pub is_read_only: bool,
    /// Writes are durable only after a flush.
    pub write_cache: bool,
    is_thin: bool,
    identity: InquiryIdentity,
    /// For people.
    name: String,
}

impl LogicalUnit {
    /// Opens the unit's file or block device, and makes the file if it is not there.
    pub fn open(number: u16, target_name: &str, options: &LunOptions) -> Result<Self, String> {
        let tell = |what: String| format!("LUN {number}: {what}");
        let path = &options.file;
        if let (Some(size), false, false) = (options.size, options.is_thin, options.is_read_only) {
            allocate(path, size).map_err(tell)?;
        }
        let open = OpenOptions {
            read_only: options.is_read_only,
            create_size: options.size.map(ByteLen),
            sector: options.block,
            ..OpenOptions::default()
        };
        let device = FileDevice::open(path, open).map_err(|error| tell(error.to_string()))?;
        let size = device.geometry().size();
        if let Some(wanted) = options.size.filter(|wanted| ByteLen(*wanted) != size) {
            let path = path.display();
            return Err(tell(format!(
                "{path}: it has {size}, but size={wanted} was given; leave size out to use it as it is"
            )));
        }
        let sector = device.geometry().sector;
        if sector != options.block {
            return Err(tell(format!("{}: its blocks have {sector} bytes, not {}", path.display(), options.block)));
        }
        let name = format!("{} {}", path.display(), human_size(size.0));
        Ok(Self {
            is_read_only: options.is_read_only,
            write_cache: options.write_cache,
            is_thin: options.is_thin,
            ..Self::over(number, target_name, device, options.serial.clone(), name)
        })
    }

    /// A writable unit with a write cache over any device.
    pub fn over(
        number: u16,
        target_name: &str,
        device: Arc<dyn BlockDevice>,
        serial: Option<String>,
        name: String,
    ) -> Self {
        let hash = fnv1a(format!("{target_name}/{number}/{}", serial.as_deref().unwrap_or("")).as_bytes());
        let identity = InquiryIdentity {
            serial: serial.unwrap_or_else(|| format!("{hash:016x}")),
            target_name: target_name.to_owned(),
            naa: 3 << 60 | hash >> 4,
        };
        Self { number, device, is_read_only: false, write_cache: true, is_thin: false, identity, name }
    }

    /// Size and block length as they are now.
    pub fn capacity(&self) -> Capacity {
        let geometry = self.device.geometry();
        Capacity { blocks: geometry.sectors, block_length: geometry.sector, physical_exponent: 0, is_thin: false }
    }

    /// What INQUIRY tells. UNMAP does not exist yet, so a thin unit does not call itself one.
    pub fn profile(&self) -> UnitProfile {
        UnitProfile {
            identity: self.identity.clone(),
            is_thin: false,
            transfer_blocks_max: self.transfer_blocks_max(),
            transfer_blocks_best: (TRANSFER_BEST / u64::from(self.device.geometry().sector)) as u32,
        }
    }

    /// What MODE SENSE tells.
    pub fn mode_profile(&self) -> ModeProfile {
        let Capacity { blocks, block_length, .. } = self.capacity();
        ModeProfile { blocks, block_length, is_read_only: self.is_read_only, write_cache: self.write_cache }
    }

    /// Most blocks of one command.
    pub fn transfer_blocks_max(&self) -> u32 {
        (TRANSFER_MAX / u64::from(self.device.geometry().sector)) as u32
    }

    /// How durable a write is when it is answered.
    pub fn durability(&self, is_forced: bool) -> Durability {
        if is_forced || !self.write_cache { Durability::Forced } else { Durability::Cached }
    }
}

impl fmt::Display for LogicalUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LUN {} {}", self.number, self.name)?;
        for (applies, word) in [(self.is_read_only, "ro"), (self.is_thin, "thin"), (!self.write_cache, "cache=off")] {
            if applies {
                write!(f, " {word}")?;
            }
        }
        Ok(())
    }
}

/// Makes a file with all its space, unless it is there with content; undone if there is no room.
fn allocate(path: &Path, size: u64) -> Result<(), String> {
    let file = match File::options().write(true).create_new(true).open(path) {
        Ok(file) => file,
        // What is there, or why it cannot be made, is told by whoever opens it.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let length = i64::try_from(size).map_err(|_| format!("{}: {size} bytes are too many", path.display()))?;
    fallocate(file.as_fd(), FallocateFlags::empty(), 0, length).map_err(|error| {
        // The error to report is the first one.
        let _ = std::fs::remove_file(path);
        format!("{}: no room for {size} bytes: {error}", path.display())
    })
}

/// Stable over restarts and versions, unlike the standard library's hashes (FNV-1a, 64 bits).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn human_size(bytes: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(factor, _)| bytes >= *factor && bytes.is_multiple_of(*factor)) {
        Some((factor, unit)) => format!("{} {unit}", bytes / factor),
        None => format!("{bytes} bytes"),
    }
}
