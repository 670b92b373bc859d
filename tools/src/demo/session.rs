//! Starting things so that a stop at any moment leaves nothing half started.
//!
//! Everything is started through `start`, under one gate. `cancel` takes the gate and closes it for good: what
//! was started before is visible to `down`, and nothing starts afterwards.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use super::layout::{Layout, Place};
use super::network;

/// By what name a program of this machine's nodes logs in: each node has its own, so that it can be shut out alone.
const INITIATOR_NAME: &str = "CORRAL_INITIATOR_NAME";

/// The program that exports the disk.
pub const TARGET_PROGRAM: &str = "corral-target";

/// One run of quickstart.
pub struct Session {
    pub layout: Layout,
    /// `true` once cancelled.
    gate: Mutex<bool>,
}

/// A process that was started in a place and goes on after quickstart.
pub struct Service {
    /// Where its standard output and error go.
    pub output: PathBuf,
    child: Child,
}

impl Session {
    pub fn new(layout: Layout) -> Self {
        Self { layout, gate: Mutex::new(false) }
    }

    /// Nothing starts after this returns.
    pub fn cancel(&self) {
        *self.gate.lock().unwrap_or_else(|e| e.into_inner()) = true;
    }

    /// Runs `work`, which makes something that `down` can find, unless the session was cancelled.
    pub fn start<T>(&self, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let cancelled = self.gate.lock().unwrap_or_else(|e| e.into_inner());
        if *cancelled { Err("stopped".into()) } else { work() }
    }

    /// Starts a program in a place's network, in a process group of its own so that the terminal's Ctrl-C does not
    /// reach it, and records its number.
    pub fn service(&self, place: &Place, program: &Path, arguments: &[String]) -> Result<Service, String> {
        let name = program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let output = place.log().join(format!("{name}.out"));
        self.start(|| {
            let log = File::create(&output).map_err(|e| format!("{}: {e}", output.display()))?;
            let log_too = log.try_clone().map_err(|e| format!("{}: {e}", output.display()))?;
            let mut command = Command::new(program);
            command.arg0(&name).args(arguments).stdin(Stdio::null()).stdout(log).stderr(log_too).process_group(0);
            command.env(INITIATOR_NAME, place.initiator_name());
            let child = network::inside(&place.namespace, || command.spawn())?.map_err(|e| format!("{name}: {e}"))?;
            let pid = i32::try_from(child.id()).map_err(|_| format!("{name}: impossible process number"))?;
            place.record_pid(pid).map_err(|e| format!("{}: {e}", place.pids().display()))?;
            Ok(Service { output: output.clone(), child })
        })
    }

    /// Runs a program in a place's network to its end.
    pub fn run(&self, place: &Place, program: &Path, arguments: &[String]) -> Result<(), String> {
        let name = program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut command = Command::new(program);
        command.arg0(&name).args(arguments).stdin(Stdio::null()).env(INITIATOR_NAME, place.initiator_name());
        let output = network::inside(&place.namespace, || command.output())?.map_err(|e| format!("{name}: {e}"))?;
        let said = [output.stdout, output.stderr].concat();
        let _ = fs::write(place.log().join(format!("{name}.out")), &said);
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("(no message)");
        Err(format!("{name}: {}: {last}", output.status))
    }
}

impl Service {
    /// An error with the last thing it said, once it has ended.
    pub fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("ended with {status}: {}", last_line(&self.output))),
            Err(e) => Err(e.to_string()),
        }
    }
}

/// The last line that is not blank.
pub fn last_line(file: &Path) -> String {
    let lines = File::open(file).map(|f| BufReader::new(f).lines());
    let last = lines.ok().and_then(|l| l.map_while(Result::ok).filter(|l| !l.trim().is_empty()).last());
    last.unwrap_or_else(|| format!("(nothing in {})", file.display()))
}
