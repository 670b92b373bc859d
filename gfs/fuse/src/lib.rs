//! The mount process: the kernel's FUSE protocol in front of `gfs_core`.
//!
//! Bottom up: `wire` (bytes), `request` and `reply` (one message), `device`, `session`,
//! `interrupt`, `notify` and `connection` (one mount).

pub mod connection;
pub mod device;
pub mod interrupt;
pub mod notify;
pub mod reply;
pub mod request;
pub mod session;
pub mod wire;
