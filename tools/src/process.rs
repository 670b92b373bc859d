//! Processes as /proc shows them: identity that survives reuse of a number, and ending them within a bound.
//!
//! A process is named by its number *and* its start time, so a number that was used again is never
//! signalled. A zombie counts as ended: it holds no mount, file or namespace any more.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock;

/// One process, for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks after boot, field 22 of /proc/PID/stat.
    started: u64,
}

impl Process {
    /// The living process with this number.
    pub fn of(pid: i32) -> Option<Self> {
        let (state, started) = stat(pid)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, started })
    }

    /// Every living process.
    pub fn all() -> Vec<Self> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).filter_map(Self::of).collect()
    }

    /// Whether this very process still runs.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Sends `signal` unless the process has ended meanwhile.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // It may end between the check and the signal; then there is nobody to tell.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Waits for its end; whether it ended within `bound`.
    pub fn wait_end(&self, bound: Duration) -> bool {
        clock::wait_until(bound, || !self.is_alive())
    }

    /// Its arguments, the program's name first.
    pub fn arguments(&self) -> Vec<OsString> {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        bytes.split(|b| *b == 0).filter(|a| !a.is_empty()).map(|a| OsString::from_vec(a.to_vec())).collect()
    }

    /// The last part of the name it was called by.
    pub fn name(&self) -> String {
        let called = self.arguments().into_iter().next().map(PathBuf::from);
        called.and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned())).unwrap_or_default()
    }

    /// Its working folder, against which its relative arguments are read.
    pub fn folder(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/cwd", self.pid)).ok()
    }

    /// Whether it lives in the network namespace whose handle is the file `namespace`.
    pub fn is_in_network(&self, namespace: &Path) -> bool {
        let own = fs::metadata(format!("/proc/{}/ns/net", self.pid));
        matches!((own, fs::metadata(namespace)), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
    }

    /// The FUSE connections it serves, as kernels from 6.18 or so show them below /proc/PID/fdinfo; `None` where the
    /// kernel does not say.
    pub fn fuse_connections(&self) -> Option<Vec<u32>> {
        let infos = fs::read_dir(format!("/proc/{}/fdinfo", self.pid)).ok()?;
        let texts = infos.flatten().filter_map(|e| fs::read_to_string(e.path()).ok());
        let found: Vec<u32> = texts
            .filter_map(|t| t.lines().find_map(|l| l.strip_prefix("fuse_connection:")?.trim().parse().ok()))
            .collect();
        (!found.is_empty()).then_some(found)
    }

    /// What of it keeps the folder `dir` busy: its working folder, its root or an open file.
    pub fn uses(&self, dir: &Path) -> Option<String> {
        let below = |link: &str| fs::read_link(format!("/proc/{}/{link}", self.pid)).is_ok_and(|p| p.starts_with(dir));
        if below("cwd") {
            return Some("has its working folder there".into());
        }
        if below("root") {
            return Some("has its root there".into());
        }
        let files = fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?;
        let open = files.flatten().filter_map(|e| fs::read_link(e.path()).ok()).find(|p| p.starts_with(dir))?;
        Some(format!("has {} open", open.display()))
    }
}

/// Ends `processes`: SIGTERM, up to `patience` for all of them together, then SIGKILL and up to 5 s. Those that still
/// live afterwards (stuck in the kernel).
pub fn end_all(processes: &[Process], patience: Duration) -> Vec<Process> {
    let alive = |list: &[Process]| list.iter().copied().filter(Process::is_alive).collect::<Vec<_>>();
    for process in processes {
        process.signal(Signal::SIGTERM);
    }
    clock::wait_until(patience, || alive(processes).is_empty());
    let stubborn = alive(processes);
    for process in &stubborn {
        process.signal(Signal::SIGKILL);
    }
    clock::wait_until(Duration::from_secs(5), || alive(&stubborn).is_empty());
    alive(&stubborn)
}

/// State letter and start time. The name in parentheses may hold blanks and parentheses: split behind the last one.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.get(text.rfind(')')? + 2..)?.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_found_and_ended_within_its_bound() {
        let mut child = Command::new("sleep").arg("600").spawn().expect("sleep");
        let process = Process::of(i32::try_from(child.id()).expect("a process number")).expect("it lives");
        assert!(process.is_alive());
        assert!(end_all(&[process], Duration::from_secs(5)).is_empty(), "SIGTERM ends sleep");
        assert!(!process.is_alive(), "a zombie counts as ended");
        let _ = child.wait();
    }

    #[test]
    fn another_start_time_is_another_process() {
        let own = Process::of(i32::try_from(std::process::id()).expect("a process number")).expect("I live");
        assert!(!Process { started: own.started + 1, ..own }.is_alive());
    }
}
