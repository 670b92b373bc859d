//! A value that arrives once, later: the meeting point of whoever does a request and whoever waits
//! for it. Works on any executor and needs none.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// A connected pair: the side that completes and the side that waits.
pub fn completion<T>() -> (Completer<T>, Completion<T>) {
    let slot = Arc::new(Mutex::new(Slot { state: State::Pending, waker: None }));
    (Completer { slot: slot.clone() }, Completion { slot })
}

/// Gives the value. Dropped without one, the waiter gets `None`.
pub struct Completer<T> {
    slot: Arc<Mutex<Slot<T>>>,
}

impl<T> Completer<T> {
    /// Hands the value over and wakes the waiter.
    pub fn complete(self, value: T) {
        self.settle(State::Done(value));
    }

    fn settle(&self, state: State<T>) {
        let waker = {
            let mut slot = lock(&self.slot);
            slot.state = state;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        if matches!(lock(&self.slot).state, State::Pending) {
            self.settle(State::Gone);
        }
    }
}

/// Waits for the value; `None` if nobody will give one any more.
#[must_use = "a completion does nothing unless awaited"]
pub struct Completion<T> {
    slot: Arc<Mutex<Slot<T>>>,
}

impl<T> Future for Completion<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut slot = lock(&self.slot);
        match std::mem::replace(&mut slot.state, State::Gone) {
            State::Done(value) => Poll::Ready(Some(value)),
            State::Gone => Poll::Ready(None),
            State::Pending => {
                slot.state = State::Pending;
                match &mut slot.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    none => *none = Some(context.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

struct Slot<T> {
    state: State<T>,
    waker: Option<Waker>,
}

enum State<T> {
    Pending,
    Done(T),
    Gone,
}

/// Locks, ignoring poison: every critical section of this crate leaves its data whole at any panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_completer_ends_the_wait() {
        let (completer, mut waiter) = completion::<u32>();
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut waiter).poll(&mut context).is_pending());
        drop(completer);
        assert_eq!(Pin::new(&mut waiter).poll(&mut context), Poll::Ready(None));
    }

    #[test]
    fn a_value_given_before_the_first_poll_is_kept() {
        let (completer, mut waiter) = completion();
        completer.complete(7);
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(Pin::new(&mut waiter).poll(&mut context), Poll::Ready(Some(7)));
    }
}
