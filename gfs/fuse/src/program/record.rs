//! The record of a mount: a small file that tells other programs of this machine who serves it and how it ended.
//!
//! `/run/corral/mounts/N`, N being the number of the FUSE connection, holds one `name value` a line; `version 1` is the
//! first. It is written whole, so that a reader never sees a half, and goes when the mount ends as it should. What
//! stays says why a mount did not: `corral status` shows it, `corral umount` tells and deletes it. It holds no secret,
//! and nothing depends on it: where it cannot be written, the mount goes on without.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

/// Where the records are.
const DIRECTORY: &str = "/run/corral/mounts";

/// What does not change while the mount lives.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Without a secret.
    pub device: String,
    pub mountpoint: PathBuf,
    pub lock_table: String,
    pub journal: u32,
    pub log: Option<PathBuf>,
}

/// How far the mount has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Mounted,
    /// Writes nothing any more.
    Withdrawn {
        why: String,
    },
    /// The process has ended, and its journal has to be replayed.
    NotClean {
        why: String,
    },
}

/// The record of this process's mount.
#[derive(Clone, Debug)]
pub struct Record {
    path: PathBuf,
    facts: Facts,
}

impl Record {
    /// Writes the record of a new mount, and deletes those of earlier mounts at the same place.
    pub fn begin(connection: u32, facts: Facts) -> Record {
        Self::begin_in(Path::new(DIRECTORY), connection, facts)
    }

    fn begin_in(directory: &Path, connection: u32, facts: Facts) -> Record {
        if let Err(error) = fs::create_dir_all(directory).and_then(|()| forget_earlier(directory, &facts.mountpoint)) {
            warn!(directory = %directory.display(), %error, "no record of this mount can be kept");
        }
        let record = Record { path: directory.join(connection.to_string()), facts };
        record.set(&State::Mounted);
        record
    }

    /// Says how far the mount has come.
    pub fn set(&self, state: &State) {
        let unfinished = self.path.with_extension("new");
        let written = fs::write(&unfinished, self.text(state)).and_then(|()| fs::rename(&unfinished, &self.path));
        if let Err(error) = written {
            warn!(path = %self.path.display(), %error, "the record of this mount cannot be written");
        }
    }

    /// The mount has ended as it should.
    pub fn end(self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(path = %self.path.display(), %error, "the record of this mount cannot be deleted");
        }
    }

    fn text(&self, state: &State) -> String {
        let Facts { device, mountpoint, lock_table, journal, log } = &self.facts;
        let mut text = format!("version 1\npid {}\ndevice {}\n", std::process::id(), one_line(device));
        text += &format!("mountpoint {}\n", one_line(&mountpoint.to_string_lossy()));
        text += &format!("locktable {}\njournal {journal}\n", one_line(lock_table));
        if let Some(log) = log {
            text += &format!("log {}\n", one_line(&log.to_string_lossy()));
        }
        text += &match state {
            State::Mounted => "state mounted\n".to_owned(),
            State::Withdrawn { why } => format!("state withdrawn\nwhy {}\n", one_line(why)),
            State::NotClean { why } => format!("state not-clean\nwhy {}\n", one_line(why)),
        };
        text
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Deletes the records of mounts at `mountpoint`: none of them is there any more, or it could not be mounted on.
fn forget_earlier(directory: &Path, mountpoint: &Path) -> io::Result<()> {
    let line = format!("mountpoint {}", one_line(&mountpoint.to_string_lossy()));
    for entry in fs::read_dir(directory)?.flatten() {
        if fs::read_to_string(entry.path()).is_ok_and(|text| text.lines().any(|found| found == line)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_how_a_mount_ended_until_the_next_one_there() {
        let folder = std::env::temp_dir().join(format!("corral-record-{}", std::process::id()));
        let facts = Facts {
            device: "disk.img".into(),
            mountpoint: "/mnt/a\nb".into(),
            lock_table: "demo:fs0".into(),
            journal: 2,
            log: None,
        };
        let first = Record::begin_in(&folder, 7, facts.clone());
        first.set(&State::Withdrawn { why: "device disk.img: no\nanswer".into() });
        let text = fs::read_to_string(folder.join("7")).expect("there");
        assert!(text.starts_with("version 1\n") && text.contains("\nmountpoint /mnt/a b\n"), "{text}");
        assert!(text.ends_with("state withdrawn\nwhy device disk.img: no answer\n"), "{text}");

        let second = Record::begin_in(&folder, 8, facts);
        assert!(!folder.join("7").exists() && folder.join("8").exists());
        second.end();
        assert!(fs::read_dir(&folder).expect("there").next().is_none());
        fs::remove_dir(&folder).expect("empty");
    }
}
