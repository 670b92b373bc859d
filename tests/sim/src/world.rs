//! The worlds by name, and one run of one world.
//!
//! A run never takes the sweep down: a panic in the code under test is a failure of its seed.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::Once;

use crate::executor::{Ended, Sim};
use crate::logs::while_tracing;
use crate::trace::TraceWish;
use crate::workload;

/// A kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Members of a lockspace and their clients, no disk.
    Locks,
    /// Several nodes with one filesystem on one shared disk.
    Fs,
}

/// What a run is asked beside its seed.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions<'a> {
    /// A deliberate fault of the world's list.
    pub plant: Option<&'a str>,
    pub wish: TraceWish,
    /// Whether fsck.gfs2 is to look at the final image.
    pub ask_fsck: bool,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What was violated, if anything.
    pub failure: Option<String>,
    /// The events, if they were wanted.
    pub trace: Vec<String>,
}

impl World {
    pub const ALL: [World; 2] = [World::Locks, World::Fs];

    pub fn name(self) -> &'static str {
        match self {
            World::Locks => "locks",
            World::Fs => "fs",
        }
    }

    pub fn names() -> Vec<&'static str> {
        World::ALL.map(World::name).to_vec()
    }

    pub fn from_name(name: &str) -> Option<World> {
        World::ALL.into_iter().find(|world| world.name() == name)
    }

    /// The world's deliberate faults.
    pub fn plants(self) -> Vec<&'static str> {
        match self {
            World::Locks => workload::locks::plants(),
            World::Fs => workload::posix::plants(),
        }
    }

    /// One run.
    pub fn run(self, seed: u64, options: RunOptions<'_>) -> Report {
        let sim = Sim::new(seed, options.wish);
        let run = || match self {
            World::Locks => workload::locks::run(&sim, seed, options.plant),
            World::Fs => workload::posix::run(&sim, seed, options),
        };
        let failure =
            catch_panic(|| while_tracing(&sim, run)).unwrap_or_else(|panic| Err(format!("panic: {panic}"))).err();
        let trace = sim.take_trace();
        // A task dropped in the middle may panic as well; its run has been judged by then.
        let _ = catch_panic(|| sim.tear_down());
        Report { failure, trace }
    }
}

/// A phase's end as a verdict; `doing` names the phase.
pub fn expect_done(ended: Ended, doing: &str) -> Result<(), String> {
    match ended {
        Ended::Done => Ok(()),
        Ended::Violated(what) => Err(what),
        Ended::Stuck(who) => Err(format!("{doing} hangs, and nothing is left that could go on. Waiting: {who}")),
        Ended::Late(who) => Err(format!("{doing} is not done at the limit in virtual time. Waiting: {who}")),
        Ended::Busy(who) => Err(format!("{doing} goes round and round without an end. Waiting: {who}")),
    }
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static IS_CATCHING: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs `body`; a panic comes back as its message and place instead of going to stderr.
fn catch_panic<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        set_hook(Box::new(move |info| {
            if IS_CATCHING.with_borrow(|is_catching| *is_catching) {
                PANIC.set(Some(info.to_string().replace('\n', " ")));
            } else {
                usual(info);
            }
        }));
    });
    let was_catching = IS_CATCHING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(body));
    IS_CATCHING.set(was_catching);
    result.map_err(|_| PANIC.take().unwrap_or_default())
}
