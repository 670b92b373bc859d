//! Command blocks and parameter lists for the target's real execution of commands: three units (thin with a journal, read-only,
//! large blocks) over memory, two initiator ports. Every command has to come to its end, and one that is refused as illegal has to
//! leave contents and reservations as they were.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use block_core::image::Image;
use block_core::memory::MemoryDevice;
use block_core::{ByteLen, ByteOffset, Geometry};
use bytes::Bytes;
use corral_target::access::Access;
use corral_target::atomic::{ATOMIC_MAX, AtomicJournal};
use corral_target::execute::{self, From, Job, Step};
use corral_target::guests::Leave;
use corral_target::registry::{Membership, Target};
use corral_target::unit::LogicalUnit;
use iscsi_target_proto::pdu::LunField;
use iscsi_target_proto::scsi::{Cdb, Nexus, Reservations, SenseKey, TransportId};
use iscsi_target_proto::target::{Command, Direction, LoginIdentity, TaskId, TaskResult};

use crate::random::Random;

const NAME: &str = "iqn.2026-11.org.corral:fuzz";
/// Bytes of each unit's device.
const SIZE: u64 = 64 * 1024;

struct World {
    target: Arc<Target>,
    devices: [Arc<MemoryDevice>; 3],
    ports: [Membership; 2],
}

fn memory(sector: u32, size: u64) -> Arc<MemoryDevice> {
    MemoryDevice::from_image(Image::new(Geometry { sector, sectors: size / u64::from(sector) }))
}

fn port(number: u8) -> Nexus {
    Nexus { initiator: format!("iqn.2026-11.test:{number}"), isid: [0x80, 0, 0, 0, 0, number] }
}

impl World {
    fn new() -> Self {
        let devices = [memory(512, SIZE), memory(512, SIZE), memory(4096, SIZE)];
        let mut units: Vec<_> =
            (0..).zip(&devices).map(|(number, device)| LogicalUnit::over(number, NAME, device.clone(), None)).collect();
        units[0].is_thin = true;
        units[0].atomic = Some(AtomicJournal::over(memory(512, 512 + ATOMIC_MAX), PathBuf::new()));
        units[1].is_read_only = true;
        let target = Arc::new(Target::new(NAME.to_owned(), Access::default(), units));
        let ports = [1, 2].map(|number| {
            let Nexus { initiator, isid } = port(number);
            let identity = LoginIdentity {
                initiator_name: initiator,
                isid,
                tsih: 0,
                connection_id: 0,
                target_name: Some(NAME.to_owned()),
            };
            let mut entering = pin!(target.clone().establish(Arc::new(Leave::default()), identity));
            match entering.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(membership)) => membership,
                _ => panic!("the port is free"),
            }
        });
        Self { target, devices, ports }
    }

    fn contents(&self) -> (Vec<Bytes>, Vec<Reservations>) {
        let read = |device: &Arc<MemoryDevice>| device.snapshot().read(ByteOffset(0), ByteLen(SIZE));
        let kept = self.target.units().map(|unit| unit.reservations.read(Clone::clone));
        (self.devices.iter().map(read).collect(), kept.collect())
    }

    fn run(&self, by: &Membership, command: &Command, data: &[u8]) -> TaskResult {
        let from = From { target: &self.target, nexus: &by.port, attentions: &by.attentions };
        match execute::begin(&from, command) {
            Step::Done(result) => result,
            Step::Read(plan) => ended(plan.begin()),
            Step::Run(job) => ended(job),
            Step::Write(plan) => {
                let length = plan.length() as usize;
                assert!(length > 0 && length <= data.len(), "{length} of {} bytes are asked for", data.len());
                // As it may have come: in two pieces, cut anywhere.
                let cut = length / 3;
                let pieces = [&data[..cut], &data[cut..length]].map(Bytes::copy_from_slice);
                ended(plan.begin(pieces.into_iter().filter(|piece| !piece.is_empty()).collect()))
            }
        }
    }
}

