//! Corral's mounts on this machine: which there are, who serves them, and how one is ended.
//!
//! Read from /proc/self/mountinfo without touching the mounts themselves, because a `stat` of a mount that hangs would
//! hang as well. Ending goes in two strengths: `end` (clean: unmount, then wait until the mount process
//! has written everything back and ended) and `force` (abort that one FUSE connection, detach the mount, kill the process).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use nix::sys::statfs::statfs;

use crate::clock;
use crate::process::Process;

/// The program that serves a mount.
pub const MOUNT_PROGRAM: &str = "corral-mount";

/// One line of mountinfo that is a FUSE mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The FUSE connection: the minor number of the mount's device, as below /sys/fs/fuse/connections.
    pub connection: u32,
    pub dir: PathBuf,
    pub source: String,
    pub kind: String,
}

/// Why a mount did not end cleanly.
#[derive(Debug)]
pub enum EndError {
    /// Something still uses it; who, as far as /proc shows.
    Busy(Vec<String>),
    /// umount(2) itself did not return in time.
    UnmountHangs,
    /// Unmounted, but the mount process has not ended.
    ServerHangs(Process),
    Io(io::Error),
}

impl std::fmt::Display for EndError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Busy(who) if who.is_empty() => write!(f, "it is busy (nobody below /proc shows why)"),
            Self::Busy(who) => write!(f, "it is busy: {}", who.join(", ")),
            Self::UnmountHangs => write!(f, "the kernel's unmount does not return"),
            Self::ServerHangs(p) => write!(f, "unmounted, but {MOUNT_PROGRAM} (pid {}) has not ended", p.pid),
            Self::Io(e) => write!(f, "{e}"),
        }
    }
}

impl Mount {
    /// The Corral mount at `dir`. `dir` is resolved through its parent only: the mount point itself may hang.
    pub fn at(dir: &Path) -> io::Result<Option<Self>> {
        let dir = resolve(dir)?;
        Ok(all()?.into_iter().rev().find(|m| m.dir == dir))
    }

    /// The living mount process.
    pub fn server(&self) -> Option<Process> {
        let servers: Vec<Process> = Process::all().into_iter().filter(|p| p.name() == MOUNT_PROGRAM).collect();
        servers.into_iter().find(|p| match p.fuse_connections() {
            Some(connections) => connections.contains(&self.connection),
            None => Invocation::of(p).is_some_and(|i| i.dir == self.dir),
        })
    }

    /// Whether the filesystem answers within `bound`. The question is put by a thread of its own, which is left behind
    /// if it hangs.
    pub fn answers(&self, bound: Duration) -> bool {
        let (tell, told) = mpsc::channel();
        let dir = self.dir.clone();
        thread::spawn(move || {
            let _ = tell.send(statfs(&dir).is_ok());
        });
        told.recv_timeout(bound).unwrap_or(false)
    }

    /// Unmounts and waits until the mount process has ended, `bound` in all. `waiting` is called every 5 s with what is
    /// being waited for.
    pub fn end(&self, bound: Duration, waiting: &dyn Fn(&str)) -> Result<(), EndError> {
        let deadline = clock::now() + bound;
        let server = self.server();
        let (tell, told) = mpsc::channel();
        let dir = self.dir.clone();
        thread::spawn(move || {
            let _ = tell.send(umount2(&dir, MntFlags::empty()));
        });
        let what = format!("the kernel to unmount {}", self.dir.display());
        let answer = patiently(deadline, waiting, &what, |slice| told.recv_timeout(slice).ok());
        match answer {
            None => return Err(EndError::UnmountHangs),
            Some(Err(nix::errno::Errno::EBUSY)) => return Err(EndError::Busy(self.users())),
            Some(Err(e)) => return Err(EndError::Io(e.into())),
            Some(Ok(())) => {}
        }
        let Some(server) = server else { return Ok(()) };
        let what = format!("{MOUNT_PROGRAM} (pid {}) to write everything back and end", server.pid);
        patiently(deadline, waiting, &what, |slice| server.wait_end(slice).then_some(()))
            .ok_or(EndError::ServerHangs(server))
    }

    /// The hard way, for a mount that hangs: abort its connection (only its own), detach it, end its process.
    pub fn force(&self) -> io::Result<()> {
        let server = self.server();
        let aborted = abort_connection(self.connection);
        let detached = umount2(&self.dir, MntFlags::MNT_DETACH);
        if let Some(server) = server {
            // The connection also ends with the last descriptor of its server, so this aborts it where the control
            // filesystem is not to be had.
            server.signal(Signal::SIGKILL);
            server.wait_end(Duration::from_secs(5));
        } else {
            aborted?;
        }
        match detached {
            // EINVAL: it is no mount point any more, which is what was wanted.
            Ok(()) | Err(nix::errno::Errno::EINVAL) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Who keeps the mount busy, one phrase each, at most five.
    fn users(&self) -> Vec<String> {
        let phrase = |p: &Process| Some(format!("{} (pid {}) {}", p.name(), p.pid, p.uses(&self.dir)?));
        Process::all().iter().filter_map(phrase).take(5).collect()
    }
}

/// How a mount process was called: `corral-mount [-f] [-o OPTS] DEV DIR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    pub device: String,
    pub dir: PathBuf,
    pub options: Vec<(String, String)>,
}

impl Invocation {
    /// Read from the process's arguments.
    pub fn of(process: &Process) -> Option<Self> {
        Self::parse(&process.arguments(), &process.folder()?)
    }

