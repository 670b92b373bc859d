//! Thin provisioning: the parameter list of UNMAP and the answer to GET LBA STATUS (SBC-3 §5.28, §5.6).

use super::sense::{AdditionalSense, Sense};

/// Ranges in one UNMAP, at most.
pub const UNMAP_RANGES_MAX: u32 = 256;

/// Ranges (block address and count) of an UNMAP parameter list; those of no blocks are left out.
pub fn parse_unmap(data: &[u8]) -> Result<Vec<(u64, u32)>, Sense> {
    if data.is_empty() {
        return Ok(Vec::new());
    }
    let Some((header, rest)) = data.split_first_chunk::<8>() else {
        return Err(Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR));
    };
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // Incomplete descriptors at the end are ignored, as the standard says.
    let descriptors = rest[..length.min(rest.len())].chunks_exact(16);
    if descriptors.len() > UNMAP_RANGES_MAX as usize {
        return Err(Sense::illegal_request(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST));
    }
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let ranges = descriptors.map(|raw| (number(&raw[..8]), number(&raw[8..12]) as u32));
    Ok(ranges.filter(|(_, blocks)| *blocks > 0).collect())
}

/// Blocks that are all mapped or all not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LbaExtent {
    pub lba: u64,
    /// Not 0.
    pub blocks: u32,
    pub is_mapped: bool,
}

/// GET LBA STATUS parameter data.
pub fn encode_lba_status(extents: &[LbaExtent]) -> Vec<u8> {
    const DEALLOCATED: u8 = 1;
    let length = u32::try_from(4 + extents.len() * 16).expect("invariant: callers limit extents");
    let mut out = length.to_be_bytes().to_vec();
    out.extend_from_slice(&[0; 4]);
    for extent in extents {
        out.extend_from_slice(&extent.lba.to_be_bytes());
        out.extend_from_slice(&extent.blocks.to_be_bytes());
        out.extend_from_slice(&[if extent.is_mapped { 0 } else { DEALLOCATED }, 0, 0, 0]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_a_cut_header_is_refused() {
        let mut data = vec![0, 38, 0, 32, 0, 0, 0, 0];
        data.extend_from_slice(&[&7u64.to_be_bytes()[..], &9u32.to_be_bytes(), &[0; 4]].concat());
        data.extend_from_slice(&[0; 16]);
        assert_eq!(parse_unmap(&data), Ok(vec![(7, 9)]));
        assert_eq!(parse_unmap(&data[..30]), Ok(vec![(7, 9)]));
        assert_eq!(parse_unmap(&[]), Ok(vec![]));
        assert!(parse_unmap(&data[..7]).is_err());
        let many = [&[0, 0, 0x10, 0x10, 0, 0, 0, 0][..], &[1; 257 * 16]].concat();
        assert!(parse_unmap(&many).is_err());
    }

    #[test]
    fn a_status_tells_its_own_length() {
        let data = encode_lba_status(&[LbaExtent { lba: 3, blocks: 4, is_mapped: false }]);
        assert_eq!((data.len(), data[3], data[15], data[19], data[20]), (24, 20, 3, 4, 1));
    }
}
