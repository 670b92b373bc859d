//! Journals and space that are added to a filesystem: judged by the tools that own the format, and cut at every write.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset, Durability, Geometry, Image, IoFuture, MemoryDevice};
use bytes::Bytes;
use gfs_check::inspect::Volume;
use gfs_check::journal::{Journals, Log, Plan, Replayed};
use mkfs::change::{ChangeError, NewJournals, add_journals, grow};
use mkfs::{Options, Protocol};

const MIB: u64 = 1 << 20;

fn options(block: u32, journals: u32) -> Options {
    Options {
        seconds: 1_700_000_000,
        journals,
        block_size: Some(block),
        journal_mb: Some(8),
        group_mb: Some(32),
        ..Options::new(Protocol::Dlm, "demo:fs0", *b"0123456789abcdef")
    }
}

fn wanted(count: u32) -> NewJournals {
    NewJournals { count, journal_mb: 8, quota_change_mb: 1, seconds: 1_800_000_000 }
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// A filesystem of `size` on a device of `device` bytes.
async fn made(size: u64, device: u64, options: &Options) -> Arc<MemoryDevice> {
    let memory = MemoryDevice::new(ByteLen(device));
    let blocks = size / u64::from(options.block_size.unwrap_or(4096));
    let options = Options { blocks: Some(blocks), ..options.clone() };
    mkfs::format(&(memory.clone() as Arc<dyn BlockDevice>), &options).await.expect("it fits");
    memory
}

async fn findings(device: Arc<dyn BlockDevice>) -> String {
    let report = gfs_check::check(device).await.expect("a filesystem");
    if report.findings.is_empty() { String::new() } else { report.to_string() }
}

/// What fsck.gfs2 says against an image; empty when it is clean, and said loudly when it is not there.
fn judged(image: &Image, name: &str) -> String {
    let path: PathBuf = std::env::temp_dir().join(format!("corral-change-{name}-{}", std::process::id()));
    let file = std::fs::File::create(&path).expect("an image");
    let bytes = image.to_bytes();
    file.set_len(bytes.len() as u64).expect("a sparse image");
    for (index, piece) in bytes.chunks(1 << 16).enumerate().filter(|(_, piece)| piece.iter().any(|byte| *byte != 0)) {
        file.write_all_at(piece, (index << 16) as u64).expect("an image");
    }
    let search = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let checked = Command::new("fsck.gfs2").arg("-n").arg(&path).env("PATH", search).output();
    std::fs::remove_file(&path).expect("it is there");
    match checked {
        Ok(out) => {
            let said = String::from_utf8_lossy(&out.stdout).to_lowercase();
            let is_clean = out.status.success()
                && out.stderr.is_empty()
                && !["error", "bad ", "wrong", "should be"].iter().any(|word| said.contains(word));
            if is_clean { String::new() } else { format!("{said}{}", String::from_utf8_lossy(&out.stderr)) }
        }
        Err(error) => {
            eprintln!("SKIPPED: fsck.gfs2 (Debian: gfs2-utils): {error}");
            String::new()
        }
    }
}

#[test]
fn added_journals_are_journals_to_everybody_and_the_directories_grow_leaves() {
    run(async {
        for (block, first, more, size) in [(512, 1, 4, 80), (1024, 2, 5, 100), (4096, 1, 24, 270)] {
            let memory = made(size * MIB, size * MIB, &options(block, first)).await;
            let device: Arc<dyn BlockDevice> = memory.clone();
            let added = add_journals(&device, &wanted(more)).await.expect("there is room");
            assert_eq!((added.before, added.after), (first, first + more));
            assert_eq!(findings(device.clone()).await, "", "-b {block}");
            let journals = Journals::open(device.clone()).await.expect("journals");
            assert_eq!(journals.list.len() as u32, first + more);
            for journal in &journals.list {
                assert!(journal.statfs_inode != 0 && journal.quota_inode != 0);
                assert!(Log::read(&journals, journal).await.expect("a log").is_clean());
            }
            // Again, from what the first time left.
            add_journals(&device, &wanted(1)).await.expect("there is room");
            assert_eq!(judged(&memory.snapshot(), &format!("jadd-{block}")), "", "-b {block}");
        }
    });
}

#[test]
fn a_grown_filesystem_reaches_the_devices_end_and_its_index_leaves_the_inode() {
    run(async {
        // 512-byte blocks: three entries of the index fit into the inode.
        for (block, size, device) in [(512, 64, 200), (1024, 64, 130), (4096, 64, 500)] {
            let memory = made(size * MIB, device * MIB, &options(block, 1)).await;
            let device: Arc<dyn BlockDevice> = memory.clone();
            let read_only: Arc<dyn BlockDevice> = Arc::new(Cut { below: memory.clone(), left: AtomicU64::new(0) });
            let (trial, _) = grow(&read_only, true, 1_800_000_000).await.expect("a trial writes nothing");
            let (grown, done) = grow(&device, false, 1_800_000_000).await.expect("it grows");
            assert_eq!((trial, Some(())), (grown, done));
            let volume = Volume::open(device.clone()).await.expect("a filesystem");
            let end = volume.groups().expect("an index").last().expect("a group").end();
            assert!(volume.device_blocks() - end <= 8, "-b {block}: {end} of {}", volume.device_blocks());
            assert_eq!(findings(device.clone()).await, "", "-b {block}");
            assert_eq!(grow(&device, false, 0).await.expect("nothing to do").1, None);
            if volume.device_blocks() * u64::from(block) < 250 * MIB {
                assert_eq!(judged(&memory.snapshot(), &format!("grow-{block}")), "", "-b {block}");
            }
        }
    });
}

#[test]
fn what_cannot_be_is_refused_before_the_first_write() {
    run(async {
        let memory = made(64 * MIB, 64 * MIB, &options(4096, 1)).await;
        let device: Arc<dyn BlockDevice> = memory.clone();
        let before = memory.snapshot().to_bytes();
        let full = add_journals(&device, &wanted(8)).await.expect_err("no room");
        assert!(matches!(full, ChangeError::NoSpace { .. }), "{full}");
        assert!(full.to_string().starts_with("Insufficient space on the device to add 8 8MB journals"), "{full}");
        assert_eq!(memory.snapshot().to_bytes(), before);

        // A log that was not shut down: somebody has the filesystem.
        let journals = Journals::open(device.clone()).await.expect("journals");
        let log = Log::read(&journals, &journals.list[0]).await.expect("a log");
        let mut header = log.head;
        header.flags = 0.into();
        let mut block = vec![0; 4096];
        let at = header.address.get() * 4096;
        header.encode(&mut block);
        device.write(ByteOffset(at), vec![block.into()], Durability::Cached).await.expect("memory");
        let before = memory.snapshot().to_bytes();
        let error = add_journals(&device, &wanted(1)).await.expect_err("it is in use");
        assert_eq!(error, ChangeError::NotClean { journal: 0 });
        assert_eq!(grow(&device, false, 0).await.expect_err("it is in use"), ChangeError::NotClean { journal: 0 });
        assert_eq!(memory.snapshot().to_bytes(), before);
    });
}

/// A device whose writes fail from the `left`th on.
struct Cut {
    below: Arc<MemoryDevice>,
    left: AtomicU64,
}

impl BlockDevice for Cut {
    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        self.below.read(at, len)
    }

    fn write(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> IoFuture<()> {
        let one_less = |left: u64| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
            return Box::pin(async { Err(BlockError::ReadOnly) });
        }
        self.below.write(at, data, durability)
    }

    fn flush(&self) -> IoFuture<()> {
        self.below.flush()
    }
}

