//! The three queues of one resource and the pure grant rule, for whoever masters a resource: the
//! lock manager of one machine here (`local`), a member of a lockspace in dlm-core.
//!
//! ```text
//!   request ──can be granted──────────────► granted ◄──────────────┐
//!      └─────must wait──► waiting ──its turn──►┘ │                  │ its turn, cancel, deadlock
//!                                               └─convert, must wait─► converting
//! ```
//! The rule, in this order ("VAXcluster Principles", ch. 6; Linux's fs/dlm has the same):
//! 1. a conflict with the granted mode of any other lock, converting ones too: wait;
//! 2. a fresh conversion: grant in place, past whoever waits; with QUECVT only if none converts;
//! 3. a queued conversion: only the first one;
//! 4. a new request: only if nobody converts or waits; a queued one if nobody converts and it is first.
//!
//! Invariants: any two granted modes are compatible; no grantable request stays queued at the end of
//! a call; every holder in the way of a queued request has been told. Effects are appended in an
//! order that is safe to deliver: a grant before the call to give it up again.

use std::collections::VecDeque;

use crate::value::{ValueDirection, value_direction};
use crate::{Flags, Granted, LockError, Mode, ValueBlock};

/// What a change of the queues means for the owner of lock `K`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<K> {
    /// Its request, with this number, is granted.
    Granted { key: K, sequence: u64, granted: Granted },
    /// Its request, with this number, has ended otherwise; a converting lock keeps its granted mode.
    Refused { key: K, sequence: u64, error: LockError },
    /// Its granted mode is in the way of a request for `mode`.
    Blocking { key: K, mode: Mode },
}

/// A lock on one of the queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<K> {
    pub key: K,
    /// Number of the owner's latest request, to tell a repeated one.
    pub sequence: u64,
    /// `None` while a new lock waits.
    pub granted: Option<Mode>,
    /// `None` if no request is queued.
    pub request: Option<Request>,
    /// Bit set of the modes this holder has been told of since its last grant.
    pub told: u8,
}

/// What a queued lock waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub mode: Mode,
    pub flags: Flags,
    /// To be written when the conversion is granted.
    pub value: Option<ValueBlock>,
}

/// Deliberate mistakes, for tests that show that they are found. The default makes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mistakes {
    /// Grant a new request although the first holder is in its way.
    pub grant_past_holder: bool,
    /// Grant a conversion although the first other holder is in its way.
    pub convert_past_holder: bool,
    /// Do not tell the last of the holders in the way.
    pub skip_blocking: bool,
    /// Do not keep the value that is written on the way down.
    pub lose_value: bool,
}

/// The queues and the value block of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queues<K> {
    /// In the order of their grants.
    pub granted: Vec<Entry<K>>,
    pub converting: VecDeque<Entry<K>>,
    pub waiting: VecDeque<Entry<K>>,
    pub value: ValueBlock,
    /// Counts the writes of `value`.
    pub value_sequence: u64,
    pub is_value_valid: bool,
}

impl<K> Default for Queues<K> {
    fn default() -> Self {
        Self {
            granted: Vec::new(),
            converting: VecDeque::new(),
            waiting: VecDeque::new(),
            value: ValueBlock::default(),
            value_sequence: 0,
            is_value_valid: true,
        }
    }
}

impl<K: Copy + Eq> Queues<K> {
    /// True without any lock, granted or queued.
    pub fn is_unused(&self) -> bool {
        self.granted.is_empty() && self.converting.is_empty() && self.waiting.is_empty()
    }

    /// Every lock: granted, converting, waiting.
    pub fn entries(&self) -> impl Iterator<Item = &Entry<K>> {
        self.granted.iter().chain(&self.converting).chain(&self.waiting)
    }

    pub fn find(&self, key: K) -> Option<&Entry<K>> {
        self.entries().find(|entry| entry.key == key)
    }

    /// A new lock. The key must be new.
    pub fn request(
        &mut self,
        key: K,
        sequence: u64,
        mode: Mode,
        flags: Flags,
        mistakes: Mistakes,
        effects: &mut Vec<Effect<K>>,
    ) {
        debug_assert!(self.find(key).is_none(), "invariant: the key of a new lock is new");
        let entry =
            Entry { key, sequence, granted: None, request: Some(Request { mode, flags, value: None }), told: 0 };
        let is_first = self.converting.is_empty() && self.waiting.is_empty();
        let past_holder = mistakes.grant_past_holder && !self.granted.is_empty();
        if past_holder || (is_first && !self.conflicts(&entry, mode, mistakes)) {
            self.grant(entry, mistakes, effects);
        } else if flags.contains(Flags::NOQUEUE) {
            effects.push(Effect::Refused { key, sequence, error: LockError::WouldBlock });
            if flags.contains(Flags::NOQUEUEBAST) {
                self.tell_once(key, mode, effects);
            }
            return;
        } else {
            self.waiting.push_back(entry);
        }
        self.tell(mistakes, effects);
    }

