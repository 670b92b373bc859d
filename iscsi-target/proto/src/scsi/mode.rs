//! MODE SENSE parameter data (SPC-4 §7.5, SBC-3 §6.4).

use super::cdb::PageControl;
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

/// Nothing in our pages can be changed by MODE SELECT, so a mask of changeable bits is all zeroes.
fn caching(profile: &ModeProfile, control: PageControl) -> Vec<u8> {
    let mut out = vec![0; 20];
    out[0] = PAGE_CACHING;
    out[1] = 18;
    if control != PageControl::Changeable && profile.write_cache {
        out[2] = 0x04; // WCE
    }
    out
}

fn control_page(control: PageControl) -> Vec<u8> {
    let mut out = vec![0; 12];
    out[0] = PAGE_CONTROL;
    out[1] = 10;
    if control != PageControl::Changeable {
        out[3] = 0x10; // queue algorithm modifier 1: commands are carried out in any order
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
    fn pages_and_values_that_do_not_exist_are_refused() {
        assert!(mode_sense(&PROFILE, false, false, PageControl::Current, 0x3e, 0).is_err());
        assert!(mode_sense(&PROFILE, false, false, PageControl::Current, PAGE_CACHING, 1).is_err());
        assert!(mode_sense(&PROFILE, false, false, PageControl::Saved, PAGE_CACHING, 0).is_err());
    }
}
