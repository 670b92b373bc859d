//! One session over one connection: what is sent, what is expected, what came back.
//!
//! ```text
//! Login ──► FullFeature ──(Logout, and nothing in flight)──► LoggingOut ──► Closed
//!   └──────────────┴────────────── any failure ──────────────────┴──────────► Closed
//! ```
//! Invariants: a task is in `tasks` from the moment it is sent until it is answered; non-immediate requests are
//! numbered in the order they are sent and never beyond the target's window.

use std::collections::{BTreeMap, VecDeque};

use base::Instant;
use bytes::BytesMut;

use super::event::{CloseReason, CommandToken, InitiatorConfig, Input, Output};
use super::login::Login;
use super::tasks::Task;
use crate::negotiate::Negotiated;
use crate::scsi::ScsiCommand;
use crate::serial::SerialNumber;
use crate::wire::{Receiver, TransmitQueue};

/// The initiator's side of a session. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct InitiatorSession {
    pub(super) config: InitiatorConfig,
    pub(super) phase: Phase,
    pub(super) negotiated: Negotiated,
    pub(super) receiver: Receiver,
    pub(super) transmit: TransmitQueue,
    pub(super) outputs: VecDeque<Output>,
    /// Requests that wait for the login or for room in the command window.
    pub(super) waiting: VecDeque<Waiting>,
    /// Requests that wait for the login only.
    pub(super) urgent: VecDeque<Urgent>,
    pub(super) tasks: BTreeMap<u32, Task>,
    pub(super) next_tag: u32,
    /// Number of the next non-immediate request.
    pub(super) command_sn: SerialNumber,
    pub(super) max_command_sn: SerialNumber,
    /// Number of the next status.
    pub(super) expected_status_sn: Option<SerialNumber>,
    pub(super) wants_logout: bool,
    pub(super) login_deadline: Instant,
    pub(super) heard_at: Instant,
    /// When our own sign-of-life question was sent, while nothing has come since.
    pub(super) asked_at: Option<Instant>,
    /// Answers to the target's pings since the transmit queue was last empty.
    pub(super) unsent_answers: usize,
}

#[derive(Debug)]
pub(super) enum Phase {
    Login(Login),
    FullFeature,
    LoggingOut,
    Closed,
}

#[derive(Debug)]
pub(super) enum Waiting {
    Command { token: CommandToken, command: ScsiCommand },
    SendTargets,
}

#[derive(Debug)]
pub(super) enum Urgent {
    ResetLun { token: CommandToken, lun: u16 },
    Ping { token: CommandToken },
}

pub(super) type Step = Result<(), CloseReason>;

impl InitiatorSession {
    /// A session at the start of a fresh connection; the first login request waits in [`Self::transmit`].
    pub fn new(config: InitiatorConfig, now: Instant) -> Self {
        let (login, request) = Login::new(&config);
        let mut session = Self {
            login_deadline: now + config.login_timeout,
            config,
            phase: Phase::Login(login),
            negotiated: Negotiated::default(),
            receiver: Receiver::new(),
            transmit: TransmitQueue::new(),
            outputs: VecDeque::new(),
            waiting: VecDeque::new(),
            urgent: VecDeque::new(),
            tasks: BTreeMap::new(),
            next_tag: 1,
            command_sn: SerialNumber(1),
            max_command_sn: SerialNumber(1),
            expected_status_sn: None,
            wants_logout: false,
            heard_at: now,
            asked_at: None,
            unsent_answers: 0,
        };
        session.send_login(request);
        session
    }

    /// Where the shell appends what it received, before [`Input::Received`].
    pub fn receive_buffer(&mut self) -> &mut BytesMut {
        self.receiver.buffer()
    }

    /// What the shell has to write; it advances the queue by what the socket took.
    pub fn transmit(&mut self) -> &mut TransmitQueue {
        &mut self.transmit
    }

    /// The next event for the shell.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call with [`Input::Timer`] at the latest; `None` once closed.
    pub fn next_deadline(&self) -> Option<Instant> {
        match (&self.phase, self.asked_at) {
            (Phase::Closed, _) => None,
            (Phase::Login(_), _) => Some(self.login_deadline),
            (_, Some(asked_at)) => Some(asked_at + self.config.ping_timeout),
            (_, None) => Some(self.heard_at + self.config.ping_interval),
        }
    }

    /// Requests that were handed in and not answered.
    pub fn unanswered(&self) -> usize {
        self.tasks.len() + self.waiting.len() + self.urgent.len()
    }

    /// What was agreed on; the RFC's defaults until [`Output::LoggedIn`].
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Takes one input. Never fails: trouble is an [`Output::Closed`].
    pub fn handle(&mut self, input: Input, now: Instant) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        if self.transmit.is_empty() {
            self.unsent_answers = 0;
        }
        let step = match input {
            Input::Received => {
                self.heard_at = now;
                self.asked_at = None;
                self.receive(now)
            }
            Input::Timer => self.check_time(now),
            Input::StreamEnded { what } => Err(CloseReason::StreamEnded { what }),
            Input::Command { token, command } => {
                self.waiting.push_back(Waiting::Command { token, command });
                Ok(())
            }
            Input::Abort { token } => {
                self.abort(token);
                Ok(())
            }
            Input::ResetLun { token, lun } => {
                self.urgent.push_back(Urgent::ResetLun { token, lun });
                Ok(())
            }
            Input::Ping { token } => {
                self.urgent.push_back(Urgent::Ping { token });
                Ok(())
            }
            Input::SendTargets => {
                self.waiting.push_back(Waiting::SendTargets);
                Ok(())
            }
            Input::Logout => {
                self.wants_logout = true;
                Ok(())
            }
        };
        if let Err(reason) = step {
            return self.close(reason);
        }
        self.send_waiting();
    }

    fn close(&mut self, reason: CloseReason) {
        self.phase = Phase::Closed;
        self.tasks.clear();
        self.waiting.clear();
        self.urgent.clear();
        self.outputs.push_back(Output::Closed(reason));
    }

    fn check_time(&mut self, now: Instant) -> Step {
        match (&self.phase, self.asked_at) {
            (Phase::Closed, _) => Ok(()),
            (Phase::Login(_), _) if now >= self.login_deadline => Err(CloseReason::LoginTimedOut),
            (Phase::Login(_), _) => Ok(()),
            (_, Some(asked_at)) if now >= asked_at + self.config.ping_timeout => Err(CloseReason::PeerSilent),
            (_, Some(_)) => Ok(()),
            (_, None) => {
                if now >= self.heard_at + self.config.ping_interval {
                    self.asked_at = Some(now);
                    self.send_ping(None);
                }
                Ok(())
            }
        }
    }
}
