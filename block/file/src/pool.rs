//! A few threads that do what may block. Started when needed, ended when the pool is dropped and
//! its queue is empty, so a job that was taken is always done.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

type Job = Box<dyn FnOnce() + Send>;

/// The threads.
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// At most `threads_max` threads.
    pub fn new(threads_max: usize) -> Pool {
        let state = State { jobs: VecDeque::new(), threads: 0, idle: 0, is_closed: false };
        Pool { shared: Arc::new(Shared { state: Mutex::new(state), work: Condvar::new(), threads_max }) }
    }

    /// Does `job` on one of the threads. The queue has no bound of its own: whoever makes requests
    /// bounds how many are in flight. If no thread can be started and none is there, the job is
    /// done here and now.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.lock();
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() || state.threads == self.shared.threads_max {
            drop(state);
            return self.shared.work.notify_one();
        }
        let shared = self.shared.clone();
        if std::thread::Builder::new().name("block-io".to_owned()).spawn(move || shared.work()).is_ok() {
            state.threads += 1;
        } else if state.threads == 0
            && let Some(job) = state.jobs.pop_back()
        {
            drop(state);
            job();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.work.notify_all();
    }
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    threads_max: usize,
}

struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for a job.
    idle: usize,
    is_closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.lock();
            } else if state.is_closed {
                return;
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}
