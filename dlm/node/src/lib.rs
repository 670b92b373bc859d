//! A member of a lockspace in this process: the lock manager's core with sockets, timers and a
//! thread around it.
//!
//! `view` says who the members are, `hello` is the handshake between two of them, `links` keeps the
//! connections, `shared` carries out what the core says, `member` is what lock users see. What is granted to whom is `dlm-core`'s business;
//! nothing here decides it.

mod hello;
mod links;
pub mod member;
mod shared;
pub mod view;

pub use member::{JoinError, JoinOptions, LeaveError, Member};
pub use view::{MemberAddress, View, ViewError};