    /// Changes the mode of a granted lock. False if the lock is not granted, or converting.
    #[must_use]
    pub fn convert(
        &mut self,
        key: K,
        sequence: u64,
        request: Request,
        mistakes: Mistakes,
        effects: &mut Vec<Effect<K>>,
    ) -> bool {
        let Some(index) = self.granted.iter().position(|entry| entry.key == key) else { return false };
        let mode = request.mode;
        let flags = request.flags;
        let held = self.granted[index].granted.expect("invariant: a granted lock has a mode");
        // A way down can neither conflict nor need to queue; QUECVT means nothing there.
        let is_down = held.covers(mode);
        let must_queue = flags.contains(Flags::QUECVT) && !is_down && !self.converting.is_empty();
        if !must_queue && !self.conflicts(&self.granted[index], mode, mistakes) {
            let mut entry = self.granted.remove(index);
            entry.sequence = sequence;
            entry.request = Some(request);
            self.grant(entry, mistakes, effects);
            self.serve(mistakes, effects);
        } else if flags.contains(Flags::NOQUEUE) {
            self.granted[index].sequence = sequence;
            effects.push(Effect::Refused { key, sequence, error: LockError::WouldBlock });
            if flags.contains(Flags::NOQUEUEBAST) {
                self.tell_once(key, mode, effects);
            }
        } else if self.would_deadlock(held) {
            self.granted[index].sequence = sequence;
            effects.push(Effect::Refused { key, sequence, error: LockError::Deadlock });
        } else {
            let mut entry = self.granted.remove(index);
            entry.sequence = sequence;
            entry.request = Some(request);
            self.converting.push_back(entry);
            self.tell(mistakes, effects);
        }
        true
    }

    /// Takes the lock off whichever queue it is on, writing `value` if it held PW or EX. False if
    /// there is no such lock.
    pub fn unlock(
        &mut self,
        key: K,
        value: Option<ValueBlock>,
        mistakes: Mistakes,
        effects: &mut Vec<Effect<K>>,
    ) -> bool {
        let Some(entry) = self.take(key) else { return false };
        if let (Some(held), Some(value)) = (entry.granted, value)
            && value_direction(Some(held), Mode::Null) == ValueDirection::ToResource
        {
            self.write(value, mistakes);
        }
        self.serve(mistakes, effects);
        true
    }

    /// Takes a queued request back, which ends with `error`: a new lock is gone, a converting one
    /// keeps its granted mode. False if nothing was queued.
    pub fn cancel(&mut self, key: K, error: LockError, mistakes: Mistakes, effects: &mut Vec<Effect<K>>) -> bool {
        if let Some(index) = self.waiting.iter().position(|entry| entry.key == key) {
            if let Some(entry) = self.waiting.remove(index) {
                effects.push(Effect::Refused { key, sequence: entry.sequence, error });
            }
        } else if let Some(index) = self.converting.iter().position(|entry| entry.key == key) {
            if let Some(mut entry) = self.converting.remove(index) {
                effects.push(Effect::Refused { key, sequence: entry.sequence, error });
                entry.request = None;
                self.granted.push(entry);
            }
        } else {
            return false;
        }
        self.serve(mistakes, effects);
        true
    }

    /// What is wrong with the queues, if anything.
    pub fn check(&self) -> Result<(), String>
    where
        K: std::fmt::Debug,
    {
        let held: Vec<_> = self.granted.iter().chain(&self.converting).collect();
        for (index, one) in held.iter().enumerate() {
            for other in &held[index + 1..] {
                if let (Some(a), Some(b)) = (one.granted, other.granted)
                    && !a.is_compatible(b)
                {
                    return Err(format!("{:?} holds {a} while {:?} holds {b}", one.key, other.key));
                }
            }
            if one.granted.is_none() {
                return Err(format!("{:?} is granted without a mode", one.key));
            }
        }
        for entry in &self.granted {
            if entry.request.is_some() {
                return Err(format!("{:?} is granted and has a request", entry.key));
            }
        }
        for entry in self.converting.iter().chain(&self.waiting) {
            if entry.request.is_none() {
                return Err(format!("{:?} is queued without a request", entry.key));
            }
        }
        if let Some(first) = self.converting.front().or(self.waiting.front())
            && let Some(request) = &first.request
            && !self.conflicts(first, request.mode, Mistakes::default())
        {
            return Err(format!("{:?} waits for {} with nobody in its way", first.key, request.mode));
        }
        Ok(())
    }

