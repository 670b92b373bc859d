//! What the target's answers mean for the table: what is done, what is kept, what is sent again.

use base::Instant;
use block_core::{BlockError, ByteLen, Durability};
use bytes::Bytes;
use iscsi_target_proto::initiator::Input;
use iscsi_target_proto::scsi::{Completion, DataPhase, ScsiCommand};

use super::registration::Registered;
use super::request::{Finished, Once, OnceAnswer, Request, Role, Waiter};
use super::table::{ConnectionState, Core};
use crate::kept::PIECES_MAX;
use crate::verdict::{Attention, Verdict, judge};

impl Core {
    /// A command came back: `Err` is the reason code of a reject.
    pub(super) fn answered(&mut self, token: u64, answer: Result<Completion, u8>, now: Instant) {
        let Some(request) = self.requests.remove(&token) else { return };
        self.in_flight = self.in_flight.saturating_sub(1);
        self.writing = self.writing.saturating_sub(request.waiter.written());
        let Request { command, waiter, since, attempts } = request;
        match waiter {
            // A reject leaves the question without an answer.
            Waiter::Question(completer) => {
                return self.finished.extend(answer.ok().map(|answer| Finished::Question(completer, answer)));
            }
            Waiter::Once { once, completer } => {
                let answer = self.once_answered(&once, answer, now);
                self.finished.push(Finished::Once(completer, answer));
            }
            Waiter::Caller { role, completer } => match self.judged(role, &command, answer, since, attempts, now) {
                Ok(result) => self.finished.push(Finished::Caller(completer, result)),
                Err(due) => {
                    let waiter = Waiter::Caller { role, completer };
                    return self.delay(token, Request { command, waiter, since, attempts: attempts + 1 }, due, now);
                }
            },
            Waiter::Nobody { role } => match self.judged(role, &command, answer, since, attempts, now) {
                Ok(_) => self.is_flushing = false,
                Err(due) => {
                    let waiter = Waiter::Nobody { role };
                    return self.delay(token, Request { command, waiter, since, attempts: attempts + 1 }, due, now);
                }
            },
        }
        self.troubled_since = None;
        self.flush_if_much_is_kept(now);
        if !self.parked.is_empty() {
            self.send_parked(now);
        }
    }

    fn delay(&mut self, token: u64, request: Request, due: Instant, now: Instant) {
        self.requests.insert(token, request);
        self.delayed.insert((due, token));
        self.check_times(now);
    }

    /// What an answer means; `Err` says when to send the command again.
    fn judged(
        &mut self,
        role: Role,
        command: &ScsiCommand,
        answer: Result<Completion, u8>,
        since: Instant,
        attempts: u32,
        now: Instant,
    ) -> Result<Result<Bytes, BlockError>, Instant> {
        let is_flush = matches!(role, Role::Flush { .. });
        let (at, len) = role.range();
        let verdict = match answer {
            Ok(completion) => judge(&completion, at, len),
            Err(reason) => Verdict::Failed(BlockError::Io { at, what: format!("rejected, reason {reason:#04x}") }),
        };
        let result = match verdict {
            Verdict::Done(data) => self.done(role, command, data),
            Verdict::Again { after, what, attention } => {
                self.attend(attention, now);
                let is_patient = now.saturating_since(since) < self.limits.recovery_limit;
                if is_patient && attempts + 1 < ATTEMPTS_MAX {
                    return Err(now + after);
                }
                Err(BlockError::Unavailable { what })
            }
            // A unit without a write cache need not know how to flush one.
            Verdict::Failed(BlockError::Io { .. } | BlockError::Unsupported { .. })
                if is_flush && !self.write_cache =>
            {
                Ok(Bytes::new())
            }
            Verdict::Failed(error) => Err(error),
        };
        if let (true, Err(error)) = (is_flush, &result) {
            self.flush_failure.get_or_insert_with(|| error.clone());
        }
        Ok(result)
    }

    /// A unit attention came in the place of an answer.
    fn attend(&mut self, attention: Attention, now: Instant) {
        match attention {
            Attention::CapacityChanged => self.capacity_changed = true,
            // Perhaps it was ours. The new connection looks for our key before anything is sent again.
            Attention::Preempted if self.registered != Registered::No => {
                let what = "another initiator preempted reservations: looking for our own".to_owned();
                self.session_input(Input::StreamEnded { what }, now);
            }
            Attention::Preempted | Attention::Other => {}
        }
    }

    fn once_answered(&mut self, once: &Once, answer: Result<Completion, u8>, now: Instant) -> OnceAnswer {
        let completion = match answer {
            Ok(completion) => completion,
            Err(reason) => {
                let at = block_core::ByteOffset(0);
                return OnceAnswer::Refused(BlockError::Io { at, what: format!("rejected, reason {reason:#04x}") });
            }
        };
        if let Some(sense) = &completion.sense {
            // Before the caller may send it again.
            self.attend(Attention::of(sense), now);
        }
        if completion.is_good() {
            match once {
                // It was a forced write.
                Once::CompareAndWrite { at, len } => self.kept.remove(at.0, len.0),
                Once::Reservation(change) => self.registered.changed(change),
            }
        }
        OnceAnswer::Completed(completion)
    }

    fn done(&mut self, role: Role, command: &ScsiCommand, data: Bytes) -> Result<Bytes, BlockError> {
        match role {
            Role::Read { at, len } if ByteLen::of(&data) != len => {
                let what = format!("the target returned {} of {len}", ByteLen::of(&data));
                return Err(BlockError::Io { at, what });
            }
            Role::Read { .. } | Role::Query => {}
            Role::Write { at, len, durability } => match (&command.data, durability) {
                (DataPhase::Out { buffers }, Durability::Cached) if self.write_cache => {
                    self.kept.insert(at.0, buffers);
                }
                _ => self.kept.remove(at.0, len.0),
            },
            Role::Zero { at, len } if self.write_cache => self.kept.insert_zeroes(at.0, len.0),
            // What a discard leaves is anybody's guess, so nothing of it has to survive.
            Role::Zero { at, len } | Role::Discard { at, len } => self.kept.remove(at.0, len.0),
            Role::Flush { mark } => self.kept.flushed(mark),
        }
        Ok(data)
    }

    pub(super) fn flush_if_much_is_kept(&mut self, now: Instant) {
        let is_much = self.kept.bytes() >= self.limits.unflushed_max.0 / 2 || self.kept.pieces() >= PIECES_MAX;
        if !is_much || self.is_flushing || self.flush_failure.is_some() || self.state != ConnectionState::Ready {
            return;
        }
        self.is_flushing = true;
        let role = Role::Flush { mark: self.kept.mark() };
        let command = ScsiCommand::synchronize_cache_16(self.limits.lun);
        let token = self.new_token();
        self.requests.insert(token, Request { command, waiter: Waiter::Nobody { role }, since: now, attempts: 0 });
        self.send(token, now);
    }
}

/// How often one command is answered with "again" before that is an error.
const ATTEMPTS_MAX: u32 = 1000;
