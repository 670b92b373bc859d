//! The decoders. Each takes any bytes and must answer, not panic; its seed input is something well formed.

use block_core::dev::DevName;
use dlm_core::codec;
use gfs_format::{LogHeader, MetaType, Superblock, directory, eattr};
use gfs_fuse::request::Request;
use iscsi_target_proto::negotiate::{Negotiated, Willing};
use iscsi_target_proto::text::Parameters;

/// One decoder.
pub struct Target {
    pub name: &'static str,
    /// A well-formed input, or something near it.
    pub seed: fn() -> Vec<u8>,
    pub run: fn(&[u8]),
}

/// Every decoder.
pub const TARGETS: [Target; 8] = [
    Target { name: "gfs_superblock", seed: superblock, run: |bytes| _ = Superblock::decode(bytes) },
    Target { name: "gfs_log_header", seed: log_header, run: |bytes| _ = LogHeader::decode(bytes, 7) },
    Target { name: "gfs_directory", seed: directory_area, run: |bytes| _ = directory::records(bytes).count() },
    Target { name: "gfs_attributes", seed: attribute_area, run: attributes },
    Target { name: "fuse_request", seed: fuse_request, run: |bytes| _ = Request::parse(bytes) },
    Target { name: "dlm_frame", seed: dlm_frame, run: frame },
    Target { name: "iscsi_login_text", seed: login_text, run: negotiate },
    Target {
        name: "device_name",
        seed: || b"iscsi://user%secret@[::1]:3260/iqn.2026-11.org.corral:x/0".to_vec(),
        run: device,
    },
];

/// Magic, type and format fields that pass the first checks, so that mutations reach the later ones.
fn superblock() -> Vec<u8> {
    let mut bytes = header(MetaType::Superblock, 512);
    bytes[24..28].copy_from_slice(&1801_u32.to_be_bytes());
    bytes[28..32].copy_from_slice(&1900_u32.to_be_bytes());
    bytes[36..40].copy_from_slice(&4096_u32.to_be_bytes());
    bytes[40..44].copy_from_slice(&12_u32.to_be_bytes());
    bytes
}

fn log_header() -> Vec<u8> {
    header(MetaType::LogHeader, 4096)
}

fn header(kind: MetaType, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[0..4].copy_from_slice(&0x0116_1970_u32.to_be_bytes());
    bytes[4..8].copy_from_slice(&(kind as u32).to_be_bytes());
    bytes
}

/// Three records: number pair (16), hash, record length, name length, type, filler; then the name.
fn directory_area() -> Vec<u8> {
    let mut bytes = vec![0; 3 * 64];
    for (index, record) in bytes.chunks_mut(64).enumerate() {
        record[15] = index as u8 + 1;
        record[20..22].copy_from_slice(&64_u16.to_be_bytes());
        record[22..24].copy_from_slice(&5_u16.to_be_bytes());
        record[40..45].copy_from_slice(b"names");
    }
    bytes
}

/// One record that fills the area: length, data length, name length, kind, flags, pointers.
fn attribute_area() -> Vec<u8> {
    let mut bytes = vec![0; 256];
    bytes[0..4].copy_from_slice(&256_u32.to_be_bytes());
    bytes[4..8].copy_from_slice(&9_u32.to_be_bytes());
    bytes[8..12].copy_from_slice(&[4, 1, 1, 0]);
    bytes
}

fn attributes(bytes: &[u8]) {
    for record in eattr::records(bytes).flatten() {
        let _ = record.is_unused();
        let _ = record.pointers().count();
    }
}

/// A LOOKUP: length, opcode, unique, node, uid, gid, pid, padding; then a name.
fn fuse_request() -> Vec<u8> {
    let mut bytes = vec![0; 40];
    bytes.extend_from_slice(b"some name\0and another\0");
    bytes.resize(128, 0);
    let len = bytes.len() as u32;
    bytes[0..4].copy_from_slice(&len.to_ne_bytes());
    bytes[4..8].copy_from_slice(&1_u32.to_ne_bytes());
    bytes
}

fn dlm_frame() -> Vec<u8> {
    let mut bytes = vec![0; 160];
    bytes[8] = 1;
    bytes
}

/// Length and checksum are made right, so that what lies behind them is reached.
fn frame(bytes: &[u8]) {
    let _ = codec::Frame::decode(bytes);
    let mut bytes = bytes.to_vec();
    if bytes.len() > 8 {
        let length = bytes.len() as u32 - 4;
        bytes[0..4].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        let _ = codec::Frame::decode(&bytes);
    }
}

fn login_text() -> Vec<u8> {
    let keys = [
        "InitiatorName=iqn.2026-11.test:a",
        "HeaderDigest=CRC32C,None",
        "DataDigest=None",
        "InitialR2T=No",
        "ImmediateData=Yes",
        "MaxRecvDataSegmentLength=262144",
        "MaxBurstLength=16776192",
        "FirstBurstLength=65536",
        "MaxOutstandingR2T=8",
        "DefaultTime2Wait=2",
        "ErrorRecoveryLevel=0",
        "X-com.example.key=0x41",
    ];
    keys.iter().flat_map(|key| [key.as_bytes(), b"\0"].concat()).collect()
}

/// As both sides take it, key by key; whatever was asked for, the limits stay those of RFC 7143 §13.
fn negotiate(bytes: &[u8]) {
    let Ok(parameters) = Parameters::parse(bytes) else { return };
    let willing = Willing::default();
    for is_target in [true, false] {
        let mut negotiated = Negotiated::default();
        for (key, value) in parameters.iter() {
            let _ = match is_target {
                true => negotiated.answer(&willing, key, value).map(drop),
                false => negotiated.accept(&willing, key, value),
            };
        }
        let lengths = [negotiated.peer_max_data_segment, negotiated.max_burst_length, negotiated.first_burst_length];
        assert!(lengths.iter().all(|length| (512..1 << 24).contains(length)), "{negotiated:?}");
    }
}

fn device(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = DevName::parse(text, |_| false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_well_formed_so_mutations_reach_the_later_checks() {
        assert!(Superblock::decode(&superblock()).is_ok(), "{:?}", Superblock::decode(&superblock()).err());
        assert_eq!(directory::records(&directory_area()).filter(Result::is_ok).count(), 3);
        assert_eq!(eattr::records(&attribute_area()).filter(Result::is_ok).count(), 1);
        assert!(Request::parse(&fuse_request()).is_ok());
        assert_eq!(Parameters::parse(&login_text()).map(|keys| keys.iter().count()).ok(), Some(12));
        assert!(DevName::parse("iscsi://h/iqn.2026-11.org.corral:x/0", |_| false).is_ok());
    }
}
