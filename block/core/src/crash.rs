//! A disk with a volatile cache whose power can be cut.
//!
//! Owns two contents: `current`, what reads see, and `durable`, what certainly survives. Between
//! them lies the list of writes since the last flush, in order. A power cut keeps, loses or tears
//! each of them, sector by sector, as the caller's chooser says; so any version of a sector
//! written since the last flush may be the one that survives, and a flush is the only way to be
//! sure. Sectors are never torn inside (a disk writes them whole).
//!
//! Invariant: `current` = `durable` + all of `unflushed` in order.
//!
//! A flush covers the writes that were *answered* before it was called, as the port says: a write
//! whose future was not polled to its end yet stays uncertain, unless a later one was answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::completion::lock;
use crate::device::{BlockDevice, BlockError, Compared, Durability, Geometry, IoFuture};
use crate::image::Image;
use crate::memory::{compare, put_all, ready, total};
use crate::units::{ByteLen, ByteOffset};

/// A disk that can lose its power.
#[derive(Debug)]
pub struct CrashDevice {
    state: Mutex<State>,
}

impl CrashDevice {
    /// A zeroed disk of `size` with sectors of 512 bytes. `size` is rounded up to whole sectors.
    pub fn new(size: ByteLen) -> Arc<CrashDevice> {
        CrashDevice::from_image(Image::new(Geometry { sector: 512, sectors: size.0.div_ceil(512) }))
    }

    /// A disk with this content, all of it durable.
    pub fn from_image(image: Image) -> Arc<CrashDevice> {
        let state = State { current: image.clone(), durable: image, unflushed: Vec::new(), changes_left: None };
        Arc::new(CrashDevice { state: Mutex::new(state) })
    }

    /// What a cut of power right now could leave. `choose` gives random bits; the same bits give
    /// the same image. The device itself goes on as if nothing had happened, so one run of a
    /// workload can be cut at many points and in many ways.
    pub fn power_cut(&self, choose: &mut dyn FnMut() -> u64) -> Image {
        let state = lock(&self.state);
        let mut image = state.durable.clone();
        for change in &state.unflushed {
            change.survive(&mut image, choose);
        }
        image
    }

    /// Goes on with this content, all of it durable, and with the power on.
    pub fn restart_from(&self, image: Image) {
        let mut state = lock(&self.state);
        state.current = image.clone();
        state.durable = image;
        state.unflushed.clear();
        state.changes_left = None;
    }

    /// Turns the power off after `changes` more writes, discards and flushes: that many take
    /// effect, everything later answers `Unavailable`. Walks through every cut point of a workload.
    pub fn power_off_after(&self, changes: u64) {
        lock(&self.state).changes_left = Some(changes);
    }

    /// Whether [`CrashDevice::power_off_after`] has run out.
    pub fn is_off(&self) -> bool {
        lock(&self.state).changes_left == Some(0)
    }

    /// Writes and discards that a power cut could lose now.
    pub fn unflushed_count(&self) -> usize {
        lock(&self.state).unflushed.len()
    }

    /// What reads see now.
    pub fn snapshot(&self) -> Image {
        lock(&self.state).current.clone()
    }

    fn change(&self, at: ByteOffset, len: ByteLen, content: Content, durability: Durability) -> IoFuture<()> {
        self.change_in(&mut lock(&self.state), at, len, content, durability)
    }

    fn change_in(
        &self,
        state: &mut State,
        at: ByteOffset,
        len: ByteLen,
        content: Content,
        durability: Durability,
    ) -> IoFuture<()> {
        let checked = state.powered().and_then(|()| state.current.geometry().check(at, len));
        if let Err(error) = checked {
            return ready(Err(error));
        }
        state.count_change();
        let change = Unflushed { at, len, content, durability, answered: Arc::new(AtomicBool::new(false)) };
        change.apply(&mut state.current);
        let answered = change.answered.clone();
        if durability == Durability::Forced && state.unflushed.is_empty() {
            change.apply(&mut state.durable);
        } else {
            state.unflushed.push(change);
        }
        Box::pin(async move {
            answered.store(true, Ordering::Release);
            Ok(())
        })
    }
}

