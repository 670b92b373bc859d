//! Inodes: their block, and one file per step of their life.

mod attr;
mod block;
mod create;
pub(crate) mod reclaim;
mod rename;
mod unlink;
mod unnamed;

pub(crate) use block::DinodeBlock;
