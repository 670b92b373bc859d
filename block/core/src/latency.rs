//! A device that takes its time: every request reaches the device below, and is answered, after
//! delays that the host's random source chooses. In the simulator that reorders requests by seed.
//!
//! A request is a task of its own: like on a real path to a disk, it goes on when its caller has
//! gone or died, and may land late. Put it below [`crate::SharedDisk`] to test that fencing waits
//! for such writes, above a node's device to test that late ones are refused.

use std::sync::Arc;
use std::time::Duration;

use base::Host;
use bytes::Bytes;

use crate::completion::completion;
use crate::device::{BlockDevice, BlockError, Compared, Durability, Extent, Geometry, IoFuture};
use crate::reservation::{HeldReservation, RegisteredKeys, ReservationChange, ReservationOutcome, ReservationStatus};
use crate::units::{ByteLen, ByteOffset};

/// Bounds of one delay; a request has two, on the way in and on the way out.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub min: Duration,
    pub max: Duration,
}

/// A slow device.
pub struct LatencyDevice {
    inner: Arc<dyn BlockDevice>,
    host: Arc<dyn Host>,
    latency: Latency,
}

impl LatencyDevice {
    /// Slows `inner` down.
    pub fn new(inner: Arc<dyn BlockDevice>, host: Arc<dyn Host>, latency: Latency) -> Arc<LatencyDevice> {
        Arc::new(LatencyDevice { inner, host, latency })
    }

    fn delay(&self) -> Duration {
        let span = self.latency.max.saturating_sub(self.latency.min);
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let extra = if span == 0 { 0 } else { self.host.random() % span };
        self.latency.min + Duration::from_nanos(extra)
    }

    fn later<T: Send + 'static>(
        &self,
        start: impl FnOnce(&dyn BlockDevice) -> IoFuture<T> + Send + 'static,
    ) -> IoFuture<T> {
        let (completer, answer) = completion();
        let (host, inner) = (self.host.clone(), self.inner.clone());
        let (way_in, way_out) = (self.delay(), self.delay());
        self.host.spawn(Box::pin(async move {
            host.sleep_until(host.now() + way_in).await;
            let result = start(&*inner).await;
            host.sleep_until(host.now() + way_out).await;
            completer.complete(result);
        }));
        Box::pin(async move {
            match answer.await {
                Some(result) => result,
                None => Err(BlockError::Unavailable { what: "the host has stopped".to_owned() }),
            }
        })
    }
}

impl BlockDevice for LatencyDevice {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        self.later(move |inner| inner.read(at, len))
    }

    fn write(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> IoFuture<()> {
        self.later(move |inner| inner.write(at, data, durability))
    }

    fn flush(&self) -> IoFuture<()> {
        self.later(|inner| inner.flush())
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.later(move |inner| inner.discard(at, len))
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.later(move |inner| inner.write_zeroes(at, len))
    }

    fn extent(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Extent> {
        self.later(move |inner| inner.extent(at, len))
    }

    fn compare_and_write(&self, at: ByteOffset, expected: Bytes, new: Bytes) -> IoFuture<Compared> {
        self.later(move |inner| inner.compare_and_write(at, expected, new))
    }

    fn change_reservation(&self, change: ReservationChange) -> IoFuture<ReservationOutcome> {
        self.later(move |inner| inner.change_reservation(change))
    }

    fn reservation_keys(&self) -> IoFuture<RegisteredKeys> {
        self.later(|inner| inner.reservation_keys())
    }

    fn reservation(&self) -> IoFuture<HeldReservation> {
        self.later(|inner| inner.reservation())
    }

    fn reservation_status(&self) -> IoFuture<ReservationStatus> {
        self.later(|inner| inner.reservation_status())
    }
}
