//! What every layer shares and no layer owns: identities, time that is passed in, the host port.
//!
//! Entry rule: used by at least three crates and carrying no policy. Nothing here reads a clock,
//! a socket or a random source.

pub mod host;
pub mod ids;
pub mod time;

pub use host::{BoxFuture, Host};
pub use ids::{Incarnation, JournalId, NodeId, ViewId};
pub use time::{Instant, WallTime};
