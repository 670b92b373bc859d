//! The mount process: the kernel's FUSE protocol in front of `gfs_core`.
//!
//! Bottom up: `wire` (bytes), `request` and `reply` (one message), `device`, `session`,
//! `interrupt`, `notify` and `connection` (one mount).

pub mod adapter;
pub mod answer;
pub mod asking;
pub mod connection;
pub mod convert;
pub mod device;
pub mod errno;
pub mod handles;
pub mod interrupt;
pub mod kernel_caches;
pub mod names;
pub mod nodes;
pub mod notify;
pub mod port;
pub mod program;
pub mod reply;
pub mod request;
pub mod scheduled;
pub mod server;
pub mod session;
pub mod threads;
pub mod wire;
