//! Commands that one port ends for another: nothing of them lands once that is answered.

use std::sync::Arc;

use block_core::held::{HeldDevice, RequestKind};
use block_core::memory::MemoryDevice;
use block_core::{ByteLen, Geometry, image::Image};
use corral_target::unit::LogicalUnit;
use iscsi_target_proto::scsi::{AdditionalSense, Status};

use crate::world::{BLOCK, NAME, Running, World, ranged, write_16};

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const PREEMPT_AND_ABORT: u8 = 5;
const WRITE_EXCLUSIVE_REGISTRANTS: u8 = 5;

fn world() -> (World, Arc<HeldDevice>) {
    let image = Image::new(Geometry { sector: 512, sectors: 64 });
    let device = HeldDevice::new(MemoryDevice::from_image(image));
    (World::new(LogicalUnit::over(0, NAME, device.clone(), None)), device)
}

/// Releases the only request that is held.
fn release(device: &HeldDevice) {
    let held = device.held();
    assert_eq!(held.len(), 1, "{held:?}");
    assert!(device.release(held[0].number));
}

#[test]
fn preempt_and_abort_is_answered_when_the_last_write_has_ended_and_nothing_lands_afterwards() {
    let (world, device) = world();
    let (victim, other) = (world.port(1), world.port(2));
    assert_eq!(victim.reserve_out(REGISTER, 0, 0, 1).result().status, Status::Good);
    assert_eq!(other.reserve_out(REGISTER, 0, 0, 2).result().status, Status::Good);
    device.hold(|request| request.kind == RequestKind::Write);
    let data = vec![7; BLOCK];
    let in_device = victim.begin(&write_16(0, 1, false), BLOCK, 0).give(&data);
    let awaits_data = victim.begin(&write_16(1, 1, false), BLOCK, 0);
    let atomic_awaits_data = victim.begin(&ranged(0x9c, 0, 2, 1), BLOCK, 0);
    assert!(matches!(awaits_data, Running::Parked(_)));
    // No reservation: afterwards the victim may write again, but what it had waiting is over.
    let preempting = other.reserve_out(PREEMPT_AND_ABORT, WRITE_EXCLUSIVE_REGISTRANTS, 2, 1);
    assert!(!preempting.is_ended(), "a write of the victim is in the device");
    let behind_the_gate = victim.begin(&write_16(3, 1, false), BLOCK, 0).give(&data);
    let register_behind_the_gate = victim.reserve_out(6, 0, 0, 99);
    assert!(!behind_the_gate.is_ended() && !register_behind_the_gate.is_ended());

    release(&device);
    assert_eq!(in_device.result().status, Status::Good, "it landed before");
    assert_eq!(preempting.result().status, Status::Good);
    // In the order in which the gate lets them in.
    assert_eq!(behind_the_gate.result().status, Status::TaskAborted);
    assert_eq!(register_behind_the_gate.result().status, Status::TaskAborted);
    assert_eq!(awaits_data.give(&data).result().status, Status::TaskAborted);
    assert_eq!(atomic_awaits_data.give(&data).result().status, Status::TaskAborted);
    assert_eq!(device.held(), [], "nothing reached the device");
    assert_eq!(victim.told().map(|sense| sense.additional), Some(AdditionalSense::REGISTRATIONS_PREEMPTED));
    assert_eq!(world.unit().reservations.read(|table| table.registrants.len()), 1, "the victim is not registered");
    // A new command is judged by what holds now.
    device.release_all();
    assert_eq!(victim.run(&write_16(4, 1, false), &data, 0).status, Status::Good);
}

#[test]
fn a_preempted_holder_may_not_write_and_is_told_why() {
    let (world, _) = world();
    let (victim, other) = (world.port(1), world.port(2));
    assert_eq!(victim.reserve_out(REGISTER, 0, 0, 1).result().status, Status::Good);
    assert_eq!(other.reserve_out(REGISTER, 0, 0, 2).result().status, Status::Good);
    let kind = WRITE_EXCLUSIVE_REGISTRANTS;
    assert_eq!(victim.reserve_out(RESERVE, kind, 1, 0).result().status, Status::Good);
    let parked = victim.begin(&write_16(0, 1, false), BLOCK, 0);
    assert_eq!(other.reserve_out(PREEMPT_AND_ABORT, kind, 2, 1).result().status, Status::Good);
    assert_eq!(parked.give(&[1; BLOCK]).result().status, Status::TaskAborted);
    assert_eq!(victim.told().map(|sense| sense.additional), Some(AdditionalSense::REGISTRATIONS_PREEMPTED));
    assert_eq!(victim.run(&write_16(0, 1, false), &[1; BLOCK], 0).status, Status::ReservationConflict);
    let image = world.unit().device.clone();
    assert_eq!(crate::power::content(&*image, 0, ByteLen(512)), [0; BLOCK]);
}

#[test]
fn a_read_of_several_blocks_waits_for_an_atomic_write_under_way() {
    let (world, device) = world();
    let (writer, reader) = (world.port(1), world.port(2));
    device.hold(|request| request.kind == RequestKind::Write);
    // Only one block without a journal; it takes the gate like a longer one.
    let writing = writer.begin(&ranged(0x9c, 0, 0, 1), BLOCK, 0);
    assert!(matches!(writing, Running::Parked(_)));
    let compare_and_write = writer.begin(&ranged_caw(0), 2 * BLOCK, 0).give(&[0; 2 * BLOCK]);
    let reading = reader.begin(&ranged(0x88, 0, 0, 2), 0, 1024);
    let small = reader.begin(&ranged(0x88, 0, 0, 1), 0, 512);
    assert!(!compare_and_write.is_ended() && !reading.is_ended());
    assert_eq!(small.result().status, Status::Good);
    release(&device);
    assert_eq!(compare_and_write.result().status, Status::Good);
    assert_eq!(reading.result().status, Status::Good);
}

/// COMPARE AND WRITE of one block.
fn ranged_caw(lba: u64) -> Vec<u8> {
    [&[0x89, 0][..], &lba.to_be_bytes(), &[0, 0, 0, 1, 0, 0]].concat()
}
