//! Both machines joined by a pipe that delivers bytes in pieces of random size, and a disk in memory that finishes
//! commands in random order. Everything comes from one seed.

#![allow(dead_code, reason = "each test file uses its own part of the harness")]

use std::collections::HashMap;
use std::time::Duration;

use base::Instant;
use bytes::{Buf, Bytes};
use iscsi_target_proto::initiator::{self, CommandToken, InitiatorConfig, InitiatorSession};
use iscsi_target_proto::pdu::TaskManagementResponse;
use iscsi_target_proto::scsi::{Capacity, Completion, Operation, ScsiCommand, Sense};
use iscsi_target_proto::target::{
    self, Authentication, LoginDecision, PortalTarget, TargetConfig, TargetSession, TaskId, TaskResult,
};

pub const BLOCK: u32 = 512;
pub const TARGET_NAME: &str = "iqn.2026-11.org.corral:pair";
pub const INITIATOR_NAME: &str = "iqn.2026-11.org.corral:initiator";

/// A seeded generator (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub fn bytes(&mut self, count: usize) -> Bytes {
        (0..count).map(|_| self.next() as u8).collect::<Vec<u8>>().into()
    }
}

/// A command that the disk has not finished.
struct Pending {
    task: TaskId,
    result: TaskResult,
}

pub struct Pair {
    pub random: Random,
    pub initiator: InitiatorSession,
    pub target: TargetSession,
    pub disk: Vec<u8>,
    pub now: Instant,
    /// Commands are not finished while this is set.
    pub hold: bool,
    /// Largest number of commands that the disk had at once.
    pub most_pending: usize,
    pub completions: HashMap<u64, Completion>,
    pub initiator_outputs: Vec<initiator::Output>,
    pub target_closed: Option<target::CloseReason>,
    pub aborted: Vec<TaskId>,
    pub targets: Vec<PortalTarget>,
    /// What the target asks of normal and of discovery sessions.
    pub authentication: Authentication,
    pub discovery_authentication: Authentication,
    pending: Vec<Pending>,
    writes: HashMap<TaskId, usize>,
    to_target: Vec<u8>,
    to_initiator: Vec<u8>,
}

impl Pair {
    pub fn new(seed: u64, initiator: InitiatorConfig, target: TargetConfig) -> Self {
        let now = Instant::from_nanos(1);
        Self {
            random: Random(seed),
            initiator: InitiatorSession::new(initiator, now),
            target: TargetSession::new(target, now),
            disk: vec![0; 8 * 1024 * 1024],
            now,
            hold: false,
            most_pending: 0,
            completions: HashMap::new(),
            initiator_outputs: Vec::new(),
            target_closed: None,
            aborted: Vec::new(),
            targets: vec![PortalTarget { name: TARGET_NAME.to_owned(), addresses: vec!["[::1]:3260,1".to_owned()] }],
            authentication: Authentication::None,
            discovery_authentication: Authentication::None,
            pending: Vec::new(),
            writes: HashMap::new(),
            to_target: Vec::new(),
            to_initiator: Vec::new(),
        }
    }

    pub fn normal(seed: u64) -> Self {
        Self::new(seed, InitiatorConfig::new(INITIATOR_NAME, Some(TARGET_NAME), 1), TargetConfig::default())
    }

    pub fn submit(&mut self, token: u64, command: ScsiCommand) {
        self.initiator.handle(initiator::Input::Command { token: CommandToken(token), command }, self.now);
    }

    pub fn input(&mut self, input: initiator::Input) {
        self.initiator.handle(input, self.now);
    }

    pub fn advance(&mut self, time: Duration) {
        self.now = self.now + time;
        self.initiator.handle(initiator::Input::Timer, self.now);
        self.target.handle(target::Input::Timer, self.now);
    }

    /// Moves everything until nothing moves.
    pub fn settle(&mut self) {
        loop {
            let moved = self.step_initiator() | self.step_target();
            if !moved && (self.hold || !self.finish_one()) {
                return;
            }
        }
    }

    /// As [`Self::settle`], and keeps what went both ways.
    pub fn record(&mut self, up: &mut Vec<u8>, down: &mut Vec<u8>) {
        loop {
            let mark = (self.to_target.len(), self.to_initiator.len());
            drain(self.initiator.transmit(), &mut self.to_target);
            drain(self.target.transmit(), &mut self.to_initiator);
            up.extend_from_slice(&self.to_target[mark.0..]);
            down.extend_from_slice(&self.to_initiator[mark.1..]);
            let moved = self.step_initiator() | self.step_target();
            if !moved && !self.finish_one() && self.initiator.transmit().is_empty() {
                return;
            }
        }
    }

    pub fn completion(&mut self, token: u64) -> Completion {
        self.completions.remove(&token).unwrap_or_else(|| panic!("command {token} was not answered"))
    }

