//! Ending the cluster: mounts, then the target, then the namespaces; nothing of it stays.
//!
//! Order: (1) end what else runs in the cluster's namespaces (a check, a shell), which may use the mounts; (2) unmount
//! all nodes at the same time and let each mount process write back and end; what does not end within its bound is
//! forced, and that is said; (3) end every other process there, the target last because the mounts write to it;
//! (4) remove the namespaces. Each part finds its work by looking, so the
//! whole may be repeated and works on whatever a killed quickstart left.

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::layout::Layout;
use super::network;
use super::session::TARGET_PROGRAM;
use crate::clock;
use crate::mounts::{self, EndError, MOUNT_PROGRAM, Mount};
use crate::process::{self, Process};

/// How long a busy mount (somebody's working folder) is waited for before it is detached.
const BUSY_MAX: Duration = Duration::from_secs(5);
/// How long a mount may take to write back and end.
const END_MAX: Duration = Duration::from_secs(60);
/// How long the target may take to flush and end.
const TARGET_MAX: Duration = Duration::from_secs(15);

/// How long a guest of the namespaces (a check, a shell) may take to end.
const GUEST_MAX: Duration = Duration::from_secs(2);

/// What had to be forced and what is still there.
#[derive(Debug, Default)]
pub struct Report {
    pub forced: Vec<String>,
    pub left: Vec<String>,
}

impl Report {
    /// True when nothing of the cluster stays.
    pub fn is_empty_handed(&self) -> bool {
        self.left.is_empty()
    }
}

/// Ends everything of `layout`, telling each part to `say`.
pub fn run(layout: &Layout, say: &dyn Fn(&str)) -> Report {
    let mut report = Report::default();
    let is_service = |p: &Process| [MOUNT_PROGRAM, TARGET_PROGRAM].contains(&p.name().as_str());
    let guests = network::processes(layout).into_iter().filter(|p| !is_service(p)).collect();
    end_group(guests, GUEST_MAX, say, &mut report);
    let found = mounts_of(layout);
    let served = found.iter().filter(|m| m.server().is_some()).count();
    end_mounts(&found, say, &mut report);
    let orderly = served == layout.nodes().len() && report.forced.is_empty();
    // Mount processes that serve no mount any more (killed half way, or before they mounted).
    let (targets, others) = network::processes(layout).into_iter().partition(|p| p.name() == TARGET_PROGRAM);
    end_group(others, TARGET_MAX, say, &mut report);
    end_group(targets, TARGET_MAX, say, &mut report);
    for error in network::remove(layout) {
        report.left.push(error);
    }
    let left = mounts_of(layout);
    report.left.extend(left.iter().map(|m| format!("the mount {}", m.dir.display())));
    report.left.extend(network::processes(layout).iter().map(|p| format!("{} (pid {})", p.name(), p.pid)));
    for place in layout.places() {
        let _ = fs::remove_file(place.pids());
    }
    if orderly && report.left.is_empty() {
        // Only now may the next start use the disk as it is: every journal was left clean.
        let _ = fs::write(layout.clean_mark(), "");
    }
    report
}

/// The cluster's mounts, in the order they were made.
pub fn mounts_of(layout: &Layout) -> Vec<Mount> {
    let all = mounts::all().unwrap_or_default();
    all.into_iter().filter(|m| m.dir.starts_with(&layout.run)).collect()
}

fn end_mounts(found: &[Mount], say: &dyn Fn(&str), report: &mut Report) {
    enum Told {
        Waiting(String),
        Ended(Mount, Result<Duration, EndError>, Duration),
    }
    let (tell, told) = mpsc::channel();
    for mount in found {
        let (mount, tell) = (mount.clone(), tell.clone());
        thread::spawn(move || {
            let start = clock::now();
            let waiting = |what: &str| {
                let _ = tell.send(Told::Waiting(format!("{}: {what}", mount.dir.display())));
            };
            let outcome = end_patiently(&mount, &waiting);
            let took = clock::now().duration_since(start);
            let _ = tell.send(Told::Ended(mount.clone(), outcome.map(|()| took), took));
        });
    }
    drop(tell);
    for event in told {
        match event {
            Told::Waiting(text) => say(&text),
            Told::Ended(mount, Ok(took), _) => {
                say(&format!("{}: unmounted in {}", mount.dir.display(), clock::human(took)));
            }
            Told::Ended(mount, Err(error), took) => {
                let dir = mount.dir.display();
                say(&format!(
                    "{dir}: {error} after {}; aborting its FUSE connection {} and detaching it: what it had not \
                     written is lost",
                    clock::human(took),
                    mount.connection
                ));
                if let Err(e) = mount.force() {
                    say(&format!("{dir}: {e}"));
                }
                report.forced.push(dir.to_string());
            }
        }
    }
}

/// Clean unmount; a mount that is busy only for a moment is asked again.
fn end_patiently(mount: &Mount, waiting: &dyn Fn(&str)) -> Result<(), EndError> {
    let deadline = clock::now() + BUSY_MAX;
    let mut asked = false;
    loop {
        match mount.end(END_MAX, waiting) {
            Err(error @ EndError::Busy(_)) => {
                if clock::now() >= deadline {
                    return Err(error);
                }
                if !asked {
                    waiting(&error.to_string());
                    asked = true;
                }
                thread::sleep(Duration::from_millis(100));
            }
            // Somebody else has unmounted it between the look and the call.
            Err(EndError::Io(e)) if e.raw_os_error() == Some(22) => return Ok(()),
            other => return other,
        }
    }
}

fn end_group(group: Vec<Process>, patience: Duration, say: &dyn Fn(&str), report: &mut Report) {
    if group.is_empty() {
        return;
    }
    let names: Vec<String> = group.iter().map(|p| format!("{} (pid {})", p.name(), p.pid)).collect();
    say(&format!("ending {}", names.join(", ")));
    for stuck in process::end_all(&group, patience) {
        report.left.push(format!("pid {} does not die", stuck.pid));
    }
}
