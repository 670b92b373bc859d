//! A running `corral-target` and the directory it works in; both are gone at the end of the test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub const TARGET: &str = "iqn.2026-11.org.corral:program-test";

/// A directory of its own.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("corral-target-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory can be made");
        Self(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("the temporary directory's name is UTF-8").to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Whatever is left does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running program.
pub struct Program {
    child: Child,
    /// What it said when it listened.
    pub line: String,
    pub address: SocketAddr,
}

impl Program {
    /// Starts it on a free port; unit N has the file `lunN.img` and these options.
    pub fn start(directory: &Directory, luns: &[&str]) -> Self {
        let mut arguments = vec!["--target".to_owned(), TARGET.to_owned()];
        for (number, options) in luns.iter().enumerate() {
            let file = directory.path(&format!("lun{number}.img"));
            arguments.extend(["--lun".to_owned(), format!("file={file},{options}")]);
            if options.contains("ro") {
                std::fs::write(directory.path(&format!("lun{number}.img")), vec![0; size_of(options)])
                    .expect("a file can be written");
            }
        }
        Self::start_with(directory, &arguments)
    }

    /// Starts it on a free port with these options.
    pub fn start_with(directory: &Directory, arguments: &[String]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corral-target"));
        command.args(["--listen", "127.0.0.1:0", "--state", &directory.path("state")]).args(arguments);
        let mut child =
            command.env("CORRAL_LOG", "error").stdout(Stdio::piped()).spawn().expect("the program can be started");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says something");
        let address = line.split([' ', ',']).find_map(|word| word.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in '{line}'"));
        Self { child, line, address }
    }

    /// Runs it with options that it cannot run with; its exit code and what it said.
    pub fn fails(arguments: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_corral-target")).args(arguments).output();
        let output = output.expect("the program can be started");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub fn url(&self, lun: u16) -> String {
        format!("iscsi://{}/{TARGET}/{lun}", self.address)
    }

    /// Sends SIGTERM and waits for the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are positive"));
        kill(pid, Signal::SIGTERM).expect("our own child can be signalled");
        self.child.wait().expect("our own child can be waited for").code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size_of(options: &str) -> usize {
    let size = options.split(',').find_map(|part| part.strip_prefix("size=")?.strip_suffix('M'));
    size.and_then(|size| size.parse::<usize>().ok()).expect("the tests give sizes in M") << 20
}
