//! Resource names.

use std::fmt;
use std::sync::Arc;

/// Name of a resource: 1 to 64 bytes of any value. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(Arc<[u8]>);

impl ResourceName {
    /// Longest name in bytes.
    pub const MAX: usize = 64;

    /// `None` unless `bytes` has 1 to 64 of them.
    pub fn new(bytes: &[u8]) -> Option<ResourceName> {
        (1..=Self::MAX).contains(&bytes.len()).then(|| ResourceName(bytes.into()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}
