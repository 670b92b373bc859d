//! READ CAPACITY parameter data (SBC-3 §5.15, §5.16).

/// Size of a logical unit and how its blocks lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Number of logical blocks; at least 1.
    pub blocks: u64,
    /// Bytes of a logical block.
    pub block_length: u32,
    /// log2 of the logical blocks per physical block.
    pub physical_exponent: u8,
    /// Whether unmapped blocks exist (LBPME) and read as zeroes (LBPRZ).
    pub is_thin: bool,
}

impl Capacity {
    /// Length of READ CAPACITY (16) data, in bytes.
    pub const LONG_LEN: usize = 32;

    /// READ CAPACITY (10); a unit whose last block needs more than 32 bits says so with all ones.
    pub fn encode_short(&self) -> [u8; 8] {
        let last = u32::try_from(self.blocks.saturating_sub(1)).unwrap_or(u32::MAX);
        let mut out = [0; 8];
        out[..4].copy_from_slice(&last.to_be_bytes());
        out[4..].copy_from_slice(&self.block_length.to_be_bytes());
        out
    }

    /// READ CAPACITY (16).
    pub fn encode_long(&self) -> [u8; Self::LONG_LEN] {
        let mut out = [0; Self::LONG_LEN];
        out[..8].copy_from_slice(&self.blocks.saturating_sub(1).to_be_bytes());
        out[8..12].copy_from_slice(&self.block_length.to_be_bytes());
        out[13] = self.physical_exponent & 0x0f;
        if self.is_thin {
            out[14] = LBPME | LBPRZ;
        }
        out
    }

    /// From READ CAPACITY (16) data; `None` if it is too short or makes no sense (no block length, 2^64 blocks).
    pub fn parse_long(data: &[u8]) -> Option<Self> {
        let last = u64::from_be_bytes(data.get(..8)?.try_into().ok()?);
        let block_length = u32::from_be_bytes(data.get(8..12)?.try_into().ok()?);
        let byte = |at: usize| data.get(at).copied().unwrap_or(0);
        let blocks = last.checked_add(1)?;
        (block_length > 0 && blocks.checked_mul(u64::from(block_length)).is_some()).then_some(Self {
            blocks,
            block_length,
            physical_exponent: byte(13) & 0x0f,
            is_thin: byte(14) & LBPME != 0,
        })
    }
}

const LBPME: u8 = 0x80;
const LBPRZ: u8 = 0x40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_survives_the_wire_and_nonsense_is_refused() {
        let capacity = Capacity { blocks: 1 << 40, block_length: 4096, physical_exponent: 0, is_thin: true };
        assert_eq!(Capacity::parse_long(&capacity.encode_long()), Some(capacity));
        assert_eq!(capacity.encode_short()[..4], [0xff; 4]);
        assert_eq!(Capacity::parse_long(&[0xff; 32]), None);
        assert_eq!(Capacity::parse_long(&[0; 12]), None);
        assert_eq!(Capacity::parse_long(&[0; 4]), None);
    }
}