impl BlockDevice for CrashDevice {
    fn geometry(&self) -> Geometry {
        lock(&self.state).current.geometry()
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        let state = lock(&self.state);
        let checked = state.powered().and_then(|()| state.current.geometry().check(at, len));
        ready(checked.map(|()| state.current.read(at, len)))
    }

    fn write(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> IoFuture<()> {
        self.change(at, total(&data), Content::Data(data), durability)
    }

    fn flush(&self) -> IoFuture<()> {
        let mut state = lock(&self.state);
        if let Err(error) = state.powered() {
            return ready(Err(error));
        }
        state.count_change();
        let state = &mut *state;
        let certain = state.unflushed.iter().rposition(|change| change.answered.load(Ordering::Acquire));
        for change in state.unflushed.drain(..certain.map_or(0, |last| last + 1)) {
            change.apply(&mut state.durable);
        }
        ready(Ok(()))
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.change(at, len, Content::Zeroes, Durability::Cached)
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.change(at, len, Content::Zeroes, Durability::Cached)
    }

    /// The write is a forced one: durable once it is answered.
    fn compare_and_write(&self, at: ByteOffset, expected: Bytes, new: Bytes) -> IoFuture<Compared> {
        let mut state = lock(&self.state);
        let found = state.powered().and_then(|()| compare(&state.current, at, &expected, &new));
        if found != Ok(Compared::Written) {
            return ready(found);
        }
        let len = ByteLen::of(&new);
        let written = self.change_in(&mut state, at, len, Content::Data(vec![new]), Durability::Forced);
        Box::pin(async move { written.await.map(|()| Compared::Written) })
    }
}

#[derive(Debug)]
struct State {
    current: Image,
    durable: Image,
    unflushed: Vec<Unflushed>,
    /// Writes and flushes until the power goes; `None`: it stays on.
    changes_left: Option<u64>,
}

impl State {
    fn powered(&self) -> Result<(), BlockError> {
        match self.changes_left {
            Some(0) => Err(BlockError::Unavailable { what: "the power is off".to_owned() }),
            Some(_) | None => Ok(()),
        }
    }

    fn count_change(&mut self) {
        if let Some(left) = &mut self.changes_left {
            *left = left.saturating_sub(1);
        }
    }
}

#[derive(Debug)]
enum Content {
    Data(Vec<Bytes>),
    Zeroes,
}

#[derive(Debug)]
struct Unflushed {
    at: ByteOffset,
    len: ByteLen,
    content: Content,
    /// `Forced` ones survive whole; they are listed only to keep their order with the others.
    durability: Durability,
    answered: Arc<AtomicBool>,
}

impl Unflushed {
    fn apply(&self, image: &mut Image) {
        match &self.content {
            Content::Data(data) => put_all(image, self.at, data),
            Content::Zeroes => image.zero(self.at, self.len),
        }
    }

    /// Applies what the chooser lets survive: 3 of 8 whole, 3 of 8 not at all, the rest torn.
    fn survive(&self, image: &mut Image, choose: &mut dyn FnMut() -> u64) {
        // A forced write that was not answered yet is as uncertain as any other.
        if self.durability == Durability::Forced && self.answered.load(Ordering::Acquire) {
            return self.apply(image);
        }
        match choose() % 8 {
            0..=2 => self.apply(image),
            3..=5 => {}
            _ => self.tear(image, choose),
        }
    }

    fn tear(&self, image: &mut Image, choose: &mut dyn FnMut() -> u64) {
        let sector = ByteLen(u64::from(image.geometry().sector));
        let mut whole = image.clone();
        self.apply(&mut whole);
        let mut bits = 0;
        for index in 0..self.len.0 / sector.0 {
            if index % 64 == 0 {
                bits = choose();
            }
            if bits >> (index % 64) & 1 == 1 {
                let at = ByteOffset(self.at.0 + index * sector.0);
                image.write(at, &whole.read(at, sector));
            }
        }
    }
}
