//! EXTENDED COPY in its older form (LID1): parameter list, limits, status (SPC-4 §6.3, §6.4, §7.8.17).
//!
//! Copies between units of one target only, block to block, by whole blocks.

use super::sense::{AdditionalSense, Sense, SenseKey};

/// What each side may have in one command.
const TARGETS_MAX: u16 = 8;
const SEGMENTS_MAX: u16 = 64;
/// Bytes of one segment.
pub const SEGMENT_BYTES_MAX: u32 = 64 * 1024 * 1024;
const DESCRIPTORS_LEN_MAX: u32 = TARGETS_MAX as u32 * TARGET_LEN as u32 + SEGMENTS_MAX as u32 * OFFSET_LEN as u32;

/// Most bytes of a parameter list, and more than [`parse_copy`] takes: it says which limit was passed.
pub const COPY_LIST_MAX: u32 = 2 * (HEADER_LEN as u32 + DESCRIPTORS_LEN_MAX);

const HEADER_LEN: usize = 16;
const TARGET_LEN: usize = 32;
const BLOCKS_LEN: usize = 28;
const OFFSET_LEN: usize = 32;
/// Descriptor types.
const BLOCK_TO_BLOCK: u8 = 0x02;
const BLOCK_TO_BLOCK_OFFSET: u8 = 0x0a;
const IDENTIFICATION: u8 = 0xe4;

/// A copy that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyList {
    /// `None` where no status is kept.
    pub list: Option<u8>,
    /// The units, each by its NAA designator; `None` for another kind of designator.
    pub units: Vec<Option<u64>>,
    pub segments: Vec<Segment>,
}

/// A piece of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Indexes of [`CopyList::units`], not checked.
    pub source: u16,
    pub destination: u16,
    pub source_lba: u64,
    pub destination_lba: u64,
    pub amount: Amount,
}

/// How much a segment copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Blocks of the source, or of the destination.
    Blocks { count: u16, of_destination: bool },
    /// Bytes, from byte offsets within the first blocks.
    Bytes { count: u32, source_offset: u16, destination_offset: u16 },
}

/// From a parameter list.
pub fn parse_copy(data: &[u8]) -> Result<CopyList, Sense> {
    let illegal = |what| Err(Sense::illegal_request(what));
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let Some((header, rest)) = data.split_first_chunk::<HEADER_LEN>() else {
        return illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    };
    let targets_len = number(&header[2..4]) as usize;
    let segments_len = number(&header[8..12]) as usize;
    let inline_len = number(&header[12..16]);
    if targets_len + segments_len > DESCRIPTORS_LEN_MAX as usize {
        return illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    }
    if targets_len / TARGET_LEN > usize::from(TARGETS_MAX) {
        return illegal(AdditionalSense::TOO_MANY_TARGET_DESCRIPTORS);
    }
    if segments_len / BLOCKS_LEN > usize::from(SEGMENTS_MAX) {
        return illegal(AdditionalSense::TOO_MANY_SEGMENT_DESCRIPTORS);
    }
    if inline_len > 0 || !targets_len.is_multiple_of(TARGET_LEN) {
        return illegal(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST);
    }
    let Some(mut descriptors) = rest.get(targets_len..).and_then(|rest| rest.get(..segments_len)) else {
        return illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    };
    let mut units = Vec::new();
    for raw in rest[..targets_len].chunks_exact(TARGET_LEN) {
        if raw[0] != IDENTIFICATION {
            return illegal(AdditionalSense::UNSUPPORTED_TARGET_DESCRIPTOR);
        }
        const NAA: u8 = 3;
        let is_naa = raw[5] & 0x0f == NAA && raw[7] == 8;
        units.push(is_naa.then(|| number(&raw[8..16])));
    }
    let mut segments = Vec::new();
    while let Some(kind) = descriptors.first() {
        let length = match *kind {
            BLOCK_TO_BLOCK => BLOCKS_LEN,
            BLOCK_TO_BLOCK_OFFSET => OFFSET_LEN,
            _ => return illegal(AdditionalSense::UNSUPPORTED_SEGMENT_DESCRIPTOR),
        };
        let Some((raw, following)) = descriptors.split_at_checked(length) else {
            return illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
        };
        if number(&raw[2..4]) as usize != length - 4 {
            return illegal(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST);
        }
        let amount = if length == BLOCKS_LEN {
            Amount::Blocks { count: number(&raw[10..12]) as u16, of_destination: raw[1] & 0x02 != 0 }
        } else {
            Amount::Bytes {
                count: number(&raw[8..12]) as u32,
                source_offset: number(&raw[28..30]) as u16,
                destination_offset: number(&raw[30..32]) as u16,
            }
        };
        segments.push(Segment {
            source: number(&raw[4..6]) as u16,
            destination: number(&raw[6..8]) as u16,
            source_lba: number(&raw[12..20]),
            destination_lba: number(&raw[20..28]),
            amount,
        });
        descriptors = following;
    }
    const NO_LIST: u8 = 3;
    let list = (header[1] >> 3 & 3 != NO_LIST).then_some(header[0]);
    Ok(CopyList { list, units, segments })
}

