//! The gate of a glock: which requests are served while the kernel's caches are being drained.
//!
//! Owns only the decision; the glock runs the passes, parks the requests and asks the DLM.
//!
//! The kernel keeps a page locked from the moment it sends a READ for it until the READ is
//! answered, and an invalidation waits for that lock. A READ that waits for the glock whose
//! demotion started the invalidation would wait for ever, so a request that may hold something an
//! invalidation needs is served as long as one is under way, and the gate closes in the same step
//! in which a pass is seen to have ended with nothing served.
//!
//! ```text
//!            begin_drain              end_pass, nothing served
//!   Open ───────────────► Draining ─────────────────────────────► Closed
//!    ▲                     │    ▲                                   │
//!    │                     └────┘ end_pass, something was served    │
//!    └──────────────────────────────────────────────────────────────┘ reopen
//! ```
//!
//! What the glock does with it, in this order (one task per draining glock):
//!
//! 1. `begin_drain`, before the first look at what has to be dropped. From here on `may_cache` is
//!    false, so no reply carries a lifetime and no name is announced.
//! 2. A pass: attributes and names on the first one; pages (except the ranges that the gate named)
//!    if `has_filled_pages`. The pages are skipped otherwise, and must be: a READ that needs EX
//!    waits for its upgrade with a locked page, and a demotion from SH must not wait for it.
//! 3. If the pass does not return within a few milliseconds: `relent`; when it says so, wake the
//!    parked requests, which ask `admit` again. Repeat at that interval until the pass returns.
//! 4. `end_pass`. On `Again`, back to 2. On `Closed`: wait for the holders that are still inside,
//!    flush, answer the DLM.
//! 5. `reopen` when the lock is held again (or still: EX to SH), then wake what is parked.
//!
//! The first writable open of an inode runs 1 to 4 under the lock it has, counts its handle while
//! the gate is closed, and reopens: so a writable handle never meets pages that were filled under
//! SH, and the skip of step 2 is exact.

use std::ops::Range;

/// What a request may hold in the kernel until it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestClass {
    /// Holds page locks or leaves pages behind: READ from the page cache (with the bytes it
    /// fills), WRITE from the page cache. Served while draining, and then another pass is due.
    Drains {
        /// The bytes that a READ fills; they are locked until it is answered and hold nothing old.
        pages: Option<Range<u64>>,
    },
    /// May hold off an invalidation but leaves nothing in a cache: SETATTR of the size, OPEN with
    /// O_TRUNC, FALLOCATE, COPY_FILE_RANGE, operations on names (their replies carry no lifetime
    /// while draining). Served while draining; no further pass is due for it.
    Passes,
    /// Holds nothing an invalidation needs: direct READ and WRITE, GETATTR, FSYNC, READDIR.
    Ordinary,
}

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Serve,
    /// Wait until the glock wakes it, then ask again.
    Park,
}

/// What follows a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextPass {
    /// Drop the pages again, but for these bytes: READs for them are parked and hold their locks.
    Again { except: Vec<Range<u64>> },
    /// Nothing was served meanwhile: the caches are empty and stay so.
    Closed,
}

/// Passes that may serve whatever comes; after these, READs that arrive are parked.
const PASSES_THAT_SERVE_ALL: u32 = 3;

/// See the module's text.
#[derive(Debug)]
pub struct Gate {
    state: State,
    /// A READ was served since the last pass that dropped everything.
    has_filled_pages: bool,
}

#[derive(Debug)]
enum State {
    Open,
    Draining(Drain),
    Closed,
}

#[derive(Debug, Default)]
struct Drain {
    /// Passes that ended with something served.
    passes: u32,
    has_served: bool,
    /// This pass waits for a page of a READ that was parked after it began.
    is_relenting: bool,
    /// Bytes of the READs parked since `begin_drain`.
    parked: Vec<Range<u64>>,
}

impl Gate {
    /// An open gate with empty caches behind it.
    pub fn new() -> Self {
        Self { state: State::Open, has_filled_pages: false }
    }

    /// Decides about a request of the glock's inode. Call it under the same lock as the others,
    /// once the glock's mode suffices for the request, and serve at once if it says so: a request
    /// that still has to wait for the mode parks without asking.
    pub fn admit(&mut self, class: &RequestClass) -> Admission {
        let is_fill = matches!(class, RequestClass::Drains { pages: Some(_) });
        match (&mut self.state, class) {
            (State::Closed, _) | (State::Draining(_), RequestClass::Ordinary) => return Admission::Park,
            (State::Open, _) | (State::Draining(_), RequestClass::Passes) => {}
            (State::Draining(drain), RequestClass::Drains { pages: Some(bytes) }) if drain.parks_fills() => {
                // A woken READ that asks again must not be remembered twice.
                if !drain.parked.contains(bytes) {
                    drain.parked.push(bytes.clone());
                }
                return Admission::Park;
            }
            (State::Draining(drain), RequestClass::Drains { .. }) => drain.has_served = true,
        }
        self.has_filled_pages |= is_fill;
        Admission::Serve
    }

    /// Starts a drain. Without effect if one is under way or done.
    pub fn begin_drain(&mut self) {
        if let State::Open = self.state {
            self.state = State::Draining(Drain::default());
        }
    }

    /// Whether a pass has pages to drop; ask at the start of each.
    pub fn has_filled_pages(&self) -> bool {
        self.has_filled_pages
    }

    /// The pass under way has not returned for a few milliseconds. If it may be waiting for READs
    /// that are parked, they are served from now until it ends: true means wake what is parked.
    pub fn relent(&mut self) -> bool {
        match &mut self.state {
            State::Draining(drain) if !drain.parked.is_empty() => {
                drain.is_relenting = true;
                drain.parked.clear();
                true
            }
            State::Open | State::Draining(_) | State::Closed => false,
        }
    }

