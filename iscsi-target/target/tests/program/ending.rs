//! Tasks of one session that another session ends, while their initiator has not sent all of their data.

use bytes::Bytes;
use iscsi_target_proto::scsi::{AdditionalSense, Cdb, DataPhase, ScsiCommand, Status};

use crate::driver::Initiator;
use crate::running::{Directory, Program, TARGET};

/// More than the target takes unasked.
const LARGE: usize = 2 << 20;

fn reserve_out(initiator: &mut Initiator, action: u8, kind: u8, keys: [u8; 2]) -> Status {
    let mut list = [0; 24];
    (list[7], list[15]) = (keys[0], keys[1]);
    let mut cdb = Cdb::default();
    (cdb.0[0], cdb.0[1], cdb.0[2], cdb.0[8]) = (0x5f, action, kind, 24);
    let data = DataPhase::Out { buffers: vec![Bytes::copy_from_slice(&list)] };
    initiator.run(ScsiCommand { lun: 0, cdb, data }).status
}

fn large_write() -> ScsiCommand {
    ScsiCommand::write_16(0, 0, vec![vec![7; LARGE].into()], 512, false).expect("whole blocks")
}

/// After an end of its tasks: the write is over, nothing of it is on the disk, and the session goes on.
fn check(victim: &mut Initiator, other: &mut Initiator, told: AdditionalSense) {
    assert_eq!(victim.end().status, Status::TaskAborted);
    let attention = victim.run(ScsiCommand::test_unit_ready(0));
    assert_eq!(attention.sense.map(|sense| sense.additional), Some(told));
    let _ = other.run(ScsiCommand::test_unit_ready(0));
    let read = other.run(ScsiCommand::read_16(0, 0, 64, 512).expect("small"));
    assert!(read.data.iter().all(|byte| *byte == 0) && read.data.len() == 64 * 512);
    assert!(victim.run(large_write()).is_good());
}

#[test]
fn a_write_that_waits_for_its_data_is_ended_by_preempt_and_abort() {
    const REGISTER: u8 = 0;
    const PREEMPT_AND_ABORT: u8 = 5;
    let directory = Directory::new();
    let program = Program::start(&directory, &["size=8M"]);
    let mut victim = Initiator::login(program.address, TARGET, 1).expect("the login succeeds");
    let mut other = Initiator::login(program.address, TARGET, 2).expect("the login succeeds");
    assert_eq!(reserve_out(&mut victim, REGISTER, 0, [0, 1]), Status::Good);
    assert_eq!(reserve_out(&mut other, REGISTER, 0, [0, 2]), Status::Good);
    victim.begin(large_write());
    assert_eq!(reserve_out(&mut other, PREEMPT_AND_ABORT, 7, [2, 1]), Status::Good);
    check(&mut victim, &mut other, AdditionalSense::REGISTRATIONS_PREEMPTED);
}

#[test]
fn a_write_that_waits_for_its_data_is_ended_by_another_session_s_reset_of_the_unit() {
    let directory = Directory::new();
    let program = Program::start(&directory, &["size=8M"]);
    let mut victim = Initiator::login(program.address, TARGET, 1).expect("the login succeeds");
    let mut other = Initiator::login(program.address, TARGET, 2).expect("the login succeeds");
    victim.begin(large_write());
    other.reset(0);
    check(&mut victim, &mut other, AdditionalSense::BUS_DEVICE_RESET);
}
