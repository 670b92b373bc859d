//! Unit attentions: what an initiator port must be told about a unit before its next command is carried out (SAM-5
//! §5.14).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use iscsi_target_proto::scsi::{AdditionalSense, Sense, SenseKey};

/// More than this about one unit is the same as having been reset.
const PENDING_MAX: usize = 16;

/// What one session has not been told yet.
#[derive(Default)]
pub struct Attentions {
    /// Nearly always false, so that commands need not take the lock.
    is_any: AtomicBool,
    by_unit: Mutex<BTreeMap<u16, VecDeque<AdditionalSense>>>,
}

impl Attentions {
    /// Adds one, unless the same one is pending.
    pub fn raise(&self, unit: u16, what: AdditionalSense) {
        let mut by_unit = self.by_unit();
        let pending = by_unit.entry(unit).or_default();
        if !pending.contains(&what) && pending.len() < PENDING_MAX {
            pending.push_back(what);
        }
        self.is_any.store(true, Ordering::Release);
    }

    /// Takes the oldest one about a unit.
    pub fn take(&self, unit: u16) -> Option<Sense> {
        if !self.is_any.load(Ordering::Acquire) {
            return None;
        }
        let mut by_unit = self.by_unit();
        let taken = by_unit.get_mut(&unit).and_then(VecDeque::pop_front);
        by_unit.retain(|_, pending| !pending.is_empty());
        self.is_any.store(!by_unit.is_empty(), Ordering::Release);
        taken.map(|what| Sense::new(SenseKey::UnitAttention, what))
    }

    fn by_unit(&self) -> MutexGuard<'_, BTreeMap<u16, VecDeque<AdditionalSense>>> {
        self.by_unit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_to_the_unit_it_is_about() {
        let attentions = Attentions::default();
        attentions.raise(1, AdditionalSense::BUS_DEVICE_RESET);
        attentions.raise(1, AdditionalSense::BUS_DEVICE_RESET);
        attentions.raise(1, AdditionalSense::CAPACITY_DATA_HAS_CHANGED);
        assert_eq!(attentions.take(0), None);
        let told = |attentions: &Attentions| attentions.take(1).map(|sense| sense.additional);
        assert_eq!(told(&attentions), Some(AdditionalSense::BUS_DEVICE_RESET));
        assert_eq!(told(&attentions), Some(AdditionalSense::CAPACITY_DATA_HAS_CHANGED));
        assert_eq!(told(&attentions), None);
    }
}