/// Memory answers at once, and nobody else holds a gate.
fn ended(mut job: Job) -> TaskResult {
    for _ in 0..10_000 {
        if let Poll::Ready(result) = job.poll(&mut Context::from_waker(Waker::noop())) {
            return result;
        }
    }
    panic!("the command does not end");
}

/// One round: a few commands, mostly near well-formed ones.
pub fn round(random: &mut Random) {
    let world = World::new();
    for _ in 0..=random.below(12) {
        let (mut cdb, mut data, mut expects) = well_formed(random, &world.target);
        if random.below(3) > 0 {
            random.mutate(&mut cdb);
            cdb.resize(16, 0);
        }
        if random.below(3) == 0 {
            random.mutate(&mut data);
        }
        if random.below(8) == 0 {
            expects = random.below(100_000) as u32;
        }
        let (direction, expected) = match (data.len(), expects, random.below(20)) {
            (0, expects, _) => (Direction::In, expects),
            (_, _, 0) => (Direction::Both, data.len() as u32),
            (_, _, 1) => (Direction::None, 0),
            _ => (Direction::Out, data.len() as u32),
        };
        let mut block = Cdb::default();
        block.0.copy_from_slice(&cdb[..16]);
        let unit = [0, 0, 0, 0, 1, 2, 2, 7][random.below(8)];
        let lun = LunField::single_level(unit);
        let command = Command { task: TaskId::default(), lun, cdb: block, direction, expected };
        let before = world.contents();
        let result = world.run(&world.ports[random.below(2)], &command, &data);
        let is_illegal = result.sense.as_ref().is_some_and(|sense| sense.key == SenseKey::IllegalRequest);
        if is_illegal {
            assert!(world.contents() == before, "{block:02x?} was refused and changed something");
        }
        assert_eq!(world.contents().0[1], before.0[1], "{block:02x?} changed a read-only unit");
    }
}

/// A command that is right, with its data and what it expects.
fn well_formed(random: &mut Random, target: &Target) -> (Vec<u8>, Vec<u8>, u32) {
    let lba = random.below(14) as u8;
    let blocks = random.below(4) as u8;
    let payload = |blocks: u8| vec![0xa5; usize::from(blocks) * 512];
    let long = |opcode: u8, flags: u8| {
        let mut cdb = vec![opcode, flags, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, blocks, 0, 0];
        if opcode == ATOMIC {
            (cdb[11], cdb[12]) = (0, 0);
        }
        cdb
    };
    let out = |opcode: u8, length: usize| {
        let mut cdb = vec![0; 16];
        (cdb[0], cdb[7], cdb[8]) = (opcode, (length >> 8) as u8, length as u8);
        cdb
    };
    const ATOMIC: u8 = 0x9c;
    let (cdb, data) = match random.below(16) {
        0 => (long(0x8a, 0x08), payload(blocks)),
        1 => (vec![0x2a, 0, 0, 0, 0, lba, 0, 0, blocks, 0], payload(blocks)),
        2 => (long(0x8e, 0x02), payload(blocks)),
        3 => (long(0x93, [0, 0x08, 0x01, 0x09][random.below(4)]), payload(1)),
        4 => (long([0x8b, ATOMIC][random.below(2)], 0), payload(blocks)),
        5 => (long(0x89, 0), [vec![0; usize::from(blocks) * 512], payload(blocks)].concat()),
        6 => (long(0x8f, [0, 0x02, 0x06][random.below(3)]), payload(blocks)),
        7 => {
            let list = [&[0, 22, 0, 16, 0, 0, 0, 0][..], &[0; 7], &[lba, 0, 0, 0, blocks, 0, 0, 0, 0]].concat();
            (out(0x42, list.len()), list)
        }
        8..=10 => reserve_out(random),
        11 => copy(random, target, lba, blocks),
        12 => {
            let list =
                [&[0, 0, 0, 0, 0x08, 18, 0x04][..], &[0; 17], &[0x0a, 10, 0, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0]]
                    .concat();
            (vec![0x15, 0x10, 0, 0, list.len() as u8, 0], list)
        }
        13 => {
            let opcodes =
                [0x12, 0x1a, 0x5a, 0x4d, 0xa0, 0xa3, 0x9e, 0x25, 0x5e, 0x84, 0x03, 0x00, 0x34, 0x90, 0x91, 0x35];
            let mut cdb = vec![0; 16];
            cdb[0] = opcodes[random.below(opcodes.len())];
            cdb[1] = [0, 0, 0x0c, 0x0d, 0x10, 0x12, 1, 2, 3][random.below(9)];
            cdb[2] = [0, 0x83, 0xb0, 0xb2, 0x3f, 0x08, 0x80][random.below(7)];
            cdb[4] = 0xff;
            (cdb[8], cdb[12]) = (0xff, 0xff);
            (cdb, Vec::new())
        }
        14 => (vec![[0x16, 0x17, 0x1b, 0x1e][random.below(4)], 0, 0, 0, 1, 0], Vec::new()),
        _ => (long([0x88, 0xa8, 0x08, 0x28][random.below(4)], 0), Vec::new()),
    };
    let mut cdb = cdb;
    cdb.resize(16, 0);
    (cdb, data, u32::from(blocks) * 512 + 512)
}

