//! A target with one unit, initiator ports that are logged in, and commands that run to wherever the device lets them.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use corral_target::access::Access;
use corral_target::execute::{self, From, Job, Step, WritePlan};
use corral_target::guests::Leave;
use corral_target::registry::{Membership, Target};
use corral_target::unit::LogicalUnit;
use iscsi_target_proto::pdu::LunField;
use iscsi_target_proto::scsi::{Cdb, Sense};
use iscsi_target_proto::target::{Command, Direction, LoginIdentity, TaskId, TaskResult};

pub const BLOCK: usize = 512;
pub const NAME: &str = "iqn.2026-11.org.corral:units";

/// A target with one unit.
pub struct World {
    pub target: Arc<Target>,
}

/// A session of one initiator port.
pub struct Port {
    target: Arc<Target>,
    membership: Membership,
}

/// A command that is not finished.
pub enum Running {
    /// It waits for its data.
    Parked(WritePlan),
    /// It waits for the device, or for the unit's gate.
    Begun(Job),
    Ended(TaskResult),
}

impl World {
    pub fn new(unit: LogicalUnit) -> Self {
        Self { target: Arc::new(Target::new(NAME.to_owned(), Access::default(), vec![unit])) }
    }

    pub fn unit(&self) -> &Arc<LogicalUnit> {
        self.target.unit(0).expect("there is a unit 0")
    }

    /// Logs a port in, and has it hear what a new session is told.
    pub fn port(&self, number: u8) -> Port {
        let identity = LoginIdentity {
            initiator_name: format!("iqn.2026-11.test:{number}"),
            isid: [0x80, 0, 0, 0, 0, number],
            tsih: 0,
            connection_id: 0,
            target_name: Some(NAME.to_owned()),
        };
        let mut entering = std::pin::pin!(self.target.clone().establish(Arc::new(Leave::default()), identity));
        let Poll::Ready(Ok(membership)) = entering.as_mut().poll(&mut nobody()) else { panic!("the port is free") };
        let port = Port { target: self.target.clone(), membership };
        while port.membership.attentions.take(0).is_some() {}
        port
    }
}

impl Port {
    /// Begins a command that sends `sends` bytes or expects `expects`.
    pub fn begin(&self, cdb: &[u8], sends: usize, expects: u32) -> Running {
        let mut block = Cdb::default();
        block.0[..cdb.len()].copy_from_slice(cdb);
        let (direction, expected) = match (sends, expects) {
            (0, 0) => (Direction::None, 0),
            (0, expects) => (Direction::In, expects),
            (sends, _) => (Direction::Out, u32::try_from(sends).expect("small")),
        };
        let command = Command { task: TaskId::default(), lun: LunField::default(), cdb: block, direction, expected };
        let Membership { port, attentions, .. } = &self.membership;
        match execute::begin(&From { target: &self.target, nexus: port, attentions }, &command) {
            Step::Done(result) => Running::Ended(result),
            Step::Read(plan) => Running::Begun(plan.begin()),
            Step::Write(plan) => Running::Parked(plan),
            Step::Run(job) => Running::Begun(job),
        }
        .look()
    }

    /// Runs a command that nothing holds up.
    pub fn run(&self, cdb: &[u8], data: &[u8], expects: u32) -> TaskResult {
        match self.begin(cdb, data.len(), expects).give(data) {
            Running::Ended(result) => result,
            Running::Parked(_) | Running::Begun(_) => panic!("{cdb:02x?} waits for something"),
        }
    }

    /// PERSISTENT RESERVE OUT.
    pub fn reserve_out(&self, action: u8, kind: u8, key: u64, service_action_key: u64) -> Running {
        let list = [&key.to_be_bytes()[..], &service_action_key.to_be_bytes(), &[0; 8]].concat();
        self.begin(&[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], list.len(), 0).give(&list)
    }

    /// What the port would be told before its next command.
    pub fn told(&self) -> Option<Sense> {
        self.membership.attentions.take(0)
    }
}

impl Running {
    /// Hands a parked command its data.
    pub fn give(self, data: &[u8]) -> Self {
        match self {
            Self::Parked(plan) => {
                assert!(plan.length() as usize <= data.len(), "it asks for what was announced");
                let data = Bytes::copy_from_slice(&data[..plan.length() as usize]);
                Self::Begun(plan.begin(vec![data])).look()
            }
            other => other,
        }
    }

    /// Lets it go on as far as it can.
    pub fn look(self) -> Self {
        match self {
            Self::Begun(mut job) => match job.poll(&mut nobody()) {
                Poll::Ready(result) => Self::Ended(result),
                Poll::Pending => Self::Begun(job),
            },
            other => other,
        }
    }

    pub fn result(self) -> TaskResult {
        match self.look() {
            Self::Ended(result) => result,
            Self::Parked(_) => panic!("it waits for data"),
            Self::Begun(_) => panic!("it waits for the device or the gate"),
        }
    }

    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

/// WRITE (16).
pub fn write_16(lba: u64, blocks: u32, force: bool) -> Vec<u8> {
    ranged(0x8a, if force { 0x08 } else { 0 }, lba, blocks)
}

/// A command block of 16 bytes with block address and count.
pub fn ranged(opcode: u8, flags: u8, lba: u64, blocks: u32) -> Vec<u8> {
    [&[opcode, flags][..], &lba.to_be_bytes(), &blocks.to_be_bytes(), &[0, 0]].concat()
}

/// The tests look themselves whether something can go on.
fn nobody() -> Context<'static> {
    Context::from_waker(Waker::noop())
}
