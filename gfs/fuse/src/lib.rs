//! The mount process: the kernel's FUSE protocol in front of `gfs_core`.
//!
//! Bottom up: `wire` (bytes), `request` and `reply` (one message), `device`, `session`,
//! `interrupt`, `notify` and `connection` (one mount).

pub mod answer;
pub mod connection;
pub mod device;
pub mod handles;
pub mod interrupt;
pub mod kernel_caches;
pub mod names;
pub mod nodes;
pub mod notify;
pub mod reply;
pub mod request;
pub mod server;
pub mod session;
pub mod threads;
pub mod wire;
