//! What clients do in each world, seeded, with their deliberate faults.

pub mod locks;
pub mod posix;
