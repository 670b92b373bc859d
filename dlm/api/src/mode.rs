//! The six lock modes and their compatibility.

use std::fmt;

/// What a lock allows its holder and refuses to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mode {
    /// NL: interest only.
    Null = 0,
    /// CR: unprotected reading.
    ConcurrentRead = 1,
    /// CW: unprotected writing.
    ConcurrentWrite = 2,
    /// PR: reading, nobody writes (shared).
    ProtectedRead = 3,
    /// PW: writing, others read unprotected (update).
    ProtectedWrite = 4,
    /// EX: alone.
    Exclusive = 5,
}

impl Mode {
    pub const ALL: [Mode; 6] = [
        Mode::Null,
        Mode::ConcurrentRead,
        Mode::ConcurrentWrite,
        Mode::ProtectedRead,
        Mode::ProtectedWrite,
        Mode::Exclusive,
    ];

    /// Whether two holders may have these modes of one resource at once.
    pub fn is_compatible(self, other: Mode) -> bool {
        // Row: held; bit: asked. VAXcluster Principles, ch. 6; the same in Linux's fs/dlm.
        const COMPATIBLE: [u8; 6] = [0b11_1111, 0b01_1111, 0b00_0111, 0b00_1011, 0b00_0011, 0b00_0001];
        COMPATIBLE[self as usize] & (1 << other as u8) != 0
    }

    /// Whether everything that is refused next to `other` is refused next to this mode too: to
    /// make way for this mode is to make way for `other`.
    pub fn covers(self, other: Mode) -> bool {
        Mode::ALL.iter().all(|held| other.is_compatible(*held) || !self.is_compatible(*held))
    }

    /// From its number on the wire.
    pub fn from_number(number: u8) -> Option<Mode> {
        Mode::ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(["NL", "CR", "CW", "PR", "PW", "EX"][*self as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compatibility_is_symmetric_and_as_published() {
        let published = ["111111", "111110", "111000", "110100", "110000", "100000"];
        for (a, row) in Mode::ALL.iter().zip(published) {
            for (b, cell) in Mode::ALL.iter().zip(row.chars()) {
                assert_eq!(a.is_compatible(*b), cell == '1', "{a} with {b}");
                assert_eq!(a.is_compatible(*b), b.is_compatible(*a), "{a} with {b}");
            }
        }
    }
}
