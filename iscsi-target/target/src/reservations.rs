//! A unit's reservations while the program runs, and on the disk where they are to survive a restart (APTPL).
//!
//! A change is on the disk before it counts. The file has its own format version and a checksum, and is replaced as a
//! whole, so it is always either the old or the new table; one that is neither is refused, because a forgotten registration
//! would let a node write that was shut out.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use iscsi_target_proto::scsi::{
    Access, AdditionalSense, Held, Nexus, Refusal, Registrant, Reservations, ReserveKind, Sense, SenseKey,
};
use serde::{Deserialize, Serialize};

/// Format of the file that this program writes and understands; the first word of its first line. Behind it stands the
/// checksum (CRC32C, hexadecimal) of the lines that follow.
const FORMAT: &str = "corral-reservations-2";

/// The reservations of one unit.
#[derive(Default)]
pub struct UnitReservations {
    table: Mutex<Reservations>,
    /// Nobody's command can conflict; so most commands take no lock.
    is_closed: AtomicBool,
    /// One change at a time, the slow part without the table's lock.
    changing: Mutex<()>,
    /// Where they are kept; `None` for a unit of tests.
    file: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    registrants: Vec<KeptRegistrant>,
    /// Type of the reservation as in PERSISTENT RESERVE OUT.
    reservation: Option<u8>,
    /// Who of the registrants holds it, where not all do.
    holder: Option<usize>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptRegistrant {
    initiator: String,
    isid: [u8; 6],
    key: u64,
}

impl UnitReservations {
    /// Reads the table that was kept in `file`, if there is one.
    pub fn open(file: PathBuf) -> Result<Self, String> {
        let tell = |what: String| {
            let file = file.display();
            format!(
                "reservations {file}: {what}; to start without what it held, move it away and have every node register anew"
            )
        };
        let table = match std::fs::read(&file) {
            Ok(content) => decode(&content).map_err(tell)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Reservations::default(),
            Err(error) => return Err(tell(error.to_string())),
        };
        let is_closed = AtomicBool::new(!table.is_open());
        Ok(Self { table: Mutex::new(table), is_closed, changing: Mutex::default(), file: Some(file) })
    }

    /// Whether a command conflicts.
    pub fn conflicts(&self, nexus: &Nexus, access: Access) -> bool {
        self.is_closed.load(Ordering::Acquire) && self.read(|table| table.conflicts(nexus, access))
    }

    pub fn read<T>(&self, look: impl FnOnce(&Reservations) -> T) -> T {
        look(&self.table())
    }

    /// Changes the table; waits for the disk if it has to be kept.
    pub fn change<T>(&self, work: impl FnOnce(&mut Reservations) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.read(Clone::clone);
        let mut after = before.clone();
        let result = work(&mut after)?;
        if let Err(error) = self.keep(&before, &after) {
            tracing::error!(%error, "reservations cannot be kept");
            let failed = Sense::new(SenseKey::HardwareError, AdditionalSense::INTERNAL_TARGET_FAILURE);
            return Err(Refusal::Sense(failed));
        }
        let is_closed = !after.is_open();
        *self.table() = after;
        self.is_closed.store(is_closed, Ordering::Release);
        Ok(result)
    }

    /// RESERVE (6) ends with its session, and with a reset of the unit (`None`).
    pub fn end_reserve_6(&self, of: Option<&Nexus>) {
        let is_meant =
            |table: &Reservations| table.reserved_6.as_ref().is_some_and(|holder| of.is_none_or(|n| n == holder));
        if self.read(is_meant) {
            let ended = self.change(|table| {
                table.reserved_6.take_if(|holder| of.is_none_or(|nexus| nexus == holder));
                Ok(())
            });
            debug_assert!(ended.is_ok(), "nothing of it is kept on the disk");
        }
    }

