//! The label: lock table, UUID and locking protocol in the superblock. Shown and changed by `corral fs label` and by
//! the face of tunegfs2.
//!
//! A change is checked as mkfs checks it, then one sector is written and flushed: there is no half of it. The device
//! is opened exclusively, so a volume that is mounted on this machine is refused; other machines are for the operator.

use std::io::Read;

use block_core::{ByteLen, ByteOffset, Durability};
use gfs_check::inspect::Volume;
use gfs_format::Superblock;
use gfs_format::superblock::SUPERBLOCK_OFFSET;
use serde_json::json;
use zerocopy::IntoBytes;

use super::{Answer, fields};
use crate::device::{self, Access};

/// What is to be changed; `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub table: Option<String>,
    /// A UUID, `random`, `time` or `clear`.
    pub uuid: Option<String>,
    pub protocol: Option<String>,
    /// 1801 or 1802; only upwards.
    pub format: Option<u32>,
}

impl Change {
    /// Whether nothing is to be changed.
    pub fn is_none(&self) -> bool {
        *self == Change::default()
    }
}

/// `corral fs label`.
pub(super) fn label(name: &str, change: &Change) -> Result<Answer, String> {
    let superblock = if change.is_none() { read(name)? } else { write(name, change)? };
    let (protocol, table) = (text(superblock.lock_protocol()), text(superblock.lock_table()));
    let uuid = fields::uuid_text(&superblock.uuid);
    Ok(Answer {
        text: format!("lock table  {table}\nUUID        {uuid}\nprotocol    {protocol}\n"),
        json: json!({ "table": table, "uuid": uuid, "protocol": protocol }),
    })
}

/// The superblock of a device.
pub fn read(name: &str) -> Result<Superblock, String> {
    device::with(name, Access::Read, async |device| {
        let volume = Volume::open(device).await.map_err(|error| format!("{name}: {error}"))?;
        Ok(volume.superblock)
    })
}

/// Changes the label of a device; gives the superblock as it is now.
pub fn write(name: &str, change: &Change) -> Result<Superblock, String> {
    device::with(name, Access::Write, async |device| {
        let fail = |error: block_core::BlockError| format!("{name}: {error}");
        let volume = Volume::open(device.clone()).await.map_err(|error| format!("{name}: {error}"))?;
        let changed = changed(volume.superblock, change)?;
        let len = u64::from(device.geometry().sector).max(512);
        let mut sector = device.read(ByteOffset(SUPERBLOCK_OFFSET), ByteLen(len)).await.map_err(fail)?.to_vec();
        sector[..size_of::<Superblock>()].copy_from_slice(changed.as_bytes());
        let bytes = vec![sector.into()];
        device.write(ByteOffset(SUPERBLOCK_OFFSET), bytes, Durability::Cached).await.map_err(fail)?;
        device.flush().await.map_err(fail)?;
        Ok(changed)
    })
}

/// The superblock with the change, or why there cannot be one.
pub fn changed(mut superblock: Superblock, change: &Change) -> Result<Superblock, String> {
    if let Some(protocol) = &change.protocol {
        if !matches!(protocol.as_str(), "lock_dlm" | "lock_nolock") {
            return Err(format!("Invalid lock protocol: {protocol}"));
        }
        superblock.lock_protocol = padded(protocol);
    }
    if let Some(table) = &change.table {
        check_table(table, superblock.lock_protocol() == b"lock_dlm")?;
        superblock.lock_table = padded(table);
    }
    if let Some(format) = change.format {
        superblock.fs_format = format.into();
    }
    if let Some(uuid) = &change.uuid {
        superblock.uuid = parse_uuid(uuid)?;
    }
    Ok(superblock)
}

fn check_table(table: &str, is_shared: bool) -> Result<(), String> {
    let fail = |why: &str| Err(format!("Invalid lock table: {why}"));
    if table.is_empty() && !is_shared {
        return Ok(());
    }
    let Some((cluster, filesystem)) = table.split_once(':') else {
        return if is_shared { fail("missing colon") } else { check_characters(table) };
    };
    match (cluster.len(), filesystem.len()) {
        (0, _) => fail("cluster name is missing"),
        (33.., _) => fail("cluster name is too long"),
        (_, 0) => fail("file system name is missing"),
        (_, 31..) => fail("file system name is too long"),
        _ if filesystem.contains(':') => fail("contains more than one colon"),
        _ => check_characters(table),
    }
}

fn check_characters(table: &str) -> Result<(), String> {
    match table.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_:".contains(*c))) {
        Some(found) => Err(format!("Invalid lock table: invalid character '{found}'")),
        None if table.len() > 63 => Err("Invalid lock table: longer than 63 bytes".into()),
        None => Ok(()),
    }
}

/// NUL-padded; the checks have seen to the length.
fn padded(text: &str) -> [u8; 64] {
    let mut bytes = [0; 64];
    let len = text.len().min(bytes.len() - 1);
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    bytes
}

fn parse_uuid(text: &str) -> Result<[u8; 16], String> {
    match text {
        "clear" | "null" => return Ok([0; 16]),
        "random" | "time" | "generate" => return random_uuid(),
        _ => {}
    }
    let bad = || format!("Invalid uuid '{text}'");
    let is_form = text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if !is_form {
        return Err(bad());
    }
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let mut uuid = [0; 16];
    for (index, byte) in uuid.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[index * 2..index * 2 + 2], 16).map_err(|_| bad())?;
    }
    Ok(uuid)
}

fn random_uuid() -> Result<[u8; 16], String> {
    let mut uuid = [0; 16];
    let mut source = std::fs::File::open("/dev/urandom").map_err(|error| format!("/dev/urandom: {error}"))?;
    source.read_exact(&mut uuid).map_err(|error| format!("/dev/urandom: {error}"))?;
    // Version 4, variant 1 (RFC 9562).
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(uuid)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
