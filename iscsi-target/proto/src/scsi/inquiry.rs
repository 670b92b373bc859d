//! INQUIRY: standard data and vital product data pages (SPC-4 §6.6, §7.8; SBC-3 §6.5).

use super::copy::third_party_page;
use super::provisioning::UNMAP_RANGES_MAX;

/// Most blocks in one COMPARE AND WRITE.
pub const COMPARE_BLOCKS_MAX: u8 = 255;

/// Who a logical unit says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InquiryIdentity {
    /// Unit serial number, ASCII, at most 36 characters.
    pub serial: String,
    /// The target's iSCSI name, for the device identification page.
    pub target_name: String,
    /// Identifies the unit in the world: a NAA locally assigned number (the first hexadecimal digit is 3).
    pub naa: u64,
    pub labels: InquiryLabels,
}

/// What a logical unit is called; an administrator may choose it, so that what initiators have noted of an older target stays
/// true. ASCII; what is too long is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InquiryLabels {
    /// 8 characters.
    pub vendor: String,
    /// 16 characters.
    pub product: String,
    /// 4 characters.
    pub revision: String,
    /// The designator that begins with a vendor (T10 vendor ID based); `None`: our vendor and the serial number.
    pub designator: Option<String>,
}

impl Default for InquiryLabels {
    fn default() -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        Self { vendor: text(VENDOR), product: text(PRODUCT), revision: text(REVISION), designator: None }
    }
}

/// What a logical unit can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitProfile {
    pub identity: InquiryIdentity,
    /// Unmapped blocks exist.
    pub is_thin: bool,
    /// Most blocks in one command.
    pub transfer_blocks_max: u32,
    /// Blocks of a transfer that is best for speed.
    pub transfer_blocks_best: u32,
    /// Most blocks in one WRITE ATOMIC.
    pub atomic_blocks_max: u32,
    /// Most blocks in one WRITE SAME.
    pub same_blocks_max: u32,
}

/// Standard INQUIRY data as an initiator reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandardInquiry {
    /// 0 is a disk.
    pub device_type: u8,
    /// 0 where a unit is connected.
    pub qualifier: u8,
    pub vendor: String,
    pub product: String,
    pub revision: String,
}

impl StandardInquiry {
    /// `None` if it is shorter than the 36 bytes that every device returns.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let text = |from: usize, to: usize| Some(String::from_utf8_lossy(data.get(from..to)?).trim_end().to_owned());
        Some(Self {
            device_type: data.first()? & 0x1f,
            qualifier: data[0] >> 5,
            vendor: text(8, 16)?,
            product: text(16, 32)?,
            revision: text(32, 36)?,
        })
    }
}

impl UnitProfile {
    /// Standard INQUIRY data.
    pub fn standard(&self) -> Vec<u8> {
        let mut out = standard(TYPE_DISK);
        let labels = &self.identity.labels;
        for (range, text) in [(8..16, &labels.vendor), (16..32, &labels.product), (32..36, &labels.revision)] {
            let blanks = std::iter::repeat(b' ');
            out[range].iter_mut().zip(text.bytes().chain(blanks)).for_each(|(byte, of_text)| *byte = of_text);
        }
        out
    }
}

impl InquiryIdentity {
    /// Standard INQUIRY data of a logical unit number without a unit (peripheral qualifier 3).
    pub fn nobody() -> Vec<u8> {
        standard(NO_UNIT)
    }
}

/// The vital product data page `page`; `None` if there is none.
pub fn inquiry_page(profile: &UnitProfile, page: u8) -> Option<Vec<u8>> {
    let body = match page {
        SUPPORTED_PAGES => vec![
            SUPPORTED_PAGES,
            UNIT_SERIAL_NUMBER,
            DEVICE_IDENTIFICATION,
            EXTENDED_INQUIRY,
            THIRD_PARTY_COPY,
            BLOCK_LIMITS,
            BLOCK_DEVICE_CHARACTERISTICS,
            LOGICAL_BLOCK_PROVISIONING,
        ],
        UNIT_SERIAL_NUMBER => profile.identity.serial.as_bytes().to_vec(),
        DEVICE_IDENTIFICATION => device_identification(&profile.identity),
        EXTENDED_INQUIRY => extended_inquiry(),
        THIRD_PARTY_COPY => third_party_page(),
        BLOCK_LIMITS => block_limits(profile),
        BLOCK_DEVICE_CHARACTERISTICS => block_device_characteristics(),
        LOGICAL_BLOCK_PROVISIONING => logical_block_provisioning(profile),
        _ => return None,
    };
    let length = u16::try_from(body.len()).expect("invariant: no page comes near 64 KiB");
    let mut out = vec![TYPE_DISK, page];
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&body);
    Some(out)
}

const VENDOR: &[u8; 8] = b"CORRAL  ";
const PRODUCT: &[u8; 16] = b"shared disk     ";
const REVISION: &[u8; 4] = b"0001";

const TYPE_DISK: u8 = 0x00;
/// Peripheral qualifier 3 with device type "unknown".
const NO_UNIT: u8 = 0x7f;

const SUPPORTED_PAGES: u8 = 0x00;
const UNIT_SERIAL_NUMBER: u8 = 0x80;
const DEVICE_IDENTIFICATION: u8 = 0x83;
const EXTENDED_INQUIRY: u8 = 0x86;
const THIRD_PARTY_COPY: u8 = 0x8f;
const BLOCK_LIMITS: u8 = 0xb0;
const BLOCK_DEVICE_CHARACTERISTICS: u8 = 0xb1;
const LOGICAL_BLOCK_PROVISIONING: u8 = 0xb2;

