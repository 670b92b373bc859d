//! The initiator: an iSCSI logical unit as a block device, with a deep queue, reconnection and retry.
//!
//! What is where: [`Initiator::connect`] and [`IscsiDevice`] in `device`, its part of the port that is not reading and
//! writing in `special`; how requests become commands, in `way`; what a unit says of itself, in `describe`; a portal's
//! targets, in `discovery`; what a unit is, in `probe`; the table of requests and what
//! an answer means for them, in `queue` and `verdict`; writes that a target could still lose, in `kept`; the socket, in
//! `link`; the life of the connection, in `task`; who we are, in `name`, and how we prove it, in [`secrets`].
//!
//! Knows sockets, time and the iSCSI session; never what is stored in the blocks.
//!
//! # What a reconnection promises
//! 1. The session is made again with the same ISID, so the target ends what was left of the old one before it answers
//!    the login. Nothing is sent again before that.
//! 2. The unit must still be the same one (identification and size); another one is an error, for good.
//! 3. If this process has registered a key, the unit must still have it; a missing one means that the node was fenced
//!    meanwhile, and the device is dead. Nothing registers it again.
//! 4. Writes that were answered but not flushed yet are sent again first: the target may have lost its cache with
//!    its life. They are kept, by reference and without overlaps, until a flush that was sent after their answer is
//!    answered; when they reach a limit the initiator flushes by itself.
//! 5. Then every request that was not answered is sent again, in its old order; but COMPARE AND WRITE and changes of
//!    reservations are not: their callers hear that the outcome is not known.
//!
//! So no acknowledged write is lost, and no write is applied after a later one of this initiator to the same blocks.
//! Point 4 puts one duty on the caller: before it lets another node write blocks that it has written itself, it flushes
//! (a filesystem does so when it gives up a lock); otherwise a write that is sent again could cover the other node's.
//!
//! When the target refuses this initiator (RESERVATION CONFLICT, or the login is not allowed any more), requests answer
//! `Fenced`; when it is gone for longer than the limit, all requests answer `Unavailable` and the device stays dead.

mod arguments;
mod clock;
mod command;
mod describe;
mod device;
mod discovery;
mod error;
mod kept;
mod link;
mod name;
mod options;
mod probe;
mod queue;
mod random;
pub mod secrets;
mod special;
mod task;
mod verdict;
mod way;

pub use arguments::hide_secrets;
pub use describe::Description;
pub use device::{Initiator, IscsiDevice};
pub use error::ConnectError;
pub use iscsi_target_proto::initiator::DiscoveredTarget;
pub use name::{NameError, initiator_name};
pub use options::Options;
pub use queue::{ConnectionState, ConnectionStatus};
pub use secrets::SecretsError;
