//! Threads for calls that may block in the kernel for as long as a request is under way.
//!
//! Not a fixed pool: invalidations of different inodes may wait for one another's requests, so a
//! call that finds no idle thread gets a new one. Idle threads end after a while. The number of
//! threads is bounded by the number of glocks that drain at once.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Runs blocking calls; clones share the idle threads.
#[derive(Clone, Default)]
pub struct Threads(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
}

/// How long a thread waits for the next call.
const IDLE_MAX: Duration = Duration::from_secs(2);

impl Threads {
    /// Runs `call` on a thread that runs nothing else meanwhile. The call runs to its end even if
    /// nobody waits for the result.
    pub fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.submit(Box::new(move || drop(sender.send(call()))));
        receiver
    }

    fn submit(&self, job: Job) {
        let needs_thread = {
            let mut state = self.0.state.lock().expect("invariant: no panic under this lock");
            state.jobs.push_back(job);
            state.jobs.len() > state.idle
        };
        self.0.arrived.notify_one();
        if needs_thread {
            let shared = self.0.clone();
            if let Err(error) = thread::Builder::new().name("fuse-inval".into()).spawn(move || shared.work()) {
                // The job stays queued for the next thread that is done.
                tracing::error!(%error, "no thread for an invalidation");
            }
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut state = self.state.lock().expect("invariant: no panic under this lock");
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.state.lock().expect("invariant: no panic under this lock");
                continue;
            }
            state.idle += 1;
            let (woken, waited) =
                self.arrived.wait_timeout(state, IDLE_MAX).expect("invariant: no panic under this lock");
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                return;
            }
        }
    }
}