    /// Writes the table if it is to survive a restart; else removes what was kept.
    fn keep(&self, before: &Reservations, after: &Reservations) -> Result<(), std::io::Error> {
        let is_same =
            (before.persists, &before.registrants, &before.held) == (after.persists, &after.registrants, &after.held);
        let Some(file) = self.file.as_ref().filter(|_| !is_same) else { return Ok(()) };
        match (before.persists, after.persists) {
            (_, true) => write_whole(file, encode(after).as_bytes()),
            (true, false) => {
                std::fs::remove_file(file)?;
                sync_folder(file)
            }
            (false, false) => Ok(()),
        }
    }

    fn table(&self) -> MutexGuard<'_, Reservations> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces a file: after a loss of power it has the old content or the new.
pub fn write_whole(file: &Path, content: &[u8]) -> Result<(), std::io::Error> {
    let new = file.with_extension("new");
    let mut out = File::create(&new)?;
    out.write_all(content)?;
    out.sync_all()?;
    std::fs::rename(&new, file)?;
    sync_folder(file)
}

/// Makes the name of a file or folder durable.
pub fn sync_folder(file: &Path) -> Result<(), std::io::Error> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn encode(table: &Reservations) -> String {
    let registrants = table.registrants.iter().map(|Registrant { nexus, key }| KeptRegistrant {
        initiator: nexus.initiator.clone(),
        isid: nexus.isid,
        key: *key,
    });
    let holder = table.held.as_ref().and_then(|held| held.holder.as_ref());
    let kept = Kept {
        registrants: registrants.collect(),
        reservation: table.held.as_ref().map(|held| held.kind.to_byte()),
        holder: holder.and_then(|holder| table.registrants.iter().position(|registrant| registrant.nexus == *holder)),
    };
    let body = serde_json::to_string_pretty(&kept).expect("invariant: strings and numbers have a JSON form");
    format!("{FORMAT} {:08x}\n{body}\n", crc32c::crc32c(format!("{body}\n").as_bytes()))
}

fn decode(content: &[u8]) -> Result<Reservations, String> {
    let text = std::str::from_utf8(content).map_err(|_| "it is damaged (not text)".to_owned())?;
    let (heading, body) = text.split_once('\n').ok_or("it is damaged (it ends within its first line)")?;
    let (format, checksum) = heading.split_once(' ').unwrap_or((heading, ""));
    if format != FORMAT {
        return Err(format!("its format is '{format}', this program knows '{FORMAT}'"));
    }
    if checksum != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
        return Err("it is damaged (its checksum is not that of its content)".to_owned());
    }
    let kept: Kept = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let registrants: Vec<Registrant> = kept
        .registrants
        .into_iter()
        .map(|kept| Registrant { nexus: Nexus { initiator: kept.initiator, isid: kept.isid }, key: kept.key })
        .collect();
    let held = match kept.reservation {
        None => None,
        Some(kind) => {
            let kind = ReserveKind::from_byte(kind).ok_or_else(|| format!("there is no reservation of type {kind}"))?;
            let holder = match kept.holder {
                Some(index) => Some(registrants.get(index).ok_or("the holder is not registered")?.nexus.clone()),
                None => None,
            };
            Some(Held { kind, holder })
        }
    };
    Ok(Reservations { registrants, held, persists: true, ..Reservations::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_survives_its_file_and_nonsense_is_refused() {
        let nexus = Nexus { initiator: "iqn.2026-11.test:a".to_owned(), isid: [1, 2, 3, 4, 5, 6] };
        let table = Reservations {
            registrants: vec![Registrant { nexus: nexus.clone(), key: u64::MAX }],
            held: Some(Held { kind: ReserveKind::WriteExclusiveRegistrants, holder: Some(nexus) }),
            persists: true,
            ..Reservations::default()
        };
        let text = encode(&table);
        assert_eq!(decode(text.as_bytes()), Ok(table));
        for length in 0..text.len() {
            assert!(decode(&text.as_bytes()[..length]).is_err(), "cut to {length} bytes");
        }
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 0x04;
            assert!(decode(&damaged).is_err(), "byte {at} changed");
        }
        let newer = decode(text.replace("reservations-2", "reservations-3").as_bytes());
        assert!(newer.is_err_and(|said| said.contains("corral-reservations-3")));
    }
}
