//! A logical unit: a block device with the name and the limits it has as a SCSI disk.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use block_core::{BlockDevice, Durability};
use iscsi_target_proto::scsi::{Capacity, InquiryIdentity, ModeProfile, UnitProfile};
use tokio::sync::{RwLock, Semaphore, SemaphorePermit};

use crate::atomic::{ATOMIC_MAX, AtomicJournal};
use crate::backing::{self, Backing, Made};
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

/// Pieces, of 1 MiB at most, that a unit's commands have in memory at once beside what counts against their sessions.
const PLACES: usize = 16;

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
    /// See [`LogicalUnit::place_for_piece`].
    places: Semaphore,
    /// `None` where nothing can be kept: then only single blocks are written atomically.
    pub atomic: Option<AtomicJournal>,
    identity: InquiryIdentity,
    /// `None` for a unit of tests.
    backing: Option<Backing>,
}

impl LogicalUnit {
    /// Looks whether [`LogicalUnit::open`] can succeed, without changing anything.
    pub fn check(number: u16, target_name: &str, options: &LunOptions, state: &Path) -> Result<(), String> {
        let naa = identity(number, target_name, options).naa;
        backing::check(options, &grown(state, naa)).map_err(|what| format!("LUN {number}: {what}"))
    }

    /// Opens the unit's file or block device, and makes the file if it is not there.
    /// What it must remember is in the folder `state`.
    pub fn open(
        number: u16,
        target_name: &str,
        options: &LunOptions,
        state: &Path,
        made: &mut Made,
    ) -> Result<Self, String> {
        let tell = |what: String| format!("LUN {number}: {what}");
        let identity = identity(number, target_name, options);
        let backing = Backing::open(options, grown(state, identity.naa), made).map_err(tell)?;
        let kept = state.join(format!("reservations-{:016x}.json", identity.naa));
        let journal = state.join(format!("atomic-{:016x}.journal", identity.naa));
        let atomic = match options.is_read_only {
            true => None,
            false => Some(AtomicJournal::open(&journal, &*backing.device()).map_err(tell)?),
        };
        Ok(Self {
            is_read_only: options.is_read_only,
            write_cache: options.write_cache.into(),
            is_thin: options.is_thin,
            reservations: UnitReservations::open(kept).map_err(tell)?,
            atomic,
            identity,
            ..Self::over(number, target_name, backing.device(), None)
        }
        .with(backing))
    }

    fn with(self, backing: Backing) -> Self {
        Self { backing: Some(backing), ..self }
    }

    /// A writable unit with a write cache over any device.
    pub fn over(number: u16, target_name: &str, device: Arc<dyn BlockDevice>, serial: Option<&str>) -> Self {
        let named = LunOptions { serial: serial.map(str::to_owned), ..LunOptions::new(PathBuf::new()) };
        Self {
            number,
            device,
            is_read_only: false,
            write_cache: true.into(),
            is_thin: false,
            reservations: UnitReservations::default(),
            gate: Arc::default(),
            copies: CopyResults::default(),
            places: Semaphore::new(PLACES),
            atomic: None,
            identity: identity(number, target_name, &named),
            backing: None,
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
            atomic_blocks_max: self.atomic_blocks_max(),
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

    /// A place in memory for a command that reads or writes pieces of its own beside the session's data: so that a flood of
    /// VERIFY or EXTENDED COPY takes time and not memory. Taken before the gate: nobody waits for it while holding that.
    pub async fn place_for_piece(&self) -> SemaphorePermit<'_> {
        self.places.acquire().await.expect("invariant: nobody closes it")
    }

    /// Most blocks of one WRITE ATOMIC: a device writes one block whole or not at all, more need the journal.
    pub fn atomic_blocks_max(&self) -> u32 {
        if self.atomic.is_some() { self.blocks_in(ATOMIC_MAX) } else { 1 }
    }

    /// How many whole blocks these bytes are.
    pub fn blocks_in(&self, bytes: u64) -> u32 {
        u32::try_from(bytes / u64::from(self.device.geometry().sector)).unwrap_or(u32::MAX)
    }

    /// Unit serial number.
    pub fn serial(&self) -> &str {
        &self.identity.serial
    }

    /// Path of the file or device.
    pub fn backing(&self) -> String {
        self.backing.as_ref().map(|backing| backing.path().display().to_string()).unwrap_or_default()
    }

    /// See [`Backing::grow`]. The sessions are told by whoever calls this.
    pub fn grow(&self, size: Option<u64>) -> Result<(u64, u64), String> {
        match &self.backing {
            Some(backing) => backing.grow(size),
            None => Err("its device has one size".to_owned()),
        }
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
        let size = human_size(self.device.geometry().size().0);
        write!(f, "LUN {} {} {size}", self.number, self.backing())?;
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

/// What a unit calls itself.
fn identity(number: u16, target_name: &str, options: &LunOptions) -> InquiryIdentity {
    let serial = options.serial.as_deref();
    let hash = fnv1a(format!("{target_name}/{number}/{}", serial.unwrap_or("")).as_bytes());
    InquiryIdentity {
        serial: serial.map_or_else(|| format!("{hash:016x}"), str::to_owned),
        target_name: target_name.to_owned(),
        naa: 3 << 60 | hash >> 4,
        labels: options.labels.clone(),
    }
}

/// Where a size is kept that a unit has grown to.
fn grown(state: &Path, naa: u64) -> PathBuf {
    state.join(format!("grown-{naa:016x}.json"))
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