/// Versions of the standards that the unit follows: SAM-5, SPC-4, SBC-3, iSCSI (SPC-4 §6.6.2, table of descriptors).
const VERSION_DESCRIPTORS: [u16; 4] = [0x00a0, 0x0460, 0x04c0, 0x0960];

fn standard(peripheral: u8) -> Vec<u8> {
    let mut out = vec![0; 74];
    out[0] = peripheral;
    out[2] = 0x06; // SPC-4
    out[3] = 0x10 | 0x02; // HISUP, response data format 2
    out[4] = (out.len() - 5) as u8;
    out[5] = 0x08; // 3PC: EXTENDED COPY
    out[7] = 0x02; // CMDQUE
    out[8..16].copy_from_slice(VENDOR);
    out[16..32].copy_from_slice(PRODUCT);
    out[32..36].copy_from_slice(REVISION);
    for (slot, version) in out[58..74].chunks_exact_mut(2).zip(VERSION_DESCRIPTORS) {
        slot.copy_from_slice(&version.to_be_bytes());
    }
    out
}

/// A designator: protocol and code set, association and type, the identifier itself (SPC-4 §7.8.5).
fn designator(out: &mut Vec<u8>, code_set: u8, kind: u8, identifier: &[u8]) {
    let length = u8::try_from(identifier.len()).expect("invariant: callers cut identifiers to 255 bytes");
    out.extend_from_slice(&[code_set, kind, 0, length]);
    out.extend_from_slice(identifier);
}

fn device_identification(identity: &InquiryIdentity) -> Vec<u8> {
    const BINARY: u8 = 1;
    const ASCII: u8 = 2;
    const UTF8: u8 = 3;
    let mut out = Vec::new();
    designator(&mut out, BINARY, 0x03, &identity.naa.to_be_bytes());
    let vendor_specific = match &identity.labels.designator {
        Some(designator) => designator.as_bytes()[..designator.len().min(64)].to_vec(),
        None => [VENDOR.as_slice(), identity.serial.as_bytes()].concat(),
    };
    designator(&mut out, ASCII, 0x01, &vendor_specific);
    // The target device's SCSI name: protocol iSCSI, PIV, association "target device", padded with zeroes to 4.
    let mut name = identity.target_name.as_bytes()[..identity.target_name.len().min(223)].to_vec();
    name.resize((name.len() + 1).next_multiple_of(4), 0);
    designator(&mut out, 0x50 | UTF8, 0x80 | 0x20 | 0x08, &name);
    out
}

fn block_limits(profile: &UnitProfile) -> Vec<u8> {
    const NO_LIMIT: u32 = u32::MAX;
    let mut out = vec![0; 60];
    out[1] = COMPARE_BLOCKS_MAX;
    let mut put = |at: usize, value: u32| out[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put(4, profile.transfer_blocks_max);
    put(8, profile.transfer_blocks_best);
    if profile.is_thin {
        put(16, NO_LIMIT); // blocks of one UNMAP
        put(20, UNMAP_RANGES_MAX);
        put(24, 8); // granularity that is best: a page of the file
    }
    put(36, profile.same_blocks_max);
    put(40, profile.atomic_blocks_max);
    out
}

/// Nothing is protected by check bits; commands are simple, ordered or head of queue; power on clears no cache.
fn extended_inquiry() -> Vec<u8> {
    let mut out = vec![0; 60];
    out[1] = 0x07; // HEADSUP, ORDSUP, SIMPSUP
    out
}

fn block_device_characteristics() -> Vec<u8> {
    let mut out = vec![0; 60];
    out[1] = 0x01; // medium rotation rate: it does not rotate
    out
}

fn logical_block_provisioning(profile: &UnitProfile) -> Vec<u8> {
    let mut out = vec![0; 4];
    if profile.is_thin {
        out[1] = 0x80 | 0x40 | 0x20 | 0x04; // UNMAP, WRITE SAME (16) and (10) unmap; unmapped blocks read as zeroes
        out[2] = 0x02; // thin provisioned
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> UnitProfile {
        let identity = InquiryIdentity {
            serial: "S1".to_owned(),
            target_name: "iqn.2026-11.org.corral:x".to_owned(),
            naa: 3 << 60,
            labels: InquiryLabels::default(),
        };
        UnitProfile {
            identity,
            is_thin: true,
            transfer_blocks_max: 32_768,
            transfer_blocks_best: 2048,
            atomic_blocks_max: 128,
            same_blocks_max: 1 << 20,
        }
    }

    #[test]
    fn standard_data_says_who_it_is() {
        let parsed = StandardInquiry::parse(&profile().standard()).expect("it is long enough");
        assert_eq!((parsed.vendor.as_str(), parsed.product.as_str()), ("CORRAL", "shared disk"));
        assert_eq!((parsed.device_type, parsed.qualifier), (0, 0));
        assert_eq!(StandardInquiry::parse(&InquiryIdentity::nobody()).map(|i| i.qualifier), Some(3));
        assert_eq!(StandardInquiry::parse(&[0; 35]), None);
    }

    #[test]
    fn every_page_in_the_list_exists_and_tells_its_length() {
        let pages = inquiry_page(&profile(), 0).expect("the list exists");
        for page in &pages[4..] {
            let data = inquiry_page(&profile(), *page).expect("a listed page exists");
            assert_eq!(usize::from(u16::from_be_bytes([data[2], data[3]])), data.len() - 4);
        }
        assert_eq!(inquiry_page(&profile(), 0x55), None);
    }
}
