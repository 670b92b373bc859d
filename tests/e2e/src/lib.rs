//! What the end-to-end tests share: finding the programs, running them within a bound, a mount under a watchdog.
//!
//! Every test here uses the programs as a user does and somebody else's tools as judges: the distribution's `fsck.gfs2`,
//! the Linux kernel. A test that cannot run here says SKIPPED on standard error, and `./test` repeats it at the end.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tools::clock;
use tools::mounts::Mount;

/// The longest a mount, an unmount or a whole body of calls on a mount may take.
pub const MOUNT_MAX: Duration = Duration::from_secs(60);
pub const BODY_MAX: Duration = Duration::from_secs(240);

/// The folder of this repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("invariant: this package lies in tests/e2e")
}

/// One of Corral's programs: in `CORRAL_BIN`, else beside the tests that cargo built.
pub fn program(name: &str) -> Option<PathBuf> {
    let named = std::env::var_os("CORRAL_BIN").map(PathBuf::from);
    let built = std::env::current_exe().ok().and_then(|e| Some(e.parent()?.parent()?.to_path_buf()));
    let folder = named.or(built)?;
    // Cargo cannot build a program with a dot in its name.
    [name.to_string(), name.replace('.', "-")].iter().map(|n| folder.join(n)).find(|p| p.is_file())
}

/// Whether the test `name` can run here: root, FUSE, Corral's programs and these commands. Says what is missing.
pub fn can_run(name: &str, commands: &[&str]) -> bool {
    let mut missing: Vec<String> = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root".into());
    }
    if !Path::new("/dev/fuse").exists() {
        missing.push("/dev/fuse".into());
    }
    let ours = ["corral", "corral-mount", "mkfs.gfs2", "corral-target"];
    missing.extend(ours.iter().filter(|p| program(p).is_none()).map(|p| format!("{p} (cargo build --release)")));
    missing.extend(commands.iter().filter(|c| !is_in_path(c)).map(|c| (*c).to_string()));
    if !missing.is_empty() {
        eprintln!("SKIPPED {name}: needs {}", missing.join(", "));
    }
    missing.is_empty()
}

/// Whether the slow tests were asked for.
pub fn is_long(name: &str) -> bool {
    let asked = std::env::var_os("CORRAL_LONG").is_some();
    if !asked {
        eprintln!("SKIPPED {name}: only with ./test --long");
    }
    asked
}

fn is_in_path(command: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let standard = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(standard).any(|d| d.join(command).is_file())
}

/// A folder of one test, gone when the test ends.
pub struct Scratch {
    pub path: PathBuf,
}

