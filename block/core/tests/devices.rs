//! What the devices of this crate promise, on no executor but a poll.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use base::NodeId;
use block_core::{
    BlockDevice, BlockError, ByteLen, ByteOffset, Compared, CrashDevice, Durability, HeldDevice, MemoryDevice,
    Persistence, RequestKind, ReservationChange, ReservationKey, ReservationKind, ReservationOutcome, SharedDisk,
};
use bytes::Bytes;

const SECTOR: u64 = 512;

fn poll<F: Future + ?Sized>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The answer of a request that has nothing to wait for.
fn now<F: Future>(future: F) -> F::Output {
    match poll(pin!(future)) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the request waits"),
    }
}

fn sectors(value: u8, count: usize) -> Vec<Bytes> {
    vec![Bytes::from(vec![value; count * SECTOR as usize])]
}

fn write(device: &dyn BlockDevice, sector: u64, value: u8, count: usize) -> Result<(), BlockError> {
    now(device.write(ByteOffset(sector * SECTOR), sectors(value, count), Durability::Cached))
}

fn first_byte(device: &dyn BlockDevice, sector: u64) -> u8 {
    now(device.read(ByteOffset(sector * SECTOR), ByteLen(SECTOR))).expect("the sector is readable")[0]
}

/// xorshift64*, so that the test names its seed and needs no crate.
fn chooser(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 7
    }
}

#[test]
fn memory_reads_back_scattered_writes_and_refuses_bad_ranges() {
    let disk = MemoryDevice::new(ByteLen(1 << 20));
    let parts = vec![Bytes::from(vec![1; 512]), Bytes::from(vec![2; 65536]), Bytes::from(vec![3; 1024])];
    now(disk.write(ByteOffset(65536 - 512), parts, Durability::Cached)).expect("the write fits");
    let read = now(disk.read(ByteOffset(65536 - 1024), ByteLen(512 + 512 + 65536 + 1024 + 512))).expect("it fits");
    let expected = [vec![0; 512], vec![1; 512], vec![2; 65536], vec![3; 1024], vec![0; 512]].concat();
    assert!(read == expected);
    now(disk.write_zeroes(ByteOffset(0), ByteLen(1 << 20))).expect("it fits");
    assert!(disk.snapshot() == MemoryDevice::new(ByteLen(1 << 20)).snapshot());

    let misaligned = now(disk.read(ByteOffset(1), ByteLen(512)));
    assert!(matches!(misaligned, Err(BlockError::Misaligned { .. })));
    assert!(matches!(write(&*disk, 2048, 1, 1), Err(BlockError::OutOfRange { .. })));
    let far = now(disk.read(ByteOffset(u64::MAX - 511), ByteLen(512)));
    assert!(matches!(far, Err(BlockError::OutOfRange { .. })));
}

#[test]
fn a_power_cut_keeps_flushed_and_forced_writes_and_any_version_of_the_others() {
    let disk = CrashDevice::new(ByteLen(64 * SECTOR));
    write(&*disk, 0, 1, 16).expect("the write fits");
    now(disk.flush()).expect("the disk flushes");
    write(&*disk, 0, 2, 16).expect("the write fits");
    write(&*disk, 0, 3, 8).expect("the write fits");
    now(disk.write(ByteOffset(32 * SECTOR), sectors(9, 1), Durability::Forced)).expect("the write fits");
    assert_eq!(first_byte(&*disk, 0), 3);

    let (mut seen, mut torn) = ([false; 4], false);
    for seed in 0..200 {
        let after = MemoryDevice::from_image(disk.power_cut(&mut chooser(seed)));
        assert_eq!(first_byte(&*after, 32), 9, "seed {seed} lost a forced write");
        let values: Vec<u8> = (0..16).map(|sector| first_byte(&*after, sector)).collect();
        assert!(values.iter().all(|value| (1..=3).contains(value)), "seed {seed}: {values:?}");
        seen[values[0] as usize] = true;
        torn |= values[8..].iter().any(|value| *value != values[8]);
        let again = disk.power_cut(&mut chooser(seed));
        assert!(again == after.snapshot(), "seed {seed} is not repeatable");
    }
    assert_eq!(seen, [false, true, true, true], "older, newer and newest all occur");
    assert!(torn, "some write was torn");
}

