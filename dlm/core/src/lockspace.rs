//! One member of one lockspace. The verbs are final, the body is being filled in.

use std::collections::VecDeque;

use base::Instant;
use dlm_api::LockError;

use crate::{Config, Faults, Input, Output};

/// One member of one lockspace.
pub struct Lockspace {
    outputs: VecDeque<Output>,
}

impl Lockspace {
    /// A member that is about to join. Hand in a `Tick` to start it.
    pub fn new(config: Config, now: Instant) -> Lockspace {
        Lockspace::with_faults(config, now, Faults::default())
    }

    /// With deliberate bugs: for the simulator only.
    pub fn with_faults(_: Config, _: Instant, _: Faults) -> Lockspace {
        Lockspace { outputs: VecDeque::new() }
    }

    /// Takes one input in.
    pub fn handle(&mut self, input: Input, _: Instant) {
        if let Input::Lock { lock, .. } = input {
            let error = LockError::Unavailable { what: "not joined".to_owned() };
            self.outputs.push_back(Output::Refused { lock, error });
        }
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to hand in a `Tick`.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }
}
