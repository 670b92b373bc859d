//! A private target of either kind on a free loopback port: Debian's tgtd, or our own corral-target.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use block_core::IscsiUrl;

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
}

impl Server {
    /// `None`, with a word on stderr, if the program is not there.
    pub fn start(kind: Kind) -> Option<Server> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if program(kind).is_none() {
            // Not eprintln!, which the test harness swallows.
            let _ = writeln!(std::io::stderr(), "SKIPPED: the target {kind:?} is not installed or not built here");
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
        let child = spawn(kind, &folder, port, control);
        let mut server = Server { kind, folder, port, control, child };
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

    pub fn disk(&self) -> Vec<u8> {
        fs::read(self.folder.join("disk.img")).expect("the disk is there")
    }

    /// Only while it is killed.
    pub fn replace_disk(&self, content: &[u8]) {
        fs::write(self.folder.join("disk.img"), content).expect("the disk is there");
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("the child is ours");
        self.child.wait().expect("the child is ours");
    }

    /// The same again, on the same port.
    pub fn restart(&mut self) {
        self.child = spawn(self.kind, &self.folder, self.port, self.control);
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
        }
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

pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback works");
    listener.local_addr().expect("it is bound").port()
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

fn spawn(kind: Kind, folder: &Path, port: u16, control: u32) -> Child {
    let mut command = Command::new(program(kind).expect("it was there"));
    match kind {
        Kind::Tgt => {
            command.args(["-f", "-C", &control.to_string(), "--iscsi", &format!("portal=127.0.0.1:{port}")]);
        }
        Kind::Corral => {
            command.args(["--listen", &format!("127.0.0.1:{port}"), "--target", TARGET, "--state"]).arg(folder);
            command.arg("--lun").arg(format!("file={},serial=test", folder.join("disk.img").display()));
        }
    }
    let log = fs::File::create(folder.join("log")).expect("the folder is writable");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().expect("the program starts")
}