    pub fn initiator_closed(&self) -> Option<&initiator::CloseReason> {
        match self.initiator_outputs.last() {
            Some(initiator::Output::Closed(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Changes the bytes on their way to the target once they are there.
    pub fn tamper(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        drain(self.initiator.transmit(), &mut self.to_target);
        change(&mut self.to_target);
    }

    fn step_initiator(&mut self) -> bool {
        let mut moved = drain(self.initiator.transmit(), &mut self.to_target);
        if !self.to_initiator.is_empty() {
            let piece = self.random.below(self.to_initiator.len().min(70_000)) + 1;
            self.initiator.receive_buffer().extend_from_slice(&self.to_initiator[..piece]);
            self.to_initiator.drain(..piece);
            self.initiator.handle(initiator::Input::Received, self.now);
            moved = true;
        }
        while let Some(output) = self.initiator.poll_output() {
            moved = true;
            match output {
                initiator::Output::Completed { token, completion } => {
                    assert!(self.completions.insert(token.0, completion).is_none(), "answered twice");
                }
                other => self.initiator_outputs.push(other),
            }
        }
        moved
    }

    fn step_target(&mut self) -> bool {
        let mut moved = drain(self.target.transmit(), &mut self.to_initiator);
        if !self.to_target.is_empty() && self.target.wants_input() {
            let piece = self.random.below(self.to_target.len().min(70_000)) + 1;
            self.target.receive_buffer().extend_from_slice(&self.to_target[..piece]);
            self.to_target.drain(..piece);
            self.target.handle(target::Input::Received, self.now);
            moved = true;
        }
        while let Some(output) = self.target.poll_output() {
            moved = true;
            self.follow(output);
        }
        moved
    }

    fn follow(&mut self, output: target::Output) {
        match output {
            target::Output::LoginStarted(identity) => {
                let decision = match identity.target_name.as_deref() {
                    None => {
                        LoginDecision::Accept { portal_group: 1, authentication: self.discovery_authentication.clone() }
                    }
                    Some(TARGET_NAME) => {
                        LoginDecision::Accept { portal_group: 1, authentication: self.authentication.clone() }
                    }
                    Some(_) => LoginDecision::Refuse(iscsi_target_proto::pdu::LoginStatus::NOT_FOUND),
                };
                self.target.handle(target::Input::LoginDecided(decision), self.now);
            }
            target::Output::LoginEnding(_) => self.target.handle(target::Input::Established(Ok(7)), self.now),
            target::Output::LoggedIn { .. } => {}
            target::Output::Command(command) => self.begin(&command),
            target::Output::DataReady { task, data } => {
                let at = self.writes.remove(&task).expect("data comes for a write that waits");
                let mut end = at;
                for part in &data {
                    self.disk[end..end + part.len()].copy_from_slice(part);
                    end += part.len();
                }
                self.pend(task, TaskResult::good((end - at) as u64));
            }
            target::Output::Aborted { task } => {
                self.aborted.push(task);
                if self.writes.remove(&task).is_some() {
                    let result = TaskResult::good(0);
                    self.target.handle(target::Input::Finished { task, result }, self.now);
                }
            }
            target::Output::TaskManagement { task, .. } => {
                let response = TaskManagementResponse::Complete;
                self.target.handle(target::Input::TaskManagementDone { task, response }, self.now);
            }
            target::Output::SendTargets { task, .. } => {
                let targets = self.targets.clone();
                self.target.handle(target::Input::Targets { task, targets }, self.now);
            }
            target::Output::Closed(reason) => self.target_closed = Some(reason),
        }
    }

    fn begin(&mut self, command: &target::Command) {
        let task = command.task;
        let range =
            |lba: u64, blocks: u32| (lba * u64::from(BLOCK)) as usize..((lba + u64::from(blocks)) * 512) as usize;
        match command.cdb.parse() {
            Ok(Operation::Read { lba, blocks, .. }) => {
                let data = Bytes::copy_from_slice(&self.disk[range(lba, blocks)]);
                self.pend(task, TaskResult::data(data));
            }
            Ok(Operation::Write { lba, blocks, .. }) => {
                self.writes.insert(task, range(lba, blocks).start);
                let length = blocks * BLOCK;
                self.target.handle(target::Input::WantData { task, length }, self.now);
            }
            Ok(Operation::ReadCapacity16 { .. }) => {
                let blocks = self.disk.len() as u64 / 512;
                let capacity = Capacity { blocks, block_length: BLOCK, physical_exponent: 0, is_thin: false };
                self.pend(task, TaskResult::data(capacity.encode_long().to_vec()));
            }
            Ok(_) => self.pend(task, TaskResult::good(0)),
            Err(error) => self.pend(task, Sense::from(error).into()),
        }
    }

    fn pend(&mut self, task: TaskId, result: TaskResult) {
        self.pending.push(Pending { task, result });
        self.most_pending = self.most_pending.max(self.pending.len());
    }

    fn finish_one(&mut self) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        let Pending { task, result } = self.pending.swap_remove(self.random.below(self.pending.len()));
        self.target.handle(target::Input::Finished { task, result }, self.now);
        true
    }
}

/// Takes everything out of a transmit queue; whether there was something.
pub fn drain(from: &mut impl Buf, into: &mut Vec<u8>) -> bool {
    let had = from.has_remaining();
    while from.has_remaining() {
        let chunk = from.chunk();
        into.extend_from_slice(chunk);
        let count = chunk.len();
        from.advance(count);
    }
    had
}
