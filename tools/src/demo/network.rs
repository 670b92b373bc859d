//! The demonstration's network: a namespace for each machine and one for the switch, joined by veth pairs.
//!
//! Nothing of the host's own network is touched: the bridge lives in a namespace too. Only *network* namespaces are
//! used, so mounts made by a node's processes are seen by everybody.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::layout::{Layout, Place};
use crate::process::Process;

/// The handle of a namespace as `ip netns` keeps it.
pub fn handle(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}

/// Makes the namespace `name`.
pub fn add_namespace(name: &str) -> Result<(), String> {
    ip(&["netns", "add", name])?;
    ip(&["-n", name, "link", "set", "lo", "up"])
}

/// Makes the switch in its namespace.
pub fn add_switch(layout: &Layout) -> Result<(), String> {
    let switch = layout.switch();
    add_namespace(&switch)?;
    ip(&["-n", &switch, "link", "add", "switch", "type", "bridge"])?;
    ip(&["-n", &switch, "link", "set", "switch", "up"])
}

/// Makes a machine's namespace and plugs it into the switch.
pub fn add_place(layout: &Layout, place: &Place) -> Result<(), String> {
    let (switch, port, namespace) = (layout.switch(), place.name(), place.namespace.as_str());
    add_namespace(namespace)?;
    ip(&["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", namespace])?;
    ip(&["-n", &switch, "link", "set", &port, "master", "switch", "up"])?;
    ip(&["-n", namespace, "addr", "add", &format!("{}/24", place.address()), "dev", "eth0"])?;
    ip(&["-n", namespace, "link", "set", "eth0", "up"])
}

/// Removes those namespaces of the cluster that exist; their links go with them.
pub fn remove(layout: &Layout) -> Vec<String> {
    let existing = layout.namespaces().into_iter().filter(|n| handle(n).exists());
    existing.filter_map(|n| ip(&["netns", "del", &n]).err()).collect()
}

/// The living processes in any namespace of the cluster.
pub fn processes(layout: &Layout) -> Vec<Process> {
    let handles: Vec<PathBuf> = layout.namespaces().iter().map(|n| handle(n)).filter(|h| h.exists()).collect();
    Process::all().into_iter().filter(|p| handles.iter().any(|h| p.is_in_network(h))).collect()
}

/// Runs `work` with the calling thread's network being `namespace`: a child started there stays in it. A thread of its
/// own, because a namespace is a property of a thread.
pub fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    let path = handle(namespace);
    let file = File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    thread::scope(|scope| {
        let worker = scope.spawn(move || -> Result<T, String> {
            setns(file, CloneFlags::CLONE_NEWNET)
                .map_err(|e| format!("cannot enter the namespace {namespace}: {e}"))?;
            Ok(work())
        });
        worker.join().unwrap_or_else(|_| Err(format!("work in the namespace {namespace} panicked")))
    })
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|e| format!("ip (package iproute2): {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", arguments.join(" "), said.lines().next().unwrap_or("failed without a word")))
}