#[test]
fn a_flush_does_not_cover_a_write_that_was_not_answered() {
    let disk = CrashDevice::new(ByteLen(64 * SECTOR));
    let unanswered = disk.write(ByteOffset(0), sectors(1, 1), Durability::Cached);
    now(disk.flush()).expect("the disk flushes");
    assert_eq!(disk.unflushed_count(), 1);
    now(unanswered).expect("the write fits");
    now(disk.flush()).expect("the disk flushes");
    assert_eq!(disk.unflushed_count(), 0);
}

#[test]
fn power_goes_off_after_the_given_number_of_changes() {
    let disk = CrashDevice::new(ByteLen(64 * SECTOR));
    disk.power_off_after(2);
    write(&*disk, 0, 1, 1).expect("the power is on");
    now(disk.flush()).expect("the power is on");
    assert!(matches!(write(&*disk, 0, 2, 1), Err(BlockError::Unavailable { .. })));
    disk.restart_from(disk.power_cut(&mut chooser(1)));
    assert_eq!(first_byte(&*disk, 0), 1);
}

#[test]
fn fencing_waits_for_a_write_in_flight_and_refuses_the_next() {
    let memory = MemoryDevice::new(ByteLen(64 * SECTOR));
    let held = HeldDevice::new(memory.clone());
    held.hold(|request| request.kind == RequestKind::Write);
    let shared = SharedDisk::new(held.clone());
    let (one, two) = (shared.node(NodeId(1)), shared.node(NodeId(2)));

    let mut late = one.write(ByteOffset(0), sectors(7, 1), Durability::Cached);
    assert!(poll(late.as_mut()).is_pending());
    let mut fence = shared.fence(NodeId(1));
    assert!(poll(fence.as_mut()).is_pending(), "the fence answered before the write ended");
    assert_eq!(write(&*one, 1, 7, 1), Err(BlockError::Fenced));
    assert!(matches!(now(one.read(ByteOffset(0), ByteLen(SECTOR))), Err(BlockError::Fenced)));
    held.release_all();
    assert_eq!(now(late), Ok(()));
    now(fence);
    write(&*two, 2, 8, 1).expect("the other node is not fenced");
    assert_eq!((first_byte(&*memory, 0), first_byte(&*memory, 2)), (7, 8));
}