    /// The value of an option, if given.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn parse(arguments: &[OsString], folder: &Path) -> Option<Self> {
        let (mut options, mut plain) = (Vec::new(), Vec::new());
        let mut rest = arguments.iter().skip(1).map(|a| a.to_string_lossy().into_owned());
        while let Some(argument) = rest.next() {
            if let Some(list) = argument.strip_prefix("-o") {
                let list = if list.is_empty() { rest.next()? } else { list.to_string() };
                options.extend(list.split(',').map(|o| match o.split_once('=') {
                    Some((name, value)) => (name.to_string(), value.to_string()),
                    None => (o.to_string(), String::new()),
                }));
            } else if !argument.starts_with('-') {
                plain.push(argument);
            }
        }
        let [device, dir] = <[String; 2]>::try_from(plain).ok()?;
        let dir = resolve(&folder.join(&dir)).unwrap_or_else(|_| folder.join(dir));
        Some(Self { device, dir, options })
    }
}

/// Every FUSE mount that this process sees, in the order they were made.
pub fn all() -> io::Result<Vec<Mount>> {
    Ok(parse_mountinfo(&fs::read("/proc/self/mountinfo")?))
}

/// An absolute path with everything but the last part resolved.
fn resolve(dir: &Path) -> io::Result<PathBuf> {
    let dir = std::path::absolute(dir)?;
    match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) if name != ".." => Ok(parent.canonicalize()?.join(name)),
        _ => dir.canonicalize(),
    }
}

/// Fields: id, parent, major:minor, root, mount point, options, optional fields, `-`, type, source, super options.
fn parse_mountinfo(text: &[u8]) -> Vec<Mount> {
    let line = |line: &[u8]| {
        let mut fields = line.split(|b| *b == b' ');
        let device = String::from_utf8_lossy(fields.nth(2)?).into_owned();
        let dir = unescape(fields.nth(1)?);
        let mut tail = fields.skip_while(|f| *f != b"-").skip(1);
        let kind = String::from_utf8_lossy(tail.next()?).into_owned();
        let source = unescape(tail.next()?).to_string_lossy().into_owned();
        let connection = device.split_once(':')?.1.parse().ok()?;
        (kind == "fuse" || kind.starts_with("fuse.")).then(|| Mount { connection, dir: dir.into(), source, kind })
    };
    text.split(|b| *b == b'\n').filter_map(line).collect()
}

/// Undoes the kernel's octal escapes of blank, tab, newline and backslash.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let value = octal.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match value {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// Aborts one FUSE connection through the control filesystem, which is mounted for the moment in a folder of our own
/// where the machine has not mounted it.
fn abort_connection(connection: u32) -> io::Result<()> {
    let usual = format!("/sys/fs/fuse/connections/{connection}/abort");
    if Path::new(&usual).exists() {
        return fs::write(usual, "1");
    }
    let own = std::env::temp_dir().join(format!("corral-fusectl-{}-{connection}", std::process::id()));
    fs::create_dir(&own)?;
    let none: Option<&str> = None;
    let result = mount(none, own.as_os_str().as_bytes(), Some("fusectl"), MsFlags::empty(), none)
        .map_err(io::Error::from)
        .and_then(|()| fs::write(own.join(connection.to_string()).join("abort"), "1"));
    let _ = umount2(&own, MntFlags::MNT_DETACH);
    let _ = fs::remove_dir(&own);
    result
}

/// Asks `ask` in slices of up to 5 s until it answers or the deadline has passed, telling `waiting` between slices.
fn patiently<T>(
    deadline: std::time::Instant,
    waiting: &dyn Fn(&str),
    what: &str,
    mut ask: impl FnMut(Duration) -> Option<T>,
) -> Option<T> {
    let start = clock::now();
    loop {
        let left = deadline.saturating_duration_since(clock::now());
        if let Some(answer) = ask(left.min(Duration::from_secs(5))) {
            return Some(answer);
        }
        if left.is_zero() {
            return None;
        }
        waiting(&format!("after {} still waiting for {what}", clock::human(clock::now().duration_since(start))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fuse_line_of_mountinfo_gives_connection_folder_and_source() {
        let text = b"22 27 0:20 / /sys rw - sysfs sysfs rw\n43 27 0:39 / /tmp/a\\040b rw,relatime shared:1 - fuse.gfs2 iscsi://h/t/0 rw\n";
        let mounts = parse_mountinfo(text);
        assert_eq!(mounts.len(), 1);
        assert_eq!((mounts[0].connection, mounts[0].dir.as_path()), (39, Path::new("/tmp/a b")));
        assert_eq!((mounts[0].kind.as_str(), mounts[0].source.as_str()), ("fuse.gfs2", "iscsi://h/t/0"));
    }

    #[test]
    fn a_mount_process_tells_its_device_folder_and_options() {
        let arguments: Vec<OsString> =
            ["corral-mount", "-f", "-o", "lockproto=lock_dlm,node=2", "disk.img", "m"].map(OsString::from).to_vec();
        let invocation = Invocation::parse(&arguments, Path::new("/tmp")).expect("a mount's command line");
        assert_eq!((invocation.device.as_str(), invocation.dir.as_path()), ("disk.img", Path::new("/tmp/m")));
        assert_eq!(invocation.option("node"), Some("2"));
        assert_eq!(invocation.option("view"), None);
    }
}
