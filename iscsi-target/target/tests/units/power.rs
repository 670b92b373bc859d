//! What an initiator was promised survives every cut of power: a flush is a flush, FUA is durable, without a write cache
//! everything is, and WRITE ATOMIC leaves all or nothing.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use block_core::crash::CrashDevice;
use block_core::image::Image;
use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset, Durability, Geometry, IoFuture};
use bytes::Bytes;
use corral_target::atomic::{ATOMIC_MAX, AtomicJournal};
use corral_target::unit::LogicalUnit;
use iscsi_target_proto::scsi::Status;

use crate::world::{BLOCK, NAME, Port, World, ranged, write_16};

const BLOCKS: usize = 48;

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn roll(&mut self, sides: usize) -> usize {
        (self.next() % sides as u64) as usize
    }
}

/// The bytes of a device that answers at once.
pub fn content(device: &dyn BlockDevice, at: u64, length: ByteLen) -> Vec<u8> {
    done(device.read(ByteOffset(at), length)).expect("the range exists").to_vec()
}

fn done<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("the device answers at once"),
    }
}

/// Part of a device, so that a journal and a unit lose their power at the same moment: while a write is under way.
struct Part {
    whole: Arc<CrashDevice>,
    from: u64,
    sectors: u64,
    /// Writes that are still answered; shared by the parts.
    answered: Arc<AtomicU64>,
}

impl Part {
    fn at(&self, at: ByteOffset) -> ByteOffset {
        ByteOffset(self.from + at.0)
    }

    /// The power goes while the device is at this write: it may survive whole, in pieces or not at all.
    fn last(&self, write: IoFuture<()>) -> IoFuture<()> {
        match self.answered.load(Ordering::Relaxed).checked_sub(1) {
            Some(left) => {
                self.answered.store(left, Ordering::Relaxed);
                write
            }
            None => {
                drop(write);
                self.whole.power_off_after(0);
                Box::pin(async { Err(BlockError::Unavailable { what: "the power is off".to_owned() }) })
            }
        }
    }
}

impl BlockDevice for Part {
    fn geometry(&self) -> Geometry {
        Geometry { sector: 512, sectors: self.sectors }
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        self.whole.read(self.at(at), len)
    }

