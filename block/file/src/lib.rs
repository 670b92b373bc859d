//! Regular files and block devices as block devices, through ordinary system calls on the caller's
//! thread or a small pool, and direct ones through io_uring. Works with futures from any executor.
//!
//! Knows the operating system; never what is stored in the blocks.

mod direct;
mod file;
mod open;
mod pool;
mod ring;
mod system;

pub use file::FileDevice;
pub use open::{OpenError, OpenErrorCause, OpenOptions};
