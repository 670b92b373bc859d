//! The power is cut at any moment under load; the next mount replays the journal, and fsck.gfs2
//! finds nothing. What was synced is there.

use std::sync::Arc;

use block_core::crash::CrashDevice;
use block_core::{BlockDevice, ByteLen};
use bytes::Bytes;
use dlm_api::local::LocalLocks;
use engine_tests::{TokioHost, Volume};
use gfs_core::{
    Caller, Entry, Fs, InodeRef, Lookup, MountOptions, NewInode, NoKernelCaches, Ports, RenameMode, RequestOrigin,
    SetAttributes, WriteAt,
};

const SIZE: u64 = 64 << 20;

/// A small generator, so that a failure can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.next() % sides
    }
}

async fn mount(device: Arc<dyn BlockDevice>) -> Arc<Fs> {
    let ports =
        Ports { device, locks: Arc::new(LocalLocks::new()), host: TokioHost::new(), caches: Arc::new(NoKernelCaches) };
    Fs::mount(ports, MountOptions::default()).await.expect("mount")
}

fn inode(entry: &Entry) -> InodeRef {
    InodeRef { number: entry.attributes.inode, generation: entry.attributes.generation }
}

/// Files that were synced, with their sizes: a lower bound of what must be there.
async fn work(fs: &Fs, dice: &mut Dice, synced: &mut Vec<(String, u64)>, steps: u64) {
    let root = fs.root();
    for step in 0..steps {
        let name = format!("n{}", dice.roll(40));
        let found = match fs.lookup(root, name.as_bytes()).await.expect("lookup") {
            Lookup::Found(entry) => Some(inode(&entry)),
            Lookup::Missing(_) => None,
        };
        let Some(file) = found else {
            let new =
                if dice.roll(5) == 0 { NewInode::Directory { mode: 0o755 } } else { NewInode::File { mode: 0o644 } };
            fs.create(Caller::default(), root, name.as_bytes(), new).await.expect("create");
            continue;
        };
        match dice.roll(8) {
            0 => {
                if fs.unlink(root, name.as_bytes()).await.is_err() {
                    let _ = fs.rmdir(root, name.as_bytes()).await;
                }
            }
            1 => {
                let other = format!("n{}", dice.roll(40));
                let _ = fs.rename(root, name.as_bytes(), root, other.as_bytes(), RenameMode::Replace).await;
            }
            2 => {
                let size = Some(dice.roll(300_000));
                let _ = fs.setattr(file, SetAttributes { size, ..SetAttributes::default() }).await;
            }
            3 => {
                let kept = format!("kept{}-{step}", synced.len());
                let made = fs.create(Caller::default(), root, kept.as_bytes(), NewInode::File { mode: 0o644 }).await;
                let made = inode(&made.expect("create"));
                let size = 1 + dice.roll(50_000);
                let data = Bytes::from(vec![kept.len() as u8; size as usize]);
                fs.write(made, WriteAt::Offset(0), data, RequestOrigin::Call).await.expect("write");
                fs.fsync(made, false).await.expect("fsync");
                synced.push((kept, size));
            }
            _ => {
                let data = Bytes::from(vec![step as u8; 1 + dice.roll(100_000) as usize]);
                let _ = fs.write(file, WriteAt::Offset(dice.roll(400_000)), data, RequestOrigin::Call).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_cut_the_replay_leaves_a_clean_volume_with_everything_synced() {
    let first = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in first..first + 12 {
        let mut crash = CrashDevice::new(ByteLen(SIZE));
        let device: Arc<dyn BlockDevice> = crash.clone();
        let mut options = mkfs::Options::new(mkfs::Protocol::Nolock, "", [7; 16]);
        options.journals = 2;
        options.journal_mb = Some(8);
        mkfs::format(&device, &options).await.expect("mkfs");
        device.flush().await.expect("flush");
        let mut dice = Dice(seed * 7919 + 1);
        let mut synced = Vec::new();
        for round in 0..3 {
            let fs = mount(crash.clone()).await;
            let steps = 50 + dice.roll(250);
            work(&fs, &mut dice, &mut synced, steps).await;
            let image = crash.power_cut(&mut || dice.next());
            drop(fs);
            let path = std::env::temp_dir().join(format!("corral-cut-{}-{seed}-{round}.img", std::process::id()));
            // A new disk: whatever the dead mount still does goes to the old one.
            crash = CrashDevice::from_image(image);
            let fs = mount(crash.clone()).await;
            for (name, size) in &synced {
                let Lookup::Found(entry) = fs.lookup(fs.root(), name.as_bytes()).await.expect("lookup") else {
                    panic!("seed {seed} round {round}: {name} was synced and is gone");
                };
                assert_eq!(entry.attributes.size, *size, "seed {seed} round {round}: {name}");
                let data = fs.read(inode(&entry), 0, 1 << 20, RequestOrigin::Call).await.expect("read");
                assert!(data.iter().all(|byte| *byte == name.len() as u8), "seed {seed} round {round}: {name}");
            }
            fs.unmount().await.expect("unmount");
            std::fs::write(&path, crash.snapshot().to_bytes()).expect("write the image");
            eprintln!("seed {seed} round {round}: {} files were synced", synced.len());
            Volume { path }.assert_clean();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_at_any_write_makes_the_mount_withdraw_and_loses_nothing_synced() {
    for changes in [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233] {
        let crash = CrashDevice::new(ByteLen(SIZE));
        let device: Arc<dyn BlockDevice> = crash.clone();
        let mut options = mkfs::Options::new(mkfs::Protocol::Nolock, "", [7; 16]);
        options.journal_mb = Some(8);
        mkfs::format(&device, &options).await.expect("mkfs");
        device.flush().await.expect("flush");
        let fs = mount(crash.clone()).await;
        crash.power_off_after(changes);
        let mut synced = Vec::new();
        for i in 0.. {
            assert!(i < 10_000, "the device failed and nobody noticed");
            let name = format!("f{i}");
            let step = async {
                let made =
                    fs.create(Caller::default(), fs.root(), name.as_bytes(), NewInode::File { mode: 0o644 }).await?;
                let made = inode(&made);
                let data = Bytes::from(vec![i as u8; 9000]);
                fs.write(made, WriteAt::Offset(0), data, RequestOrigin::Call).await?;
                fs.fsync(made, false).await
            };
            match step.await {
                Ok(()) => synced.push((name, i as u8)),
                Err(error) => {
                    assert!(fs.is_withdrawn(), "after {changes} changes: {error}");
                    break;
                }
            }
        }
        let refused = fs.create(Caller::default(), fs.root(), b"late", NewInode::File { mode: 0o644 }).await;
        assert!(refused.is_err(), "a withdrawn mount takes no change");
        assert!(fs.unmount().await.is_err(), "and does not pretend that its unmount was clean");
        let mut dice = Dice(changes + 1);
        let after = CrashDevice::from_image(crash.power_cut(&mut || dice.next()));
        let fs = mount(after.clone()).await;
        for (name, byte) in &synced {
            let Lookup::Found(entry) = fs.lookup(fs.root(), name.as_bytes()).await.expect("lookup") else {
                panic!("after {changes} changes: {name} was synced and is gone");
            };
            let data = fs.read(inode(&entry), 0, 1 << 20, RequestOrigin::Call).await.expect("read");
            assert!(data.len() == 9000 && data.iter().all(|b| b == byte), "after {changes} changes: {name}");
        }
        fs.unmount().await.expect("unmount");
        let path = std::env::temp_dir().join(format!("corral-fail-{}-{changes}.img", std::process::id()));
        std::fs::write(&path, after.snapshot().to_bytes()).expect("write the image");
        Volume { path }.assert_clean();
    }
}