impl Scratch {
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("corral-e2e-{}-{number}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Self { path }
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A thin file of `mib` MiB.
    pub fn disk(&self, mib: u64) -> PathBuf {
        let path = self.join("disk.img");
        File::create(&path).and_then(|f| f.set_len(mib << 20)).expect("a thin file");
        path
    }

    /// A golden image, decompressed; its manifest as well.
    pub fn golden(&self, name: &str) -> (PathBuf, PathBuf) {
        let unpack = |kind: &str| {
            let packed = root().join(format!("tests/golden/{name}.{kind}.zst"));
            let to = self.join(&format!("{name}.{kind}"));
            let done = run(Command::new("zstd").args(["-dqf", "--sparse", "-o"]).arg(&to).arg(packed), MOUNT_MAX);
            done.expect_success();
            to
        };
        (unpack("img"), unpack("json"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mounted = tools::mounts::all().unwrap_or_default().into_iter().any(|m| m.dir.starts_with(&self.path));
        if !mounted {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Done {
    pub command: String,
    /// `None` when a signal or the bound ended it.
    pub code: Option<i32>,
    pub said: String,
}

impl Done {
    #[track_caller]
    pub fn expect_success(&self) {
        assert_eq!(self.code, Some(0), "{}\n{}", self.command, self.said);
    }
}

/// Runs a command to its end, or kills it after `bound`.
pub fn run(command: &mut Command, bound: Duration) -> Done {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{shown}: {e}"));
    let collect = |stream: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut said = Vec::new();
            let _ = stream.map(|mut s| s.read_to_end(&mut said));
            said
        })
    };
    let out = collect(child.stdout.take().map(|s| Box::new(s) as _));
    let err = collect(child.stderr.take().map(|s| Box::new(s) as _));
    let ended = clock::wait_until(bound, || !matches!(child.try_wait(), Ok(None)));
    if !ended {
        let _ = child.kill();
    }
    let code = child.wait().ok().and_then(|s| s.code());
    // A daemon that stays behind keeps the pipes open: do not wait for it.
    let settled = clock::wait_until(Duration::from_secs(2), || out.is_finished() && err.is_finished());
    let mut said =
        if settled { [out.join().unwrap_or_default(), err.join().unwrap_or_default()].concat() } else { Vec::new() };
    if !ended {
        said.extend_from_slice(format!("\n(killed after {bound:?})").as_bytes());
    }
    Done { command: shown, code: code.filter(|_| ended), said: String::from_utf8_lossy(&said).into_owned() }
}

/// `corral ARGS…`.
pub fn corral(arguments: &[&str]) -> Done {
    let corral = program("corral").expect("checked by can_run");
    run(Command::new(corral).args(arguments), MOUNT_MAX)
}

/// `corral mkfs` for one node, on a fresh image.
#[track_caller]
pub fn make_filesystem(disk: &Path, options: &[&str]) {
    let disk = disk.to_str().expect("a plain path");
    let standard = ["mkfs", "-q", "-O", "-p", "lock_nolock", "-t", "e2e:fs"];
    corral(&[&standard, options, &[disk]].concat()).expect_success();
}

/// The distribution's `fsck.gfs2 -n` finds nothing at all.
#[track_caller]
pub fn expect_clean(disk: &Path) {
    let done = run(Command::new("fsck.gfs2").arg("-n").arg(disk).env("PATH", PATH), BODY_MAX);
    let words = ["error", "bad ", "wrong", "should be", "not linked", "is dirty", "mismatch"];
    let lower = done.said.to_lowercase();
    let complaint = lower.lines().find(|l| words.iter().any(|w| l.contains(w)));
    assert!(done.code == Some(0) && complaint.is_none(), "fsck.gfs2 -n: {:?}\n{}", done.code, done.said);
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A mount that ends with the test, by force if it must.
pub struct Mounted {
    pub dir: PathBuf,
}

impl Mounted {
    /// `corral mount -o OPTIONS DEV DIR`.
    #[track_caller]
    pub fn new(scratch: &Scratch, device: &Path, options: &str) -> Self {
        let dir = scratch.join("mnt");
        let _ = fs::create_dir(&dir);
        let log = scratch.join("mount.log");
        let options = format!("{options}{}log={}", if options.is_empty() { "" } else { "," }, log.display());
        let (device, shown) = (device.to_str().expect("a plain path"), dir.to_str().expect("a plain path"));
        let done = corral(&["mount", "-o", &options, device, shown]);
        let mounted = Self { dir };
        assert_eq!(
            done.code,
            Some(0),
            "{}\n{}\n{}",
            done.command,
            done.said,
            fs::read_to_string(log).unwrap_or_default()
        );
        mounted
    }

    /// Runs `body` on the mount. If it is not done within its bound, the FUSE connection is aborted, which frees every
    /// call that hangs, and the test fails.
    #[track_caller]
    pub fn work<T: Send + 'static>(&self, body: impl FnOnce(&Path) -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let dir = self.dir.clone();
        let worker = thread::spawn(move || {
            let answer = body(&dir);
            let _ = tell.send(());
            answer
        });
        if let Err(mpsc::RecvTimeoutError::Timeout) = told.recv_timeout(BODY_MAX) {
            self.force();
            panic!("no answer from {} within {BODY_MAX:?}", self.dir.display());
        }
        match worker.join() {
            Ok(answer) => answer,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// `corral umount`, which must succeed.
    #[track_caller]
    pub fn unmount(self) {
        corral(&["umount", "--timeout", "50", self.dir.to_str().expect("a plain path")]).expect_success();
    }

    fn force(&self) {
        if let Ok(Some(mount)) = Mount::at(&self.dir) {
            let _ = mount.force();
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.force();
    }
}
