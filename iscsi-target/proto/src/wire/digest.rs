//! CRC32C digests of headers and data segments.

/// Whether a digest follows a header or a data segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Digest {
    #[default]
    None,
    Crc32c,
}

impl Digest {
    /// Length on the wire, in bytes.
    pub fn len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc32c => 4,
        }
    }

    /// Whether nothing is sent.
    pub fn is_empty(self) -> bool {
        self == Self::None
    }
}

/// CRC32C of `bytes` after a part whose checksum is `seed` (0 at the start).
pub(super) fn append(seed: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(seed, bytes)
}

/// The checksum as it is sent: least significant byte first (RFC 7143 §13.1 counts bits from the other end).
pub(super) fn to_wire(checksum: u32) -> [u8; 4] {
    checksum.to_le_bytes()
}

/// The checksum from the wire.
pub(super) fn from_wire(bytes: [u8; 4]) -> u32 {
    u32::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_7143_appendix_a_come_out() {
        assert_eq!(to_wire(append(0, &[0; 32])), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(to_wire(append(0, &[0xff; 32])), [0x43, 0xab, 0xa8, 0x62]);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(to_wire(append(append(0, &rising[..7]), &rising[7..])), [0x4e, 0x79, 0xdd, 0x46]);
    }
}
