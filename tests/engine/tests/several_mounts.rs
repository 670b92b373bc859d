//! Three mounts over one device and one lock manager: what one does the others see, and the
//! volume is clean at the end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dlm_api::local::LocalLocks;
use engine_tests::Volume;
use gfs_core::{
    Caller, Entry, Error, Fs, InodeRef, Lookup, NewInode, RenameMode, RequestOrigin, SetAttributes, WriteAt,
};

fn inode(entry: &Entry) -> InodeRef {
    InodeRef { number: entry.attributes.inode, generation: entry.attributes.generation }
}

async fn mounts(volume: &Volume, count: u32) -> Vec<Arc<Fs>> {
    let locks = Arc::new(LocalLocks::new());
    let mut out = Vec::new();
    for journal in 0..count {
        out.push(volume.mount(locks.clone(), journal).await);
    }
    let watched: Vec<_> = out.iter().map(Arc::downgrade).collect();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(20)).await;
        for fs in watched.iter().filter_map(std::sync::Weak::upgrade) {
            eprintln!("still running; journal {}:\n{}", fs.journal_slot(), fs.describe_glocks().join("\n"));
        }
    });
    out
}

async fn unmount_all(mounts: Vec<Arc<Fs>>) {
    let all: Vec<_> = mounts.into_iter().map(|fs| tokio::spawn(async move { fs.unmount().await })).collect();
    for one in all {
        one.await.expect("the task").expect("unmount");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_seen_at_once_on_every_other_mount() {
    let volume = Volume::new("seen", 128, 4096).await;
    let mounts = mounts(&volume, 3).await;
    let root = mounts[0].root();
    let made = mounts[0].create(Caller::default(), root, b"f", NewInode::File { mode: 0o644 }).await.expect("create");
    let file = inode(&made);
    for round in 0..60u8 {
        let writer = &mounts[usize::from(round) % 3];
        let content = vec![round; 5000 + usize::from(round) * 100];
        let data = Bytes::from(content.clone());
        writer.write(file, WriteAt::Offset(0), data, RequestOrigin::Call).await.expect("write");
        for reader in &mounts {
            let got = reader.read(file, 0, 5000, RequestOrigin::Call).await.expect("read");
            assert!(got[..] == content[..5000], "round {round}");
        }
    }
    unmount_all(mounts).await;
    volume.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_from_three_mounts_are_all_there() {
    let volume = Volume::new("append", 128, 4096).await;
    let mounts = mounts(&volume, 3).await;
    let root = mounts[0].root();
    let made = mounts[0].create(Caller::default(), root, b"log", NewInode::File { mode: 0o644 }).await.expect("create");
    let file = inode(&made);
    let tasks: Vec<_> = mounts
        .iter()
        .enumerate()
        .map(|(node, fs)| {
            let fs = fs.clone();
            tokio::spawn(async move {
                for n in 0..150 {
                    let line = Bytes::from(format!("{node} {n:05}\n"));
                    fs.write(file, WriteAt::End, line, RequestOrigin::Call).await.expect("append");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("the task");
    }
    let all = mounts[2].read(file, 0, 1 << 20, RequestOrigin::Call).await.expect("read");
    let text = String::from_utf8(all.to_vec()).expect("whole lines");
    let mut lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 450);
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 450);
    unmount_all(mounts).await;
    volume.assert_clean();
}

/// A small generator, so that a failure can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

async fn any_operation(fs: &Fs, dice: &mut Dice) -> Result<(), Error> {
    let root = fs.root();
    let name = format!("n{}", dice.roll(12)).into_bytes();
    let other = format!("n{}", dice.roll(12)).into_bytes();
    let find = async |name: &[u8]| match fs.lookup(root, name).await? {
        Lookup::Found(entry) => Ok(inode(&entry)),
        Lookup::Missing(_) => Err(Error::NotFound),
    };
    match dice.roll(12) {
        0 | 1 => fs.create(Caller::default(), root, &name, NewInode::File { mode: 0o644 }).await.map(|_| ()),
        2 => fs.create(Caller::default(), root, &name, NewInode::Directory { mode: 0o755 }).await.map(|_| ()),
        3 => fs.unlink(root, &name).await,
        4 => fs.rmdir(root, &name).await,
        5 => fs.rename(root, &name, root, &other, RenameMode::Replace).await,
        6 => {
            let dir = find(&name).await?;
            fs.rename(root, &other, dir, b"inside", RenameMode::Replace).await
        }
        7 => {
            let dir = find(&name).await?;
            fs.rename(dir, b"inside", root, &other, RenameMode::Exchange).await
        }
        8 => {
            let file = find(&name).await?;
            let data = Bytes::from(vec![7; 1 + dice.roll(60_000) as usize]);
            fs.write(file, WriteAt::Offset(dice.roll(200_000)), data, RequestOrigin::Call).await.map(|_| ())
        }
        9 => {
            let file = find(&name).await?;
            let size = Some(dice.roll(100_000));
            fs.setattr(file, SetAttributes { size, ..SetAttributes::default() }).await.map(|_| ())
        }
        10 => {
            let file = find(&name).await?;
            fs.link(file, root, &other).await.map(|_| ())
        }
        _ => {
            let file = find(&name).await?;
            fs.open(file, true).await?;
            let _ = fs.read(file, 0, 100_000, RequestOrigin::Call).await;
            fs.unlink(root, &name).await.ok();
            fs.release(file, true).await;
            Ok(())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_load_on_one_directory_ends_and_leaves_a_clean_volume() {
    let volume = Volume::new("mixed", 200, 4096).await;
    let mounts = mounts(&volume, 3).await;
    let mut tasks = Vec::new();
    for (node, fs) in mounts.iter().enumerate() {
        for task in 0..3 {
            let fs = fs.clone();
            tasks.push(tokio::spawn(async move {
                let mut dice = Dice((node * 10 + task) as u64 + 1);
                for _ in 0..250 {
                    match any_operation(&fs, &mut dice).await {
                        Err(Error::Corrupt { block, expected, found }) => {
                            panic!("block {block}: expected {expected}, found {found}")
                        }
                        Err(error @ (Error::Withdrawn | Error::Device(_) | Error::Lock(_))) => panic!("{error}"),
                        _ => {}
                    }
                }
            }));
        }
    }
    for task in tasks {
        let ended = tokio::time::timeout(Duration::from_secs(60), task).await;
        if ended.is_err() {
            for fs in &mounts {
                eprintln!("journal {}:\n{}", fs.journal_slot(), fs.describe_glocks().join("\n"));
            }
            panic!("the load hangs");
        }
        ended.expect("in time").expect("the task");
    }
    unmount_all(mounts).await;
    volume.assert_clean();
}
