//! `corral iscsi` against our own target: what it prints, as text and JSON, and what it refuses.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const CORRAL: &str = env!("CARGO_BIN_EXE_corral");
const TARGET: &str = "iqn.2026-11.org.corral:tools";

/// A target with one unit of 16 MiB, for `alice` alone.
struct Served {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Served {
    /// `None`, with a word on stderr, if the target is not built here.
    fn start(name: &str) -> Option<Served> {
        let program = PathBuf::from(CORRAL).with_file_name("corral-target");
        if !program.exists() {
            // Not eprintln!, which the test harness swallows.
            let _ = writeln!(std::io::stderr(), "SKIPPED: corral-target is not built here");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("corral-tools-iscsi-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let users = folder.join("users");
        fs::write(&users, "incominguser alice incoming-secret-1\n").expect("the folder is writable");
        fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).expect("it is ours");
        let mut command = Command::new(program);
        command.args(["--listen", "127.0.0.1:0", "--state"]).arg(folder.join("state")).args(["--target", TARGET]);
        command.arg("--lun").arg(format!("file={},size=16M", folder.join("disk").display()));
        command.arg("--chap").arg(users).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is a pipe")).read_line(&mut line).expect("it says something");
        let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(',').next()?.trim().parse().ok());
        let port = port.unwrap_or_else(|| panic!("no port in '{line}'"));
        Some(Served { child, folder, port })
    }

    fn url(&self, login: &str) -> String {
        format!("iscsi://{login}127.0.0.1:{}/{TARGET}/0", self.port)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Both may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn corral(arguments: &[&str]) -> Output {
    Command::new(CORRAL).arg("iscsi").args(arguments).env_remove("CORRAL_ISCSI_SECRETS").output().expect("it runs")
}

fn text(arguments: &[&str]) -> String {
    let output = corral(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is text")
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&text(&[arguments, &["--json"]].concat())).expect("it is JSON")
}

#[test]
fn a_unit_is_described_and_its_secret_is_in_no_output() {
    let Some(served) = Served::start("describe") else { return };
    let url = served.url("alice%incoming-secret-1@");
    assert_eq!(text(&["capacity", &url]), "16777216 bytes, 32768 blocks of 512 bytes\n");
    assert_eq!(json(&["capacity", &url])["bytes"], 16 << 20);
    let unit = json(&["inquiry", &url]);
    assert_eq!((unit["vendor"].as_str(), unit["read_only"].as_bool()), (Some("CORRAL"), Some(false)));
    assert!(text(&["inquiry", &url]).lines().any(|line| line.starts_with("vendor")));
    let keys = json(&["keys", &url]);
    assert_eq!((keys["registrations"].as_array().map(Vec::len), keys["reservation"].is_null()), (Some(0), true));
    let portal = format!("iscsi://127.0.0.1:{}", served.port);
    assert_eq!(json(&["discover", &portal])["targets"][0]["name"], TARGET);
    for shown in ["capacity", "inquiry", "keys"].map(|what| text(&[what, &url, "--json"])) {
        assert!(!shown.contains("incoming-secret-1"));
    }
}

#[test]
fn a_secrets_file_lets_in_and_a_wrong_secret_is_refused_without_being_shown() {
    let Some(served) = Served::start("secrets") else { return };
    let file = served.folder.join("secrets");
    fs::write(&file, format!("{TARGET} login alice incoming-secret-1\n")).expect("the folder is writable");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let shown = file.to_str().expect("it is text");
    assert!(text(&["capacity", &served.url(""), "--secrets", shown]).starts_with("16777216 bytes"));
    let refused = corral(&["capacity", &served.url("alice%wrong-secret-2@")]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("authentication failure (status 0201)") && !said.contains("wrong-secret"), "{said}");
}

#[test]
fn a_bench_measures_and_writes_only_when_told_to() {
    let Some(served) = Served::start("bench") else { return };
    let url = served.url("alice%incoming-secret-1@");
    let refused = corral(&["bench", &url, "randwrite", "-s", "1"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--destroy-data"));
    let disk = served.folder.join("disk");
    assert!(fs::read(&disk).expect("it is there").iter().all(|byte| *byte == 0));
    let measured = json(&["bench", &url, "randwrite", "-s", "1", "-d", "4", "--destroy-data"]);
    assert!(measured["requests"].as_u64().is_some_and(|count| count > 0) && measured["depth"] == 4, "{measured}");
    assert!(fs::read(&disk).expect("it is there").iter().any(|byte| *byte != 0));
    let read = text(&["bench", &url, "read", "-s", "1", "-b", "64K"]);
    for word in ["IOPS", "MB/s", "p50", "p99", "CPU"] {
        assert!(read.lines().any(|line| line.starts_with(word)), "{read}");
    }
    assert_eq!(corral(&["bench", &url, "-b", "1000"]).status.code(), Some(1));
}
