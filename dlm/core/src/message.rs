//! What members say to one another. `codec` has the bytes.
//!
//! Every message is stamped with the sender's view when it was first sent. Messages about a lock
//! name it by (`node of the owner`, `lock`, `sequence`), so a repeated one is recognised.

use base::{Incarnation, NodeId, ViewId};
use dlm_api::queues::Queues;
use dlm_api::{Flags, LockId, Mode, ResourceName, ValueBlock};

/// A lock as its master knows it: by its owner's node and the owner's number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    pub node: NodeId,
    pub lock: LockId,
}

/// A lock of the member that asks, and the number of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub name: ResourceName,
    pub lock: LockId,
    pub sequence: u64,
}

/// One member of a view, in one life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    pub node: NodeId,
    pub incarnation: Incarnation,
}

/// Why a master refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    WouldBlock,
    Cancelled,
    Deadlock,
    /// The master knows no such lock, or it has a request queued.
    Confused,
    /// A lost member is in the way.
    MemberLost,
}

/// A message between two members.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    // To a master.
    Request {
        about: About,
        mode: Mode,
        flags: Flags,
    },
    Convert {
        about: About,
        mode: Mode,
        flags: Flags,
        value: Option<ValueBlock>,
    },
    Unlock {
        about: About,
        value: Option<ValueBlock>,
    },
    Cancel {
        about: About,
    },
    // From a master to a lock's owner.
    Granted {
        about: About,
        mode: Mode,
        value: Option<ValueBlock>,
        is_value_valid: bool,
    },
    Refused {
        about: About,
        refusal: Refusal,
    },
    Unlocked {
        about: About,
    },
    Blocking {
        lock: LockId,
        mode: Mode,
    },
    /// Not, or no longer, the master of that name: look it up again.
    NotMaster {
        about: About,
    },
    // To and from a directory.
    Lookup {
        name: ResourceName,
    },
    MasterIs {
        name: ResourceName,
        master: NodeId,
    },
    /// The sender masters the name no more, and nobody uses it.
    Remove {
        name: ResourceName,
    },
    Removed {
        name: ResourceName,
    },
    // A leaver's masterships: state to the new master, then the directory, then everybody who has a lock.
    Transfer {
        name: ResourceName,
        queues: Box<Queues<Holder>>,
    },
    Transferred {
        name: ResourceName,
    },
    Redirect {
        name: ResourceName,
        master: NodeId,
    },
    Redirected {
        name: ResourceName,
    },
    Moved {
        name: ResourceName,
        master: NodeId,
    },
    // Directory entries that have a new home under this view.
    Entries {
        view: ViewId,
        entries: Vec<(ResourceName, NodeId)>,
    },
    EntriesDone {
        view: ViewId,
    },
    /// To a leaver: all that it handed over is here, and it is counted on no more.
    EntriesTaken {
        view: ViewId,
    },
    // Views: asked for, prepared, committed by the coordinator.
    Join,
    Leave,
    Prepare {
        view: ViewId,
        members: Vec<Life>,
        previous: Vec<NodeId>,
    },
    Ready {
        view: ViewId,
    },
    Commit {
        view: ViewId,
    },
    /// The prepared view will not come.
    Abandon {
        view: ViewId,
    },
    /// To a connected member of the static view that is not in the view: who is.
    ViewIs {
        view: ViewId,
        members: Vec<Life>,
    },
}

impl Message {
    /// Whether a member without a view may take this whatever view the sender has.
    pub(crate) fn is_about_views(&self) -> bool {
        match self {
            Self::Join
            | Self::Leave
            | Self::Prepare { .. }
            | Self::Ready { .. }
            | Self::Commit { .. }
            | Self::Abandon { .. }
            | Self::ViewIs { .. } => true,
            Self::Request { .. }
            | Self::Convert { .. }
            | Self::Unlock { .. }
            | Self::Cancel { .. }
            | Self::Granted { .. }
            | Self::Refused { .. }
            | Self::Unlocked { .. }
            | Self::Blocking { .. }
            | Self::NotMaster { .. }
            | Self::Lookup { .. }
            | Self::MasterIs { .. }
            | Self::Remove { .. }
            | Self::Removed { .. }
            | Self::Transfer { .. }
            | Self::Transferred { .. }
            | Self::Redirect { .. }
            | Self::Redirected { .. }
            | Self::Moved { .. }
            | Self::Entries { .. }
            | Self::EntriesDone { .. }
            | Self::EntriesTaken { .. } => false,
        }
    }
}
