//! Persistent reservations of a disk that has no target in front of it: the table behind
//! [`SharedDisk`](crate::SharedDisk).
//!
//! Pure. A *nexus* is one way from one node to the disk; the caller numbers them. Invariants: at most one registration
//! for a nexus; a reservation that is not held by all has a holder that is registered.

use std::collections::BTreeMap;

use crate::reservation::{
    HeldReservation, RegisteredKeys, Registration, Reservation, ReservationChange, ReservationKey, ReservationKind,
    ReservationOutcome, ReservationStatus,
};

/// One way from a node to the disk.
pub(crate) type Nexus = u64;

/// Registrations and the reservation.
#[derive(Debug, Default)]
pub(crate) struct ReservationTable {
    generation: u32,
    registered: BTreeMap<Nexus, ReservationKey>,
    /// Who took it, for what is not held by all.
    reservation: Option<(Nexus, ReservationKind)>,
}

/// What a change did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub outcome: ReservationOutcome,
    /// Whose work under way has to end before the answer.
    pub abort: Vec<Nexus>,
}

/// Which way a request moves data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

impl ReservationTable {
    /// Whether the reservation lets `nexus` do it.
    pub(crate) fn allows(&self, nexus: Nexus, access: Access) -> bool {
        let Some((holder, kind)) = self.reservation else { return true };
        let is_forbidden = access == Access::Write || kind.forbids_reading();
        let is_registered = self.registered.contains_key(&nexus);
        !is_forbidden || holder == nexus || (kind.lets_registrants_through() && is_registered)
    }

    /// Makes a change asked for by `nexus`.
    pub(crate) fn change(&mut self, nexus: Nexus, change: &ReservationChange) -> Changed {
        let mut abort = Vec::new();
        let is_done = match *change {
            ReservationChange::Register { own, new, .. } => {
                let is_allowed = self.registered.get(&nexus).copied() == own;
                if is_allowed {
                    self.register(nexus, new);
                }
                is_allowed
            }
            ReservationChange::RegisterIgnoring { new, .. } => {
                self.register(nexus, new);
                true
            }
            ReservationChange::Reserve { own, kind } => self.is_own(nexus, own) && self.reserve(nexus, kind),
            ReservationChange::Release { own, kind } => self.is_own(nexus, own) && self.release(nexus, kind),
            ReservationChange::Preempt { own, victim, kind } => {
                self.is_own(nexus, own) && self.preempt(nexus, victim, kind).is_some()
            }
            ReservationChange::PreemptAndAbort { own, victim, kind } => {
                let preempted = self.is_own(nexus, own).then(|| self.preempt(nexus, victim, kind)).flatten();
                abort = preempted.clone().unwrap_or_default();
                preempted.is_some()
            }
            ReservationChange::Clear { own } => {
                let is_allowed = self.is_own(nexus, own);
                if is_allowed {
                    self.registered.clear();
                    self.reservation = None;
                    self.generation = self.generation.wrapping_add(1);
                }
                is_allowed
            }
        };
        let outcome = if is_done { ReservationOutcome::Done } else { ReservationOutcome::Conflict };
        Changed { outcome, abort }
    }

    /// READ KEYS.
    pub(crate) fn keys(&self) -> RegisteredKeys {
        RegisteredKeys { generation: self.generation, keys: self.registered.values().copied().collect() }
    }

    /// READ RESERVATION.
    pub(crate) fn reservation(&self) -> HeldReservation {
        let reservation = self.reservation.map(|(holder, kind)| {
            let holder = if kind.is_held_by_all() { None } else { self.registered.get(&holder).copied() };
            Reservation { holder, kind }
        });
        HeldReservation { generation: self.generation, reservation }
    }

    /// READ FULL STATUS; `name` names a nexus.
    pub(crate) fn status(&self, name: impl Fn(Nexus) -> String) -> ReservationStatus {
        let registrations = self.registered.iter().map(|(nexus, key)| Registration {
            key: *key,
            holds: self.reservation.filter(|(holder, kind)| holder == nexus || kind.is_held_by_all()).map(|r| r.1),
            who: name(*nexus),
        });
        ReservationStatus { generation: self.generation, registrations: registrations.collect() }
    }

    fn is_own(&self, nexus: Nexus, key: ReservationKey) -> bool {
        self.registered.get(&nexus) == Some(&key)
    }

    fn register(&mut self, nexus: Nexus, new: Option<ReservationKey>) {
        match new {
            Some(key) => {
                self.registered.insert(nexus, key);
            }
            None => {
                self.registered.remove(&nexus);
                self.end_without_holder();
            }
        }
        self.generation = self.generation.wrapping_add(1);
    }

    fn reserve(&mut self, nexus: Nexus, kind: ReservationKind) -> bool {
        match self.reservation {
            None => self.reservation = Some((nexus, kind)),
            Some((holder, held)) => return held == kind && (holder == nexus || kind.is_held_by_all()),
        }
        true
    }

