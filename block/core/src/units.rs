//! Byte positions and lengths that cannot be swapped for one another.

use std::fmt;
use std::ops::Add;

/// A position on a device, in bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteOffset(pub u64);

/// A length in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteLen(pub u64);

impl Add<ByteLen> for ByteOffset {
    type Output = ByteOffset;

    fn add(self, rhs: ByteLen) -> ByteOffset {
        ByteOffset(self.0.checked_add(rhs.0).expect("invariant: offsets are checked against the device's size"))
    }
}

impl ByteLen {
    /// Length of a buffer.
    pub fn of(bytes: &[u8]) -> ByteLen {
        ByteLen(bytes.len() as u64)
    }

    /// As a buffer length; `None` if it does not fit the address space.
    pub fn as_usize(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }
}

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}", self.0)
    }
}

impl fmt::Display for ByteLen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}
