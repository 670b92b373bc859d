//! Allocation: resource groups, their bitmaps, and the choice between them.

mod choose;
mod group;
mod search;

pub use choose::GroupIndex;
pub use group::{Group, GroupEdit};
