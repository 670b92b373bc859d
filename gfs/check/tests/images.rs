//! Images that the kernel made, and damage done to them on purpose.

mod support;

use std::path::PathBuf;
use std::process::Command;

use block_core::{ByteLen, ByteOffset, Image, MemoryDevice};
use gfs_check::{CheckError, Kind, Report, check};
use gfs_format::bitmap::BlockState;

/// An image of tests/golden; `None`, loudly, when it cannot be unpacked.
fn golden(name: &str) -> Option<Image> {
    let packed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/golden/{name}.img.zst"));
    let unpacked = Command::new("zstd").arg("-qdc").arg(&packed).output();
    match unpacked {
        Ok(output) if output.status.success() => Some(Image::from_bytes(512, &output.stdout)),
        other => {
            eprintln!("NOT TESTED: zstd cannot unpack {}: {other:?}", packed.display());
            None
        }
    }
}

fn report(image: Image) -> Result<Report, CheckError> {
    support::run(check(MemoryDevice::from_image(image)))
}

fn kinds(image: Image) -> Vec<Kind> {
    let mut kinds: Vec<Kind> =
        report(image).expect("a filesystem").findings.iter().map(|finding| finding.kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

/// Changes `image` at byte `at` of block `block` (4 KiB).
fn poke(image: &mut Image, block: u64, at: usize, bytes: &[u8]) {
    let offset = ByteOffset(block * 4096);
    let mut content = image.read(offset, ByteLen(4096)).to_vec();
    content[at..at + bytes.len()].copy_from_slice(bytes);
    image.write(offset, &content);
}

fn peek(image: &Image, block: u64) -> Vec<u8> {
    image.read(ByteOffset(block * 4096), ByteLen(4096)).to_vec()
}

#[test]
fn what_the_kernel_wrote_is_consistent() {
    for name in ["clean-4k", "clean-1k", "jdata-4k"] {
        let Some(image) = golden(name) else { return };
        let report = report(image).expect("a filesystem");
        assert!(report.findings.is_empty(), "{name}: {report}");
        assert!(report.journals.iter().all(|journal| journal.clean) && report.counts.dinodes > 1000);
    }
}

#[test]
fn a_journal_that_needs_replay_is_a_notice_and_not_an_error() {
    let Some(image) = golden("dirty-j0") else { return };
    let report = report(image).expect("a filesystem");
    assert!(report.is_consistent(), "{report}");
    assert_eq!(report.findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [Kind::DirtyJournal]);
    assert_eq!(report.journals.iter().map(|journal| journal.clean).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn each_kind_of_damage_is_found_where_it_is() {
    let Some(clean) = golden("clean-4k") else { return };
    let root = u64::from_be_bytes(peek(&clean, 16)[88..96].try_into().expect("eight bytes"));
    let master = u64::from_be_bytes(peek(&clean, 16)[56..64].try_into().expect("eight bytes"));
    let zero = [0u8; 8];
    type Damage<'a> = (&'a str, u64, usize, &'a [u8], &'a [Kind]);
    let damages: &[Damage<'_>] = &[
        ("the root's link count", root, 52, &[0, 0, 0, 99], &[Kind::LinkCount]),
        ("the root's block count", root, 64, &[0, 0, 0, 0, 0, 0, 0, 99], &[Kind::Dinode]),
        ("the root's entry count", root, 148, &[0, 0, 0, 99], &[Kind::Directory]),
        ("the master's type", master, 4, &[0, 0, 0, 5], &[Kind::Superblock]),
        ("a group's checksum", 17, 64, &[1, 2, 3, 4], &[Kind::ResourceGroup]),
        ("a group's magic", 17, 0, &zero[..4], &[Kind::ResourceGroup, Kind::Statfs]),
    ];
    for (what, block, at, bytes, expected) in damages {
        let mut image = clean.clone();
        poke(&mut image, *block, *at, bytes);
        assert_eq!(kinds(image), *expected, "{what}");
    }
}

#[test]
fn a_bit_of_the_bitmap_is_found_with_its_block_and_its_states() {
    let Some(mut image) = golden("clean-4k") else { return };
    // The first blocks of the first group are the first journal: a dinode, then pointers and data.
    let mut bitmap = peek(&image, 17)[128];
    assert_eq!(bitmap & 0b1111, (BlockState::Used as u8) << 2 | BlockState::Dinode as u8);
    bitmap &= !0b1100;
    poke(&mut image, 17, 128, &[bitmap]);
    let report = report(image).expect("a filesystem");
    let finding = report.findings.iter().find(|finding| finding.kind == Kind::Bitmap).expect("it is found");
    assert_eq!((finding.block, finding.expected.as_str()), (19, "Used"));
    assert!(report.findings.iter().any(|finding| finding.kind == Kind::ResourceGroup), "the header's counter");
    assert!(report.findings.iter().any(|finding| finding.kind == Kind::Statfs), "the filesystem's counter");
}

#[test]
fn what_is_no_filesystem_is_refused() {
    let device = MemoryDevice::new(ByteLen(1 << 20));
    assert!(matches!(support::run(check(device)), Err(CheckError::NotAFilesystem(_))));
    let device = MemoryDevice::new(ByteLen(65536));
    assert!(matches!(support::run(check(device)), Err(CheckError::Unusable { .. })));
}

/// A small generator; equal seeds give equal damage (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

#[test]
fn no_damage_makes_the_check_panic_or_run_away() {
    let Some(clean) = golden("jdata-4k") else { return };
    let blocks = clean.geometry().size().0 / 4096;
    let metadata: Vec<u64> = (16..blocks)
        .filter(|block| peek(&clean, *block)[..4] == 0x0116_1970u32.to_be_bytes())
        .filter(|block| !matches!(peek(&clean, *block)[7], 8 | 9))
        .collect();
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut image = clean.clone();
        for _ in 0..1 + random.below(30) {
            let block = metadata[random.below(metadata.len())];
            // Mostly the fields, sometimes what follows them.
            let reach = if random.below(4) == 0 { 4088 } else { 400 };
            let (at, width) = (random.below(reach), [1, 2, 4, 8][random.below(4)]);
            let value = match random.below(3) {
                0 => random.next().to_be_bytes(),
                1 => (random.next() % blocks).to_be_bytes(),
                _ => [0; 8],
            };
            poke(&mut image, block, at, &value[8 - width..]);
        }
        // Any result will do but a panic; the seed says which one it was.
        let outcome = std::panic::catch_unwind(|| report(image));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
