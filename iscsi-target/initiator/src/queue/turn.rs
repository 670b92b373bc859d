//! The connection's side of the table: sending, times, and what the session has to say.
//!
//! Owns the session and the sending end of the socket, so that a caller's request goes out on the caller's own thread
//! when little is in flight.

use std::io::{self, IoSlice};
use std::time::Duration;

use base::Instant;
use bytes::Buf;
use iscsi_target_proto::initiator::{CloseReason, CommandToken, InitiatorSession, Input, Output};
use tokio::sync::Notify;

use super::request::Finished;
use super::table::{Closing, ConnectionState, Core};
use crate::clock;

/// What happens next on the connection.
pub enum Turn {
    /// The session is over.
    Closed(CloseReason),
    /// Wait for bytes, for the task's wake-up, for the deadline, and for room in the socket if it `wants_write`.
    Wait { wants_write: bool, deadline: Option<Instant> },
}

enum Written {
    All,
    /// The socket is full, or has failed.
    Part,
}

impl Core {
    /// The session, to receive into.
    pub fn session(&mut self) -> Option<&mut InitiatorSession> {
        self.session.as_mut()
    }

    /// One step of the connection: takes what the session has to say and the time, sends what there is.
    /// Never wakes the task: that would be itself, again and again, while the socket is full.
    pub fn turn(&mut self, input: Option<Input>) -> Turn {
        let now = clock::now();
        if let (Some(input), Some(session)) = (input, &mut self.session) {
            session.handle(input, now);
        }
        self.check_times(now);
        self.take_outputs(now);
        if self.closing == Closing::Wanted && self.requests.is_empty() && self.state == ConnectionState::Ready {
            self.closing = Closing::LoggingOut { until: now + LOGOUT_PATIENCE };
            self.session_input(Input::Logout, now);
        }
        // What was not taken is seen below: as bytes that wait, or as the end of the session.
        let _ = self.write();
        self.take_outputs(now);
        if let Some(reason) = self.closed.take() {
            return Turn::Closed(reason);
        }
        let wants_write = self.session.as_mut().is_some_and(|session| !session.transmit().is_empty());
        Turn::Wait { wants_write, deadline: self.next_deadline() }
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        let logout = match self.closing {
            Closing::LoggingOut { until } => Some(until),
            Closing::No | Closing::Wanted => None,
        };
        let session = self.session.as_ref().and_then(InitiatorSession::next_deadline);
        let delayed = self.delayed.first().map(|(due, _)| *due);
        let oldest = self.oldest_sent().map(|sent_at| sent_at + self.limits.command_timeout);
        [logout, session, delayed, oldest].into_iter().flatten().min()
    }

    pub(super) fn check_times(&mut self, now: Instant) {
        if self.session.as_ref().and_then(InitiatorSession::next_deadline).is_some_and(|due| due <= now) {
            self.session_input(Input::Timer, now);
        }
        while let Some(&(due, token)) = self.delayed.first() {
            if due > now {
                break;
            }
            self.delayed.pop_first();
            self.send(token, now);
        }
        let is_overdue = self.oldest_sent().is_some_and(|sent_at| sent_at + self.limits.command_timeout <= now);
        if is_overdue {
            let what = format!("a command was not answered within {:?}", self.limits.command_timeout);
            self.session_input(Input::StreamEnded { what }, now);
        }
        if matches!(self.closing, Closing::LoggingOut { until } if until <= now) {
            self.session_input(Input::StreamEnded { what: "the logout was not answered".to_owned() }, now);
        }
    }

    fn oldest_sent(&mut self) -> Option<Instant> {
        while let Some((sent_at, token)) = self.sent.front() {
            if self.requests.contains_key(token) {
                return Some(*sent_at);
            }
            self.sent.pop_front();
        }
        None
    }

    pub(super) fn session_input(&mut self, input: Input, now: Instant) {
        if let Some(session) = &mut self.session {
            session.handle(input, now);
        }
    }

    /// Hands a command to the session.
    pub(super) fn send(&mut self, token: u64, now: Instant) {
        let (Some(session), Some(request)) = (&mut self.session, self.requests.get(&token)) else { return };
        session.handle(Input::Command { token: CommandToken(token), command: request.command.clone() }, now);
        self.sent.push_back((now, token));
        self.in_flight += 1;
        self.writing += request.waiter.written();
    }

    /// Sends what was handed in: at once where little is in flight, else through the task, which gathers what several
    /// callers hand in meanwhile.
    pub(super) fn push(&mut self, wake: &Notify) {
        if self.in_flight <= INLINE_DEPTH { self.write_from_outside(wake) } else { wake.notify_one() }
    }

    /// Writes to the socket what it takes. Afterwards there is something for the task to do if not all was taken.
    fn write(&mut self) -> Written {
        let (Some(session), Some(writer)) = (&mut self.session, &self.writer) else { return Written::All };
        let queue = session.transmit();
        while queue.has_remaining() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = queue.chunks_vectored(&mut slices);
            let what = match writer.try_write_vectored(&slices[..count]) {
                Ok(0) => "the socket takes nothing".to_owned(),
                Ok(taken) => {
                    queue.advance(taken);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Written::Part,
                Err(error) => error.to_string(),
            };
            session.handle(Input::StreamEnded { what }, clock::now());
            return Written::Part;
        }
        Written::All
    }

    /// As [`Core::write`], on another thread than the task's, which is woken for the rest.
    pub(super) fn write_from_outside(&mut self, wake: &Notify) {
        match self.write() {
            Written::All => {}
            Written::Part => wake.notify_one(),
        }
    }

    fn take_outputs(&mut self, now: Instant) {
        while let Some(output) = self.session.as_mut().and_then(InitiatorSession::poll_output) {
            match output {
                Output::LoggedIn { .. } => self.finished.extend(self.login.take().map(Finished::Login)),
                Output::Completed { token, completion } => self.answered(token.0, Ok(completion), now),
                Output::Rejected { token, reason } => self.answered(token.0, Err(reason), now),
                Output::Closed(reason) => self.closed = Some(reason),
                // Never asked for, or carried out by the session itself.
                Output::TaskManaged { .. }
                | Output::Pong { .. }
                | Output::Targets { .. }
                | Output::LogoutRequested { .. } => {}
            }
        }
    }
}

/// Up to so many commands in flight, a caller writes to the socket itself.
const INLINE_DEPTH: usize = 4;

/// Buffers of one vectored write.
const SLICES: usize = 64;

/// How long a logout may take.
const LOGOUT_PATIENCE: Duration = Duration::from_secs(2);
