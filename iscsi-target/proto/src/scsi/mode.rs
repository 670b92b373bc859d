//! MODE SENSE parameter data (SPC-4 §7.5, SBC-3 §6.4).

use super::operation::PageControl;
use super::sense::{AdditionalSense, Sense};

/// What the mode pages of a unit tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeProfile {
    pub blocks: u64,
    pub block_length: u32,
    pub is_read_only: bool,
    /// Writes are answered before they would survive a loss of power (WCE).
    pub write_cache: bool,
}

/// MODE SENSE data in the 6- or 10-byte (`long`) form, not yet cut to the allocation length.
pub fn mode_sense(
    profile: &ModeProfile,
    long: bool,
    no_block_descriptors: bool,
    control: PageControl,
    page: u8,
    subpage: u8,
) -> Result<Vec<u8>, Sense> {
    if control == PageControl::Saved {
        return Err(Sense { field: Some(2), ..Sense::illegal_request(SAVING_PARAMETERS_NOT_SUPPORTED) });
    }
    let pages = pages(profile, control, page, subpage)?;
    let descriptor = if no_block_descriptors { Vec::new() } else { block_descriptor(profile) };
    let mut device_specific = DPOFUA;
    if profile.is_read_only {
        device_specific |= WRITE_PROTECT;
    }
    let mut out = Vec::new();
    if long {
        let length = u16::try_from(6 + descriptor.len() + pages.len()).expect("invariant: the pages are short");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&[0, device_specific, 0, 0]);
        out.extend_from_slice(&(descriptor.len() as u16).to_be_bytes());
    } else {
        let length = u8::try_from(3 + descriptor.len() + pages.len()).expect("invariant: the pages are short");
        out.extend_from_slice(&[length, 0, device_specific, descriptor.len() as u8]);
    }
    out.extend_from_slice(&descriptor);
    out.extend_from_slice(&pages);
    Ok(out)
}

const SAVING_PARAMETERS_NOT_SUPPORTED: AdditionalSense = AdditionalSense { code: 0x39, qualifier: 0 };
const WRITE_PROTECT: u8 = 0x80;
const DPOFUA: u8 = 0x10;
const PAGE_CACHING: u8 = 0x08;
const PAGE_CONTROL: u8 = 0x0a;
const PAGE_ALL: u8 = 0x3f;
const SUBPAGE_ALL: u8 = 0xff;

fn pages(profile: &ModeProfile, control: PageControl, page: u8, subpage: u8) -> Result<Vec<u8>, Sense> {
    let subpages_allowed = page == PAGE_ALL && subpage == SUBPAGE_ALL;
    if subpage != 0 && !subpages_allowed {
        return Err(Sense::invalid_field(3));
    }
    match page {
        PAGE_CACHING => Ok(caching(profile, control)),
        PAGE_CONTROL => Ok(control_page(control)),
        PAGE_ALL => Ok([caching(profile, control), control_page(control)].concat()),
        _ => Err(Sense::invalid_field(2)),
    }
}

/// What MODE SELECT may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModeChange {
    pub write_cache: Option<bool>,
}

/// From a MODE SELECT parameter list, checked against what is so now: only WCE may differ.
pub fn mode_select(profile: &ModeProfile, long: bool, data: &[u8]) -> Result<ModeChange, Sense> {
    let length_error = || Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    let invalid = || Sense::illegal_request(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST);
    let mut change = ModeChange::default();
    if data.is_empty() {
        return Ok(change);
    }
    let byte = |at: usize| data.get(at).copied().ok_or_else(length_error);
    let (header, descriptors) =
        if long { (8, usize::from(u16::from_be_bytes([byte(6)?, byte(7)?]))) } else { (4, usize::from(byte(3)?)) };
    let mut pages = data.get(header..).ok_or_else(length_error)?;
    let descriptor = pages.get(..descriptors).ok_or_else(length_error)?;
    // A block length that is told must be the one that is.
    if !descriptor.is_empty() && (descriptor.len() != 8 || descriptor[5..8] != profile.block_length.to_be_bytes()[1..])
    {
        return Err(invalid());
    }
    pages = &pages[descriptors..];
    while let Some((head, rest)) = pages.split_first_chunk::<2>() {
        let body = rest.get(..usize::from(head[1])).ok_or_else(length_error)?;
        let (mut now, is_caching) = match head[0] & 0x7f {
            PAGE_CACHING => (caching(profile, PageControl::Current), true),
            PAGE_CONTROL => (control_page(PageControl::Current), false),
            _ => return Err(invalid()),
        };
        if is_caching && body.len() == now.len() - 2 {
            change.write_cache = Some(body[0] & WCE != 0);
            now[2] = now[2] & !WCE | body[0] & WCE;
        }
        if now[2..] != *body {
            return Err(invalid());
        }
        pages = &rest[body.len()..];
    }
    if pages.is_empty() { Ok(change) } else { Err(length_error()) }
}

