//! Mounting and unmounting, and the task that runs in between.

mod background;
mod slot;
mod start;
mod stop;

pub use start::MountOptions;
