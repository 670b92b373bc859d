//! A private target of either kind on a free loopback port: Debian's tgtd, or our own corral-target.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use block_core::{IscsiPortal, IscsiUrl};

pub const TARGET: &str = "iqn.2026-11.org.corral:test";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Tgt,
    Corral,
}

/// A target program with one disk of 64 MiB.
pub struct Server {
    kind: Kind,
    folder: PathBuf,
    port: u16,
    control: u32,
    child: Child,
    setup: Setup,
}

/// How a target is set up.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Who may log in, by which secret.
    pub incoming: Option<(&'static str, &'static str)>,
    /// Who the target can prove to be.
    pub outgoing: Option<(&'static str, &'static str)>,
    /// Who may ask for the targets.
    pub discovery: Option<(&'static str, &'static str)>,
    pub is_thin: bool,
}

impl Server {
    /// `None`, with a word on stderr, if the program is not there.
    pub fn start(kind: Kind) -> Option<Server> {
        Self::start_with(kind, &Setup::default())
    }

    /// As [`Server::start`], with users and a kind of disk.
    pub fn start_with(kind: Kind, setup: &Setup) -> Option<Server> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if program(kind).is_none() {
            // Not eprintln!, which the test harness swallows.
            let _ = writeln!(std::io::stderr(), "SKIPPED: the target {kind:?} is not installed or not built here");
            return None;
        }
        if kind == Kind::Corral && setup.has_users() && !knows_users() {
            let _ = writeln!(std::io::stderr(), "SKIPPED: this corral-target takes no users");
            return None;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("initiator-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let disk = fs::File::create(folder.join("disk.img")).expect("the folder is writable");
        disk.set_len(64 << 20).expect("the disk has room");
        let port = free_port();
        // tgtd's control sockets are numbered per machine, up to 32767.
        let control = 1000 + (std::process::id() * 8 + number) % 30_000;
        let child = spawn(kind, &folder, port, control, setup);
        let mut server = Server { kind, folder, port, control, child, setup: setup.clone() };
        server.configure();
        Some(server)
    }

    pub fn url(&self) -> IscsiUrl {
        let lun = match self.kind {
            // LUN 0 of tgtd is a controller.
            Kind::Tgt => 1,
            Kind::Corral => 0,
        };
        IscsiUrl::parse(&format!("iscsi://127.0.0.1:{}/{TARGET}/{lun}", self.port)).expect("it is a URL")
    }

    pub fn portal(&self) -> IscsiPortal {
        IscsiPortal::parse(&format!("iscsi://127.0.0.1:{}", self.port)).expect("it is a URL")
    }

    pub fn disk(&self) -> Vec<u8> {
        fs::read(self.folder.join("disk.img")).expect("the disk is there")
    }

    /// Only while it is killed.
    pub fn replace_disk(&self, content: &[u8]) {
        fs::write(self.folder.join("disk.img"), content).expect("the disk is there");
    }

    /// Loses what initiators have registered. Only while it is killed, and for our own target.
    pub fn forget_reservations(&self) {
        let mut forgotten = 0;
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("the folder is there") {
                let path = entry.expect("the folder is readable").path();
                let is_kept = path.to_string_lossy().contains("reserv");
                if path.is_dir() {
                    folders.push(path);
                } else if is_kept {
                    fs::remove_file(path).expect("it is ours");
                    forgotten += 1;
                }
            }
        }
        assert!(forgotten > 0, "the target keeps its reservations elsewhere now");
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("the child is ours");
        self.child.wait().expect("the child is ours");
    }

    /// The same again, on the same port.
    pub fn restart(&mut self) {
        self.child = spawn(self.kind, &self.folder, self.port, self.control, &self.setup);
        self.configure();
    }

