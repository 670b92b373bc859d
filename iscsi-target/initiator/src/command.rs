//! Commands beyond plain reads and writes, and what their answers say: zeroes, discards, compare-and-write and
//! persistent reservations (SBC-4 §5, SPC-4 §6.15 and §6.16).

use block_core::{
    HeldReservation, Persistence, RegisteredKeys, Registration, Reservation, ReservationChange, ReservationKey,
    ReservationKind, ReservationStatus,
};
use bytes::Bytes;
use iscsi_target_proto::scsi::{Cdb, DataPhase, ScsiCommand};

const UNMAP: u8 = 0x42;
const PERSISTENT_RESERVE_IN: u8 = 0x5e;
const PERSISTENT_RESERVE_OUT: u8 = 0x5f;
const COMPARE_AND_WRITE: u8 = 0x89;
const WRITE_SAME_16: u8 = 0x93;

/// Answers about reservations are at most this long, in bytes; the CDB has 16 bits for it.
const RESERVE_IN_MAX: u16 = 0xfff0;

/// Service actions of PERSISTENT RESERVE IN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReserveIn {
    Keys = 0,
    Reservation = 1,
    FullStatus = 3,
}

/// Writes zeroes to whole blocks. `deallocate`: the unit may give the space back, and reads zeroes there.
pub fn write_zeroes(lun: u16, lba: u64, blocks: u32, block_length: u32, deallocate: bool) -> ScsiCommand {
    let mut cdb = Cdb::default();
    (cdb.0[0], cdb.0[1]) = (WRITE_SAME_16, if deallocate { 0x08 } else { 0 });
    cdb.0[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb.0[10..14].copy_from_slice(&blocks.to_be_bytes());
    static ZEROES: [u8; 65536] = [0; 65536];
    let block = Bytes::from_static(&ZEROES[..(block_length as usize).min(ZEROES.len())]);
    ScsiCommand { lun, cdb, data: DataPhase::Out { buffers: vec![block] } }
}

/// Says that blocks are not needed.
pub fn unmap(lun: u16, lba: u64, blocks: u32) -> ScsiCommand {
    const DESCRIPTOR: u16 = 16;
    let mut list = Vec::with_capacity(24);
    list.extend_from_slice(&(6 + DESCRIPTOR).to_be_bytes());
    list.extend_from_slice(&DESCRIPTOR.to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    list.extend_from_slice(&lba.to_be_bytes());
    list.extend_from_slice(&blocks.to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    let mut cdb = Cdb::default();
    cdb.0[0] = UNMAP;
    cdb.0[7..9].copy_from_slice(&(list.len() as u16).to_be_bytes());
    ScsiCommand { lun, cdb, data: DataPhase::Out { buffers: vec![list.into()] } }
}

/// Replaces `blocks` blocks if they are as expected; durable when it is answered (FUA).
pub fn compare_and_write(lun: u16, lba: u64, blocks: u8, expected: Bytes, new: Bytes) -> ScsiCommand {
    const FORCE_UNIT_ACCESS: u8 = 0x08;
    let mut cdb = Cdb::default();
    (cdb.0[0], cdb.0[1], cdb.0[13]) = (COMPARE_AND_WRITE, FORCE_UNIT_ACCESS, blocks);
    cdb.0[2..10].copy_from_slice(&lba.to_be_bytes());
    ScsiCommand { lun, cdb, data: DataPhase::Out { buffers: vec![expected, new] } }
}

/// Asks about reservations.
pub fn reserve_in(lun: u16, action: ReserveIn) -> ScsiCommand {
    let mut cdb = Cdb::default();
    (cdb.0[0], cdb.0[1]) = (PERSISTENT_RESERVE_IN, action as u8);
    cdb.0[7..9].copy_from_slice(&RESERVE_IN_MAX.to_be_bytes());
    ScsiCommand { lun, cdb, data: DataPhase::In { length: u32::from(RESERVE_IN_MAX) } }
}

/// Changes reservations.
pub fn reserve_out(lun: u16, change: &ReservationChange) -> ScsiCommand {
    use ReservationChange::*;
    let number = |key: Option<ReservationKey>| key.map_or(0, ReservationKey::get);
    let survives = |persistence| persistence == Persistence::SurvivesPowerLoss;
    let (action, own, other, kind, is_persistent) = match *change {
        Register { own, new, persistence } => (0, number(own), number(new), None, survives(persistence)),
        Reserve { own, kind } => (1, own.get(), 0, Some(kind), false),
        Release { own, kind } => (2, own.get(), 0, Some(kind), false),
        Clear { own } => (3, own.get(), 0, None, false),
        Preempt { own, victim, kind } => (4, own.get(), victim.get(), Some(kind), false),
        PreemptAndAbort { own, victim, kind } => (5, own.get(), victim.get(), Some(kind), false),
        RegisterIgnoring { new, persistence } => (6, 0, number(new), None, survives(persistence)),
    };
    let mut list = [0; 24];
    list[..8].copy_from_slice(&own.to_be_bytes());
    list[8..16].copy_from_slice(&other.to_be_bytes());
    list[20] = u8::from(is_persistent);
    let mut cdb = Cdb::default();
    (cdb.0[0], cdb.0[1], cdb.0[2]) =
        (PERSISTENT_RESERVE_OUT, action, kind.map_or(0, |kind: ReservationKind| kind as u8));
    cdb.0[5..9].copy_from_slice(&(list.len() as u32).to_be_bytes());
    ScsiCommand { lun, cdb, data: DataPhase::Out { buffers: vec![Bytes::copy_from_slice(&list)] } }
}

/// The answer to [`ReserveIn::Keys`]; `None` if it makes no sense, or is longer than what was asked for.
pub fn parse_keys(data: &[u8]) -> Option<RegisteredKeys> {
    let (generation, body) = with_header(data)?;
    let (keys, rest) = body.as_chunks::<8>();
    let keys: Option<Vec<_>> = keys.iter().map(|key| ReservationKey::new(u64::from_be_bytes(*key))).collect();
    Some(RegisteredKeys { generation, keys: keys.filter(|_| rest.is_empty())? })
}

/// The answer to [`ReserveIn::Reservation`]; `None` if it makes no sense.
pub fn parse_reservation(data: &[u8]) -> Option<HeldReservation> {
    let (generation, body) = with_header(data)?;
    if body.is_empty() {
        return Some(HeldReservation { generation, reservation: None });
    }
    let key = u64::from_be_bytes(body.get(..8)?.try_into().ok()?);
    let kind = ReservationKind::from_number(*body.get(13)? & 0x0f)?;
    let holder = ReservationKey::new(key).filter(|_| !kind.is_held_by_all());
    Some(HeldReservation { generation, reservation: Some(Reservation { holder, kind }) })
}

/// The answer to [`ReserveIn::FullStatus`]; `None` if it makes no sense.
pub fn parse_status(data: &[u8]) -> Option<ReservationStatus> {
    const DESCRIPTOR_LEN: usize = 24;
    let (generation, mut body) = with_header(data)?;
    let mut registrations = Vec::new();
    while !body.is_empty() {
        let (descriptor, rest) = body.split_at_checked(DESCRIPTOR_LEN)?;
        let length = u32::from_be_bytes(descriptor[20..24].try_into().ok()?);
        let (transport_id, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        let key = ReservationKey::new(u64::from_be_bytes(descriptor[..8].try_into().ok()?))?;
        let is_holder = descriptor[12] & 1 != 0;
        let holds = if is_holder { Some(ReservationKind::from_number(descriptor[13] & 0x0f)?) } else { None };
        registrations.push(Registration { key, holds, who: initiator_of(transport_id) });
        body = rest;
    }
    Some(ReservationStatus { generation, registrations })
}

/// Generation and body; `None` if less came than the header announces.
fn with_header(data: &[u8]) -> Option<(u32, &[u8])> {
    let (header, body) = data.split_first_chunk::<8>()?;
    let [a, b, c, d, length @ ..] = *header;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    Some((u32::from_be_bytes([a, b, c, d]), body.get(..length)?))
}

/// An iSCSI TransportID's text (SPC-4 §7.6.4.6): the name, and mostly `,i,0x` and the session identifier.
fn initiator_of(transport_id: &[u8]) -> String {
    const ISCSI: u8 = 0x05;
    match transport_id {
        [kind, _, _, _, text @ ..] if kind & 0x0f == ISCSI => {
            let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect()
        }
        other => format!("a port of protocol {}", other.first().map_or(0xff, |kind| kind & 0x0f)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_about_reservations_are_read_and_cut_ones_refused() {
        let key = |number: u64| ReservationKey::new(number).expect("not zero");
        let keys = [&7u32.to_be_bytes()[..], &16u32.to_be_bytes(), &1u64.to_be_bytes(), &2u64.to_be_bytes()].concat();
        assert_eq!(parse_keys(&keys), Some(RegisteredKeys { generation: 7, keys: vec![key(1), key(2)] }));
        assert_eq!(parse_keys(&keys[..23]), None);
        let mut held = [&7u32.to_be_bytes()[..], &16u32.to_be_bytes(), &1u64.to_be_bytes(), &[0; 8]].concat();
        held[8 + 13] = 5;
        let kind = ReservationKind::WriteExclusiveRegistrants;
        let reservation = Some(Reservation { holder: Some(key(1)), kind });
        assert_eq!(parse_reservation(&held), Some(HeldReservation { generation: 7, reservation }));
        let none = parse_reservation(&[0; 8]);
        assert_eq!(none, Some(HeldReservation { generation: 0, reservation: None }));
        let name = b"iqn.2026-11.x:y,i,0x800000000001\0\0\0\0";
        let mut status = [&1u64.to_be_bytes()[..], &[0, 0, 0, 0, 1, 7, 0, 0, 0, 0, 0, 1]].concat();
        status.extend_from_slice(&(name.len() as u32 + 4).to_be_bytes());
        status.extend_from_slice(&[0x45, 0, 0, name.len() as u8]);
        status.extend_from_slice(name);
        let full = [&7u32.to_be_bytes()[..], &(status.len() as u32).to_be_bytes(), &status].concat();
        let found = parse_status(&full).expect("it is whole");
        assert_eq!(found.registrations[0].who, "iqn.2026-11.x:y,i,0x800000000001");
        assert_eq!(found.registrations[0].holds, Some(ReservationKind::WriteExclusiveAll));
        for cut in 0..full.len() {
            assert_eq!(parse_status(&full[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn commands_say_what_they_mean_to_the_targets_own_reader() {
        use iscsi_target_proto::scsi::Operation;
        let parsed = |command: ScsiCommand| command.cdb.parse().expect("the target knows it");
        assert!(matches!(parsed(unmap(0, 8, 4)), Operation::Unmap { .. }));
        assert!(matches!(parsed(write_zeroes(0, 8, 4, 512, true)), Operation::WriteSame { .. }));
        assert!(matches!(parsed(reserve_in(0, ReserveIn::Keys)), Operation::ReserveIn { .. }));
    }
}
