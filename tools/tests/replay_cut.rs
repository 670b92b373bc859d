//! A replay that is cut off at any write it makes, and run again, ends in the same state: on a disk that loses what it
//! had not flushed, whole or in part.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block_core::{BlockDevice, ByteLen, ByteOffset, CrashDevice, Durability, Geometry, Image, IoFuture};
use bytes::Bytes;
use gfs_check::journal::{Journal, Journals};
use tools::recovery;

/// What a cut power leaves of the writes since the last flush.
#[derive(Clone, Copy)]
enum Survives {
    Everything,
    /// Whatever these dice say, sector by sector.
    Some(u64),
}

fn golden(name: &str, test: &str) -> Option<Image> {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/golden/{name}.img.zst"));
    match Command::new("zstd").arg("-qdc").arg(&packed).output() {
        Ok(output) if output.status.success() => {
            // What is zero takes no memory, and no time when images are compared.
            let sectors = output.stdout.len() as u64 / 512;
            let mut image = Image::new(Geometry { sector: 512, sectors });
            for (index, piece) in output.stdout.chunks(1 << 16).enumerate() {
                if piece.iter().any(|byte| *byte != 0) {
                    image.write(ByteOffset((index as u64) << 16), piece);
                }
            }
            Some(image)
        }
        other => {
            eprintln!("SKIPPED {test}: zstd cannot unpack {}: {other:?}", packed.display());
            None
        }
    }
}

async fn journals(device: &Arc<CrashDevice>) -> Journals {
    Journals::open(device.clone()).await.expect("journals")
}

/// Replays every journal; gives the number of blocks if it came to its end.
async fn replay(device: Arc<dyn BlockDevice>, journals: &Journals) -> Result<u64, String> {
    let chosen: Vec<&Journal> = journals.list.iter().collect();
    let done = recovery::replay(&device, journals, &chosen).await?;
    Ok(done.into_iter().flatten().map(|done| done.blocks).sum())
}

/// The image with zeroes for logs: where in the log a replay ended depends on how often it was begun.
fn without_logs(image: &Image, journals: &Journals) -> Image {
    let mut image = image.clone();
    let size = journals.block_size().bytes();
    for journal in &journals.list {
        let mut map = journal.map.iter().copied().peekable();
        while let Some(first) = map.next() {
            let mut next = first + 1;
            while map.next_if(|block| *block == next).is_some() {
                next += 1;
            }
            image.zero(ByteOffset(first * size), ByteLen((next - first) * size));
        }
    }
    image
}

async fn assert_clean(device: &Arc<CrashDevice>, what: &str) {
    let report = gfs_check::check(device.clone()).await.expect("a filesystem");
    assert!(report.findings.is_empty(), "{what}: {report}");
}

/// Counts what a cut of power counts: writes and flushes.
struct Counting(Arc<CrashDevice>, AtomicU64);

impl BlockDevice for Counting {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        self.0.read(at, len)
    }

    fn write(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> IoFuture<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.write(at, data, durability)
    }

    fn flush(&self) -> IoFuture<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.flush()
    }
}

/// Cuts a replay after each of its writes; without CORRAL_LONG after some of those in place, which are all alike, and
/// after each of the last, which settle the totals.
async fn cut_everywhere(name: &str, test: &str, seed: u64) {
    let Some(image) = golden(name, test) else { return };
    let device = CrashDevice::from_image(image.clone());
    let journals = journals(&device).await;
    let counting = Arc::new(Counting(device.clone(), AtomicU64::new(0)));
    assert!(replay(counting.clone(), &journals).await.expect("a whole replay") > 500);
    let writes = counting.1.load(Ordering::Relaxed);
    assert_clean(&device, name).await;
    let expected = without_logs(&device.snapshot(), &journals);

    let step = if std::env::var_os("CORRAL_LONG").is_some() { 1 } else { (writes / 6) as usize };
    let cuts = (0..writes.saturating_sub(16)).step_by(step).chain(writes.saturating_sub(16)..writes);
    for cut in cuts {
        for survives in [Survives::Everything, Survives::Some(seed)] {
            device.restart_from(image.clone());
            device.power_off_after(cut);
            assert!(replay(device.clone(), &journals).await.is_err(), "{name}: cut after {cut} of {writes} writes");
            let left = match survives {
                Survives::Everything => device.snapshot(),
                Survives::Some(seed) => {
                    let mut dice = (seed ^ cut.wrapping_mul(0xd134_2543_de82_ef95)) | 1;
                    device.power_cut(&mut || {
                        dice ^= dice << 13;
                        dice ^= dice >> 7;
                        dice ^= dice << 17;
                        dice
                    })
                }
            };
            device.restart_from(left);
            let again = replay(device.clone(), &journals).await;
            assert!(again.is_ok(), "{name}, cut after {cut} writes: {again:?}");
            let found = without_logs(&device.snapshot(), &journals);
            assert!(found == expected, "{name}: another state after a cut behind write {cut} of {writes}");
        }
    }
    assert_clean(&device, name).await;
}

#[tokio::test]
async fn a_replay_cut_at_any_write_and_run_again_ends_in_the_same_state() {
    cut_everywhere("dirty-j0", "a_replay_cut_at_any_write_and_run_again_ends_in_the_same_state", 1).await;
}

#[tokio::test]
async fn the_replay_of_two_journals_cut_at_any_write_keeps_their_totals() {
    cut_everywhere("dirty-j0-j1", "the_replay_of_two_journals_cut_at_any_write_keeps_their_totals", 2).await;
}
