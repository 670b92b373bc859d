//! INTERRUPT: ends requests that wait, so that a process that waits for another node can die.
//!
//! The kernel sends INTERRUPT once, for any signal, while the caller waits. A wait for a POSIX
//! lock ends at once with EINTR. Other operations on files must not fail for a signal that has a
//! handler, so they end only when the caller is dying, and since no second INTERRUPT
//! comes the callers of interrupted requests are looked at from time to time.
//!
//! A request that is ended here goes on in the filesystem; only its answer has been given.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use nix::errno::Errno;

use crate::reply::Reply;

/// What ends a parked request before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Any signal: a wait for a POSIX or BSD lock.
    OnSignal,
    /// Only the caller's death.
    OnDeath,
}

/// The requests of a session that wait, and the thread that ends them.
#[derive(Debug, Default)]
pub struct Interrupts {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    parked: HashMap<u64, Parked>,
    /// INTERRUPTs for requests not parked: served at once, answered already, or about to park.
    early: VecDeque<u64>,
    interrupted: usize,
    is_stopped: bool,
}

#[derive(Debug)]
struct Parked {
    reply: Reply,
    pid: u32,
    ends: Ends,
    is_interrupted: bool,
}

/// A request that waits. `claim` gives the reply back unless the request has been ended.
#[derive(Debug)]
pub struct ParkedReply {
    interrupts: Arc<Interrupts>,
    unique: u64,
}

/// INTERRUPTs remembered for requests that may yet park; the oldest goes first.
const EARLY_MAX: usize = 256;
/// How often the callers of interrupted requests are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

impl Interrupts {
    /// Takes a reply into care until it is claimed. `pid` is the caller's thread, 0 if unknown.
    pub fn park(self: &Arc<Self>, reply: Reply, pid: u32, ends: Ends) -> ParkedReply {
        let unique = reply.unique();
        let mut state = self.state();
        let is_interrupted = match state.early.iter().position(|early| *early == unique) {
            Some(at) => state.early.remove(at).is_some(),
            None => false,
        };
        state.parked.insert(unique, Parked { reply, pid, ends, is_interrupted });
        if is_interrupted {
            state.interrupted += 1;
            self.changed.notify_one();
        }
        ParkedReply { interrupts: self.clone(), unique }
    }

    /// The kernel's INTERRUPT for the request `unique`.
    pub(crate) fn interrupt(&self, unique: u64) {
        let mut state = self.state();
        match state.parked.get_mut(&unique) {
            Some(parked) if !parked.is_interrupted => {
                parked.is_interrupted = true;
                state.interrupted += 1;
                self.changed.notify_one();
            }
            Some(_) => {}
            None => {
                if state.early.len() == EARLY_MAX {
                    state.early.pop_front();
                }
                state.early.push_back(unique);
            }
        }
    }

    /// Ends what has to end, until `stop`. Runs on a thread of its own.
    pub(crate) fn watch(&self) {
        let mut state = self.state();
        while !state.is_stopped {
            if state.interrupted == 0 {
                state = self.changed.wait(state).expect("invariant: no panic under this lock");
                continue;
            }
            for parked in state.take_ended() {
                parked.reply.error(Errno::EINTR);
            }
            if state.interrupted > 0 {
                let waited = self.changed.wait_timeout(state, LOOK_INTERVAL);
                state = waited.expect("invariant: no panic under this lock").0;
            }
        }
    }

    pub(crate) fn stop(&self) {
        self.state().is_stopped = true;
        self.changed.notify_all();
    }

    /// Number of requests that wait.
    pub fn parked_count(&self) -> usize {
        self.state().parked.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("invariant: no panic under this lock")
    }
}

impl State {
    fn take_ended(&mut self) -> Vec<Parked> {
        let is_ended = |parked: &Parked| {
            parked.is_interrupted && (parked.ends == Ends::OnSignal || parked.pid == 0 || is_dying(parked.pid))
        };
        let ended: Vec<u64> = self.parked.iter().filter(|(_, p)| is_ended(p)).map(|(unique, _)| *unique).collect();
        self.interrupted -= ended.len();
        ended.into_iter().filter_map(|unique| self.parked.remove(&unique)).collect()
    }
}

impl ParkedReply {
    /// The reply, or `None` if the request was ended: then nobody takes what the answer would have
    /// handed out.
    pub fn claim(self) -> Option<Reply> {
        self.take()
    }

    fn take(&self) -> Option<Reply> {
        let mut state = self.interrupts.state();
        let parked = state.parked.remove(&self.unique)?;
        if parked.is_interrupted {
            state.interrupted -= 1;
        }
        Some(parked.reply)
    }
}

impl Drop for ParkedReply {
    fn drop(&mut self) {
        // Unclaimed: the reply's own drop answers EIO.
        drop(self.take());
    }
}

/// Whether the thread is gone or has a signal that will end it.
fn is_dying(thread: u32) -> bool {
    match fs::read_to_string(format!("/proc/{thread}/status")) {
        Ok(status) => is_dying_status(&status),
        Err(_) => true,
    }
}

/// From the text of `/proc/PID/status`; signal masks are hexadecimal with signal 1 in bit 0.
fn is_dying_status(status: &str) -> bool {
    const KILL: u64 = 1 << 8;
    /// CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG and WINCH do not end a process by default.
    const HARMLESS: u64 = 1 << 16 | 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 27;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let mask = |name: &str| field(name).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    let is_dead = field("State:").is_some_and(|state| state.starts_with(['Z', 'X']));
    let pending = mask("SigPnd:") | mask("ShdPnd:");
    let deadly = pending & !mask("SigBlk:") & !mask("SigIgn:") & !mask("SigCgt:") & !HARMLESS;
    is_dead || pending & KILL != 0 || deadly != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &str, pending: u64, caught: u64) -> String {
        format!(
            "Name:\tx\nState:\t{state}\nSigPnd:\t{pending:016x}\nShdPnd:\t0000000000000000\nSigCgt:\t{caught:016x}\n"
        )
    }

    #[test]
    fn a_caller_dies_of_kill_and_of_signals_it_does_not_handle() {
        assert!(is_dying_status(&status("D (disk sleep)", 1 << 8, 0)), "SIGKILL");
        assert!(is_dying_status(&status("D (disk sleep)", 1 << 14, 0)), "SIGTERM by default");
        assert!(!is_dying_status(&status("D (disk sleep)", 1 << 14, 1 << 14)), "SIGTERM handled");
        assert!(!is_dying_status(&status("D (disk sleep)", 1 << 16, 0)), "SIGCHLD by default");
        assert!(!is_dying_status(&status("S (sleeping)", 0, 0)));
        assert!(is_dying_status(&status("Z (zombie)", 0, 0)));
    }
}
