//! Telling the steps, how long each took, and noticing when one makes no progress.
//!
//! A step says what it does, beats while it works and ends with what came out. The watchdog asks `check_progress`
//! from another thread: a step that does not beat for `STALL_MAX` is given up, whatever it hangs in.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clock;

/// The longest a step may go without progress. Longer than any single call of a healthy cluster, by far.
const STALL_MAX: Duration = Duration::from_secs(120);
/// After this long without progress the step says what it waits for.
const REMARK_AFTER: Duration = Duration::from_secs(10);
/// How often progress is shown where it cannot overwrite itself.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The teller.
pub struct Story {
    state: Mutex<State>,
    terminal: bool,
    stopped: AtomicBool,
}

struct State {
    step: u32,
    started: Instant,
    beat: Instant,
    shown: Instant,
    remarked: Instant,
    doing: String,
    /// The last thing on the terminal is a progress line to be overwritten.
    overwrite: bool,
}

impl Story {
    pub fn new() -> Self {
        let now = clock::now();
        let state = State {
            step: 0,
            started: now,
            beat: now,
            shown: now,
            remarked: now,
            doing: String::new(),
            overwrite: false,
        };
        Self { state: Mutex::new(state), terminal: io::stdout().is_terminal(), stopped: AtomicBool::new(false) }
    }

    /// Does one step and tells of it. `work` answers with what is worth saying at its end.
    pub fn step(&self, title: &str, work: impl FnOnce() -> Result<String, String>) -> Result<(), String> {
        let number = self.with(|s| {
            s.step += 1;
            s.started = clock::now();
            s.beat = s.started;
            s.shown = s.started;
            s.remarked = s.started;
            s.doing = title.to_string();
            s.step
        });
        self.line(&format!("{number:2}. {title}"));
        let outcome = work()?;
        let took = self.with(|s| clock::now().duration_since(s.started));
        let detail = if outcome.is_empty() { String::new() } else { format!(": {outcome}") };
        self.line(&format!("    {}{detail}", clock::human(took)));
        Ok(())
    }

    /// Progress: the step still moves, and this is what it does. Fails once the story was stopped, so that work ends soon.
    pub fn beat(&self, doing: impl Into<String>) -> Result<(), String> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err("stopped".into());
        }
        let doing = doing.into();
        let now = clock::now();
        let every = if self.terminal { Duration::from_millis(100) } else { LINE_EVERY };
        let show = self.with(|s| {
            s.beat = now;
            s.remarked = now;
            s.doing.clone_from(&doing);
            let due = now.duration_since(s.shown) >= every;
            if due {
                s.shown = now;
            }
            due
        });
        if show && self.terminal {
            let mut out = io::stdout().lock();
            let _ = write!(out, "\r\x1b[K    {doing}").and_then(|()| out.flush());
            self.with(|s| s.overwrite = true);
        } else if show {
            self.line(&format!("    {doing}"));
        }
        Ok(())
    }

    /// A remark inside a step.
    pub fn note(&self, text: &str) {
        self.line(&format!("    {text}"));
    }

    /// The story ends here; work that still goes on stops at its next beat.
    pub fn stop(&self, why: &str) {
        self.stopped.store(true, Ordering::Relaxed);
        self.line(&format!("    {why}"));
    }

    /// For the watchdog: an error once the step has made no progress for too long.
    pub fn check_progress(&self) -> Result<(), String> {
        let now = clock::now();
        let (silent, remark, doing) = self.with(|s| {
            let silent = now.duration_since(s.beat);
            let remark = now.duration_since(s.remarked) >= REMARK_AFTER;
            if remark {
                s.remarked = now;
            }
            (silent, remark, s.doing.clone())
        });
        if silent >= STALL_MAX {
            return Err(format!("no progress for {}: {doing}", clock::human(silent)));
        }
        if remark {
            self.note(&format!("still at it after {}: {doing}", clock::human(silent)));
        }
        Ok(())
    }

    fn line(&self, text: &str) {
        let overwrite = self.with(|s| std::mem::take(&mut s.overwrite));
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{}{text}", if overwrite { "\r\x1b[K" } else { "" }).and_then(|()| out.flush());
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(|e| e.into_inner()))
    }
}
