//! The initiator's machine over a blocking socket: one command at a time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use base::Instant;
use bytes::Buf;
use iscsi_target_proto::initiator::{CloseReason, CommandToken, InitiatorConfig, InitiatorSession, Input, Output};
use iscsi_target_proto::pdu::TaskManagementResponse;
use iscsi_target_proto::scsi::{AdditionalSense, Completion, ScsiCommand};

/// Time stands still: nothing here waits for a time-out.
const NOW: Instant = Instant::from_nanos(1);

/// Units that a test has, at most.
const UNITS: u16 = 2;

pub struct Initiator {
    stream: TcpStream,
    session: InitiatorSession,
}

impl Initiator {
    /// Logs in; `qualifier` tells initiator ports of the same name apart.
    pub fn login(address: SocketAddr, target: &str, qualifier: u32) -> Result<Self, CloseReason> {
        let mut initiator = Self::connect(address, "iqn.2026-11.org.corral:driver", target, qualifier)?;
        // Each unit says first that the session is new.
        for lun in 0..UNITS {
            let told = initiator.try_run(ScsiCommand::test_unit_ready(lun))?;
            let is_new = told.sense.is_some_and(|sense| sense.additional == AdditionalSense::POWER_ON_OR_RESET);
            assert!(is_new || lun > 0, "LUN {lun} does not say that the session is new");
        }
        Ok(initiator)
    }

    /// Logs in by a name of its own; nothing is asked of the units.
    pub fn connect(address: SocketAddr, name: &str, target: &str, qualifier: u32) -> Result<Self, CloseReason> {
        let stream = TcpStream::connect(address).expect("the target listens");
        let config = InitiatorConfig::new(name, Some(target), qualifier);
        let mut initiator = Self { stream, session: InitiatorSession::new(config, NOW) };
        match initiator.next()? {
            Output::LoggedIn { .. } => Ok(initiator),
            other => panic!("{other:?} during the login"),
        }
    }

    pub fn run(&mut self, command: ScsiCommand) -> Completion {
        self.try_run(command).expect("the session lives")
    }

    pub fn try_run(&mut self, command: ScsiCommand) -> Result<Completion, CloseReason> {
        self.session.handle(Input::Command { token: CommandToken(1), command }, NOW);
        match self.next()? {
            Output::Completed { completion, .. } => Ok(completion),
            other => panic!("{other:?} for a command"),
        }
    }

    /// Sends a command with the data that goes along unasked, until the target asks for more; that stays away.
    pub fn begin(&mut self, command: ScsiCommand) {
        self.session.handle(Input::Command { token: CommandToken(1), command }, NOW);
        self.send();
        let asked = self.stream.peek(&mut [0]);
        assert_eq!(asked.ok(), Some(1), "the target asks");
    }

    /// What became of the command that was begun.
    pub fn end(&mut self) -> Completion {
        match self.next() {
            Ok(Output::Completed { completion, .. }) => completion,
            other => panic!("{other:?} for a command"),
        }
    }

    /// LOGICAL UNIT RESET.
    pub fn reset(&mut self, lun: u16) {
        self.session.handle(Input::ResetLun { token: CommandToken(2), lun }, NOW);
        match self.next() {
            Ok(Output::TaskManaged { response: TaskManagementResponse::Complete, .. }) => {}
            other => panic!("{other:?} for a reset"),
        }
    }

    fn next(&mut self) -> Result<Output, CloseReason> {
        loop {
            match self.session.poll_output() {
                Some(Output::Closed(reason)) => return Err(reason),
                Some(output) => return Ok(output),
                None => self.exchange(),
            }
        }
    }

    fn send(&mut self) {
        while self.session.transmit().has_remaining() {
            match self.stream.write(self.session.transmit().chunk()) {
                Ok(count) => self.session.transmit().advance(count),
                Err(error) => return self.session.handle(ended(&error), NOW),
            }
        }
    }

    fn exchange(&mut self) {
        self.send();
        let mut piece = [0; 8192];
        match self.stream.read(&mut piece) {
            Ok(0) => self.session.handle(Input::StreamEnded { what: "closed".to_owned() }, NOW),
            Ok(count) => {
                self.session.receive_buffer().extend_from_slice(&piece[..count]);
                self.session.handle(Input::Received, NOW);
            }
            Err(error) => self.session.handle(ended(&error), NOW),
        }
    }
}

fn ended(error: &std::io::Error) -> Input {
    Input::StreamEnded { what: error.to_string() }
}
