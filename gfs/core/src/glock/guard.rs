//! A local hold on a glock: an inode is read under a shared guard and changed under an exclusive
//! one, which is also what keeps two requests of this node apart.

use std::fmt;
use std::sync::Arc;

use super::State;
use super::machine::Glock;

/// Holds a glock until dropped.
pub struct Guard {
    glock: Arc<Glock>,
    state: State,
}

impl Guard {
    pub(super) fn new(glock: Arc<Glock>, state: State) -> Guard {
        Guard { glock, state }
    }

    pub fn glock(&self) -> &Arc<Glock> {
        &self.glock
    }

    /// Whether changes are allowed under it.
    pub fn is_exclusive(&self) -> bool {
        self.state == State::Exclusive
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        Glock::release(&self.glock, self.state);
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guard of {} {:?}", self.glock.key(), self.state)
    }
}