/// Why a copy that was begun ended early.
pub fn copy_aborted(additional: AdditionalSense) -> Sense {
    Sense::new(SenseKey::CopyAborted, additional)
}

/// RECEIVE COPY RESULTS, operating parameters.
pub fn copy_parameters() -> Vec<u8> {
    let codes = [BLOCK_TO_BLOCK, BLOCK_TO_BLOCK_OFFSET, IDENTIFICATION];
    let mut out = vec![0; 44];
    out[0..4].copy_from_slice(&((44 + codes.len() - 4) as u32).to_be_bytes());
    out[4] = 1; // SNLID: a list identifier is not needed
    out[8..10].copy_from_slice(&TARGETS_MAX.to_be_bytes());
    out[10..12].copy_from_slice(&SEGMENTS_MAX.to_be_bytes());
    out[12..16].copy_from_slice(&DESCRIPTORS_LEN_MAX.to_be_bytes());
    out[16..20].copy_from_slice(&SEGMENT_BYTES_MAX.to_be_bytes());
    out[34..36].copy_from_slice(&128u16.to_be_bytes());
    out[36] = 128; // copies at once
    out[37] = 9; // granularity of a segment: 2^9 bytes
    out[43] = codes.len() as u8;
    out.extend_from_slice(&codes);
    out
}

/// RECEIVE COPY RESULTS, status of a copy that has ended: well or not, with this many segments.
pub fn copy_status(is_good: bool, segments: u16) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 8, if is_good { 0x01 } else { 0x02 }];
    out.extend_from_slice(&segments.to_be_bytes());
    out.resize(12, 0);
    out
}

/// Body of the third-party copy page.
pub fn third_party_page() -> Vec<u8> {
    let mut out = Vec::new();
    let mut add = |kind: u16, body: &[u8]| {
        let length = body.len().next_multiple_of(4);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&(length as u16).to_be_bytes());
        out.extend_from_slice(body);
        out.resize(out.len() + length - body.len(), 0);
    };
    // Commands: EXTENDED COPY (LID1); RECEIVE COPY STATUS and OPERATING PARAMETERS.
    add(0x0001, &[7, 0x83, 1, 0x00, 0x84, 2, 0x00, 0x03]);
    let limits = [&[0; 4][..], &TARGETS_MAX.to_be_bytes(), &SEGMENTS_MAX.to_be_bytes()].concat();
    add(0x0004, &[&limits[..], &DESCRIPTORS_LEN_MAX.to_be_bytes(), &[0; 16]].concat());
    add(0x0008, &[3, BLOCK_TO_BLOCK, BLOCK_TO_BLOCK_OFFSET, IDENTIFICATION]);
    add(0x000c, &[0, 0]);
    let copies = 128u32.to_be_bytes();
    add(0x8001, &[&copies[..], &copies, &SEGMENT_BYTES_MAX.to_be_bytes(), &[9, 0], &[0; 18]].concat());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(target: u8, segment: u8) -> Vec<u8> {
        let mut data = vec![0; HEADER_LEN + TARGET_LEN + BLOCKS_LEN];
        data[0] = 5;
        data[3] = TARGET_LEN as u8;
        data[11] = BLOCKS_LEN as u8;
        data[16] = target;
        data[16 + 5] = 3;
        data[16 + 7] = 8;
        data[16 + 15] = 0x77;
        data[48] = segment;
        data[48 + 3] = 24;
        data[48 + 11] = 9;
        data[48 + 27] = 40;
        data
    }

    #[test]
    fn a_list_tells_units_and_segments() {
        let parsed = parse_copy(&list(IDENTIFICATION, BLOCK_TO_BLOCK)).expect("a good list");
        assert_eq!((parsed.list, parsed.units), (Some(5), vec![Some(0x77)]));
        let amount = Amount::Blocks { count: 9, of_destination: false };
        let segment = Segment { source: 0, destination: 0, source_lba: 0, destination_lba: 40, amount };
        assert_eq!(parsed.segments, [segment]);
    }

    #[test]
    fn other_descriptors_and_cut_lists_are_refused() {
        let refused = |data: &[u8]| parse_copy(data).expect_err("refused").additional;
        let good = list(IDENTIFICATION, BLOCK_TO_BLOCK);
        assert_eq!(refused(&list(0xe0, BLOCK_TO_BLOCK)), AdditionalSense::UNSUPPORTED_TARGET_DESCRIPTOR);
        assert_eq!(refused(&list(IDENTIFICATION, 3)), AdditionalSense::UNSUPPORTED_SEGMENT_DESCRIPTOR);
        for length in 0..good.len() {
            assert_eq!(refused(&good[..length]), AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
        }
    }
}
