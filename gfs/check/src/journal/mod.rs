//! Journals from outside: where they lie, every transaction in them, what a replay would write, and which file each
//! block of that belongs to.
//!
//! Reads only, and shares no code with the replay in `gfs/core`: what [`Plan`] says is compared with what that replay
//! does. [`Replayed`] shows the filesystem as it would be after a replay, so that one that was not unmounted can be
//! checked without writing to it. Used by `corral journal`, `corral fsck` and the tests.

mod locate;
mod owners;
mod plan;
mod read;
mod replayed;

pub use locate::{Journal, Journals};
pub use owners::{Owner, owners};
pub use plan::{Plan, Space, Write};
pub use read::{Chunk, Content, Item, Log, Logged};
pub use replayed::Replayed;

pub(crate) use locate::locate;
pub(crate) use read::find_headers;
