//! The table's rules, as an initiator meets them.

use super::*;
use ReserveOutAction::*;

fn port(number: u8) -> Nexus {
    Nexus { initiator: format!("iqn.2026-11.test:{number}"), isid: [0x80, 0, 0, 0, 0, number] }
}

/// Applies it where only port 9 and its sibling are logged in.
fn apply(
    table: &mut Reservations,
    nexus: &Nexus,
    action: ReserveOutAction,
    kind: Option<ReserveKind>,
    list: &ReserveOutList,
) -> Result<Outcome, Refusal> {
    let mut after = table.clone();
    let sibling = Nexus { isid: [0x80, 0, 0, 0, 1, 9], ..port(9) };
    let outcome = after.apply(nexus, action, kind, list, |initiator| match initiator == port(9).initiator {
        true => vec![port(9), sibling.clone()],
        false => Vec::new(),
    })?;
    *table = after;
    Ok(outcome)
}

fn keys(key: u64, service_action_key: u64) -> ReserveOutList {
    ReserveOutList { key, service_action_key, ..ReserveOutList::default() }
}

/// A table where ports 1 to `count` are registered with their number as key.
fn registered(count: u8) -> Reservations {
    let mut table = Reservations::default();
    for number in 1..=count {
        apply(&mut table, &port(number), Register, None, &keys(0, u64::from(number))).expect("registering works");
    }
    table
}

fn reserved(kind: ReserveKind) -> Reservations {
    let mut table = registered(2);
    apply(&mut table, &port(1), Reserve, Some(kind), &keys(1, 0)).expect("nobody holds it");
    table
}

const KINDS: [ReserveKind; 6] = [
    ReserveKind::WriteExclusive,
    ReserveKind::ExclusiveAccess,
    ReserveKind::WriteExclusiveRegistrants,
    ReserveKind::ExclusiveAccessRegistrants,
    ReserveKind::WriteExclusiveAll,
    ReserveKind::ExclusiveAccessAll,
];

#[test]
fn each_type_lets_the_holder_the_registered_and_the_others_do_what_it_says() {
    // May a registered port that is not the holder write, read; may a stranger read.
    let expected = [
        (false, true, true),
        (false, false, false),
        (true, true, true),
        (true, true, false),
        (true, true, true),
        (true, true, false),
    ];
    for (kind, (write, read, stranger)) in KINDS.into_iter().zip(expected) {
        let table = reserved(kind);
        assert!(!table.conflicts(&port(1), Access::Write), "{kind:?}");
        assert_eq!(!table.conflicts(&port(2), Access::Write), write, "{kind:?}");
        assert_eq!(!table.conflicts(&port(2), Access::Read), read, "{kind:?}");
        assert_eq!(!table.conflicts(&port(3), Access::Read), stranger, "{kind:?}");
        assert!(table.conflicts(&port(3), Access::Write), "{kind:?}");
        assert!(!table.conflicts(&port(3), Access::Harmless), "{kind:?}");
    }
}

#[test]
fn a_wrong_key_or_no_registration_is_a_conflict() {
    let mut table = registered(1);
    let kind = Some(ReserveKind::WriteExclusive);
    for action in [Register, Reserve, Release, Clear, Preempt, PreemptAndAbort, RegisterAndMove] {
        assert_eq!(apply(&mut table, &port(1), action, kind, &keys(7, 1)), Err(Refusal::Conflict), "{action:?}");
        assert_eq!(apply(&mut table, &port(2), action, kind, &keys(7, 1)), Err(Refusal::Conflict), "{action:?}");
    }
    assert_eq!(table, registered(1));
    assert!(apply(&mut table, &port(1), RegisterAndIgnore, None, &keys(7, 9)).is_ok());
    assert_eq!(table.registrants[0].key, 9);
}

