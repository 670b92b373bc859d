//! The lock manager port, and how a request ends.

use std::fmt;
use std::ops::BitOr;
use std::sync::Arc;

use base::BoxFuture;

use crate::{Mode, ResourceName, ValueBlock};

/// A lock of this process in a lockspace, unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockId(pub u64);

/// Options of a request; the names are libdlm's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    pub const NONE: Flags = Flags(0);
    /// Fail with `WouldBlock` rather than wait.
    pub const NOQUEUE: Flags = Flags(1);
    /// Read or write the value block as the modes say.
    pub const VALBLK: Flags = Flags(1 << 1);
    /// A conversion waits behind those that wait already.
    pub const QUECVT: Flags = Flags(1 << 2);
    /// Send blocking callbacks although NOQUEUE.
    pub const NOQUEUEBAST: Flags = Flags(1 << 3);

    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Flags;

    fn bitor(self, rhs: Flags) -> Flags {
        Flags(self.0 | rhs.0)
    }
}

/// A request that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub mode: Mode,
    /// The resource's value block if VALBLK was asked for and the modes return it.
    pub value: Option<ValueBlock>,
    /// False after a loss that may have taken the newest value with it (VALNOTVALID).
    pub is_value_valid: bool,
}

/// Why a request was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockError {
    /// NOQUEUE, and it would have had to wait.
    WouldBlock,
    /// Cancelled by its owner.
    Cancelled,
    /// Two conversions wait for one another.
    Deadlock,
    /// No such lock, or it has a request under way.
    Busy {
        lock: LockId,
    },
    UnknownLock {
        lock: LockId,
    },
    /// The lockspace cannot answer: a member is lost, or this member has left.
    Unavailable {
        what: String,
    },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => write!(f, "another holder has the lock"),
            Self::Cancelled => write!(f, "the request was cancelled"),
            Self::Deadlock => write!(f, "the conversion would deadlock"),
            Self::Busy { lock } => write!(f, "lock {} has a request under way", lock.0),
            Self::UnknownLock { lock } => write!(f, "there is no lock {}", lock.0),
            Self::Unavailable { what } => write!(f, "the lockspace is unavailable: {what}"),
        }
    }
}

impl std::error::Error for LockError {}

/// How a request ends, later.
pub type LockFuture<T> = BoxFuture<'static, Result<T, LockError>>;

/// Told when a lock stands in the way of a request for the given mode. May be repeated; may come
/// before the owner has seen its own grant. Must not block or call back into the manager.
pub type BlockingCallback = Arc<dyn Fn(Mode) + Send + Sync>;

/// A lockspace as one member sees it. One request per lock may be under way.
///
/// Dropping a returned future does not withdraw the request: cancel it.
pub trait LockManager: Send + Sync + 'static {
    /// Asks for a new lock. The id is valid at once, for `cancel`; after an error it is gone.
    fn lock(
        &self,
        name: ResourceName,
        mode: Mode,
        flags: Flags,
        blocking: BlockingCallback,
    ) -> (LockId, LockFuture<Granted>);
    /// Changes the mode of a granted lock. `value` is written to the resource when the conversion
    /// goes down from PW or EX and VALBLK is set.
    fn convert(&self, lock: LockId, mode: Mode, flags: Flags, value: Option<ValueBlock>) -> LockFuture<Granted>;
    /// Gives the lock up. `value` is written from PW or EX.
    fn unlock(&self, lock: LockId, value: Option<ValueBlock>) -> LockFuture<()>;
    /// Withdraws a waiting request: a new lock ends with `Cancelled` and is gone, a conversion
    /// falls back to its granted mode. Without effect if it was granted meanwhile.
    fn cancel(&self, lock: LockId);
}
