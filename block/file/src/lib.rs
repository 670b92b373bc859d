//! Regular files and block devices as block devices, through ordinary system calls on a small
//! thread pool. Works with futures from any executor.
//!
//! Knows the operating system; never what is stored in the blocks.

mod direct;
mod file;
mod open;
mod pool;
mod system;

pub use file::FileDevice;
pub use open::{OpenError, OpenErrorCause, OpenOptions};
