//! Filesystems made in memory: what they contain, and that a refusal writes nothing.

use std::sync::Arc;

use block_core::{BlockDevice, ByteLen, ByteOffset, MemoryDevice};
use gfs_format::bitmap::{self, BlockState};
use gfs_format::{LogHeader, ResourceGroup, Superblock};
use mkfs::{MkfsError, Options, Plan, Protocol, Stripe};
use zerocopy::FromBytes;

const MIB: u64 = 1 << 20;

fn options() -> Options {
    Options { seconds: 1_700_000_000, ..Options::new(Protocol::Dlm, "demo:fs0", *b"0123456789abcdef") }
}

fn device(size: u64) -> Arc<dyn BlockDevice> {
    MemoryDevice::new(ByteLen(size))
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

async fn read(device: &Arc<dyn BlockDevice>, at: u64, len: u64) -> bytes::Bytes {
    device.read(ByteOffset(at), ByteLen(len)).await.expect("the range is on the device")
}

#[test]
fn the_superblock_says_what_was_asked_for() {
    run(async {
        let device = device(64 * MIB);
        let summary = mkfs::format(&device, &options()).await.expect("it fits");
        let sb = Superblock::decode(&read(&device, 65536, 4096).await).expect("a superblock");
        assert_eq!((sb.lock_protocol(), sb.lock_table()), (&b"lock_dlm"[..], &b"demo:fs0"[..]));
        assert_eq!((sb.uuid, sb.fs_format.get()), (*b"0123456789abcdef", 1802));
        assert_eq!((summary.journals, summary.journal_mb, summary.groups), (1, 8, 2));
    });
}

#[test]
fn every_block_of_a_new_log_is_a_clean_header_in_one_sequence() {
    run(async {
        let device = device(64 * MIB);
        let options = Options { journals: 2, ..options() };
        mkfs::format(&device, &options).await.expect("it fits");
        let plan = Plan::new(64 * MIB, &options).expect("it fits");
        for journal in 0..2 {
            let (_, first) = plan.journal_tree(journal);
            let mut falls = 0;
            let mut before = None;
            for block in 0..2048u32 {
                let bytes = read(&device, (first + u64::from(block)) * 4096, 4096).await;
                let header = LogHeader::decode(&bytes, block).expect("a log header");
                assert_eq!(header.flags.get() & 1, 1, "clean");
                assert_ne!(header.crc.get(), 0, "version 2");
                if before.is_some_and(|sequence| header.sequence.get() != sequence + 1) {
                    falls += 1;
                }
                before = Some(header.sequence.get());
            }
            assert!(falls <= 1, "the sequence rises but for one place");
        }
    });
}

#[test]
fn group_headers_count_their_bitmaps_and_the_sum_is_in_the_statfs_file() {
    run(async {
        for block in [512, 1024, 2048, 4096] {
            let device = device(100 * MIB);
            let options = Options { journals: 3, block_size: Some(block), ..options() };
            mkfs::format(&device, &options).await.expect("it fits");
            let plan = Plan::new(100 * MIB, &options).expect("it fits");
            for (index, group) in plan.geometry.groups.iter().enumerate() {
                let size = plan.geometry.block;
                let bytes = read(&device, group.address * size.bytes(), u64::from(group.length) * size.bytes()).await;
                assert_eq!(bytes, plan.group_blocks(index));
                let (header, _) = ResourceGroup::ref_from_prefix(&bytes).expect("long enough");
                assert!(header.is_sealed() && header.crc.get() != 0);
                let mut map = bytes[128..size.as_usize()].to_vec();
                for part in bytes[size.as_usize()..].chunks(size.as_usize()) {
                    map.extend_from_slice(&part[24..]);
                }
                let count = |wanted| {
                    (0..group.data_blocks as usize).filter(|block| bitmap::get(&map, *block) == wanted).count() as u32
                };
                assert_eq!(header.free.get(), count(BlockState::Free));
                assert_eq!(header.dinodes.get(), count(BlockState::Dinode));
            }
        }
    });
}

#[test]
fn equal_options_write_equal_bytes() {
    run(async {
        let (one, two) = (MemoryDevice::new(ByteLen(32 * MIB)), MemoryDevice::new(ByteLen(32 * MIB)));
        mkfs::format(&(one.clone() as Arc<dyn BlockDevice>), &options()).await.expect("it fits");
        mkfs::format(&(two.clone() as Arc<dyn BlockDevice>), &options()).await.expect("it fits");
        assert_eq!(one.snapshot().to_bytes(), two.snapshot().to_bytes());
    });
}

#[test]
fn a_refusal_comes_before_the_first_write() {
    run(async {
        let memory = MemoryDevice::new(ByteLen(32 * MIB));
        let device: Arc<dyn BlockDevice> = memory.clone();
        let mut refused = vec![
            Options { table: String::new(), ..options() },
            Options { table: "nocolon".into(), ..options() },
            Options { journals: 0, ..options() },
            Options { journals: 3, ..options() },
            Options { journal_mb: Some(7), ..options() },
            Options { journal_mb: Some(17), ..options() },
            Options { block_size: Some(8192), ..options() },
            Options { block_size: Some(1000), ..options() },
            Options { group_mb: Some(31), ..options() },
            Options { quota_change_mb: 65, ..options() },
            Options { quota_change_mb: 32, ..options() },
            Options { format: 1803, ..options() },
            Options { blocks: Some(8193), ..options() },
            Options { stripe: Some(Stripe { unit: 1 << 60, width: 1 << 63 }), ..options() },
            Options { blocks: Some(0), ..options() },
        ];
        for options in refused.drain(..) {
            let error = mkfs::format(&device, &options).await.expect_err("refused");
            assert!(!matches!(error, MkfsError::Device(_)), "{options:?}: {error}");
        }
        assert!(memory.snapshot().to_bytes().iter().all(|byte| *byte == 0));
    });
}

#[test]
fn the_checker_finds_nothing() {
    run(async {
        for (block, journals, format) in [(512, 7, 1802), (1024, 3, 1801), (2048, 1, 1802), (4096, 2, 1802)] {
            let device = device(200 * MIB);
            let options = Options { block_size: Some(block), journals, format, group_mb: Some(32), ..options() };
            mkfs::format(&device, &options).await.expect("it fits");
            let report = gfs_check::check(device).await.expect("a filesystem");
            assert!(report.findings.is_empty(), "{report}");
            assert_eq!(report.journals.len(), journals as usize);
            assert!(report.journals.iter().all(|journal| journal.clean));
        }
    });
}

#[test]
fn every_size_either_fits_or_is_refused() {
    for mb in (1..400).step_by(7) {
        for (block, journals) in [(512, 1), (1024, 2), (4096, 1), (4096, 5)] {
            let options = Options { block_size: Some(block), journals, ..options() };
            match Plan::new(mb * MIB + 512 * 3, &options) {
                Ok(plan) => assert!(plan.geometry.filesystem_blocks() <= plan.geometry.device_blocks),
                Err(error) => assert_ne!(error.to_string(), ""),
            }
        }
    }
}
