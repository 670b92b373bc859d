//! The journal: what changes together reaches the disk together.
//!
//! 1. An operation takes its glocks, then `Log::begin` (which may wait for space), changes blocks
//!    through the `Transaction`, and drops it.
//! 2. All transactions since the last commit are committed as one: data that they point to is
//!    written in place, then the changed blocks and revokes to the log, flush, then the header,
//!    forced (`commit`).
//! 3. Committed blocks are written in place later (`checkpoint`); then the tail may move.
//!
//! One log operation runs at a time: an in-place write can never land after the commit that freed
//! its block.

mod commit;
mod header;
mod log;
pub mod replay;
mod ring;
mod settle;

pub(crate) use commit::start_all;
pub use header::{HeaderFacts, SpaceChange};
pub use log::{Faults, Log, LogParts, Transaction};
pub use ring::{BLOCKS_MIN, Extent, Ring};