    fn release(&mut self, nexus: Nexus, kind: ReservationKind) -> bool {
        match self.reservation {
            Some((holder, held)) if holder == nexus || held.is_held_by_all() => {
                if held == kind {
                    self.reservation = None;
                }
                held == kind
            }
            // Not the holder's release changes nothing and is no error.
            Some(_) | None => true,
        }
    }

    /// Ends the registrations of `victim`, but for the one who asks; gives whose they were.
    fn preempt(&mut self, nexus: Nexus, victim: ReservationKey, kind: ReservationKind) -> Option<Vec<Nexus>> {
        let mut gone: Vec<Nexus> = self.registered.iter().filter(|(_, key)| **key == victim).map(|(n, _)| *n).collect();
        if gone.is_empty() {
            return None;
        }
        let takes_over =
            self.reservation.is_some_and(|(holder, held)| !held.is_held_by_all() && gone.contains(&holder));
        gone.retain(|other| *other != nexus);
        self.registered.retain(|other, _| !gone.contains(other));
        self.generation = self.generation.wrapping_add(1);
        if takes_over {
            self.reservation = Some((nexus, kind));
        }
        self.end_without_holder();
        Some(gone)
    }

    /// A reservation ends with its holder's registration, one of all with the last.
    fn end_without_holder(&mut self) {
        let Some((holder, kind)) = self.reservation else { return };
        let is_held =
            if kind.is_held_by_all() { !self.registered.is_empty() } else { self.registered.contains_key(&holder) };
        if !is_held {
            self.reservation = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reservation::Persistence;

    const KIND: ReservationKind = ReservationKind::WriteExclusiveAll;

    fn key(number: u64) -> ReservationKey {
        ReservationKey::new(number).expect("not zero")
    }

    fn register(table: &mut ReservationTable, nexus: Nexus, new: u64) -> ReservationOutcome {
        let persistence = Persistence::SurvivesPowerLoss;
        table.change(nexus, &ReservationChange::Register { own: None, new: Some(key(new)), persistence }).outcome
    }

    #[test]
    fn a_preempted_node_writes_no_more_and_cannot_register_by_its_old_key() {
        let mut table = ReservationTable::default();
        assert_eq!(register(&mut table, 1, 11), ReservationOutcome::Done);
        assert_eq!(register(&mut table, 2, 22), ReservationOutcome::Done);
        assert_eq!(register(&mut table, 2, 23), ReservationOutcome::Conflict);
        table.change(1, &ReservationChange::Reserve { own: key(11), kind: KIND });
        assert!(table.allows(1, Access::Write) && table.allows(2, Access::Write));
        assert!(!table.allows(3, Access::Write) && table.allows(3, Access::Read));
        let fence = ReservationChange::PreemptAndAbort { own: key(11), victim: key(22), kind: KIND };
        assert_eq!(table.change(1, &fence), Changed { outcome: ReservationOutcome::Done, abort: vec![2] });
        assert!(!table.allows(2, Access::Write));
        assert_eq!(table.change(1, &fence).outcome, ReservationOutcome::Conflict);
        let back =
            ReservationChange::Register { own: Some(key(22)), new: Some(key(24)), persistence: Persistence::Volatile };
        assert_eq!(table.change(2, &back).outcome, ReservationOutcome::Conflict);
        assert_eq!(table.keys().keys, [key(11)]);
    }

    #[test]
    fn the_reservation_goes_with_its_holder_and_that_of_all_with_the_last() {
        for (kind, stays) in [(ReservationKind::WriteExclusiveRegistrants, false), (KIND, true)] {
            let mut table = ReservationTable::default();
            register(&mut table, 1, 11);
            register(&mut table, 2, 22);
            table.change(1, &ReservationChange::Reserve { own: key(11), kind });
            let holders = table.status(|nexus| nexus.to_string()).registrations;
            assert_eq!(holders.iter().filter(|one| one.holds.is_some()).count(), if stays { 2 } else { 1 });
            let persistence = Persistence::Volatile;
            table.change(1, &ReservationChange::Register { own: Some(key(11)), new: None, persistence });
            assert_eq!(table.reservation().reservation.is_some(), stays);
            table.change(2, &ReservationChange::RegisterIgnoring { new: None, persistence });
            assert_eq!(table.reservation().reservation, None);
        }
    }

    #[test]
    fn who_preempts_the_holder_becomes_it() {
        let mut table = ReservationTable::default();
        register(&mut table, 1, 11);
        register(&mut table, 2, 22);
        let kind = ReservationKind::ExclusiveAccess;
        table.change(1, &ReservationChange::Reserve { own: key(11), kind });
        assert!(!table.allows(2, Access::Read));
        table.change(2, &ReservationChange::Preempt { own: key(22), victim: key(11), kind });
        assert_eq!(table.reservation().reservation, Some(Reservation { holder: Some(key(22)), kind }));
        assert!(!table.allows(1, Access::Read));
    }
}
