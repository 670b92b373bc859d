//! The state directory: what must survive a restart, for one process at a time.
//!
//! It carries a format version from the start; a newer one is refused rather than misread.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::reservations::{sync_folder, write_whole};

/// Format of the directory's contents that this program writes and understands.
const FORMAT: &str = "corral-target-state 1";

/// An open state directory; no other process can open it meanwhile.
///
/// One that was made by a start that then fails goes again, with all that is in it, unless [`StateDirectory::keep`] was
/// called.
pub struct StateDirectory {
    path: PathBuf,
    _lock: Flock<File>,
    is_new: bool,
}

impl StateDirectory {
    /// Opens the directory, and makes it if it is not there.
    pub fn open(path: &Path) -> Result<Self, String> {
        let tell = |error: std::io::Error| format!("state directory {}: {error}", path.display());
        let is_new = !path.exists();
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(tell)?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("lock")).map_err(tell)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
            Errno::EWOULDBLOCK => format!("state directory {}: another corral-target is using it", path.display()),
            error => tell(error.into()),
        })?;
        let format = path.join("format");
        match fs::read_to_string(&format) {
            Ok(found) if found.trim_end() == FORMAT => {}
            Ok(found) => {
                return Err(format!(
                    "state directory {}: its format is '{}', this program knows '{FORMAT}'",
                    path.display(),
                    found.trim_end()
                ));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                sync_folder(path).map_err(tell)?;
                write_whole(&format, format!("{FORMAT}\n").as_bytes()).map_err(tell)?;
            }
            Err(error) => return Err(tell(error)),
        }
        Ok(Self { path: path.to_owned(), _lock: lock, is_new })
    }

    /// The start has succeeded.
    pub fn keep(&mut self) {
        self.is_new = false;
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StateDirectory {
    fn drop(&mut self) {
        if self.is_new {
            // The error that led here is the one to report.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
