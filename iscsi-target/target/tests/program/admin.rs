//! The administrator's socket of a running program: who may use it, what is asked, what stays after a restart.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use iscsi_target_proto::initiator::CloseReason;
use iscsi_target_proto::pdu::LoginStatus;
use iscsi_target_proto::scsi::{AdditionalSense, Capacity, ScsiCommand};
use serde_json::{Value, json};

use crate::driver::Initiator;
use crate::running::{Directory, Program, TARGET};

const DRIVER: &str = "iqn.2026-11.org.corral:driver";

/// Sends a line and gives the last answer.
fn ask_line(directory: &Directory, line: &str) -> Value {
    let mut stream = UnixStream::connect(directory.path("state/admin.sock")).expect("the socket is there");
    // What is too long is not read to its end: it is answered and closed, perhaps while we still write.
    let written = stream.write_all(line.as_bytes()).and_then(|()| stream.write_all(b"\n"));
    assert!(written.is_ok() || line.len() > 4096, "it takes a request: {written:?}");
    let last = BufReader::new(stream).lines().map_while(Result::ok).last().expect("it answers");
    serde_json::from_str::<Value>(&last).expect("it is JSON")["answer"].take()
}

fn ask(directory: &Directory, request: &Value) -> Value {
    ask_line(directory, &json!({ "version": 1, "request": request }).to_string())
}

fn is_barred(login: Result<Initiator, CloseReason>) -> bool {
    matches!(login, Err(CloseReason::LoginRefused { status: LoginStatus::AUTHORIZATION_FAILURE, .. }))
}

#[test]
fn the_socket_is_for_its_owner_alone_and_gone_with_the_program() {
    let directory = Directory::new();
    let mut program = Program::start(&directory, &["size=1M"]);
    let rights = |path: &str| Path::new(path).metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!(rights(&directory.path("state/admin.sock")), 0o600);
    assert_eq!(rights(&directory.path("state")), 0o700);
    let status = ask(&directory, &json!("status"));
    assert_eq!(status["done"]["targets"][0]["name"], json!(TARGET));
    assert_eq!(status["done"]["targets"][0]["units"][0]["bytes"], json!(1 << 20));
    for nonsense in ["", "status", "{}", r#"{"version":9,"request":"status"}"#, &"x".repeat(100_000)] {
        let answer = ask_line(&directory, nonsense);
        assert!(answer["refused"]["what"].is_string(), "{answer} to {nonsense:.50}");
    }
    assert_eq!(program.terminate(), Some(0));
    assert!(!Path::new(&directory.path("state/admin.sock")).exists());
}

#[test]
fn a_fenced_initiator_is_cut_and_stays_out_across_a_kill() {
    let directory = Directory::new();
    let program = Program::start(&directory, &["size=1M"]);
    let mut first = Initiator::login(program.address, TARGET, 1).expect("the login succeeds");
    let mut other =
        Initiator::connect(program.address, "iqn.2026-11.org.corral:other", TARGET, 1).expect("the login succeeds");
    let sessions = ask(&directory, &json!("sessions"));
    assert_eq!(sessions["done"]["sessions"].as_array().map(Vec::len), Some(2));
    let fence = json!({ "fence": { "initiator": DRIVER.to_uppercase(), "timeout_seconds": 30 } });
    let answer = ask(&directory, &fence);
    assert_eq!(answer["done"]["sessions_ended"], json!(1), "{answer}");
    assert!(matches!(first.try_run(ScsiCommand::test_unit_ready(0)), Err(CloseReason::StreamEnded { .. })));
    assert!(other.try_run(ScsiCommand::test_unit_ready(0)).is_ok());
    assert!(is_barred(Initiator::login(program.address, TARGET, 1)));
    // Killed at once: what was answered is on the disk.
    drop(program);
    let program = Program::start(&directory, &["size=1M"]);
    assert!(is_barred(Initiator::login(program.address, TARGET, 1)));
    assert_eq!(ask(&directory, &fence)["done"]["changed"], json!(false));
    let answer = ask(&directory, &json!({ "unfence": { "initiator": DRIVER } }));
    assert_eq!(answer["done"]["changed"], json!(true), "{answer}");
    assert!(Initiator::login(program.address, TARGET, 1).is_ok());
    assert!(ask(&directory, &json!({ "unfence": { "initiator": "node1" } }))["refused"].is_object());
}

#[test]
fn damaged_fences_stop_the_start() {
    let directory = Directory::new();
    drop(Program::start(&directory, &["size=1M"]));
    std::fs::write(directory.path("state/fences.json"), "corral-fences-1 00000000\n[]\n").expect("it can be written");
    let lun = format!("file={},size=1M", directory.path("lun0.img"));
    let state = directory.path("state");
    let (code, said) =
        Program::fails(&["--listen", "127.0.0.1:0", "--state", &state, "--target", TARGET, "--lun", &lun]);
    assert_eq!(code, Some(1));
    assert!(said.contains("fences.json") && said.contains("damaged"), "{said}");
}

#[test]
fn growth_is_told_to_every_session_and_stays_after_a_restart() {
    let directory = Directory::new();
    let mut program = Program::start(&directory, &["size=1M,thin", "size=1M"]);
    let mut initiators =
        [1, 2].map(|qualifier| Initiator::login(program.address, TARGET, qualifier).expect("it logs in"));
    let grow = |lun: u16, size: u64| json!({ "grow": { "target": TARGET, "lun": lun, "size": size } });
    let answer = ask(&directory, &grow(1, 3 << 20));
    assert_eq!((&answer["done"]["bytes_before"], &answer["done"]["bytes"]), (&json!(1 << 20), &json!(3 << 20)));
    for initiator in &mut initiators {
        assert!(initiator.run(ScsiCommand::test_unit_ready(0)).is_good());
        let told = initiator.run(ScsiCommand::test_unit_ready(1)).sense.map(|sense| sense.additional);
        assert_eq!(told, Some(AdditionalSense::CAPACITY_DATA_HAS_CHANGED));
        let capacity = Capacity::parse_long(&initiator.run(ScsiCommand::read_capacity_16(1)).data).expect("capacity");
        assert_eq!(capacity.blocks, 3 << 11);
    }
    let last = ScsiCommand::write_16(1, (3 << 11) - 1, vec![vec![7; 512].into()], 512, false).expect("whole blocks");
    assert!(initiators[0].run(last).is_good());
    for (lun, size, word) in [(1, 1 << 20, "smaller"), (1, (3 << 20) + 100, "multiple"), (7, 1 << 20, "no LUN 7")] {
        let answer = ask(&directory, &grow(lun, size)).to_string();
        assert!(answer.contains(word), "{answer}");
    }
    assert_eq!(program.terminate(), Some(0));
    // The options still say what it had at first.
    let program = Program::start(&directory, &["size=1M,thin", "size=1M"]);
    assert!(program.line.contains("3 MiB"), "{}", program.line);
    let content = std::fs::read(directory.path("lun1.img")).expect("the file is there");
    assert_eq!((content.len(), content[(3 << 20) - 1]), (3 << 20, 7));
}
