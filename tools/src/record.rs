//! What a mount process has written down about its mount: `/run/corral/mounts/N`, one `name value` a line.
//!
//! A record stays behind only when a mount did not end as it should; then it is the only thing left to say why.

use std::fs;
use std::path::{Path, PathBuf};

use crate::process::Process;

const DIRECTORY: &str = "/run/corral/mounts";
/// The only version there is.
const VERSION: &str = "version 1";

/// One mount process's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    path: PathBuf,
    pub pid: i32,
    pub device: String,
    pub mountpoint: PathBuf,
    pub lock_table: Option<String>,
    pub journal: Option<u32>,
    pub log: Option<PathBuf>,
    pub state: State,
}

/// How far the mount has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Mounted,
    /// Writes nothing any more.
    Withdrawn {
        why: String,
    },
    /// Ended, and its journal has to be replayed.
    NotClean {
        why: String,
    },
}

impl Record {
    /// The record of the mount with this FUSE connection, served by `server`, or by a process that has ended.
    pub fn of(connection: u32, server: Option<&Process>) -> Option<Self> {
        let record = Self::read(&Path::new(DIRECTORY).join(connection.to_string()))?;
        // The numbers of connections are used again.
        let is_its = server.map_or_else(|| Process::of(record.pid).is_none(), |server| server.pid == record.pid);
        is_its.then_some(record)
    }

    /// What is left of mounts whose process has ended.
    pub fn left_behind() -> Vec<Self> {
        let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
        let mut records: Vec<Self> =
            entries.filter_map(|e| Self::read(&e.path())).filter(|r| Process::of(r.pid).is_none()).collect();
        records.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
        records
    }

    /// In the words of people; `None` while all is well.
    pub fn trouble(&self) -> Option<String> {
        let log = self.log.as_ref().map_or_else(String::new, |log| format!(" (log: {})", log.display()));
        match &self.state {
            State::Mounted => None,
            State::Withdrawn { why } | State::NotClean { why } => Some(format!("{why}{log}")),
        }
    }

    /// Deletes it, once somebody was told.
    pub fn forget(&self) {
        // A record that stays is told again, which is no harm.
        let _ = fs::remove_file(&self.path);
    }

    fn read(path: &Path) -> Option<Self> {
        Self::parse(path, &fs::read_to_string(path).ok()?)
    }

    fn parse(path: &Path, text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(VERSION) {
            return None;
        }
        let lines: Vec<(&str, &str)> = lines.map(|line| line.split_once(' ').unwrap_or((line, ""))).collect();
        let value = |name: &str| lines.iter().find(|(n, v)| *n == name && !v.is_empty()).map(|(_, v)| *v);
        let why = || value("why").unwrap_or("the reason was not written down").to_owned();
        Some(Self {
            path: path.to_owned(),
            pid: value("pid")?.parse().ok()?,
            device: value("device")?.to_owned(),
            mountpoint: value("mountpoint")?.into(),
            lock_table: value("locktable").map(str::to_owned),
            journal: value("journal").and_then(|number| number.parse().ok()),
            log: value("log").map(PathBuf::from),
            state: match value("state")? {
                "mounted" => State::Mounted,
                "withdrawn" => State::Withdrawn { why: why() },
                "not-clean" => State::NotClean { why: why() },
                _ => return None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_and_a_strange_one_is_none() {
        let text = "version 1\npid 42\ndevice a b.img\nmountpoint /mnt/x y\nlocktable \njournal 1\nstate withdrawn\nwhy the disk\n";
        let record = Record::parse(Path::new("/r/7"), text).expect("a record");
        assert_eq!((record.pid, record.device.as_str(), record.journal), (42, "a b.img", Some(1)));
        assert_eq!((record.mountpoint.as_path(), &record.lock_table), (Path::new("/mnt/x y"), &None));
        assert_eq!(record.trouble().as_deref(), Some("the disk"));
        for strange in ["", "version 2\npid 42\n", &text.replace("withdrawn", "drowned"), &text.replace("42", "x")] {
            assert_eq!(Record::parse(Path::new("/r/7"), strange), None, "{strange}");
        }
    }
}