#[test]
fn a_write_whose_caller_died_lands_before_the_fence_completes_or_never() {
    let memory = MemoryDevice::new(ByteLen(64 * SECTOR));
    let held = HeldDevice::new(memory.clone());
    held.hold(|request| request.kind == RequestKind::Write);
    let shared = SharedDisk::new(held.clone());
    let node = shared.node(NodeId(1));
    let mut late = node.write(ByteOffset(0), sectors(7, 1), Durability::Cached);
    assert!(poll(late.as_mut()).is_pending());
    drop(late);
    drop(node);

    let mut fence = shared.fence(NodeId(1));
    let mut second = shared.fence(NodeId(1));
    assert!(poll(fence.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    held.release_all();
    now(fence);
    now(second);
    assert_eq!(first_byte(&*memory, 0), 7);
}

#[test]
fn a_node_let_in_again_gets_a_new_gate_and_its_old_one_stays_closed() {
    let shared = SharedDisk::new(MemoryDevice::new(ByteLen(64 * SECTOR)));
    let old = shared.node(NodeId(1));
    now(shared.fence(NodeId(1)));
    let while_fenced = shared.node(NodeId(1));
    shared.admit(NodeId(1));
    let new = shared.node(NodeId(1));
    assert_eq!(write(&*old, 0, 1, 1), Err(BlockError::Fenced));
    assert_eq!(write(&*while_fenced, 0, 1, 1), Err(BlockError::Fenced));
    assert_eq!(write(&*new, 0, 1, 1), Ok(()));
}

#[test]
fn a_test_holds_releases_and_fails_single_requests() {
    let memory = MemoryDevice::new(ByteLen(64 * SECTOR));
    let held: Arc<HeldDevice> = HeldDevice::new(memory);
    held.hold(|request| request.at.0 >= 8 * SECTOR);
    write(&*held, 0, 1, 1).expect("it is not held");
    let mut arrived = held.arrived(2);
    let mut first = held.write(ByteOffset(8 * SECTOR), sectors(2, 1), Durability::Cached);
    assert!(poll(arrived.as_mut()).is_pending());
    let mut second = held.write(ByteOffset(9 * SECTOR), sectors(3, 1), Durability::Cached);
    now(arrived);
    assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    assert_eq!(held.held().iter().map(|request| request.number).collect::<Vec<_>>(), [1, 2]);
    assert!(held.release(2) && held.fail(1, BlockError::NoSpace) && !held.release(1));
    assert_eq!(now(second), Ok(()));
    assert_eq!(now(first), Err(BlockError::NoSpace));
}

#[test]
fn a_compare_and_write_changes_nothing_unless_the_bytes_are_as_expected() {
    let devices: [Arc<dyn BlockDevice>; 2] =
        [MemoryDevice::new(ByteLen(8 * SECTOR)), CrashDevice::new(ByteLen(8 * SECTOR))];
    for device in devices {
        write(&*device, 2, 1, 2).expect("the write fits");
        let sector = |value: u8| Bytes::from(vec![value; SECTOR as usize]);
        let swap = |at: u64, old: u8, new: u8| {
            now(device.compare_and_write(ByteOffset(at * SECTOR), sector(old), sector(new)))
        };
        assert_eq!(swap(2, 9, 3), Ok(Compared::Differs { at: ByteOffset(2 * SECTOR) }));
        assert_eq!(first_byte(&*device, 2), 1);
        assert_eq!(swap(2, 1, 3), Ok(Compared::Written));
        assert_eq!((first_byte(&*device, 2), first_byte(&*device, 3)), (3, 1));
        assert!(matches!(swap(8, 0, 1), Err(BlockError::OutOfRange { .. })));
        let uneven = now(device.compare_and_write(ByteOffset(0), sector(0), sectors(1, 2).concat().into()));
        assert!(matches!(uneven, Err(BlockError::Misaligned { .. })));
        let refused = now(device.reservation_keys());
        assert!(matches!(refused, Err(BlockError::Unsupported { .. })));
    }
}

#[test]
fn a_compare_and_write_survives_a_power_cut_once_it_is_answered() {
    let disk = CrashDevice::new(ByteLen(8 * SECTOR));
    let sector = |value: u8| Bytes::from(vec![value; SECTOR as usize]);
    write(&*disk, 0, 1, 1).expect("the write fits");
    assert_eq!(now(disk.compare_and_write(ByteOffset(0), sector(1), sector(2))), Ok(Compared::Written));
    for seed in 0..50 {
        let after = MemoryDevice::from_image(disk.power_cut(&mut chooser(seed)));
        assert_eq!(first_byte(&*after, 0), 2, "seed {seed}");
    }
}

#[test]
fn a_preempt_and_abort_is_answered_when_the_victims_writes_have_ended() {
    let held = HeldDevice::new(MemoryDevice::new(ByteLen(64 * SECTOR)));
    let disk = SharedDisk::new(held.clone());
    let (survivor, victim) = (disk.node(NodeId(1)), disk.node(NodeId(2)));
    let key = |number: u64| ReservationKey::new(number).expect("not zero");
    let kind = ReservationKind::WriteExclusiveAll;
    let persistence = Persistence::SurvivesPowerLoss;
    for (node, number) in [(&survivor, 11), (&victim, 22)] {
        let register = ReservationChange::Register { own: None, new: Some(key(number)), persistence };
        assert_eq!(now(node.change_reservation(register)), Ok(ReservationOutcome::Done));
    }
    let reserve = ReservationChange::Reserve { own: key(11), kind };
    assert_eq!(now(survivor.change_reservation(reserve)), Ok(ReservationOutcome::Done));
    assert_eq!(now(victim.reservation_keys()).expect("it tells").keys, [key(11), key(22)]);

    held.hold(|request| request.kind == RequestKind::Write);
    let mut late = Box::pin(victim.write(ByteOffset(0), sectors(7, 1), Durability::Cached));
    assert!(poll(late.as_mut()).is_pending());
    let fence = ReservationChange::PreemptAndAbort { own: key(11), victim: key(22), kind };
    let mut fencing = Box::pin(survivor.change_reservation(fence));
    assert!(poll(fencing.as_mut()).is_pending());
    assert_eq!(write(&*victim, 1, 7, 1), Err(BlockError::Fenced));
    held.release_all();
    assert!(matches!(poll(late.as_mut()), Poll::Ready(Ok(()))));
    assert_eq!(poll(fencing.as_mut()), Poll::Ready(Ok(ReservationOutcome::Done)));
    assert_eq!(write(&*victim, 1, 7, 1), Err(BlockError::Fenced));
    assert_eq!(first_byte(&*victim, 1), 0);
    write(&*survivor, 1, 8, 1).expect("the survivor writes on");
    let status = now(survivor.reservation_status()).expect("it tells");
    assert_eq!((status.registrations.len(), status.registrations[0].holds), (1, Some(kind)));
}
