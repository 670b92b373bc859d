//! Who uses a device on this machine: mounts of Corral and of the kernel, and whoever else holds it open exclusively.
//!
//! What another machine does with a shared disk cannot be seen from here.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::device::{self, Access};
use crate::mounts;
use crate::record::Record;

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Process, if it is known.
    pub pid: Option<i32>,
    /// Where it is mounted, if it is.
    pub dir: Option<PathBuf>,
    /// The journal that it writes, if it says so.
    pub journal: Option<u32>,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.dir, self.pid) {
            (Some(dir), Some(pid)) => write!(f, "{} (pid {pid})", dir.display()),
            (Some(dir), None) => write!(f, "{}", dir.display()),
            (None, Some(pid)) => write!(f, "pid {pid}"),
            (None, None) => write!(f, "another process"),
        }
    }
}

/// The users of the device that `name` names.
pub fn of(name: &str) -> Vec<User> {
    let mut users = Vec::new();
    for mount in mounts::all().unwrap_or_default() {
        if is_same(&mount.source, name) {
            let server = mount.server();
            let journal = Record::of(mount.connection, server.as_ref()).and_then(|record| record.journal);
            users.push(User { pid: server.map(|server| server.pid), dir: Some(mount.dir.clone()), journal });
        }
    }
    users.extend(kernel_mounts(name));
    if users.is_empty() && Path::new(name).exists() && is_held(name) {
        users.push(User { pid: None, dir: None, journal: None });
    }
    users
}

/// The same text, or the same file.
fn is_same(source: &str, name: &str) -> bool {
    let real = |path: &str| fs::canonicalize(path).ok();
    source == name || real(source).is_some_and(|source| Some(source) == real(name))
}

fn kernel_mounts(name: &str) -> Vec<User> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let ours = fields.filter(|line| line.len() > 2 && line[2] == "gfs2" && is_same(line[0], name));
    ours.map(|line| User { pid: None, dir: Some(line[1].into()), journal: None }).collect()
}

/// Whether it cannot be had alone.
fn is_held(name: &str) -> bool {
    let opened = device::block_on(async {
        match device::open(name, Access::Write).await {
            Ok(opened) => {
                opened.close().await;
                false
            }
            Err(message) => message.contains("in use"),
        }
    });
    opened.unwrap_or(false)
}
