//! A device for tests that holds chosen requests until the test releases or fails them, so that an
//! interleaving is written down instead of hoped for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base::BoxFuture;
use bytes::Bytes;

use crate::completion::{Completer, completion, lock};
use crate::device::{BlockDevice, BlockError, Compared, Durability, Extent, Geometry, IoFuture};
use crate::memory::total;
use crate::reservation::{HeldReservation, RegisteredKeys, ReservationChange, ReservationOutcome, ReservationStatus};
use crate::units::{ByteLen, ByteOffset};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
    Extent,
    CompareAndWrite,
    ChangeReservation,
    /// A question about reservations.
    ReadReservation,
}

/// One request as the test sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Counts all requests of this device, from 0.
    pub number: u64,
    pub kind: RequestKind,
    /// 0 for a flush, and for what concerns reservations.
    pub at: ByteOffset,
    /// 0 for a flush, and for what concerns reservations.
    pub len: ByteLen,
}

/// A device whose requests a test can hold.
pub struct HeldDevice {
    inner: Arc<dyn BlockDevice>,
    state: Mutex<State>,
}

type Filter = Box<dyn Fn(&Request) -> bool + Send>;

struct State {
    filter: Filter,
    next_number: u64,
    held: BTreeMap<u64, (Request, Completer<Result<(), BlockError>>)>,
    /// Waiters for a number of held requests.
    arrivals: Vec<(usize, Completer<()>)>,
}

impl HeldDevice {
    /// Holds nothing yet.
    pub fn new(inner: Arc<dyn BlockDevice>) -> Arc<HeldDevice> {
        let state = State { filter: Box::new(|_| false), next_number: 0, held: BTreeMap::new(), arrivals: Vec::new() };
        Arc::new(HeldDevice { inner, state: Mutex::new(state) })
    }

    /// From now on holds the requests for which `filter` is true, before they reach the device.
    pub fn hold(&self, filter: impl Fn(&Request) -> bool + Send + 'static) {
        lock(&self.state).filter = Box::new(filter);
    }

    /// The requests held now, oldest first.
    pub fn held(&self) -> Vec<Request> {
        lock(&self.state).held.values().map(|(request, _)| *request).collect()
    }

    /// Completes when at least `count` requests are held.
    pub fn arrived(&self, count: usize) -> BoxFuture<'static, ()> {
        let (completer, waiter) = completion();
        let mut state = lock(&self.state);
        if state.held.len() >= count {
            completer.complete(());
        } else {
            state.arrivals.push((count, completer));
        }
        Box::pin(async move {
            waiter.await;
        })
    }

    /// Lets a held request go on; false if there is none of that number.
    pub fn release(&self, number: u64) -> bool {
        self.end(number, Ok(()))
    }

    /// Answers a held request with an error; it never reaches the device.
    pub fn fail(&self, number: u64, error: BlockError) -> bool {
        self.end(number, Err(error))
    }

    /// Holds nothing any more and lets all held requests go on.
    pub fn release_all(&self) {
        let held = {
            let mut state = lock(&self.state);
            state.filter = Box::new(|_| false);
            std::mem::take(&mut state.held)
        };
        held.into_values().for_each(|(_, completer)| completer.complete(Ok(())));
    }

    fn end(&self, number: u64, verdict: Result<(), BlockError>) -> bool {
        let held = lock(&self.state).held.remove(&number);
        let found = held.is_some();
        if let Some((_, completer)) = held {
            completer.complete(verdict);
        }
        found
    }

    fn pass<T: Send + 'static>(
        &self,
        kind: RequestKind,
        at: ByteOffset,
        len: ByteLen,
        start: impl FnOnce(&dyn BlockDevice) -> IoFuture<T> + Send + 'static,
    ) -> IoFuture<T> {
        let mut state = lock(&self.state);
        let request = Request { number: state.next_number, kind, at, len };
        state.next_number += 1;
        if !(state.filter)(&request) {
            drop(state);
            return start(&*self.inner);
        }
        let (completer, verdict) = completion();
        state.held.insert(request.number, (request, completer));
        let count = state.held.len();
        for (_, waiter) in state.arrivals.extract_if(.., |(wanted, _)| *wanted <= count) {
            waiter.complete(());
        }
        let inner = self.inner.clone();
        Box::pin(async move {
            match verdict.await {
                Some(Ok(())) => start(&*inner).await,
                Some(Err(error)) => Err(error),
                None => Err(BlockError::Unavailable { what: "the test dropped the device".to_owned() }),
            }
        })
    }
}

impl BlockDevice for HeldDevice {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        self.pass(RequestKind::Read, at, len, move |inner| inner.read(at, len))
    }

    fn write(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> IoFuture<()> {
        self.pass(RequestKind::Write, at, total(&data), move |inner| inner.write(at, data, durability))
    }

    fn flush(&self) -> IoFuture<()> {
        self.pass(RequestKind::Flush, ByteOffset(0), ByteLen(0), |inner| inner.flush())
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.pass(RequestKind::Discard, at, len, move |inner| inner.discard(at, len))
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.pass(RequestKind::WriteZeroes, at, len, move |inner| inner.write_zeroes(at, len))
    }

    fn extent(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Extent> {
        self.pass(RequestKind::Extent, at, len, move |inner| inner.extent(at, len))
    }

    fn compare_and_write(&self, at: ByteOffset, expected: Bytes, new: Bytes) -> IoFuture<Compared> {
        self.pass(RequestKind::CompareAndWrite, at, ByteLen::of(&new), move |inner| {
            inner.compare_and_write(at, expected, new)
        })
    }

    fn change_reservation(&self, change: ReservationChange) -> IoFuture<ReservationOutcome> {
        self.pass(RequestKind::ChangeReservation, ByteOffset(0), ByteLen(0), move |inner| {
            inner.change_reservation(change)
        })
    }

    fn reservation_keys(&self) -> IoFuture<RegisteredKeys> {
        self.pass(RequestKind::ReadReservation, ByteOffset(0), ByteLen(0), |inner| inner.reservation_keys())
    }

    fn reservation(&self) -> IoFuture<HeldReservation> {
        self.pass(RequestKind::ReadReservation, ByteOffset(0), ByteLen(0), |inner| inner.reservation())
    }

    fn reservation_status(&self) -> IoFuture<ReservationStatus> {
        self.pass(RequestKind::ReadReservation, ByteOffset(0), ByteLen(0), |inner| inner.reservation_status())
    }
}
