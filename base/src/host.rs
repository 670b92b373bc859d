//! The host port: time, randomness and spawn for code that has no runtime of its own.
//!
//! In a real process it is a tokio handle and the kernel's clocks; in the simulator it is the
//! seeded executor. Code above this port never learns which.

use std::future::Future;
use std::pin::Pin;

use crate::time::{Instant, WallTime};

/// A boxed future that may move between threads. `'static` unless said otherwise.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Time, randomness and spawn.
pub trait Host: Send + Sync + 'static {
    /// Monotonic time since an arbitrary origin.
    fn now(&self) -> Instant;
    /// Time of day, for the time stamps of files.
    fn wall_time(&self) -> WallTime;
    /// Completes at `deadline` or soon after.
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()>;
    /// Runs `task` to its end. A task that panics takes the process down.
    fn spawn(&self, task: BoxFuture<'static, ()>);
    /// 64 random bits; seeded in the simulator.
    fn random(&self) -> u64;
}
