//! Glocks: cluster locks that own caches. One glock per inode, resource group or other shared
//! thing; what this node knows of it is believed exactly as long as the glock is held.
//!
//! ```text
//!              promote (lock)                promote (convert, or drain + lock anew)
//!   Unlocked ----------------> Shared ------------------------------> Exclusive
//!      ^                         |                                        |
//!      +---- demote: drain ------+<---- demote: drain, flush, convert ----+
//!      +<-------------- demote: drain, flush, forget, unlock -------------+
//! ```
//!
//! - `machine` is one glock as the engine holds and lowers it; `queue` its state and waiters with their rules; `worker`
//!   the task that moves it between states.
//! - `table` finds or makes them and knows the lock manager.
//! - `gate` decides which requests are served while the kernel's caches are drained.

pub mod gate;
mod guard;
mod machine;
mod queue;
mod table;
mod worker;

use std::fmt;

use dlm_api::{Mode, ResourceName};

pub use gate::RequestClass;
pub use guard::Guard;
pub use machine::{Contents, Glock};
pub use table::{GlockOwner, GlockTable};

/// What a glock protects (`LM_TYPE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum GlockKind {
    /// One of the `nondisk` numbers.
    Nondisk = 1,
    Inode = 2,
    ResourceGroup = 3,
    /// Held shared while an inode is open, so that nobody frees it.
    IOpen = 5,
    Journal = 9,
}

/// Numbers of the glocks that protect no block (`GFS2_*_LOCK`).
pub mod nondisk {
    /// Held exclusively over a directory's move, shared over a directory's removal.
    pub const RENAME: u64 = 3;
    /// Held over the mount of the first node.
    pub const CONTROL: u64 = 4;
    /// Held shared by every mount.
    pub const MOUNTED: u64 = 5;
}

/// Name of a glock, the same on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GlockKey {
    pub kind: GlockKind,
    pub number: u64,
}

impl GlockKey {
    pub fn inode(number: u64) -> GlockKey {
        GlockKey { kind: GlockKind::Inode, number }
    }

    pub fn iopen(number: u64) -> GlockKey {
        GlockKey { kind: GlockKind::IOpen, number }
    }

    pub fn resource_group(number: u64) -> GlockKey {
        GlockKey { kind: GlockKind::ResourceGroup, number }
    }

    pub fn nondisk(number: u64) -> GlockKey {
        GlockKey { kind: GlockKind::Nondisk, number }
    }

    /// The resource's name in the lockspace, in the kernel's form: type and number in hexadecimal,
    /// right-aligned in 8 and 16 columns.
    pub fn resource_name(&self) -> ResourceName {
        let name = format!("{:8x}{:16x}", self.kind as u8, self.number);
        ResourceName::new(name.as_bytes()).expect("invariant: a glock name has 24 bytes")
    }
}

impl fmt::Display for GlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}", self.kind as u8, self.number)
    }
}

/// How a glock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// UN: nothing may be believed.
    Unlocked,
    /// SH: may be read and cached.
    Shared,
    /// EX: may be changed; changes may be kept back from the disk.
    Exclusive,
}

impl State {
    /// The lock mode that stands for it; `None` is no lock at all.
    pub fn mode(self) -> Option<Mode> {
        match self {
            State::Unlocked => None,
            State::Shared => Some(Mode::ProtectedRead),
            State::Exclusive => Some(Mode::Exclusive),
        }
    }
}

/// The most that may be kept when another node asks for `wanted`.
fn state_beside(wanted: Mode) -> State {
    if wanted.is_compatible(Mode::Exclusive) {
        State::Exclusive
    } else if wanted.is_compatible(Mode::ProtectedRead) {
        State::Shared
    } else {
        State::Unlocked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_kernels_form() {
        let name = GlockKey::inode(0x1234).resource_name();
        assert_eq!(name.as_bytes(), b"       2            1234");
    }

    #[test]
    fn a_reader_elsewhere_leaves_us_shared_and_a_writer_leaves_nothing() {
        assert_eq!(state_beside(Mode::ProtectedRead), State::Shared);
        assert_eq!(state_beside(Mode::Exclusive), State::Unlocked);
        assert_eq!(state_beside(Mode::Null), State::Exclusive);
    }
}
