//! What users of locks see: modes, names, value blocks, outcomes, and the lock manager port.
//!
//! The semantics are the Linux and VMS lock managers'. Knows no message, node or file.

pub mod completion;
pub mod local;
pub mod manager;
pub mod mode;
pub mod name;
pub mod queues;
pub mod value;

pub use local::LocalLocks;
pub use manager::{BlockingCallback, Flags, Granted, LockError, LockFuture, LockId, LockManager};
pub use mode::Mode;
pub use name::ResourceName;
pub use value::ValueBlock;
