//! Allocation ahead of writes, holes punched, sizes changed and bytes written at random, beside a model in memory.

use std::sync::Arc;

use bytes::Bytes;
use dlm_api::local::LocalLocks;
use engine_tests::Volume;
use gfs_core::{Caller, Error, Fs, InodeRef, NewInode, RequestOrigin, SeekFor, SetAttributes, SizeChange, WriteAt};

/// Reproducible chance: a linear congruence, its high bits.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Around the places where something changes, or anywhere.
    fn place(&mut self, block: u64) -> u64 {
        let near = [0, 200, block - 232, block, 3 * block, 100 * block, 500 * block];
        match self.below(3) {
            0 => near[self.below(near.len() as u64) as usize] + self.below(40),
            1 => self.below(600) * block,
            _ => self.below(600 * block),
        }
    }
}

async fn read_all(fs: &Fs, file: InodeRef) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let piece = fs.read(file, out.len() as u64, 1 << 20, RequestOrigin::Call).await.expect("read");
        if piece.is_empty() {
            return out;
        }
        out.extend_from_slice(&piece);
    }
}

fn fill(model: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if model.len() < offset + bytes.len() {
        model.resize(offset + bytes.len(), 0);
    }
    model[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// One random change on the filesystem and in the model.
async fn change(fs: &Fs, file: InodeRef, model: &mut Vec<u8>, dice: &mut Dice, block: u64) {
    let offset = dice.place(block);
    let longest = [100, block, 40 * block, 300 * block][dice.below(4) as usize];
    let len = dice.below(longest) + 1;
    let (start, end) = (offset as usize, (offset + len) as usize);
    match dice.below(10) {
        0..=3 => {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + offset) as u8 | 1).collect();
            let data = Bytes::copy_from_slice(&bytes);
            let written = fs.write(file, WriteAt::Offset(offset), data, RequestOrigin::Call).await.expect("write");
            assert_eq!(u64::from(written), len);
            fill(model, start, &bytes);
        }
        4 => {
            fs.allocate(file, offset, len, SizeChange::Grow).await.expect("allocate");
            if model.len() < end {
                model.resize(end, 0);
            }
        }
        5 => fs.allocate(file, offset, len, SizeChange::Keep).await.expect("allocate"),
        6..=8 => {
            fs.punch_hole(file, offset, len).await.expect("punch");
            let end = end.min(model.len());
            model[start.min(end)..end].fill(0);
        }
        _ => {
            let cut = SetAttributes { size: Some(offset), ..SetAttributes::default() };
            fs.setattr(file, cut).await.expect("truncate");
            model.resize(start, 0);
        }
    }
}

/// What seeking says is a hole holds only zeroes, and what it says is data has a place in between.
async fn expect_holes_are_empty(fs: &Fs, file: InodeRef, model: &[u8]) {
    let mut at = 0;
    while (at as usize) < model.len() {
        let data = match fs.seek(file, at, SeekFor::Data).await {
            Ok(data) => data,
            Err(Error::BeyondEnd) => model.len() as u64,
            Err(error) => panic!("{error}"),
        };
        assert!(model[at as usize..data as usize].iter().all(|byte| *byte == 0), "{at} to {data}");
        if data as usize == model.len() {
            return;
        }
        at = fs.seek(file, data, SeekFor::Hole).await.expect("data ends in a hole");
        assert!(at > data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_allocation_and_holes_agree_with_a_model_and_leave_nothing_behind() {
    for (seed, block_size) in [(1, 4096), (2, 4096), (3, 1024), (4, 512)] {
        let volume = Volume::new(&format!("allocate{seed}"), 128, block_size).await;
        let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
        let free = fs.statfs().await.expect("statfs").blocks_free;
        let new = NewInode::File { mode: 0o644 };
        let entry = fs.create(Caller::default(), fs.root(), b"file", new).await.expect("create");
        let file = InodeRef { number: entry.attributes.inode, generation: entry.attributes.generation };
        let (mut dice, mut model) = (Dice(seed), Vec::new());
        for step in 0..400 {
            change(&fs, file, &mut model, &mut dice, u64::from(block_size)).await;
            if step % 20 == 0 {
                assert!(read_all(&fs, file).await == model, "seed {seed} step {step}");
                expect_holes_are_empty(&fs, file, &model).await;
            }
        }
        fs.unmount().await.expect("unmount");
        volume.assert_clean();
        let fs = volume.mount(Arc::new(LocalLocks::new()), 1).await;
        assert!(read_all(&fs, file).await == model, "seed {seed} after a remount");
        fs.punch_hole(file, 0, 1 << 40).await.expect("punch all");
        let cut = SetAttributes { size: Some(0), ..SetAttributes::default() };
        fs.setattr(file, cut).await.expect("truncate");
        let sectors = fs.getattr(file).await.expect("getattr").attributes.sectors;
        assert_eq!(sectors, u64::from(block_size) / 512, "only the inode itself is left");
        fs.unlink(fs.root(), b"file").await.expect("unlink");
        fs.sync().await.expect("sync");
        assert_eq!(fs.statfs().await.expect("statfs").blocks_free, free, "seed {seed}");
        fs.unmount().await.expect("unmount");
        volume.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn allocating_more_than_there_is_says_so_and_leaves_a_good_filesystem() {
    let volume = Volume::new("allocate-full", 64, 4096).await;
    let fs = volume.mount(Arc::new(LocalLocks::new()), 0).await;
    let new = NewInode::File { mode: 0o644 };
    let entry = fs.create(Caller::default(), fs.root(), b"file", new).await.expect("create");
    let file = InodeRef { number: entry.attributes.inode, generation: entry.attributes.generation };
    assert_eq!(fs.allocate(file, 0, 1 << 30, SizeChange::Grow).await, Err(Error::NoSpace));
    assert_eq!(fs.getattr(file).await.expect("getattr").attributes.size, 0);
    assert_eq!(fs.allocate(file, 0, 0, SizeChange::Grow).await, Err(Error::Invalid));
    assert_eq!(fs.allocate(file, i64::MAX as u64, 1, SizeChange::Grow).await, Err(Error::FileTooLarge));
    assert_eq!(fs.allocate(fs.root(), 0, 1, SizeChange::Grow).await, Err(Error::IsDirectory));
    fs.unmount().await.expect("unmount");
    volume.assert_clean();
}
