//! The lock manager of one machine: `lock_nolock`, and the trivial lock manager between several
//! users in one process.
//!
//! Full semantics, no messages: every resource is mastered here. Users that share one `LocalLocks`
//! behave as members of one lockspace. Answers that are known at once are there when the call
//! returns; nothing runs on its own.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::completion::{self, Completer};
use crate::queues::{Effect, Mistakes, Queues, Request};
use crate::{
    BlockingCallback, Flags, Granted, LockError, LockFuture, LockId, LockManager, Mode, ResourceName, ValueBlock,
};

/// A lock manager without other nodes. Share it in an `Arc`.
#[derive(Default)]
pub struct LocalLocks {
    state: Mutex<State>,
}

impl LocalLocks {
    pub fn new() -> LocalLocks {
        LocalLocks::default()
    }

    /// How many resources have a lock.
    pub fn resource_count(&self) -> usize {
        self.state().resources.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LockManager for LocalLocks {
    fn lock(
        &self,
        name: ResourceName,
        mode: Mode,
        flags: Flags,
        blocking: BlockingCallback,
    ) -> (LockId, LockFuture<Granted>) {
        let mut state = self.state();
        state.last_id += 1;
        let id = LockId(state.last_id);
        state.locks.insert(id, Lock { name: name.clone(), blocking, waiting: None });
        let mut effects = Vec::new();
        let queues = state.resources.entry(name).or_default();
        queues.request(id, 0, mode, flags, Mistakes::default(), &mut effects);
        (id, finish(state, id, effects))
    }

    fn convert(&self, lock: LockId, mode: Mode, flags: Flags, value: Option<ValueBlock>) -> LockFuture<Granted> {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(found) = state.locks.get(&lock) else {
            return completion::ready(Err(LockError::UnknownLock { lock }));
        };
        let mut effects = Vec::new();
        let request = Request { mode, flags, value };
        let is_granted = state
            .resources
            .get_mut(&found.name)
            .is_some_and(|queues| queues.convert(lock, 0, request, Mistakes::default(), &mut effects));
        if !is_granted {
            return completion::ready(Err(LockError::Busy { lock }));
        }
        finish(guard, lock, effects)
    }

    fn unlock(&self, lock: LockId, value: Option<ValueBlock>) -> LockFuture<()> {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(found) = state.locks.get(&lock) else {
            return completion::ready(Err(LockError::UnknownLock { lock }));
        };
        if found.waiting.is_some() {
            return completion::ready(Err(LockError::Busy { lock }));
        }
        let mut effects = Vec::new();
        if let Some(queues) = state.resources.get_mut(&found.name) {
            queues.unlock(lock, value, Mistakes::default(), &mut effects);
            if queues.is_unused() {
                state.resources.remove(&found.name);
            }
        }
        state.locks.remove(&lock);
        deliver(guard, effects, None);
        completion::ready(Ok(()))
    }

    fn cancel(&self, lock: LockId) {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(found) = state.locks.get(&lock) else { return };
        let mut effects = Vec::new();
        if let Some(queues) = state.resources.get_mut(&found.name) {
            queues.cancel(lock, LockError::Cancelled, Mistakes::default(), &mut effects);
            if queues.is_unused() {
                state.resources.remove(&found.name);
            }
        }
        deliver(guard, effects, None);
    }
}

#[derive(Default)]
struct State {
    last_id: u64,
    resources: BTreeMap<ResourceName, Queues<LockId>>,
    locks: BTreeMap<LockId, Lock>,
}

struct Lock {
    name: ResourceName,
    blocking: BlockingCallback,
    /// Who waits for the request that is queued.
    waiting: Option<Completer<Granted>>,
}

/// The future of the request of `lock`, which has just been made.
fn finish(mut state: MutexGuard<'_, State>, lock: LockId, effects: Vec<Effect<LockId>>) -> LockFuture<Granted> {
    let is_known = effects.iter().any(|effect| match effect {
        Effect::Granted { key, .. } | Effect::Refused { key, .. } => *key == lock,
        Effect::Blocking { .. } => false,
    });
    if is_known {
        let result = deliver(state, effects, Some(lock));
        return completion::ready(result.expect("invariant: the effects hold the answer"));
    }
    let (completer, future) = completion::pair();
    if let Some(found) = state.locks.get_mut(&lock) {
        found.waiting = Some(completer);
    }
    deliver(state, effects, None);
    future
}

/// Passes the effects on, outside of the mutex: answers first, then calls to give way. The answer
/// for `asking` is returned instead.
fn deliver(
    mut state: MutexGuard<'_, State>,
    effects: Vec<Effect<LockId>>,
    asking: Option<LockId>,
) -> Option<Result<Granted, LockError>> {
    let mut own = None;
    let mut answers = Vec::new();
    let mut calls = Vec::new();
    for effect in effects {
        let (key, result) = match effect {
            Effect::Granted { key, granted, .. } => (key, Ok(granted)),
            Effect::Refused { key, error, .. } => (key, Err(error)),
            Effect::Blocking { key, mode } => {
                if let Some(lock) = state.locks.get(&key) {
                    calls.push((lock.blocking.clone(), mode));
                }
                continue;
            }
        };
        let waiting = state.locks.get_mut(&key).and_then(|lock| lock.waiting.take());
        if result.is_err() {
            state.forget_unless_granted(key);
        }
        if asking == Some(key) {
            own = Some(result);
        } else if let Some(waiting) = waiting {
            answers.push((waiting, result));
        }
    }
    drop(state);
    for (waiting, result) in answers {
        waiting.complete(result);
    }
    for (blocking, mode) in calls {
        blocking(mode);
    }
    own
}

impl State {
    /// A new lock whose request has failed is gone; a conversion's keeps its granted mode.
    fn forget_unless_granted(&mut self, key: LockId) {
        let Some(lock) = self.locks.get(&key) else { return };
        let is_granted = self.resources.get(&lock.name).is_some_and(|queues| queues.find(key).is_some());
        if !is_granted {
            let name = lock.name.clone();
            self.locks.remove(&key);
            if self.resources.get(&name).is_some_and(Queues::is_unused) {
                self.resources.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    fn name() -> ResourceName {
        ResourceName::new(b"       2            1a3f").expect("a valid name")
    }

    fn poll<T>(future: &mut LockFuture<T>) -> Option<Result<T, LockError>> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    #[test]
    fn two_users_hand_an_exclusive_lock_over_with_its_value() {
        let locks = LocalLocks::new();
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let (first, mut granted) =
            locks.lock(name(), Mode::Exclusive, Flags::VALBLK, Arc::new(move |mode| tell.lock().unwrap().push(mode)));
        assert_eq!(poll(&mut granted).unwrap().unwrap().value, Some(ValueBlock::default()));
        let (second, mut waits) = locks.lock(name(), Mode::ProtectedRead, Flags::VALBLK, Arc::new(|_| ()));
        assert!(poll(&mut waits).is_none());
        assert_eq!(*told.lock().unwrap(), [Mode::ProtectedRead]);
        let value = ValueBlock([3; 32]);
        let mut down = locks.convert(first, Mode::Null, Flags::VALBLK, Some(value));
        assert_eq!(poll(&mut down).unwrap().unwrap().mode, Mode::Null);
        assert_eq!(poll(&mut waits).unwrap().unwrap().value, Some(value));
        assert_eq!(poll(&mut locks.unlock(second, None)), Some(Ok(())));
        assert_eq!(poll(&mut locks.unlock(first, None)), Some(Ok(())));
        assert_eq!(locks.resource_count(), 0);
    }

    #[test]
    fn a_refused_or_cancelled_new_lock_is_gone() {
        let locks = LocalLocks::new();
        let (holder, _) = locks.lock(name(), Mode::Exclusive, Flags::NONE, Arc::new(|_| ()));
        let (refused, mut answer) = locks.lock(name(), Mode::ProtectedRead, Flags::NOQUEUE, Arc::new(|_| ()));
        assert_eq!(poll(&mut answer), Some(Err(LockError::WouldBlock)));
        assert_eq!(poll(&mut locks.unlock(refused, None)), Some(Err(LockError::UnknownLock { lock: refused })));
        let (waiter, mut waits) = locks.lock(name(), Mode::ProtectedRead, Flags::NONE, Arc::new(|_| ()));
        assert_eq!(poll(&mut locks.unlock(waiter, None)), Some(Err(LockError::Busy { lock: waiter })));
        locks.cancel(waiter);
        assert_eq!(poll(&mut waits), Some(Err(LockError::Cancelled)));
        locks.cancel(holder);
        assert_eq!(poll(&mut locks.unlock(holder, None)), Some(Ok(())));
        assert_eq!(locks.resource_count(), 0);
    }
}
