//! The whole vocabulary between the lock manager's core and whoever drives it.
//!
//! # Driving a member
//! ```text
//!   loop {  input = a user's call | a frame | a link's news | the deadline
//!           lockspace.handle(input, now);
//!           while let Some(output) = lockspace.poll_output() { carry it out }
//!           sleep until lockspace.next_deadline(), or the next input  }
//! ```
//!
//! # The driver's duties
//! 1. `now` never goes back. After each `handle`, poll outputs until `None` before the next input;
//!    when `next_deadline` has come, hand in [`Input::Tick`].
//! 2. Lock ids are the driver's, and never used twice in the life of the process. At most one
//!    request for a lock is under way; `Cancel` and `Leave` may come at any time.
//! 3. Frames are bytes that carry their own length and checksum. They may be lost, repeated, delayed
//!    and reordered as the network likes: the core numbers, acknowledges and re-sends. They must not
//!    be handed in under another peer's name: the driver authenticates peers.
//! 4. [`Input::LinkUp`] comes after a handshake has shown the peer's incarnation, and before the
//!    first frame of that connection; [`Input::LinkDown`] when the connection ends. A link that comes
//!    back with the same incarnation resumes where it was. Without `LinkUp` nothing is sent.
//! 5. Outputs are carried out in their order: an answer before a later [`Output::Blocking`] for the
//!    same lock. `Send` to a peer whose link is down may be dropped.
//! 6. After [`Output::Left`] the member's state may be thrown away and its links closed; not before,
//!    or the others take it for lost. A member that is started again is a new incarnation, higher
//!    than all before.
//! 7. [`Output::LinkFault`]: close that connection; the peer broke the protocol on it.

use base::{Incarnation, NodeId, ViewId};
use bytes::Bytes;
use dlm_api::{Flags, Granted, LockError, LockId, Mode, ResourceName, ValueBlock};

/// What can happen to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A user asks for a new lock. Ends with `Granted` or `Refused`; after the latter it is gone.
    Lock { lock: LockId, name: ResourceName, mode: Mode, flags: Flags },
    /// A user changes the mode of a granted lock. Ends with `Granted` or `Refused`; after the latter
    /// it keeps the mode it had.
    Convert { lock: LockId, mode: Mode, flags: Flags, value: Option<ValueBlock> },
    /// A user gives a granted lock up. Ends with `Unlocked`, or `Refused` if that makes no sense.
    Unlock { lock: LockId, value: Option<ValueBlock> },
    /// A user withdraws the request under way, if it waits. That ends with `Cancelled`, or as if
    /// nothing had been said if it was too late.
    Cancel { lock: LockId },
    /// Gives up all locks, hands everything over and leaves. Ends with `Left` or `LeaveFailed`.
    Leave,
    /// A connection to `peer` is there, in that life of it.
    LinkUp { peer: NodeId, incarnation: Incarnation },
    /// The connection to `peer` has ended.
    LinkDown { peer: NodeId },
    /// One frame arrived from `peer`.
    Received { peer: NodeId, frame: Bytes },
    /// The deadline has come.
    Tick,
}

/// What a member wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send one frame.
    Send { to: NodeId, frame: Bytes },
    /// The request for this lock is granted.
    Granted { lock: LockId, granted: Granted },
    /// The request for this lock has ended without effect.
    Refused { lock: LockId, error: LockError },
    /// The lock is gone.
    Unlocked { lock: LockId },
    /// The lock is in the way of a request for `mode`. May be repeated, and may be out of date.
    Blocking { lock: LockId, mode: Mode },
    /// This member is in the view from now on; before, every request is refused.
    Joined { view: ViewId },
    /// The membership has changed.
    ViewChanged { view: ViewId, members: Vec<NodeId> },
    /// This member has left.
    Left,
    /// This member could not leave in order, and never will: see `why`.
    LeaveFailed { why: String },
    /// This member cannot join: the lockspace still counts on an earlier life of it.
    JoinRefused { why: String },
    /// A member of the view is lost: silent for too long, or started again. Requests that involve
    /// it end with `Unavailable`; what it holds stays held.
    MemberLost { node: NodeId, why: String },
    /// A member that was taken for lost is heard again, in the same life; nothing was given away.
    MemberBack { node: NodeId },
    /// The peer sent what it must not.
    LinkFault { peer: NodeId, why: String },
}
