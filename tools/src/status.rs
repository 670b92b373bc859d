//! `corral status`: the mounts of this machine and the processes of the cluster that quickstart started.
//!
//! Reads /proc only, so it answers at once even when a mount hangs; each mount is asked once whether it
//! answers, by a thread that is left behind if it does not.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::demo::layout::{Layout, PlaceKind};
use crate::mounts::{self, Invocation, MOUNT_PROGRAM, Mount};
use crate::output::Table;
use crate::process::Process;
use crate::record::Record;

/// How long a mount has to answer a `statfs` before it is called silent.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Everything the command shows.
#[derive(Debug, Serialize)]
pub struct Status {
    pub mounts: Vec<MountStatus>,
    /// Absent where no cluster of quickstart is near.
    pub cluster: Option<ClusterStatus>,
}

/// One mount.
#[derive(Debug, Serialize)]
pub struct MountStatus {
    pub device: String,
    pub dir: PathBuf,
    /// As given at mount; `None` means the superblock's own.
    pub lock_protocol: Option<String>,
    pub node: Option<String>,
    /// `mounted`, `silent` (does not answer), `withdrawn` (stopped after an error), `dead` (its process has ended), or
    /// `ended` (unmounted, and not cleanly: the journal waits for its replay).
    pub state: &'static str,
    /// Where it is not as it should be.
    pub why: Option<String>,
    pub pid: Option<i32>,
    pub journal: Option<u32>,
}

/// The cluster below one run folder.
#[derive(Debug, Serialize)]
pub struct ClusterStatus {
    pub run: PathBuf,
    pub processes: Vec<ProcessStatus>,
}

/// One process that quickstart recorded.
#[derive(Debug, Serialize)]
pub struct ProcessStatus {
    pub place: String,
    pub program: String,
    pub pid: i32,
    /// `running` or `ended`.
    pub state: &'static str,
}

/// Looks around.
pub fn collect() -> io::Result<Status> {
    let mounts = mounts::all()?;
    let mut mounts: Vec<MountStatus> = mounts.iter().filter_map(mount_status).collect();
    let gone: Vec<MountStatus> = Record::left_behind().iter().filter_map(|r| ended_status(r, &mounts)).collect();
    mounts.extend(gone);
    Ok(Status { mounts, cluster: Layout::near().map(|layout| cluster_status(&layout)) })
}

fn mount_status(mount: &Mount) -> Option<MountStatus> {
    let server = mount.server();
    if server.is_none() && !mount.kind.contains("gfs2") && !mount.kind.contains("corral") {
        return None;
    }
    let invocation = server.as_ref().and_then(Invocation::of);
    let option = |name: &str| invocation.as_ref().and_then(|i| i.option(name)).map(str::to_string);
    let record = Record::of(mount.connection, server.as_ref());
    let why = record.as_ref().and_then(Record::trouble);
    let state = match &server {
        _ if why.is_some() => "withdrawn",
        None => "dead",
        Some(_) if mount.answers(ANSWER_MAX) => "mounted",
        Some(_) => "silent",
    };
    Some(MountStatus {
        device: invocation.as_ref().map_or_else(|| mount.source.clone(), |i| i.device.clone()),
        dir: mount.dir.clone(),
        lock_protocol: option("lockproto"),
        node: option("node"),
        state,
        why,
        pid: server.map(|p| p.pid),
        journal: record.and_then(|r| r.journal),
    })
}

/// What a mount that is gone has left to say.
fn ended_status(record: &Record, present: &[MountStatus]) -> Option<MountStatus> {
    if present.iter().any(|m| m.dir == record.mountpoint) {
        return None;
    }
    let killed = || "its process ended without a word".to_owned();
    Some(MountStatus {
        device: record.device.clone(),
        dir: record.mountpoint.clone(),
        lock_protocol: None,
        node: None,
        state: "ended",
        why: Some(record.trouble().unwrap_or_else(killed)),
        pid: None,
        journal: record.journal,
    })
}

fn cluster_status(layout: &Layout) -> ClusterStatus {
    let mut processes = Vec::new();
    for place in layout.places() {
        let program = match place.kind {
            PlaceKind::Storage => "corral-target",
            PlaceKind::Node(_) => MOUNT_PROGRAM,
        };
        for pid in place.recorded_pids() {
            let process = Process::of(pid).filter(|p| p.name() == program);
            let state = if process.is_some() { "running" } else { "ended" };
            processes.push(ProcessStatus { place: place.name(), program: program.into(), pid, state });
        }
    }
    ClusterStatus { run: layout.run.clone(), processes }
}

impl Status {
    /// For people.
    pub fn text(&self) -> String {
        let mut table = Table::new(&["DEV", "DIR", "PROTOCOL", "NODE", "STATE", "PID"]);
        for m in &self.mounts {
            table.row(vec![
                m.device.clone(),
                m.dir.display().to_string(),
                m.lock_protocol.clone().unwrap_or_else(|| "as on disk".into()),
                m.node.clone().unwrap_or_default(),
                m.state.into(),
                m.pid.map(|p| p.to_string()).unwrap_or_default(),
            ]);
        }
        let mut text = if table.is_empty() { "no Corral mounts on this machine\n".to_string() } else { table.text() };
        for m in &self.mounts {
            if let Some(why) = &m.why {
                text.push_str(&format!("{} {}: {why}\n", m.dir.display(), m.state));
            }
        }
        if let Some(cluster) = &self.cluster {
            let mut table = Table::new(&["PLACE", "PROGRAM", "PID", "STATE"]);
            for p in &cluster.processes {
                table.row(vec![p.place.clone(), p.program.clone(), p.pid.to_string(), p.state.into()]);
            }
            text.push_str(&format!("\nquickstart cluster in {}", cluster.run.display()));
            text.push_str(&if table.is_empty() { ": down\n".to_string() } else { format!("\n{}", table.text()) });
        }
        text
    }
}
