//! The trace of a run: one event a line, `seconds  who  what happened`.
//!
//! Lines are made only when somebody wants them, so a sweep pays nothing for them.

use std::fmt;

use base::Instant;

/// Where a run's events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceWish {
    /// Nowhere: a sweep.
    Nothing,
    /// Kept, to be printed or compared.
    Everything,
}

/// Who an event happened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The simulator itself.
    World,
    /// A simulated node, by its number from 1.
    Node(u32),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::World => f.pad("world"),
            Who::Node(node) => f.pad(&format!("node {node}")),
        }
    }
}

/// The events of one run.
pub struct Trace {
    wish: TraceWish,
    lines: Vec<String>,
}

impl Trace {
    pub fn new(wish: TraceWish) -> Trace {
        Trace { wish, lines: Vec::new() }
    }

    /// Whether a line would be kept.
    pub fn is_on(&self) -> bool {
        self.wish == TraceWish::Everything
    }

    /// Adds one event.
    pub fn push(&mut self, now: Instant, who: Who, what: fmt::Arguments<'_>) {
        if self.is_on() {
            let nanos = now.as_nanos();
            self.lines.push(format!("{:>5}.{:06}  {who:<7}  {what}", nanos / 1_000_000_000, nanos / 1000 % 1_000_000));
        }
    }

    /// All lines so far, leaving none.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}
