//! Our own registration key, as far as this process knows it: before a write is sent again on a new
//! connection, the key has to be there still. A missing one means that this node was fenced.
//!
//! Nothing in here registers anything: only the caller does, and after a fence it does not.

use block_core::{ReservationChange, ReservationKey};

/// What this process has registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Registered {
    /// Nothing that we know of.
    #[default]
    No,
    Key(ReservationKey),
    /// The answer to a registration was lost: it is one of the two.
    InDoubt {
        before: Option<ReservationKey>,
        after: Option<ReservationKey>,
    },
}

impl Registered {
    /// A change was carried out.
    pub fn changed(&mut self, change: &ReservationChange) {
        match *change {
            ReservationChange::Register { new, .. } | ReservationChange::RegisterIgnoring { new, .. } => {
                *self = new.map_or(Self::No, Self::Key);
            }
            ReservationChange::Clear { .. } => *self = Self::No,
            ReservationChange::Reserve { .. }
            | ReservationChange::Release { .. }
            | ReservationChange::Preempt { .. }
            | ReservationChange::PreemptAndAbort { .. } => {}
        }
    }

    /// A change was sent, and its answer will never come.
    pub fn lost(&mut self, change: &ReservationChange) {
        let before = match *self {
            Self::No => None,
            Self::Key(key) => Some(key),
            Self::InDoubt { before, .. } => before,
        };
        match *change {
            ReservationChange::Register { new: after, .. } | ReservationChange::RegisterIgnoring { new: after, .. } => {
                *self = Self::InDoubt { before, after };
            }
            ReservationChange::Clear { .. } => *self = Self::InDoubt { before, after: None },
            ReservationChange::Reserve { .. }
            | ReservationChange::Release { .. }
            | ReservationChange::Preempt { .. }
            | ReservationChange::PreemptAndAbort { .. } => {}
        }
    }

    /// Compares with the keys that the unit has; gives the key that is missing.
    pub fn settle(&mut self, keys: &[ReservationKey]) -> Result<(), ReservationKey> {
        let is_there = |key: &ReservationKey| keys.contains(key);
        match *self {
            Self::No => Ok(()),
            Self::Key(key) => {
                if is_there(&key) {
                    Ok(())
                } else {
                    Err(key)
                }
            }
            Self::InDoubt { before, after } => {
                match (after.filter(is_there).or(before.filter(is_there)), before, after) {
                    (Some(key), _, _) => {
                        *self = Self::Key(key);
                        Ok(())
                    }
                    (None, Some(missing), Some(_)) => Err(missing),
                    // Either side of the change leaves us without one, so nobody took it.
                    (None, _, _) => {
                        *self = Self::No;
                        Ok(())
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_core::Persistence;

    fn key(number: u64) -> ReservationKey {
        ReservationKey::new(number).expect("not zero")
    }

    fn register(new: Option<u64>) -> ReservationChange {
        ReservationChange::RegisterIgnoring { new: new.map(key), persistence: Persistence::Volatile }
    }

    #[test]
    fn a_key_that_is_gone_is_missed_and_one_that_was_given_back_is_not() {
        let mut own = Registered::default();
        assert_eq!(own.settle(&[]), Ok(()));
        own.changed(&register(Some(1)));
        assert_eq!(own.settle(&[key(2), key(1)]), Ok(()));
        assert_eq!(own.settle(&[key(2)]), Err(key(1)));
        own.changed(&register(None));
        assert_eq!(own.settle(&[]), Ok(()));
    }

    #[test]
    fn after_a_lost_registration_either_key_will_do_but_not_neither() {
        for (keys, expected) in [(vec![key(1)], Ok(())), (vec![key(2)], Ok(())), (vec![key(3)], Err(key(1)))] {
            let mut own = Registered::Key(key(1));
            own.lost(&register(Some(2)));
            assert_eq!(own.settle(&keys), expected);
        }
        // A first registration that may not have arrived, and a last one that may have.
        for (before, lost) in [(Registered::No, register(Some(2))), (Registered::Key(key(1)), register(None))] {
            let mut own = before;
            own.lost(&lost);
            assert_eq!(own.settle(&[]), Ok(()));
            assert_eq!(own, Registered::No);
        }
    }
}
