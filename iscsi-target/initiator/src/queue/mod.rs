//! The table of requests: what callers asked for, what of it is with the target, what has to be sent again.
//!
//! ```text
//! submit ─► Parked ◄──────────────┐ connection lost
//!             │ ready, room       │
//!             ▼                   │
//!            Sent ────────────────┤
//!             │ answered          │
//!             ├─► Delayed ────────┘ (or when its time has come: Sent)
//!             └─► gone, its caller has the answer
//! ```
//! A request that must not be done twice ([`Once`]) leaves this picture when the connection is lost after it was sent:
//! its caller hears that the outcome is not known.
//!
//! What is where: the lock and the doors for callers in `shared`; the table's life in `table`; what answers mean for it
//! in `answer`; the connection's side (sending, times) in `turn`; our registration key in `registration`.
//!
//! Invariants: nothing but probes is with the session unless the state is `Ready`; a write whose answer was given and
//! that no flush has covered is in `kept`, unless the unit has no write cache.
//!
//! Locking: one mutex; answers are handed out after it is released.

mod answer;
mod registration;
mod request;
mod shared;
mod table;
mod turn;

pub use registration::Registered;
pub use request::{Once, OnceAnswer, Role};
pub use shared::Shared;
pub use table::{ConnectionState, ConnectionStatus, Limits};
pub use turn::Turn;
