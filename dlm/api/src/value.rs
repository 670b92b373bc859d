//! Lock value blocks.

/// 32 bytes that travel with a resource: written by a holder of PW or EX on its way down, read by
/// whoever comes after. A cache of what the lock protects, never the only copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ValueBlock(pub [u8; 32]);