    fn configure(&mut self) {
        let mut patience = 4000;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            patience -= 1;
            assert!(patience > 0, "{:?} does not listen", self.kind);
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.kind == Kind::Tgt {
            self.admin(&["--mode", "target", "--op", "new", "--tid", "1", "-T", TARGET]);
            for digest in ["HeaderDigest", "DataDigest"] {
                let update = ["--mode", "target", "--op", "update", "--tid", "1", "--name", digest];
                self.admin(&[&update[..], &["--value", "None,CRC32C"]].concat());
            }
            self.admin(&["--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL"]);
            let disk = self.folder.join("disk.img");
            let disk = disk.to_str().expect("the path is text");
            self.admin(&["--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1", "-b", disk]);
            if self.setup.is_thin {
                let update = ["--mode", "logicalunit", "--op", "update", "--tid", "1", "--lun", "1"];
                self.admin(&[&update[..], &["--params", "thin_provisioning=1"]].concat());
            }
            self.add_user(self.setup.incoming, &["--tid", "1"]);
            self.add_user(self.setup.outgoing, &["--tid", "1", "--outgoing"]);
            self.add_user(self.setup.discovery, &[]);
        }
    }

    fn add_user(&self, user: Option<(&str, &str)>, place: &[&str]) {
        let Some((user, secret)) = user else { return };
        self.admin(&["--mode", "account", "--op", "new", "--user", user, "--password", secret]);
        self.admin(&[&["--mode", "account", "--op", "bind", "--user", user][..], place].concat());
    }

    fn admin(&self, arguments: &[&str]) {
        let control = self.control.to_string();
        let output = Command::new("tgtadm").args(["-C", &control, "--lld", "iscsi"]).args(arguments).output();
        let output = output.expect("tgtadm comes with tgtd");
        assert!(output.status.success(), "tgtadm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both may be gone already, by the test's own hand.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
        if self.kind == Kind::Tgt {
            let _ = fs::remove_file(format!("/var/run/tgtd/socket.{}", self.control));
            let _ = fs::remove_file(format!("/var/run/tgtd/socket.{}.lock", self.control));
        }
    }
}

impl Setup {
    fn has_users(&self) -> bool {
        self.incoming.is_some() || self.discovery.is_some()
    }
}

fn knows_users() -> bool {
    let help = program(Kind::Corral).and_then(|program| Command::new(program).arg("--help").output().ok());
    help.is_some_and(|help| String::from_utf8_lossy(&help.stdout).contains("--config"))
}

/// tgt's own configuration.
fn targets_conf(folder: &Path, setup: &Setup) -> String {
    let line = |key: &str, user: Option<(&str, &str)>| {
        user.map_or_else(String::new, |(user, secret)| format!("{key} {user} {secret}\n"))
    };
    format!(
        "{}<target {TARGET}>\n<backing-store {}>\nlun 0\n</backing-store>\n{}{}</target>\n",
        line("incomingdiscoveryuser", setup.discovery),
        folder.join("disk.img").display(),
        line("incominguser", setup.incoming),
        line("outgoinguser", setup.outgoing),
    )
}

pub fn free_port() -> u16 {
    // Below those that the kernel gives to connections, and never the same twice in a process: tests run side by side.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() % 10_000 * 61;
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let port = u16::try_from(port).expect("invariant: below 30000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn program(kind: Kind) -> Option<PathBuf> {
    match kind {
        Kind::Tgt => ["/usr/sbin/tgtd", "/sbin/tgtd"].iter().map(PathBuf::from).find(|path| path.exists()),
        Kind::Corral => {
            // target/debug/deps/this-test → target/debug/corral-target
            let own = std::env::current_exe().ok()?;
            Some(own.parent()?.parent()?.join("corral-target")).filter(|path| path.exists())
        }
    }
}

fn spawn(kind: Kind, folder: &Path, port: u16, control: u32, setup: &Setup) -> Child {
    let mut command = Command::new(program(kind).expect("it was there"));
    match kind {
        Kind::Tgt => {
            command.args(["-f", "-C", &control.to_string(), "--iscsi", &format!("portal=127.0.0.1:{port}")]);
        }
        Kind::Corral if setup.has_users() => {
            let file = folder.join("targets.conf");
            fs::write(&file, targets_conf(folder, setup)).expect("the folder is writable");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
            command.args(["--listen", &format!("127.0.0.1:{port}"), "--state"]).arg(folder).arg("--config").arg(file);
        }
        Kind::Corral => {
            command.args(["--listen", &format!("127.0.0.1:{port}"), "--target", TARGET, "--state"]).arg(folder);
            let thin = if setup.is_thin { ",thin" } else { "" };
            command.arg("--lun").arg(format!("file={},serial=test{thin}", folder.join("disk.img").display()));
        }
    }
    let log = fs::File::create(folder.join("log")).expect("the folder is writable");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("the program starts")
}
