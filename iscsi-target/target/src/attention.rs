//! What others have done to one session: unit attentions, which its initiator port must be told before its next command
//! is carried out (SAM-5 §5.14), and the end of its tasks on a unit (PREEMPT AND ABORT, CLEAR TASK SET, resets).
//!
//! Tasks are ended by counting: each remembers the count at its beginning ([`Origin`]) and looks, when it holds the
//! unit's gate, whether its unit was named since. So whoever raised the count and then held the gate exclusively knows that none
//! of those tasks writes any more, whatever they were waiting for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iscsi_target_proto::scsi::{AdditionalSense, Nexus, Sense, SenseKey};
use tokio::sync::Notify;

/// More than this about one unit is the same as having been reset.
const PENDING_MAX: usize = 16;

/// What one session has not been told yet, and which of its tasks are ended.
#[derive(Default)]
pub struct Attentions {
    /// Nearly always false, so that commands need not take the lock.
    is_any: AtomicBool,
    by_unit: Mutex<BTreeMap<u16, VecDeque<AdditionalSense>>>,
    /// How often tasks were ended by others.
    aborts: AtomicU64,
    /// For each unit what `aborts` was when its tasks were ended last.
    aborted_at: Mutex<BTreeMap<u16, u64>>,
    aborted: Notify,
}

/// Whose task it is, and since when.
#[derive(Clone)]
pub struct Origin {
    pub nexus: Nexus,
    session: Arc<Attentions>,
    /// What `aborts` was at its beginning.
    aborts: u64,
}

impl Origin {
    /// Of a task that begins now.
    pub fn new(nexus: &Nexus, session: &Arc<Attentions>) -> Self {
        let aborts = session.aborts.load(Ordering::Acquire);
        Self { nexus: nexus.clone(), session: session.clone(), aborts }
    }

    /// Whether somebody else has ended the task, as far as it concerns a unit.
    pub fn is_aborted(&self, unit: u16) -> bool {
        if self.session.aborts.load(Ordering::Acquire) == self.aborts {
            return false;
        }
        let aborted_at = self.session.aborted_at.lock().unwrap_or_else(PoisonError::into_inner);
        aborted_at.get(&unit).is_some_and(|at| *at > self.aborts)
    }
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

    /// Ends the session's tasks on a unit. Those that wait are ended by their connection, those that the device has by
    /// themselves; none begins to write any more.
    pub fn abort_tasks(&self, unit: u16) {
        let mut aborted_at = self.aborted_at.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.aborts.load(Ordering::Relaxed) + 1;
        aborted_at.insert(unit, count);
        self.aborts.store(count, Ordering::Release);
        self.aborted.notify_one();
    }

    /// Completes when tasks were ended since it completed last; for the session's connection.
    pub async fn tasks_aborted(&self) {
        self.aborted.notified().await;
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

    #[test]
    fn an_abort_ends_the_tasks_of_its_unit_that_began_before_it() {
        let session = Arc::new(Attentions::default());
        let nexus = Nexus { initiator: "iqn.2026-11.test:a".to_owned(), isid: [0; 6] };
        let early = Origin::new(&nexus, &session);
        session.abort_tasks(1);
        let late = Origin::new(&nexus, &session);
        assert_eq!([early.is_aborted(1), early.is_aborted(2), late.is_aborted(1)], [true, false, false]);
        session.abort_tasks(2);
        assert_eq!([early.is_aborted(2), late.is_aborted(1), late.is_aborted(2)], [true, false, true]);
    }
}