#[test]
fn a_release_of_another_type_is_refused_and_of_a_stranger_does_nothing() {
    let mut table = reserved(ReserveKind::WriteExclusiveRegistrants);
    let other = apply(&mut table, &port(1), Release, Some(ReserveKind::WriteExclusive), &keys(1, 0));
    let invalid = Sense::illegal_request(AdditionalSense::INVALID_RELEASE);
    assert_eq!(other, Err(Refusal::Sense(invalid)));
    let kind = Some(ReserveKind::WriteExclusiveRegistrants);
    assert_eq!(apply(&mut table, &port(2), Release, kind, &keys(2, 0)), Ok(Outcome::default()));
    assert!(table.held.is_some());
    let told = apply(&mut table, &port(1), Release, kind, &keys(1, 0)).expect("it is the holder").attentions;
    assert_eq!(told, [(port(2), AdditionalSense::RESERVATIONS_RELEASED)]);
    assert!(table.held.is_none());
}

#[test]
fn a_preemption_of_the_holder_takes_the_reservation_and_names_whose_commands_end() {
    let mut table = reserved(ReserveKind::WriteExclusiveRegistrants);
    let kind = Some(ReserveKind::WriteExclusiveRegistrants);
    let outcome = apply(&mut table, &port(2), PreemptAndAbort, kind, &keys(2, 1)).expect("port 2 is registered");
    assert_eq!(outcome.attentions, [(port(1), AdditionalSense::REGISTRATIONS_PREEMPTED)]);
    assert_eq!(outcome.aborted, [port(1)]);
    assert!(table.conflicts(&port(1), Access::Write));
    assert!(!table.conflicts(&port(2), Access::Write));
    assert_eq!(table.held.as_ref().and_then(|held| held.holder.clone()), Some(port(2)));
}

#[test]
fn a_preemption_of_a_mere_registrant_leaves_the_reservation() {
    let mut table = reserved(ReserveKind::WriteExclusive);
    let before = table.held.clone();
    assert!(apply(&mut table, &port(1), Preempt, None, &keys(1, 2)).is_ok());
    assert_eq!((table.registrants.len(), &table.held), (1, &before));
    assert_eq!(apply(&mut table, &port(1), Preempt, None, &keys(1, 77)), Err(Refusal::Conflict));
}

#[test]
fn key_zero_preempts_all_holders_of_a_shared_reservation_only() {
    let mut table = reserved(ReserveKind::WriteExclusiveAll);
    let kind = Some(ReserveKind::ExclusiveAccess);
    assert!(apply(&mut table, &port(2), Preempt, kind, &keys(2, 0)).is_ok());
    assert_eq!(table.registrants, [Registrant { nexus: port(2), key: 2 }]);
    assert!(apply(&mut table, &port(2), Preempt, kind, &keys(2, 0)).is_err());
}

#[test]
fn the_reservation_goes_with_its_holder_and_a_shared_one_with_the_last() {
    let mut table = reserved(ReserveKind::ExclusiveAccess);
    assert!(apply(&mut table, &port(1), Register, None, &keys(1, 0)).is_ok());
    assert!(table.is_open());
    let mut table = reserved(ReserveKind::ExclusiveAccessAll);
    assert!(apply(&mut table, &port(1), Register, None, &keys(1, 0)).is_ok());
    assert!(!table.is_open());
    assert!(apply(&mut table, &port(2), Register, None, &keys(2, 0)).is_ok());
    assert!(table.is_open());
}

#[test]
fn a_reservation_moves_to_the_port_that_is_named() {
    let mut table = reserved(ReserveKind::WriteExclusive);
    let id = TransportId::encode(&port(3));
    let mut data = [&1u64.to_be_bytes()[..], &33u64.to_be_bytes(), &[0, 3, 0, 1]].concat();
    data.extend_from_slice(&(id.len() as u32).to_be_bytes());
    data.extend_from_slice(&id);
    let list = ReserveOutList::parse(RegisterAndMove, &data).expect("a good list");
    assert_eq!((list.move_to.clone(), list.persists, list.unregister), (Some(port(3)), true, true));
    assert!(apply(&mut table, &port(1), RegisterAndMove, None, &list).is_ok());
    assert!(!table.conflicts(&port(3), Access::Write));
    assert_eq!(table.registrants.len(), 2);
    assert!(ReserveOutList::parse(RegisterAndMove, &data[..data.len() - 1]).is_err());
}

