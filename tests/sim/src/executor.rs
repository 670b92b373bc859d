//! The seeded executor: one thread, one virtual clock, one run.
//!
//! Invariants: which task runs next, how long anything takes and every random number descend from
//! the seed, so a seed is a run. Time moves only when nothing is runnable. Tasks are of two kinds:
//! *clients*, whose end the run waits for, and *daemons*, which may wait for ever. A run whose
//! clients wait while nothing can ever wake them is stuck, and says who waits; so does one that
//! takes longer than its limit in virtual time or in steps.
//!
//! Worlds build on [`Sim`]; the code under test sees it as `base::Host` through [`NodeHost`].

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use base::{BoxFuture, Host, Instant, WallTime};

use crate::dice::Dice;
use crate::trace::{Trace, TraceWish, Who};

/// How long a run may take before it counts as hanging.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Virtual time from the call of `run`.
    pub time: Duration,
    /// Polls and timer calls from the call of `run`: a live-lock makes no progress in time.
    pub steps: u64,
}

/// How a call of `run` ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every client task has ended.
    Done,
    /// A checker found a violation.
    Violated(String),
    /// Clients wait and nothing is left that could wake them.
    Stuck(String),
    /// Clients still wait at the limit in virtual time.
    Late(String),
    /// Clients still wait at the limit in steps.
    Busy(String),
}

/// A handle on the run; cheap to clone.
#[derive(Clone)]
pub struct Sim {
    core: Arc<Core>,
}

impl Sim {
    pub fn new(seed: u64, wish: TraceWish) -> Sim {
        Sim {
            core: Arc::new(Core {
                ready: Arc::default(),
                state: Mutex::new(State {
                    now: Instant::from_nanos(0),
                    dice: Dice::new(seed, "schedule"),
                    tasks: Vec::new(),
                    clients: 0,
                    timers: BTreeMap::new(),
                    timers_made: 0,
                    violation: None,
                    trace: Trace::new(wish),
                }),
            }),
        }
    }

    /// Runs until every client has ended, or something is wrong.
    pub fn run(&self, limits: Limits) -> Ended {
        let deadline = self.now() + limits.time;
        let mut steps = 0;
        loop {
            {
                let state = self.core.lock();
                if let Some(violation) = &state.violation {
                    return Ended::Violated(violation.clone());
                }
                if state.clients == 0 {
                    return Ended::Done;
                }
                if state.now > deadline {
                    return Ended::Late(state.who_waits());
                }
                if steps > limits.steps {
                    return Ended::Busy(state.who_waits());
                }
            }
            steps += 1;
            if !self.run_one_task() && !self.fire_next_timer() {
                return Ended::Stuck(self.core.lock().who_waits());
            }
        }
    }

    /// Lets `duration` pass with whatever daemons do in it.
    pub fn settle(&self, duration: Duration) -> Ended {
        let sim = self.clone();
        let deadline = self.now() + duration;
        self.spawn(Who::World, "settle", TaskKind::Client, async move { sim.sleep_until(deadline).await });
        self.run(Limits { time: duration * 2, steps: u64::MAX })
    }

    /// Drops every task and timer: they hold handles on this run.
    pub fn tear_down(&self) {
        loop {
            let (tasks, timers) = {
                let mut state = self.core.lock();
                state.clients = 0;
                (std::mem::take(&mut state.tasks), std::mem::take(&mut state.timers))
            };
            if tasks.is_empty() && timers.is_empty() {
                return;
            }
        }
    }

    pub fn now(&self) -> Instant {
        self.core.lock().now
    }

    /// Asks the schedule's dice.
    pub fn roll<T>(&self, question: impl FnOnce(&mut Dice) -> T) -> T {
        question(&mut self.core.lock().dice)
    }

    /// Whether events are wanted.
    pub fn is_tracing(&self) -> bool {
        self.core.lock().trace.is_on()
    }

    /// Adds an event to the trace, if it is wanted.
    pub fn event(&self, who: Who, what: fmt::Arguments<'_>) {
        let mut state = self.core.lock();
        let now = state.now;
        if state.trace.is_on() {
            state.trace.push(now, who, what);
        }
    }

    /// The trace so far, leaving none.
    pub fn take_trace(&self) -> Vec<String> {
        self.core.lock().trace.take()
    }

    /// Reports what a checker found; the first report ends the run.
    pub fn violated(&self, what: String) {
        self.event(Who::World, format_args!("VIOLATION {what}"));
        self.core.lock().violation.get_or_insert(what);
    }

    /// Calls `action` at `at`.
    pub fn call_at(&self, at: Instant, action: impl FnOnce() + Send + 'static) {
        self.core.lock().add_timer(at, Timer::Call(Box::new(action)));
    }

    /// Calls `action` after `delay`.
    pub fn call_after(&self, delay: Duration, action: impl FnOnce() + Send + 'static) {
        let at = self.now() + delay;
        self.call_at(at, action);
    }

    /// Starts a task.
    pub fn spawn(&self, who: Who, name: &str, kind: TaskKind, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(who, name, kind, Box::pin(future));
    }

    fn spawn_boxed(&self, who: Who, name: &str, kind: TaskKind, future: BoxFuture<'static, ()>) {
        let mut state = self.core.lock();
        let wake = Arc::new(TaskWake {
            task: state.tasks.len(),
            is_queued: AtomicBool::new(true),
            ready: self.core.ready.clone(),
        });
        lock(&self.core.ready).push(wake.task);
        state.clients += usize::from(kind == TaskKind::Client);
        state.tasks.push(Some(Task { who, name: name.into(), kind, wake, future: Some(future) }));
    }

