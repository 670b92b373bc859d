//! A logical unit: a block device with the name and the limits it has as a SCSI disk.

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use block_core::{BlockDevice, ByteLen, Durability};
use block_file::{FileDevice, OpenOptions};
use iscsi_target_proto::scsi::{Capacity, InquiryIdentity, ModeProfile, UnitProfile};
use nix::fcntl::{FallocateFlags, fallocate};
use tokio::sync::RwLock;

use crate::config::LunOptions;
use crate::execute::CopyResults;
use crate::reservations::UnitReservations;

/// Most data of one command, in bytes. Initiators learn it from the block limits page.
pub const TRANSFER_MAX: u64 = 16 * 1024 * 1024;
/// A transfer that is best for speed, in bytes.
const TRANSFER_BEST: u64 = 1024 * 1024;

/// Bytes of a page of the backing file: less is written by reading the rest first.
const PAGE: u32 = 4096;
/// Bytes in which space of a thin unit is best freed.
const THIN_PIECE: u32 = 128 * 1024;
/// Most data of one WRITE SAME, in bytes.
const SAME_MAX: u64 = TRANSFER_MAX;
/// Most data of one WRITE ATOMIC, in bytes.
pub const ATOMIC_MAX: u64 = 1024 * 1024;

/// A logical unit.
pub struct LogicalUnit {
    pub number: u16,
    pub device: Arc<dyn BlockDevice>,
    pub is_read_only: bool,
    /// Writes are durable only after a flush. MODE SELECT changes it.
    write_cache: AtomicBool,
    pub is_thin: bool,
    pub reservations: UnitReservations,
    /// Held by every write while the device has it; exclusively by what must see none half done: COMPARE AND WRITE and
    /// its like, and a change of reservations, after which no write of those it shuts out lands.
    pub gate: Arc<RwLock<()>>,
    pub copies: CopyResults,
    identity: InquiryIdentity,
    /// For people.
    name: String,
}

impl LogicalUnit {
    /// Opens the unit's file or block device, and makes the file if it is not there.
    /// What it must remember is in the folder `state`.
    pub fn open(number: u16, target_name: &str, options: &LunOptions, state: &Path) -> Result<Self, String> {
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
        let unit = Self::over(number, target_name, device, options.serial.clone(), name);
        let kept = state.join(format!("reservations-{:016x}.json", unit.identity.naa));
        Ok(Self {
            is_read_only: options.is_read_only,
            write_cache: options.write_cache.into(),
            is_thin: options.is_thin,
            reservations: UnitReservations::open(kept).map_err(tell)?,
            ..unit
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
        Self {
            number,
            device,
            is_read_only: false,
            write_cache: true.into(),
            is_thin: false,
            reservations: UnitReservations::default(),
            gate: Arc::default(),
            copies: CopyResults::default(),
            identity,
            name,
        }
    }

    /// Size and block length as they are now.
    pub fn capacity(&self) -> Capacity {
        let geometry = self.device.geometry();
        // Of a thin unit with small blocks it is the piece in which freeing space is worth while (docs/scsi.md says why);
        // else a page of the file.
        let physical = if self.is_thin && geometry.sector < PAGE { THIN_PIECE } else { PAGE };
        let physical_exponent = (physical / geometry.sector).checked_ilog2().unwrap_or(0) as u8;
        Capacity { blocks: geometry.sectors, block_length: geometry.sector, physical_exponent, is_thin: self.is_thin }
    }

    /// What INQUIRY tells.
    pub fn profile(&self) -> UnitProfile {
        UnitProfile {
            identity: self.identity.clone(),
            is_thin: self.is_thin,
            transfer_blocks_max: self.transfer_blocks_max(),
            same_blocks_max: self.blocks_in(SAME_MAX),
            atomic_blocks_max: self.blocks_in(ATOMIC_MAX),
            transfer_blocks_best: self.blocks_in(TRANSFER_BEST),
        }
    }

    /// What MODE SENSE tells.
    pub fn mode_profile(&self) -> ModeProfile {
        let Capacity { blocks, block_length, .. } = self.capacity();
        ModeProfile { blocks, block_length, is_read_only: self.is_read_only, write_cache: self.has_write_cache() }
    }

    /// Most blocks of one command.
    pub fn transfer_blocks_max(&self) -> u32 {
        self.blocks_in(TRANSFER_MAX)
    }

    /// How many whole blocks these bytes are.
    pub fn blocks_in(&self, bytes: u64) -> u32 {
        u32::try_from(bytes / u64::from(self.device.geometry().sector)).unwrap_or(u32::MAX)
    }

    pub fn naa(&self) -> u64 {
        self.identity.naa
    }

    pub fn has_write_cache(&self) -> bool {
        self.write_cache.load(Ordering::Relaxed)
    }

    pub fn set_write_cache(&self, is_on: bool) {
        self.write_cache.store(is_on, Ordering::Relaxed);
    }

    /// How durable a write is when it is answered.
    pub fn durability(&self, is_forced: bool) -> Durability {
        if is_forced || !self.has_write_cache() { Durability::Forced } else { Durability::Cached }
    }
}

impl fmt::Display for LogicalUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LUN {} {}", self.number, self.name)?;
        for (applies, word) in
            [(self.is_read_only, "ro"), (self.is_thin, "thin"), (!self.has_write_cache(), "cache=off")]
        {
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
