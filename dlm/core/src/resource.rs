//! What this member knows of one name, and of one lock of its own.
//!
//! ```text
//!                ┌──────────────── NotMaster ───────────────┐
//!   LookupParked ──► LookingUp ──another──► Remote ◄─────────┘
//!        ▲               │ ▲ └────here────► Master ──unused──► Removing ──acknowledged──► gone, or LookingUp
//!        └─view changes──┘ └─ locks again ──  │ leaving
//!                                             └──► Moving ──► gone
//! ```

use std::collections::VecDeque;

use base::{Instant, NodeId};
use dlm_api::queues::Queues;
use dlm_api::{Flags, LockId, Mode, ResourceName, ValueBlock};

use crate::message::{Holder, Message};

pub(crate) struct Resource {
    pub(crate) role: Role,
    /// The locks that this member's users have on the name, or ask for.
    pub(crate) local_locks: Vec<LockId>,
    /// Requests of others that wait until a removal or a move is through.
    pub(crate) parked: VecDeque<(NodeId, Message)>,
    pub(crate) unused_since: Option<Instant>,
    /// Whether the list of unused names has it.
    pub(crate) is_listed_unused: bool,
    /// Mastered here since a leaver handed it over, which the directory does not know yet. Forgotten
    /// now, it would be named there for ever.
    pub(crate) is_incoming: bool,
}

/// What this member is for a name.
pub(crate) enum Role {
    /// To be looked up once the change of the view is through.
    LookupParked,
    /// The directory was asked.
    LookingUp,
    /// Another is the master; remembered while locks are there and a while longer.
    Remote { master: NodeId },
    /// The master.
    Master(Box<Queues<Holder>>),
    /// Was the master, nobody uses the name; the directory has not yet acknowledged.
    Removing,
    /// Was the master; its state is on its way to another.
    Moving(Box<Move>),
}

/// A mastership on its way.
pub(crate) struct Move {
    pub(crate) to: NodeId,
    /// As they were sent; for those who must hear of it.
    pub(crate) queues: Queues<Holder>,
}

impl Resource {
    pub(crate) fn new() -> Resource {
        Resource {
            role: Role::LookupParked,
            local_locks: Vec::new(),
            parked: VecDeque::new(),
            unused_since: None,
            is_listed_unused: false,
            is_incoming: false,
        }
    }

    /// Nobody here has a lock, and nobody elsewhere that this member masters.
    pub(crate) fn is_unused(&self) -> bool {
        self.local_locks.is_empty()
            && !self.is_incoming
            && match &self.role {
                Role::Master(queues) => queues.is_unused(),
                Role::Remote { .. } => true,
                Role::LookupParked => true,
                Role::LookingUp | Role::Removing | Role::Moving(_) => false,
            }
    }
}

/// A lock of a user of this member, wherever it is mastered.
pub(crate) struct LocalLock {
    pub(crate) name: ResourceName,
    /// As last answered to the user.
    pub(crate) granted: Option<Mode>,
    /// Number of the latest request.
    pub(crate) sequence: u64,
    pub(crate) pending: Option<Pending>,
}

/// A request under way.
pub(crate) struct Pending {
    pub(crate) verb: Verb,
    pub(crate) since: Instant,
    /// Some master may have seen it.
    pub(crate) is_sent: bool,
    pub(crate) is_cancel_wanted: bool,
    /// The user has been told that it failed; the answer, if one comes, is for nobody.
    pub(crate) is_abandoned: bool,
}

#[derive(Clone)]
pub(crate) enum Verb {
    Request { mode: Mode, flags: Flags },
    Convert { mode: Mode, flags: Flags, value: Option<ValueBlock> },
    Unlock { value: Option<ValueBlock> },
}