    /// Completes at `deadline`.
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep { core: self.core.clone(), deadline, timer: None }
    }

    /// Completes after `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Completes after a random time below `most`.
    pub fn pause(&self, most: Duration) -> Sleep {
        let nanos = self.roll(|dice| dice.below(most.as_nanos() as u64 + 1));
        self.sleep(Duration::from_nanos(nanos))
    }

    fn run_one_task(&self) -> bool {
        let (index, mut future, wake) = {
            let mut state = self.core.lock();
            let mut ready = lock(&self.core.ready);
            let task = match ready.len() {
                0 => return false,
                1 => ready.swap_remove(0),
                many => ready.swap_remove(state.dice.index(many)),
            };
            let Some(task) = &mut state.tasks[task] else { return true };
            task.wake.is_queued.store(false, Ordering::Relaxed);
            (task.wake.task, task.future.take().expect("invariant: a task is polled by one caller"), task.wake.clone())
        };
        let waker = Waker::from(wake);
        let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
        let mut state = self.core.lock();
        if poll.is_pending() {
            if let Some(Some(task)) = state.tasks.get_mut(index) {
                task.future = Some(future);
            }
            return true;
        }
        if let Some(task) = state.tasks.get_mut(index).and_then(Option::take) {
            state.clients -= usize::from(task.kind == TaskKind::Client);
        }
        // The future's own drop may come back to this run.
        drop(state);
        drop(future);
        true
    }

    fn fire_next_timer(&self) -> bool {
        let timer = {
            let mut state = self.core.lock();
            let Some(((at, _), timer)) = state.timers.pop_first() else { return false };
            state.now = state.now.max(at);
            timer
        };
        match timer {
            Timer::Wake(waker) => waker.wake(),
            Timer::Call(action) => action(),
        }
        true
    }
}

/// Whether the run waits for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    Client,
    Daemon,
}

struct Core {
    ready: Arc<Mutex<Vec<usize>>>,
    state: Mutex<State>,
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

struct State {
    now: Instant,
    dice: Dice,
    /// By number; a task that has ended leaves a hole, so numbers stay unique.
    tasks: Vec<Option<Task>>,
    clients: usize,
    timers: BTreeMap<(Instant, u64), Timer>,
    timers_made: u64,
    violation: Option<String>,
    trace: Trace,
}

impl State {
    fn add_timer(&mut self, at: Instant, timer: Timer) -> (Instant, u64) {
        self.timers_made += 1;
        let key = (at, self.timers_made);
        self.timers.insert(key, timer);
        key
    }

    fn who_waits(&self) -> String {
        let waiting = self.tasks.iter().flatten().filter(|task| task.kind == TaskKind::Client);
        waiting.map(|task| format!("{}: {}", task.who, task.name)).collect::<Vec<_>>().join("; ")
    }
}

struct Task {
    who: Who,
    name: Box<str>,
    kind: TaskKind,
    wake: Arc<TaskWake>,
    /// `None` while it is being polled.
    future: Option<BoxFuture<'static, ()>>,
}

enum Timer {
    Wake(Waker),
    Call(Box<dyn FnOnce() + Send>),
}

struct TaskWake {
    task: usize,
    is_queued: AtomicBool,
    ready: Arc<Mutex<Vec<usize>>>,
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::Relaxed) {
            lock(&self.ready).push(self.task);
        }
    }
}

/// A wait for a moment of virtual time. Dropped, it leaves no timer behind, so that a forgotten
/// wait cannot hide that nothing else is left to do.
pub struct Sleep {
    core: Arc<Core>,
    deadline: Instant,
    timer: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let core = self.core.clone();
        let mut state = core.lock();
        if state.now >= self.deadline {
            return Poll::Ready(());
        }
        if let Some(timer) = self.timer.take() {
            state.timers.remove(&timer);
        }
        self.timer = Some(state.add_timer(self.deadline, Timer::Wake(context.waker().clone())));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            let removed = self.core.lock().timers.remove(&timer);
            drop(removed);
        }
    }
}

/// The host port of one simulated node: the run's clock, a skewed time of day, its tasks.
pub struct NodeHost {
    sim: Sim,
    node: u32,
    /// How far this node's time of day is ahead of the true one.
    skew: Duration,
}

impl NodeHost {
    pub fn new(sim: &Sim, node: u32, skew: Duration) -> Arc<NodeHost> {
        Arc::new(NodeHost { sim: sim.clone(), node, skew })
    }
}

impl Host for NodeHost {
    fn now(&self) -> Instant {
        self.sim.now()
    }

    fn wall_time(&self) -> WallTime {
        const START_SECONDS: i64 = 1_800_000_000;
        let nanos = (self.sim.now() + self.skew).as_nanos();
        WallTime {
            seconds: START_SECONDS + (nanos / 1_000_000_000) as i64,
            nanos: u32::try_from(nanos % 1_000_000_000).expect("invariant: a remainder of a billion"),
        }
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(self.sim.sleep_until(deadline))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.sim.spawn_boxed(Who::Node(self.node), "spawned", TaskKind::Daemon, task);
    }

    fn random(&self) -> u64 {
        self.sim.roll(Dice::bits)
    }
}

/// A lock that stays usable after a caught panic: the run is over then, and is being reported.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