    /// The pass has returned. Closes in the same step if nothing was served during it.
    pub fn end_pass(&mut self) -> NextPass {
        match &mut self.state {
            State::Draining(drain) if drain.has_served => {
                drain.passes = drain.passes.saturating_add(1);
                drain.has_served = false;
                drain.is_relenting = false;
                NextPass::Again { except: drain.parked.clone() }
            }
            State::Open | State::Draining(_) | State::Closed => {
                self.close();
                NextPass::Closed
            }
        }
    }

    /// Ends a drain that has no pages to drop (a directory; SH with a writable handle open).
    pub fn close(&mut self) {
        self.state = State::Closed;
        self.has_filled_pages = false;
    }

    /// The lock is held again: everything is served and may be cached.
    pub fn reopen(&mut self) {
        self.state = State::Open;
    }

    /// Whether replies may carry a lifetime. Names are announced first, then this is asked.
    pub fn may_cache(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Whether a drain has ended and the lock may be given up.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    fn parks_fills(&self) -> bool {
        self.passes >= PASSES_THAT_SERVE_ALL && !self.is_relenting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: Range<u64>) -> RequestClass {
        RequestClass::Drains { pages: Some(bytes) }
    }

    const PAGE_WRITE: RequestClass = RequestClass::Drains { pages: None };

    #[test]
    fn an_open_gate_serves_everything_and_lets_it_be_cached() {
        let mut gate = Gate::new();
        for class in [read(0..4096), PAGE_WRITE, RequestClass::Passes, RequestClass::Ordinary] {
            assert_eq!(gate.admit(&class), Admission::Serve, "{class:?}");
        }
        assert!(gate.may_cache());
        assert!(gate.has_filled_pages());
    }

    #[test]
    fn a_drain_serves_what_may_hold_a_page_and_parks_the_rest() {
        let mut gate = Gate::new();
        gate.begin_drain();
        assert!(!gate.may_cache());
        assert_eq!(gate.admit(&RequestClass::Ordinary), Admission::Park);
        assert_eq!(gate.admit(&RequestClass::Passes), Admission::Serve);
        assert_eq!(gate.admit(&PAGE_WRITE), Admission::Serve);
        assert_eq!(gate.admit(&read(0..4096)), Admission::Serve);
    }

    #[test]
    fn the_gate_closes_with_the_first_pass_that_served_nothing() {
        let mut gate = Gate::new();
        assert_eq!(gate.admit(&read(0..4096)), Admission::Serve);
        gate.begin_drain();
        assert_eq!(gate.admit(&read(4096..8192)), Admission::Serve);
        assert_eq!(gate.end_pass(), NextPass::Again { except: vec![] });
        assert!(gate.has_filled_pages());
        assert_eq!(gate.admit(&RequestClass::Passes), Admission::Serve);
        assert_eq!(gate.end_pass(), NextPass::Closed);
        assert!(gate.is_closed() && !gate.has_filled_pages());
        for class in [read(0..4096), PAGE_WRITE, RequestClass::Passes, RequestClass::Ordinary] {
            assert_eq!(gate.admit(&class), Admission::Park, "{class:?}");
        }
        assert!(!gate.has_filled_pages(), "a parked READ fills nothing");
        gate.reopen();
        assert_eq!(gate.admit(&read(0..4096)), Admission::Serve);
    }

    #[test]
    fn readers_that_never_pause_cannot_hold_a_drain_up() {
        let mut gate = Gate::new();
        gate.begin_drain();
        for _ in 0..PASSES_THAT_SERVE_ALL {
            assert_eq!(gate.admit(&read(0..4096)), Admission::Serve);
            assert_eq!(gate.end_pass(), NextPass::Again { except: vec![] });
        }
        assert_eq!(gate.admit(&read(0..4096)), Admission::Park);
        assert_eq!(gate.admit(&read(0..4096)), Admission::Park);
        assert_eq!(gate.admit(&PAGE_WRITE), Admission::Serve, "dirty pages still come back");
        let parked = std::iter::once(0..4096).collect();
        assert_eq!(gate.end_pass(), NextPass::Again { except: parked });
        assert_eq!(gate.admit(&read(8192..12288)), Admission::Park);
        assert_eq!(gate.end_pass(), NextPass::Closed);
    }

    #[test]
    fn a_pass_that_waits_for_a_parked_read_gets_it_served() {
        let mut gate = Gate::new();
        gate.begin_drain();
        for _ in 0..PASSES_THAT_SERVE_ALL {
            gate.admit(&PAGE_WRITE);
            gate.end_pass();
        }
        assert!(!gate.relent(), "nobody is parked");
        assert_eq!(gate.admit(&read(0..4096)), Admission::Park);
        assert!(gate.relent());
        assert_eq!(gate.admit(&read(0..4096)), Admission::Serve);
        assert_eq!(gate.end_pass(), NextPass::Again { except: vec![] });
        assert_eq!(gate.admit(&read(0..4096)), Admission::Park, "the next pass parks again");
    }

    #[test]
    fn a_second_demotion_joins_the_drain_under_way() {
        let mut gate = Gate::new();
        gate.begin_drain();
        gate.admit(&PAGE_WRITE);
        gate.begin_drain();
        assert_eq!(gate.end_pass(), NextPass::Again { except: vec![] });
        assert_eq!(gate.end_pass(), NextPass::Closed);
        gate.begin_drain();
        assert!(gate.is_closed());
    }
}
