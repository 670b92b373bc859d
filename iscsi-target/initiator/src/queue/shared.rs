//! The table behind its lock, and the doors through which callers and the task come in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block_core::BlockError;
use block_core::completion::{Completion as Answer, completion};
use bytes::Bytes;
use iscsi_target_proto::scsi::{Completion, ScsiCommand};
use tokio::sync::Notify;

use super::request::{Once, OnceAnswer, Role};
use super::table::{Core, Limits};
use crate::clock;

/// What the device and the connection's task share.
pub struct Shared {
    core: Mutex<Core>,
    /// Wakes the task: something to send, or the device is closed.
    pub wake: Notify,
    /// The unit said that its capacity has changed.
    pub capacity_changed: Notify,
}

impl Shared {
    pub fn new(limits: Limits) -> Arc<Shared> {
        let core = Mutex::new(Core::new(limits));
        Arc::new(Shared { core, wake: Notify::new(), capacity_changed: Notify::new() })
    }

    /// Takes a caller's requests, in this order.
    pub fn submit(&self, requests: Vec<(ScsiCommand, Role)>) -> Vec<Answer<Result<Bytes, BlockError>>> {
        let now = clock::now();
        self.with(|core| {
            let answers = requests.into_iter().map(|(command, role)| core.take(command, role, now)).collect();
            core.push(&self.wake);
            answers
        })
    }

    /// Takes one request of a caller.
    pub fn submit_one(&self, command: ScsiCommand, role: Role) -> Answer<Result<Bytes, BlockError>> {
        let now = clock::now();
        self.with(|core| {
            let answer = core.take(command, role, now);
            core.push(&self.wake);
            answer
        })
    }

    /// Takes a request that must not be done twice.
    pub fn submit_once(&self, command: ScsiCommand, once: Once) -> Answer<OnceAnswer> {
        let now = clock::now();
        self.with(|core| {
            let answer = core.take_once(command, once, now);
            core.push(&self.wake);
            answer
        })
    }

    /// Takes a flush, which covers what was answered until now.
    pub fn submit_flush(&self, command: ScsiCommand) -> Answer<Result<Bytes, BlockError>> {
        let mark = self.with(|core| core.kept.mark());
        self.submit_one(command, Role::Flush { mark })
    }

    /// Sends a question of the task's own, whatever the state; no answer if the connection ends first.
    pub fn ask(&self, command: ScsiCommand) -> Answer<Completion> {
        let (completer, answer) = completion();
        let now = clock::now();
        self.with(|core| {
            core.take_question(command, completer, now);
            core.write_from_outside(&self.wake);
        });
        answer
    }

    /// Does `work` under the lock, then hands out the answers that came of it.
    pub fn with<T>(&self, work: impl FnOnce(&mut Core) -> T) -> T {
        let (result, finished, capacity_changed) = {
            let mut core = self.lock();
            let result = work(&mut core);
            (result, std::mem::take(&mut core.finished), std::mem::take(&mut core.capacity_changed))
        };
        for finish in finished {
            finish.hand_out();
        }
        if capacity_changed {
            self.capacity_changed.notify_one();
        }
        result
    }

    /// Only for what creates no answers; everything else goes through [`Shared::with`].
    pub fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