    fn write(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> IoFuture<()> {
        self.last(self.whole.write(self.at(at), data, durability))
    }

    fn flush(&self) -> IoFuture<()> {
        self.whole.flush()
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.whole.discard(self.at(at), len)
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.whole.write_zeroes(self.at(at), len)
    }
}

/// The contents that a block may have after a cut, the newest last. A block's content is one byte throughout.
type Model = Vec<Vec<u8>>;

fn put(model: &mut Model, lba: usize, blocks: usize, value: u8, is_durable: bool) {
    for may_be in &mut model[lba..lba + blocks] {
        if is_durable {
            may_be.clear();
        }
        may_be.push(value);
    }
}

/// One command of a random kind, and what it changes. `has_cache`: cached writes may be lost until the next flush.
fn step(port: &Port, dice: &mut Dice, model: &mut Model, has_cache: bool) {
    let lba = dice.roll(BLOCKS - 8);
    let blocks = 1 + dice.roll(8);
    let value = dice.next() as u8;
    let data = vec![value; blocks * BLOCK];
    let (at, count) = (lba as u64, blocks as u32);
    let force = dice.roll(4) == 0;
    let flags = if force { 0x08 } else { 0 };
    let is_durable = force || !has_cache;
    let result = match dice.roll(9) {
        0..=2 => {
            put(model, lba, blocks, value, is_durable);
            port.run(&write_16(at, count, force), &data, 0)
        }
        3 => {
            // WRITE AND VERIFY, which has to be on the medium to be verified there.
            put(model, lba, blocks, value, true);
            port.run(&ranged(0x8e, 0, at, count), &data, 0)
        }
        4 => {
            let value = if dice.roll(2) == 0 { 0 } else { value };
            put(model, lba, blocks, value, !has_cache);
            let unmap = if value == 0 && force { 0x08 } else { 0 };
            port.run(&ranged(0x93, unmap, at, count), &[value; BLOCK], 0)
        }
        5 => {
            put(model, lba, blocks, 0, !has_cache);
            let list = [&[0, 22, 0, 16, 0, 0, 0, 0][..], &at.to_be_bytes(), &count.to_be_bytes(), &[0; 4]].concat();
            port.run(&[0x42, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], &list, 0)
        }
        6 => {
            for (index, may_be) in model[lba..lba + blocks].iter_mut().enumerate() {
                let now = may_be.last().expect("every block has a content") | data[index * BLOCK];
                if is_durable {
                    may_be.clear();
                }
                may_be.push(now);
            }
            port.run(&ranged(0x8b, flags, at, count), &data, 0)
        }
        7 => {
            let now = *model[lba].last().expect("every block has a content");
            put(model, lba, 1, value, is_durable);
            let data = [[now; BLOCK], [value; BLOCK]].concat();
            port.run(&[&[0x89, flags][..], &at.to_be_bytes(), &[0, 0, 0, 1, 0, 0]].concat(), &data, 0)
        }
        _ => {
            for may_be in model.iter_mut() {
                let now = may_be.pop().expect("every block has a content");
                *may_be = vec![now];
            }
            port.run(&ranged(0x91, 0, 0, 0), &[], 0)
        }
    };
    assert_eq!(result.status, Status::Good, "{:?}", result.sense);
}

fn check(image: &Image, model: &Model, what: &str) {
    for (lba, may_be) in model.iter().enumerate() {
        let block = image.read(ByteOffset((lba * BLOCK) as u64), ByteLen(BLOCK as u64));
        let is_one_of_them = may_be.iter().any(|value| block.iter().all(|byte| byte == value));
        assert!(is_one_of_them, "{what}: block {lba} begins with {:02x}, it may be {may_be:02x?}", block[0]);
    }
}

fn unit_over(device: Arc<dyn BlockDevice>) -> LogicalUnit {
    let mut unit = LogicalUnit::over(0, NAME, device, None);
    unit.is_thin = true;
    unit
}

#[test]
fn what_was_flushed_or_forced_survives_every_cut_and_without_a_cache_everything_does() {
    for seed in 1..=60 {
        let has_cache = seed % 3 != 0;
        let device = CrashDevice::new(ByteLen((BLOCKS * BLOCK) as u64));
        let unit = unit_over(device.clone());
        unit.set_write_cache(has_cache);
        let world = World::new(unit);
        let port = world.port(1);
        let mut dice = Dice(seed * 0x9e37_79b9);
        let mut model: Model = vec![vec![0]; BLOCKS];
        for number in 0..120 {
            step(&port, &mut dice, &mut model, has_cache);
            for _ in 0..2 {
                let image = device.power_cut(&mut || dice.next());
                check(&image, &model, &format!("seed {seed}, cache {has_cache}, after command {number}"));
            }
        }
    }
}

#[test]
fn switching_the_cache_off_makes_durable_what_was_written_before() {
    let device = CrashDevice::new(ByteLen((BLOCKS * BLOCK) as u64));
    let world = World::new(unit_over(device.clone()));
    let port = world.port(1);
    assert_eq!(port.run(&write_16(0, 1, false), &[5; BLOCK], 0).status, Status::Good);
    let mut list = vec![0; 4];
    list.extend_from_slice(&[&[0x08, 18][..], &[0; 18]].concat());
    let result = port.run(&[0x15, 0x10, 0, 0, list.len() as u8, 0], &list, 0);
    assert_eq!(result.status, Status::Good, "{:?}", result.sense);
    assert_eq!(device.unflushed_count(), 0);
}

/// A unit with a journal behind it on the same device, whose power goes at the write after so many.
fn atomic_unit(device: &Arc<CrashDevice>, answered: &Arc<AtomicU64>) -> (LogicalUnit, AtomicJournal) {
    let unit_bytes = (BLOCKS * BLOCK) as u64;
    let part = |from: u64, bytes: u64| -> Arc<dyn BlockDevice> {
        let answered = answered.clone();
        Arc::new(Part { whole: device.clone(), from, sectors: bytes / 512, answered })
    };
    let journal = || AtomicJournal::over(part(unit_bytes, 512 + ATOMIC_MAX), PathBuf::from("journal"));
    let mut unit = unit_over(part(0, unit_bytes));
    unit.atomic = Some(journal());
    (unit, journal())
}

#[test]
fn an_atomic_write_is_there_whole_or_not_at_all_wherever_the_power_is_cut() {
    let (mut old, mut new) = (0, 0);
    for seed in 1..=100u64 {
        // While the journal is written, the unit, the journal; and afterwards.
        for cut in 0..4 {
            let mut dice = Dice(seed * 0x9e37_79b9 + cut);
            let device = CrashDevice::new(ByteLen((BLOCKS * BLOCK) as u64 + 512 + ATOMIC_MAX));
            let answered = Arc::new(AtomicU64::new(u64::MAX));
            let (unit, _) = atomic_unit(&device, &answered);
            let world = World::new(unit);
            let port = world.port(1);
            let before = vec![1; BLOCKS * BLOCK];
            assert_eq!(port.run(&write_16(0, BLOCKS as u32, true), &before, 0).status, Status::Good);
            // An older one whose blocks were written again, durably: it must not come back.
            assert_eq!(port.run(&atomic(8, 4), &[2; 4 * BLOCK], 0).status, Status::Good);
            assert_eq!(port.run(&write_16(8, 2, true), &[3; 2 * BLOCK], 0).status, Status::Good);
            let is_older_only = seed % 4 == 0;
            let mut is_acknowledged = false;
            if !is_older_only {
                answered.store(cut, Ordering::Relaxed);
                is_acknowledged = port.run(&atomic(20, 8), &[9; 8 * BLOCK], 0).status == Status::Good;
                assert_eq!(is_acknowledged, cut >= 3, "journal, unit, journal");
            }

            device.restart_from(device.power_cut(&mut || dice.next()));
            answered.store(u64::MAX, Ordering::Relaxed);
            let (unit, journal) = atomic_unit(&device, &answered);
            done(journal.replay(&*unit.device)).expect("the device works again");
            let content = content(&*unit.device, 0, ByteLen((BLOCKS * BLOCK) as u64));
            let value = content[20 * BLOCK];
            assert!(value == 9 || value == 1 && !is_acknowledged, "seed {seed}, cut {cut}: {value}");
            *(if value == 9 { &mut new } else { &mut old }) += 1;
            for (lba, block) in content.chunks(BLOCK).enumerate() {
                let is = match lba {
                    20..28 => value,
                    8 | 9 => 3,
                    10 | 11 => 2,
                    _ => 1,
                };
                assert!(
                    block.iter().all(|byte| *byte == is),
                    "seed {seed}, cut {cut}: block {lba}: {}, not {is}",
                    block[0]
                );
            }
            // A second start finds nothing to do.
            assert_eq!(done(journal.replay(&*unit.device)), Ok(None));
        }
    }
    assert!(old > 50 && new > 50, "both ends happen: {old} {new}");
}

/// WRITE ATOMIC (16).
fn atomic(lba: u64, blocks: u16) -> Vec<u8> {
    [&[0x9c, 0][..], &lba.to_be_bytes(), &[0, 0], &blocks.to_be_bytes(), &[0, 0]].concat()
}

#[test]
fn what_is_promised_atomically_is_a_block_without_a_journal_and_the_journal_s_size_with_one() {
    let device = CrashDevice::new(ByteLen((BLOCKS * BLOCK) as u64 + 512 + ATOMIC_MAX));
    let (with, _) = atomic_unit(&device, &Arc::default());
    assert_eq!(with.profile().atomic_blocks_max, 2048);
    let world = World::new(unit_over(device));
    assert_eq!(world.unit().profile().atomic_blocks_max, 1);
    let port = world.port(1);
    assert_eq!(port.run(&atomic(0, 2), &[1; 2 * BLOCK], 0).status, Status::CheckCondition);
    assert_eq!(port.run(&atomic(0, 1), &[1; BLOCK], 0).status, Status::Good);
}
