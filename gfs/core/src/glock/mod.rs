//! Glocks: cluster locks that own caches.

pub mod gate;
