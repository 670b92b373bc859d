//! The lock manager's protocol, sans-IO: one member of one lockspace as a state machine.
//!
//! Feed it [`Input`]s with the time, take its [`Output`]s, call it again at its next deadline; see
//! [`event`] for the vocabulary and the driver's duties. It reads no clock, socket, thread, random
//! source or hash-map order, so the same inputs give the same outputs.

pub mod codec;
pub mod config;
pub mod event;
pub mod faults;
pub mod lockspace;
pub mod message;

pub use config::Config;
pub use event::{Input, Output};
pub use faults::Faults;
pub use lockspace::Lockspace;
pub use message::Holder;
