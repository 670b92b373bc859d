//! The jobs of one connection that the device has not finished.
//!
//! A job is polled once when it comes in, so that what the device can answer at once costs no detour; after that only
//! when its own waker was called. Bounded by the tasks the session allows.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use iscsi_target_proto::target::{TaskId, TaskResult};

use crate::execute::Job;

/// Unfinished jobs and which of them may have become ready.
#[derive(Default)]
pub struct InFlight {
    slots: Vec<Slot>,
    free: Vec<usize>,
    ready: Arc<Ready>,
    count: usize,
}

struct Slot {
    /// `memory` is what the job's read buffer takes, in bytes.
    job: Option<(TaskId, u64, Job)>,
    waker: Waker,
}

/// Slots whose waker was called, and the connection to wake for them.
#[derive(Default)]
struct Ready {
    state: Mutex<ReadyState>,
}

#[derive(Default)]
struct ReadyState {
    slots: Vec<usize>,
    connection: Option<Waker>,
}

struct SlotWaker {
    slot: usize,
    ready: Arc<Ready>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let connection = {
            let mut state = self.ready.lock();
            state.slots.push(self.slot);
            state.connection.take()
        };
        if let Some(connection) = connection {
            connection.wake();
        }
    }
}

impl Ready {
    fn lock(&self) -> std::sync::MutexGuard<'_, ReadyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many requests are under way.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes a job; gives its result if the device has it already.
    pub fn start(&mut self, task: TaskId, memory: u64, mut job: Job) -> Option<TaskResult> {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = self.slots.len();
            let waker = Waker::from(Arc::new(SlotWaker { slot, ready: self.ready.clone() }));
            self.slots.push(Slot { job: None, waker });
            slot
        });
        match job.poll(&mut Context::from_waker(&self.slots[slot].waker)) {
            Poll::Ready(result) => {
                self.free.push(slot);
                Some(result)
            }
            Poll::Pending => {
                self.slots[slot].job = Some((task, memory, job));
                self.count += 1;
                None
            }
        }
    }

    /// The next finished job, its memory and its result. Pending while there is none.
    pub fn poll_finished(&mut self, context: &mut Context<'_>) -> Poll<(TaskId, u64, TaskResult)> {
        loop {
            let slot = {
                let mut state = self.ready.lock();
                match state.slots.pop() {
                    Some(slot) => slot,
                    None => {
                        state.connection = Some(context.waker().clone());
                        return Poll::Pending;
                    }
                }
            };
            // A waker may be called late, when its slot is empty or has another job: that one is polled in vain.
            let Slot { job, waker } = &mut self.slots[slot];
            let Some((task, memory, running)) = job else { continue };
            if let Poll::Ready(result) = running.poll(&mut Context::from_waker(waker)) {
                let finished = (*task, *memory, result);
                *job = None;
                self.free.push(slot);
                self.count -= 1;
                return Poll::Ready(finished);
            }
        }
    }
}