    /// Whether another lock's granted mode refuses `mode` to `entry`.
    fn conflicts(&self, entry: &Entry<K>, mode: Mode, mistakes: Mistakes) -> bool {
        let skipped = usize::from(mistakes.convert_past_holder && entry.granted.is_some());
        self.granted
            .iter()
            .chain(&self.converting)
            .filter(|other| other.key != entry.key)
            .filter(|other| other.granted.is_some_and(|held| !held.is_compatible(mode)))
            .nth(skipped)
            .is_some()
    }

    /// Whether a lock that holds `held`, queued as the last conversion, could never be granted:
    /// it comes after a conversion that waits for it.
    fn would_deadlock(&self, held: Mode) -> bool {
        self.converting
            .iter()
            .filter_map(|ahead| ahead.request.as_ref())
            .any(|request| !held.is_compatible(request.mode))
    }

    /// Grants what can be granted now, and tells whoever is still in the way.
    fn serve(&mut self, mistakes: Mistakes, effects: &mut Vec<Effect<K>>) {
        loop {
            let from_converting = !self.converting.is_empty();
            let queue = if from_converting { &self.converting } else { &self.waiting };
            let Some(first) = queue.front() else { break };
            let mode = first.request.as_ref().expect("invariant: a queued lock has a request").mode;
            if self.conflicts(first, mode, mistakes) {
                break;
            }
            let queue = if from_converting { &mut self.converting } else { &mut self.waiting };
            if let Some(entry) = queue.pop_front() {
                self.grant(entry, mistakes, effects);
            }
        }
        self.tell(mistakes, effects);
    }

    fn grant(&mut self, mut entry: Entry<K>, mistakes: Mistakes, effects: &mut Vec<Effect<K>>) {
        let request = entry.request.take().expect("invariant: only a request is granted");
        let mut value = None;
        if request.flags.contains(Flags::VALBLK) {
            match value_direction(entry.granted, request.mode) {
                ValueDirection::ToOwner => value = Some(self.value),
                ValueDirection::ToResource => {
                    if let Some(written) = request.value {
                        self.write(written, mistakes);
                    }
                }
                ValueDirection::Nothing => {}
            }
        }
        entry.granted = Some(request.mode);
        entry.told = 0;
        let granted = Granted { mode: request.mode, value, is_value_valid: self.is_value_valid };
        effects.push(Effect::Granted { key: entry.key, sequence: entry.sequence, granted });
        self.granted.push(entry);
    }

    fn write(&mut self, value: ValueBlock, mistakes: Mistakes) {
        self.value_sequence += 1;
        self.is_value_valid = true;
        if !mistakes.lose_value {
            self.value = value;
        }
    }

    /// Tells every holder in the way of a queued request of the highest mode that it refuses,
    /// unless it knows since its last grant.
    fn tell(&mut self, mistakes: Mistakes, effects: &mut Vec<Effect<K>>) {
        if self.converting.is_empty() && self.waiting.is_empty() {
            return;
        }
        let wanted: Vec<(K, Mode)> = self
            .converting
            .iter()
            .chain(&self.waiting)
            .filter_map(|entry| entry.request.as_ref().map(|request| (entry.key, request.mode)))
            .collect();
        let before = effects.len();
        for holder in self.granted.iter_mut().chain(&mut self.converting) {
            let Some(held) = holder.granted else { continue };
            let refused = wanted.iter().filter(|(key, mode)| *key != holder.key && !held.is_compatible(*mode));
            let Some(mode) = refused.map(|(_, mode)| *mode).max() else { continue };
            let is_told = Mode::ALL.iter().any(|told| holder.told & (1 << *told as u8) != 0 && told.covers(mode));
            if !is_told {
                holder.told |= 1 << mode as u8;
                effects.push(Effect::Blocking { key: holder.key, mode });
            }
        }
        if mistakes.skip_blocking && effects.len() > before {
            effects.pop();
        }
    }

    /// Tells every holder that refuses `mode` to `key`, which does not wait: told or not before,
    /// and without a mark, for a request that waits must still be able to tell it.
    fn tell_once(&self, key: K, mode: Mode, effects: &mut Vec<Effect<K>>) {
        for holder in self.granted.iter().chain(&self.converting) {
            if holder.key != key && holder.granted.is_some_and(|held| !held.is_compatible(mode)) {
                effects.push(Effect::Blocking { key: holder.key, mode });
            }
        }
    }

    fn take(&mut self, key: K) -> Option<Entry<K>> {
        if let Some(index) = self.granted.iter().position(|entry| entry.key == key) {
            return Some(self.granted.remove(index));
        }
        for queue in [&mut self.converting, &mut self.waiting] {
            if let Some(index) = queue.iter().position(|entry| entry.key == key) {
                return queue.remove(index);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
