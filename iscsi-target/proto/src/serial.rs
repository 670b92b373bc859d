//! Serial numbers that wrap around (RFC 7143 §4.2.2, RFC 1982 with 32 bits): CmdSN, StatSN, DataSN, R2TSN.
//!
//! Comparison is only meaningful within half the number space; both session machines use nothing but these methods.

use std::fmt;

/// A 32-bit number that is compared and advanced modulo 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SerialNumber(pub u32);

impl SerialNumber {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// The number `count` after this one.
    #[must_use]
    pub fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// Whether this number comes before `other`.
    pub fn is_before(self, other: Self) -> bool {
        self != other && other.0.wrapping_sub(self.0) < HALF
    }

    /// Whether this number comes after `other`.
    pub fn is_after(self, other: Self) -> bool {
        other.is_before(self)
    }

    /// How many steps lead from `earlier` to this one; 0 if it is not after `earlier`.
    pub fn steps_since(self, earlier: Self) -> u32 {
        if earlier.is_before(self) { self.0.wrapping_sub(earlier.0) } else { 0 }
    }

    /// Whether this number lies in `first..=last`; an empty window (`last` one before `first`) has none.
    pub fn is_within(self, first: Self, last: Self) -> bool {
        !self.is_before(first) && !self.is_after(last)
    }
}

impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

const HALF: u32 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_holds_across_the_wrap() {
        let last = SerialNumber(u32::MAX);
        assert!(last.is_before(last.next()));
        assert!(last.next().is_after(last));
        assert_eq!(SerialNumber(3).steps_since(SerialNumber(u32::MAX - 1)), 5);
        assert_eq!(SerialNumber(3).steps_since(SerialNumber(4)), 0);
    }

    #[test]
    fn an_empty_window_holds_nothing() {
        let first = SerialNumber(0);
        let last = SerialNumber(u32::MAX);
        assert!(!first.is_within(first, last));
        assert!(first.is_within(first, first));
        assert!(SerialNumber(1).is_within(SerialNumber(u32::MAX), SerialNumber(2)));
    }
}