/// PERSISTENT RESERVE OUT with any action, sometimes with ports in its list.
fn reserve_out(random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let action = random.below(8) as u8;
    let key = |random: &mut Random| [0u8, 0, 1, 2, 3][random.below(5)];
    let mut list = vec![0; 24];
    (list[7], list[15]) = (key(random), key(random));
    let ids = [TransportId::encode(&port(2)), TransportId::encode(&port(5))].concat();
    match (action, random.below(3)) {
        (7, _) => {
            let id = TransportId::encode(&port(2));
            list = [&list[..16], &[0, random.below(4) as u8, 0, 1], &(id.len() as u32).to_be_bytes(), &id].concat();
        }
        (0, 0) => {
            list[20] = 0x08;
            list.extend_from_slice(&(ids.len() as u32).to_be_bytes());
            list.extend_from_slice(&ids);
        }
        _ => list[20] = random.below(2) as u8,
    }
    let kind = [1, 3, 5, 6, 7, 8][random.below(6)];
    (vec![0x5f, action, kind, 0, 0, 0, 0, 0, list.len() as u8, 0], list)
}

/// EXTENDED COPY of one segment between two units.
fn copy(random: &mut Random, target: &Target, lba: u8, blocks: u8) -> (Vec<u8>, Vec<u8>) {
    let mut list = vec![0; 16];
    (list[3], list[11]) = (64, 28);
    for number in [random.below(3), random.below(3)] {
        let naa = target.unit(number as u16).expect("there are three").naa();
        let mut descriptor = vec![0xe4, 0, 0, 0, 1, 3, 0, 8];
        descriptor.extend_from_slice(&naa.to_be_bytes());
        descriptor.resize(32, 0);
        list.extend_from_slice(&descriptor);
    }
    let mut segment = vec![0x02, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0, blocks];
    segment.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, lba]);
    segment.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, random.below(8) as u8]);
    list.extend_from_slice(&segment);
    let mut cdb = vec![0; 16];
    (cdb[0], cdb[13]) = (0x83, list.len() as u8);
    (cdb, list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iscsi_target_proto::scsi::Status;

    #[test]
    fn most_of_the_unchanged_commands_succeed_so_mutations_reach_what_lies_behind_the_first_checks() {
        let mut good = 0;
        for seed in 0..400 {
            let mut random = Random::new(seed, 0);
            let world = World::new();
            for by in &world.ports {
                for unit in 0..3 {
                    while by.attentions.take(unit).is_some() {}
                }
            }
            let (cdb, data, expects) = well_formed(&mut random, &world.target);
            let mut block = Cdb::default();
            block.0.copy_from_slice(&cdb);
            let (direction, expected) =
                if data.is_empty() { (Direction::In, expects) } else { (Direction::Out, data.len() as u32) };
            let command =
                Command { task: TaskId::default(), lun: LunField::default(), cdb: block, direction, expected };
            let result = world.run(&world.ports[0], &command, &data);
            good += u32::from(matches!(result.status, Status::Good | Status::ConditionMet));
        }
        assert!(good > 200, "{good} of 400");
    }
}
