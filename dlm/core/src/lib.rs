//! The lock manager's protocol, sans-IO: one member of one lockspace as a state machine.
//!
//! Feed it [`Input`]s with the time, take its [`Output`]s, call it again at its next deadline; see
//! [`event`] for the vocabulary and the driver's duties. It reads no clock, socket, thread, random
//! source or hash-map order, so the same inputs give the same outputs.
//!
//! A lock's way: `lockspace` takes the request; `lookup` finds the master through `directory`;
//! `master` queues and grants it (`dlm_api::queues` has the rule); `remote` is the requesting side;
//! `link` makes the messages of `message` and `codec` arrive once and in order; `membership` changes
//! the view when members join and leave, and `handover` carries a leaver's share to the others.

pub mod codec;
pub mod config;
pub mod directory;
pub mod event;
pub mod faults;
mod handover;
pub mod invariants;
mod link;
pub mod lockspace;
mod lookup;
mod master;
mod membership;
pub mod message;
mod remote;
mod resource;
pub mod status;

pub use config::Config;
pub use event::{Input, Output};
pub use faults::Faults;
pub use lockspace::Lockspace;
pub use message::Holder;
pub use status::Status;
