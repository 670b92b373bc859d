//! The kernel's side of this mount, to end it by force: every request under way ends with an
//! error, every cache is gone, no process stays stuck. Only ever our own connection.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

const CONTROL: &str = "/sys/fs/fuse/connections";

/// A mounted connection. Its number is the minor of the mount's device.
#[derive(Clone, Debug)]
pub struct Connection {
    number: u32,
    mountpoint: PathBuf,
}

impl Connection {
    /// Finds the mount at `mountpoint` (absolute, resolved) without asking it anything, so that
    /// it works before the first request is served.
    pub fn of_mount(mountpoint: &Path) -> io::Result<Connection> {
        let table = fs::read("/proc/self/mountinfo")?;
        let number = find_minor(&table, mountpoint.as_os_str().as_bytes())
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the mount is not in /proc/self/mountinfo"))?;
        Ok(Connection { number, mountpoint: mountpoint.to_owned() })
    }

    /// Its number below `/sys/fs/fuse/connections`.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Aborts it, mounting the control filesystem if it is not.
    pub fn abort(&self) -> io::Result<()> {
        let switch = Path::new(CONTROL).join(self.number.to_string()).join("abort");
        if !switch.exists() {
            mount(Some("none"), CONTROL, Some("fusectl"), MsFlags::empty(), None::<&str>)?;
        }
        match fs::write(&switch, b"1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written,
        }
        .or_else(|_| umount2(&self.mountpoint, MntFlags::MNT_FORCE).map_err(io::Error::from))
    }
}

/// Minor number of the FUSE mount that is uppermost at `mountpoint`. A line is
/// "id parent major:minor root mountpoint options … - type source options"; blanks in a path are
/// octal escapes.
fn find_minor(table: &[u8], mountpoint: &[u8]) -> Option<u32> {
    let mut found = None;
    for line in table.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        let (Some(device), Some(at)) = (fields.nth(2), fields.nth(1)) else { continue };
        let is_fuse = fields.skip_while(|field| *field != b"-").nth(1).is_some_and(|kind| kind.starts_with(b"fuse"));
        if is_fuse && unescape(at) == mountpoint {
            found = std::str::from_utf8(device).ok().and_then(|d| d.split_once(':')).and_then(|(_, m)| m.parse().ok());
        }
    }
    found
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uppermost_fuse_mount_of_a_path_is_found() {
        let table = b"29 1 8:1 / /mnt rw - ext4 /dev/sda rw\n\
            30 29 0:51 / /mnt/a\\040b rw,relatime shared:7 - fuse.gfs2 /dev/sdb rw\n\
            31 30 0:52 / /mnt/a\\040b rw - fuse.gfs2 /dev/sdc rw\n\
            32 30 0:53 / /mnt/other rw - tmpfs tmpfs rw\n\n";
        assert_eq!(find_minor(table, b"/mnt/a b"), Some(52));
        assert_eq!(find_minor(table, b"/mnt/other"), None);
        assert_eq!(find_minor(b"garbage\n1 2\n", b"/mnt"), None);
    }
}
