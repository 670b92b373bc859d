//! The deterministic simulator: a whole cluster in one process and one thread, where one seed is one
//! run and a failing seed is a bug that can be repeated.
//!
//! `executor` is the clock and the scheduler, `net` the network, `member` the shell of a lockspace,
//! `cluster` a disk with a mount on every node, `kernel` and `node` what is in front of a mount. A
//! `workload` is what clients do in a world; `checkers` judge what they saw from outside. `world`
//! runs one seed; the program runs many.

pub mod checkers;
pub mod cluster;
pub mod dice;
pub mod executor;
pub mod faults;
pub mod fsck;
pub mod kernel;
pub mod logs;
pub mod member;
pub mod net;
pub mod node;
pub mod trace;
pub mod workload;
pub mod world;