const WCE: u8 = 0x04;

fn caching(profile: &ModeProfile, control: PageControl) -> Vec<u8> {
    let mut out = vec![0; 20];
    out[0] = PAGE_CACHING;
    out[1] = 18;
    if control == PageControl::Changeable || profile.write_cache {
        out[2] = WCE;
    }
    out
}

fn control_page(control: PageControl) -> Vec<u8> {
    let mut out = vec![0; 12];
    out[0] = PAGE_CONTROL;
    out[1] = 10;
    if control != PageControl::Changeable {
        out[3] = 0x10; // queue algorithm modifier 1: commands are carried out in any order
        out[5] = 0x40; // TAS: what one initiator port ends of another's is answered TASK ABORTED
        out[8..10].copy_from_slice(&[0xff, 0xff]); // busy timeout: unlimited
    }
    out
}

/// The short form; a unit with more blocks than it can tell says all ones.
fn block_descriptor(profile: &ModeProfile) -> Vec<u8> {
    let blocks = u32::try_from(profile.blocks).unwrap_or(u32::MAX);
    let [_, a, b, c] = profile.block_length.to_be_bytes();
    [&blocks.to_be_bytes()[..], &[0, a, b, c]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: ModeProfile = ModeProfile { blocks: 100, block_length: 512, is_read_only: true, write_cache: true };

    #[test]
    fn both_forms_tell_their_own_length_and_the_write_cache() {
        let short = mode_sense(&PROFILE, false, false, PageControl::Current, PAGE_ALL, 0).expect("the page exists");
        assert_eq!(usize::from(short[0]), short.len() - 1);
        assert_eq!(short[2], WRITE_PROTECT | DPOFUA);
        assert_eq!(short[4 + 8 + 2] & 0x04, 0x04);
        let long = mode_sense(&PROFILE, true, true, PageControl::Current, PAGE_CACHING, 0).expect("the page exists");
        assert_eq!(usize::from(u16::from_be_bytes([long[0], long[1]])), long.len() - 2);
        assert_eq!(long.len(), 8 + 20);
    }

    #[test]
    fn the_write_cache_can_be_changed_and_nothing_else() {
        let sensed =
            mode_sense(&PROFILE, false, false, PageControl::Current, PAGE_CACHING, 0).expect("the page exists");
        let mut list = [&[0, 0, 0, 8][..], &sensed[4..]].concat();
        assert_eq!(mode_select(&PROFILE, false, &list), Ok(ModeChange { write_cache: Some(true) }));
        list[14] &= !WCE;
        assert_eq!(mode_select(&PROFILE, false, &list), Ok(ModeChange { write_cache: Some(false) }));
        for length in 1..list.len() {
            let cut = mode_select(&PROFILE, false, &list[..length]);
            assert!(cut.is_err() || length == 4 + 8, "{length}");
        }
        list[14] |= 0x01;
        assert!(mode_select(&PROFILE, false, &list).is_err());
    }

    #[test]
    fn pages_and_values_that_do_not_exist_are_refused() {
        assert!(mode_sense(&PROFILE, false, false, PageControl::Current, 0x3e, 0).is_err());
        assert!(mode_sense(&PROFILE, false, false, PageControl::Current, PAGE_CACHING, 1).is_err());
        assert!(mode_sense(&PROFILE, false, false, PageControl::Saved, PAGE_CACHING, 0).is_err());
    }
}
