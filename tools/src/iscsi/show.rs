//! What is shown of targets, units and reservations, as aligned text and as JSON.

use block_core::{BlockDevice, BlockError, HeldReservation, RegisteredKeys, ReservationStatus};
use iscsi_target_initiator::{Description, DiscoveredTarget, IscsiDevice};
use serde_json::{Value, json};

use crate::output::Table;

/// Targets and their addresses, one line for each address.
pub fn targets_text(targets: &[DiscoveredTarget]) -> String {
    let mut table = Table::new(&["TARGET", "PORTAL", "GROUP"]);
    for target in targets {
        for address in &target.addresses {
            let (portal, group) = address.rsplit_once(',').unwrap_or((address, ""));
            table.row(vec![target.name.clone(), portal.to_owned(), group.to_owned()]);
        }
        if target.addresses.is_empty() {
            table.row(vec![target.name.clone(), String::new(), String::new()]);
        }
    }
    table.text()
}

pub fn targets_json(targets: &[DiscoveredTarget]) -> Value {
    let targets: Vec<Value> =
        targets.iter().map(|target| json!({ "name": target.name, "addresses": target.addresses })).collect();
    json!({ "targets": targets })
}

pub fn unit_text(unit: &Description) -> String {
    let yes_no = |value: bool| if value { "yes" } else { "no" }.to_owned();
    let mut lines = vec![
        ("vendor", unit.vendor.clone()),
        ("product", unit.product.clone()),
        ("revision", unit.revision.clone()),
        ("serial", unit.serial.clone().unwrap_or_else(|| "-".to_owned())),
    ];
    lines.extend(unit.identifiers.iter().map(|identifier| ("identifier", identifier.clone())));
    lines.extend([
        ("size", format!("{} bytes", size(unit))),
        ("logical block", format!("{} bytes", unit.block_length)),
        ("physical block", format!("{} bytes", unit.physical_block_length)),
        ("read-only", yes_no(unit.is_read_only)),
        ("write cache", yes_no(unit.has_write_cache)),
        ("thin", yes_no(unit.is_thin)),
        ("one command", format!("{} bytes at most", unit.transfer_max)),
        ("compare and write", format!("{} bytes at most", unit.compare_and_write_max)),
    ]);
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

pub fn unit_json(unit: &Description) -> Value {
    json!({
        "vendor": unit.vendor,
        "product": unit.product,
        "revision": unit.revision,
        "serial": unit.serial,
        "identifiers": unit.identifiers,
        "bytes": size(unit),
        "blocks": unit.blocks,
        "block_length": unit.block_length,
        "physical_block_length": unit.physical_block_length,
        "read_only": unit.is_read_only,
        "write_cache": unit.has_write_cache,
        "thin": unit.is_thin,
        "transfer_bytes_max": unit.transfer_max,
        "compare_and_write_bytes_max": unit.compare_and_write_max,
    })
}

/// As one line.
pub fn capacity_text(unit: &Description) -> String {
    format!("{} bytes, {} blocks of {} bytes\n", size(unit), unit.blocks, unit.block_length)
}

pub fn capacity_json(unit: &Description) -> Value {
    json!({ "bytes": size(unit), "blocks": unit.blocks, "block_length": unit.block_length })
}

fn size(unit: &Description) -> u64 {
    unit.blocks.saturating_mul(u64::from(unit.block_length))
}

/// Registrations and the reservation, as far as the unit tells.
#[derive(Debug)]
pub struct Keys {
    keys: RegisteredKeys,
    held: HeldReservation,
    /// `None` where the unit has no full status.
    status: Option<ReservationStatus>,
}

impl Keys {
    /// Asks the unit.
    pub async fn read(unit: &IscsiDevice) -> Result<Self, BlockError> {
        let (keys, held) = (unit.reservation_keys().await?, unit.reservation().await?);
        let status = match unit.reservation_status().await {
            Ok(status) => Some(status),
            // An older unit; the keys are what there is.
            Err(BlockError::Unsupported { .. } | BlockError::Io { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { keys, held, status })
    }

    pub fn text(&self) -> String {
        let held = self.held.reservation.map_or_else(
            || "no reservation".to_owned(),
            |held| match held.holder {
                Some(key) => format!("reservation: {}, held by {key}", held.kind),
                None => format!("reservation: {}, held by every registrant", held.kind),
            },
        );
        let mut table = Table::new(&["KEY", "HOLDS", "INITIATOR"]);
        for (key, holds, who) in self.rows() {
            table.row(vec![key, if holds { "yes" } else { "no" }.to_owned(), who.unwrap_or_default()]);
        }
        let rows = if table.is_empty() { "nobody is registered\n".to_owned() } else { table.text() };
        format!("{held}\ngeneration: {}\n{rows}", self.keys.generation)
    }

    pub fn json(&self) -> Value {
        let registrations = self.rows().into_iter();
        let registrations: Vec<Value> = registrations
            .map(|(key, holds, who)| json!({ "key": key, "holds_reservation": holds, "initiator": who }))
            .collect();
        let held = self.held.reservation;
        json!({
            "generation": self.keys.generation,
            "reservation": held.map(|held| json!({
                "type": held.kind as u8,
                "name": held.kind.to_string(),
                "holder": held.holder.map(|key| key.to_string()),
            })),
            "registrations": registrations,
        })
    }

    fn rows(&self) -> Vec<(String, bool, Option<String>)> {
        match &self.status {
            Some(status) => {
                let rows = status.registrations.iter();
                rows.map(|one| (one.key.to_string(), one.holds.is_some(), Some(one.who.clone()))).collect()
            }
            None => {
                let held = self.held.reservation;
                let holds = |key| held.is_some_and(|held| held.holder.is_none_or(|holder| holder == key));
                self.keys.keys.iter().map(|key| (key.to_string(), holds(*key), None)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_core::{Registration, Reservation, ReservationKey, ReservationKind};

    #[test]
    fn a_size_is_told_in_bytes_and_blocks() {
        let unit = Description {
            vendor: "CORRAL".to_owned(),
            product: "disk".to_owned(),
            revision: "1".to_owned(),
            serial: None,
            identifiers: vec!["naa.6".to_owned()],
            is_read_only: false,
            has_write_cache: true,
            is_thin: false,
            block_length: 512,
            physical_block_length: 4096,
            blocks: 8,
            transfer_max: 1 << 20,
            compare_and_write_max: 512,
        };
        assert_eq!(capacity_text(&unit), "4096 bytes, 8 blocks of 512 bytes\n");
        assert_eq!(capacity_json(&unit), json!({ "bytes": 4096, "blocks": 8, "block_length": 512 }));
        assert!(unit_text(&unit).contains("\nidentifier         naa.6\n"));
    }

    #[test]
    fn keys_show_who_holds_with_and_without_a_full_status() {
        let key = |number| ReservationKey::new(number).expect("not zero");
        let kind = ReservationKind::WriteExclusiveAll;
        let registration = Registration { key: key(1), holds: Some(kind), who: "iqn.2026-11.x:y".to_owned() };
        let mut keys = Keys {
            keys: RegisteredKeys { generation: 3, keys: vec![key(1)] },
            held: HeldReservation { generation: 3, reservation: Some(Reservation { holder: None, kind }) },
            status: Some(ReservationStatus { generation: 3, registrations: vec![registration] }),
        };
        assert!(keys.text().contains("0x0000000000000001  yes    iqn.2026-11.x:y"), "{}", keys.text());
        keys.status = None;
        assert!(keys.text().contains("0x0000000000000001  yes    -"), "{}", keys.text());
        assert_eq!(keys.json()["reservation"]["type"], 7);
    }
}
