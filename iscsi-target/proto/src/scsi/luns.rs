//! REPORT LUNS parameter data (SPC-4 §6.33).

use crate::pdu::LunField;

/// The list of logical units, as single-level numbers.
pub fn encode_luns(numbers: &[u16]) -> Vec<u8> {
    let length = u32::try_from(numbers.len() * 8).expect("invariant: there are at most 2^16 numbers");
    let mut out = Vec::with_capacity(8 + numbers.len() * 8);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    for number in numbers {
        out.extend_from_slice(&LunField::single_level(*number).raw().to_be_bytes());
    }
    out
}

/// The single-level numbers of a list; entries in other forms are left out, `None` if it is cut short.
pub fn parse_luns(data: &[u8]) -> Option<Vec<u16>> {
    let length = u32::from_be_bytes(data.get(..4)?.try_into().ok()?);
    let list = data.get(8..8usize.checked_add(length as usize)?)?;
    let fields = list.chunks_exact(8).filter_map(|raw| zerocopy::FromBytes::read_from_bytes(raw).ok());
    Some(fields.filter_map(LunField::number).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_survives_the_wire_and_a_cut_one_is_refused() {
        let list = encode_luns(&[0, 1, 300]);
        assert_eq!(parse_luns(&list), Some(vec![0, 1, 300]));
        assert_eq!(parse_luns(&list[..list.len() - 1]), None);
        assert_eq!(parse_luns(&[]), None);
    }
}