#[test]
fn a_change_that_is_cut_at_any_write_leaves_the_old_filesystem_or_the_new_one() {
    run(async {
        let clean = made(64 * MIB, 140 * MIB, &options(4096, 1)).await.snapshot();
        let unchanged = Volume::open(MemoryDevice::from_image(clean.clone())).await.expect("a filesystem");
        let groups = unchanged.groups().expect("an index").len();
        for is_grow in [false, true] {
            let (mut old, mut new) = (0, 0);
            for cut in 0.. {
                let memory = MemoryDevice::from_image(clean.clone());
                let device: Arc<dyn BlockDevice> = Arc::new(Cut { below: memory.clone(), left: AtomicU64::new(cut) });
                let is_done = match is_grow {
                    true => grow(&device, false, 1_800_000_000).await.is_ok(),
                    false => add_journals(&device, &wanted(2)).await.is_ok(),
                };
                // What the next mount sees: the filesystem after a replay.
                let device: Arc<dyn BlockDevice> = memory;
                let journals = Journals::open(device.clone()).await.expect("journals");
                let log = Log::read(&journals, &journals.list[0]).await.expect("a log");
                let plans = if log.is_clean() { vec![] } else { vec![Plan::of(&journals, &log).expect("a plan")] };
                let replayed = Replayed::new(device, &journals, &plans).await.expect("a view");
                let seen: Arc<dyn BlockDevice> = Arc::new(replayed);
                let volume = Volume::open(seen.clone()).await.expect("a filesystem");
                let found = match is_grow {
                    true => volume.groups().expect("an index").len() > groups,
                    false => Journals::open(seen.clone()).await.expect("journals").list.len() == 3,
                };
                *if found { &mut new } else { &mut old } += 1;
                let report = gfs_check::check(seen).await.expect("a filesystem");
                let wrong: Vec<_> =
                    report.findings.iter().filter(|f| f.kind != gfs_check::Kind::DirtyJournal).collect();
                assert!(wrong.is_empty(), "grow {is_grow}, cut at write {cut}: {wrong:?}");
                if is_done {
                    assert!(found);
                    break;
                }
            }
            assert!(old > 2 && new > 2, "grow {is_grow}: {old} cuts left the old one, {new} the new one");
        }
    });
}
