//! How a request's answer reaches its owner: a future, and the end that completes it.
//!
//! One allocation a request; an answer that is known at once needs none of this (`ready`). Used by
//! every lock manager here; knows no runtime.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::{LockError, LockFuture};

/// A future that is there already.
pub fn ready<T: Send + 'static>(result: Result<T, LockError>) -> LockFuture<T> {
    Box::pin(std::future::ready(result))
}

/// A future and the end that completes it. If the completer is dropped without a word, the future
/// ends with `Unavailable`.
pub fn pair<T: Send + 'static>() -> (Completer<T>, LockFuture<T>) {
    let slot = Arc::new(Mutex::new(Slot { result: None, waker: None }));
    (Completer { slot: Some(Arc::clone(&slot)) }, Box::pin(Answer { slot }))
}

/// The completing end.
pub struct Completer<T> {
    slot: Option<Shared<T>>,
}

impl<T> Completer<T> {
    /// Ends the request. Wakes whoever waits, so call it outside of any mutex.
    pub fn complete(mut self, result: Result<T, LockError>) {
        if let Some(slot) = self.slot.take() {
            finish(&slot, result);
        }
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            finish(&slot, Err(LockError::Unavailable { what: "the lock manager has stopped".to_owned() }));
        }
    }
}

type Shared<T> = Arc<Mutex<Slot<T>>>;

struct Slot<T> {
    result: Option<Result<T, LockError>>,
    waker: Option<Waker>,
}

struct Answer<T> {
    slot: Shared<T>,
}

impl<T> Future for Answer<T> {
    type Output = Result<T, LockError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

fn finish<T>(slot: &Shared<T>, result: Result<T, LockError>) {
    let waker = {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.result = Some(result);
        slot.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}