/// A REGISTER parameter list with SPEC_I_PT for these ports.
fn register_list(key: u64, ports: &[u8]) -> Vec<u8> {
    let mut data = [&0u64.to_be_bytes()[..], &key.to_be_bytes(), &[0, 0, 0, 0, 0x08, 0, 0, 0]].concat();
    data.extend_from_slice(&(ports.len() as u32).to_be_bytes());
    data.extend_from_slice(ports);
    data
}

#[test]
fn a_registration_may_be_for_other_ports_too_or_for_none_of_them() {
    let name = format!("{}\0", port(9).initiator);
    let all_of_9 = [&[0x05, 0, 0, 20][..], name.as_bytes(), &[0; 20][name.len()..]].concat();
    let ports = [TransportId::encode(&port(1)), TransportId::encode(&port(4)), all_of_9].concat();
    let list = ReserveOutList::parse(Register, &register_list(7, &ports)).expect("a good list");
    let mut table = registered(1);
    assert!(apply(&mut table, &port(2), Register, None, &list).is_ok());
    let keys: Vec<u64> = table.registrants.iter().map(|registrant| registrant.key).collect();
    assert_eq!(keys, [1, 7, 7, 7, 7], "port 1 keeps its own");
    assert_eq!(table.registrants[2].nexus, port(4));
    // Who is registered may not do it, nor may an initiator be named that is not there.
    assert!(matches!(
        apply(&mut table, &port(2), Register, None, &ReserveOutList { key: 7, ..list }),
        Err(Refusal::Sense(_))
    ));
    let nobody = [&[0x05, 0, 0, 20][..], b"iqn.2026-11.test:33\0"].concat();
    let list = ReserveOutList::parse(Register, &register_list(7, &nobody)).expect("a good list");
    let before = table.clone();
    assert!(matches!(apply(&mut table, &port(5), Register, None, &list), Err(Refusal::Sense(_))));
    assert_eq!(table, before);
}

#[test]
fn a_list_of_ports_belongs_to_register_and_has_the_length_it_tells() {
    let data = register_list(7, &TransportId::encode(&port(1)));
    assert!(ReserveOutList::parse(Register, &data).is_ok());
    assert!(ReserveOutList::parse(RegisterAndIgnore, &data).is_err());
    for length in 0..data.len() {
        assert!(ReserveOutList::parse(Register, &data[..length]).is_err(), "{length}");
    }
    assert!(ReserveOutList::parse(Register, &[&data[..], &[0; 4]].concat()).is_err());
}

#[test]
fn a_stranger_who_stays_one_changes_nothing() {
    let mut table = registered(1);
    table.persists = true;
    let before = table.clone();
    assert!(apply(&mut table, &port(2), Register, None, &keys(0, 0)).is_ok());
    assert!(apply(&mut table, &port(2), RegisterAndIgnore, None, &keys(5, 0)).is_ok());
    assert_eq!(table, before);
}

#[test]
fn reserve_6_excludes_everybody_else_and_registrations_exclude_it() {
    let mut table = Reservations::default();
    assert!(table.reserve_6(&port(1)).is_ok());
    assert_eq!(table.reserve_6(&port(2)), Err(Refusal::Conflict));
    assert!(table.conflicts(&port(2), Access::Harmless));
    assert!(table.release_6(&port(2)).is_ok() && !table.is_open());
    assert!(table.release_6(&port(1)).is_ok() && table.is_open());
    assert_eq!(registered(1).reserve_6(&port(1)), Err(Refusal::Conflict));
}

#[test]
fn what_is_read_tells_keys_holder_and_ports() {
    let table = reserved(ReserveKind::WriteExclusiveRegistrants);
    let keys = table.read_keys();
    assert_eq!((keys[7], keys[15], keys[23]), (16, 1, 2));
    assert_eq!(table.read_reservation()[21], 5);
    let full = table.read_full_status();
    let length = u32::from_be_bytes([full[4], full[5], full[6], full[7]]) as usize;
    assert_eq!((length, full[8 + 12]), (full.len() - 8, 1));
    assert!(full.windows(12).any(|piece| piece == b"800000000002"));
}
