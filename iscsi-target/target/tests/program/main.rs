//! The program as its users meet it: options, exit codes, initiators, other people's tools.

mod admin;
mod configured;
mod driver;
mod ending;
mod refused;
mod running;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use bytes::Bytes;
use iscsi_target_proto::initiator::CloseReason;
use iscsi_target_proto::pdu::LoginStatus;
use iscsi_target_proto::scsi::{
    AdditionalSense, Capacity, Cdb, DataPhase, ScsiCommand, StandardInquiry, Status, parse_luns,
};

use driver::Initiator;
use running::{Directory, Program, TARGET};

#[test]
fn wrong_options_exit_with_2() {
    let directory = Directory::new();
    let lun = format!("file={},size=1M", directory.path("a.img"));
    let state = directory.path("state");
    for wrong in [
        vec![],
        vec!["--bogus"],
        vec!["--listen", "127.0.0.1:0", "--state", &state, "--target", "nonsense", "--lun", &lun],
        vec!["--listen", "127.0.0.1", "--state", &state, "--target", TARGET, "--lun", &lun],
        vec!["--listen", "127.0.0.1:0", "--state", &state, "--target", TARGET, "--lun", "size=1M"],
        vec!["--listen", "127.0.0.1:0", "--state", &state, "--target", TARGET],
    ] {
        let (code, said) = Program::fails(&wrong);
        assert_eq!(code, Some(2), "{wrong:?} said {said}");
        assert!(said.contains("error:"), "{wrong:?} said {said}");
    }
}

#[test]
fn what_cannot_be_used_is_named_and_exits_with_1() {
    let directory = Directory::new();
    let running = Program::start(&directory, &["size=1M"]);
    let address = running.address.to_string();
    let state = directory.path("other-state");
    let fresh = format!("file={},size=1M", directory.path("fresh.img"));
    let missing = format!("file={}", directory.path("missing.img"));
    let larger = format!("file={},size=2M", directory.path("short.img"));
    let nowhere = format!("file={},size=1M", directory.path("no/such/directory.img"));
    std::fs::write(directory.path("short.img"), vec![0; 1 << 20]).expect("a file can be written");
    for (listen, state, lun, word) in [
        (address.as_str(), state.as_str(), fresh.as_str(), "cannot listen on"),
        ("127.0.0.1:0", &directory.path("state"), &fresh, "another corral-target"),
        ("127.0.0.1:0", "/proc/no/state", &fresh, "state directory"),
        ("127.0.0.1:0", &state, &missing, "missing.img"),
        ("127.0.0.1:0", &state, &larger, "size=2097152"),
        ("127.0.0.1:0", &state, &nowhere, "directory.img"),
    ] {
        let (code, said) = Program::fails(&["--listen", listen, "--state", state, "--target", TARGET, "--lun", lun]);
        assert_eq!(code, Some(1), "said {said}");
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
}

#[test]
fn it_says_where_it_listens_and_a_signal_ends_it_with_everything_on_the_disk() {
    let directory = Directory::new();
    let mut program = Program::start(&directory, &["size=1M,thin", "size=2M,ro"]);
    assert!(program.line.contains(&format!("listening on {}, target {TARGET}, LUN 0 ", program.address)));
    assert!(program.line.contains("1 MiB thin, LUN 1 "), "{}", program.line);
    let mut initiator = Initiator::login(program.address, TARGET, 1).expect("the login succeeds");
    let data = Bytes::from(vec![0xa5; 4096]);
    let write = ScsiCommand::write_16(0, 8, vec![data.clone()], 512, false).expect("whole blocks");
    assert!(initiator.run(write).is_good());
    assert_eq!(program.terminate(), Some(0));
    let content = std::fs::read(directory.path("lun0.img")).expect("the file is there");
    assert_eq!(content[4096..8192], data[..]);
}

#[test]
fn every_command_of_the_first_step_is_answered() {
    let directory = Directory::new();
    let program = Program::start(&directory, &["size=1M,block=4096", "size=1M,ro,serial=RO1"]);
    let mut initiator = Initiator::login(program.address, TARGET, 1).expect("the login succeeds");
    assert!(initiator.run(ScsiCommand::test_unit_ready(0)).is_good());
    assert_eq!(parse_luns(&initiator.run(ScsiCommand::report_luns()).data), Some(vec![0, 1]));
    let inquiry = StandardInquiry::parse(&initiator.run(ScsiCommand::inquiry(0, None)).data);
    assert_eq!(inquiry.map(|inquiry| inquiry.vendor), Some("CORRAL".to_owned()));
    assert_eq!(initiator.run(ScsiCommand::inquiry(1, Some(0x80))).data[4..], *b"RO1");
    let capacity = Capacity::parse_long(&initiator.run(ScsiCommand::read_capacity_16(0)).data).expect("capacity");
    assert_eq!((capacity.blocks, capacity.block_length), (256, 4096));
    let forced = ScsiCommand::write_16(0, 0, vec![vec![1; 4096].into()], 4096, true).expect("whole blocks");
    assert!(initiator.run(forced).is_good());
    assert!(initiator.run(ScsiCommand::synchronize_cache_16(0)).is_good());
    let read = ScsiCommand::read_16(0, 255, 2, 4096).expect("small");
    assert_eq!(initiator.run(read).sense.map(|s| s.additional), Some(AdditionalSense::LBA_OUT_OF_RANGE));
    let protected = ScsiCommand::write_16(1, 0, vec![vec![1; 512].into()], 512, false).expect("whole blocks");
    assert_eq!(initiator.run(protected).sense.map(|s| s.additional), Some(AdditionalSense::WRITE_PROTECTED));
    let nobody = initiator.run(ScsiCommand::test_unit_ready(9));
    assert_eq!(nobody.status, Status::CheckCondition);
    assert_eq!(nobody.sense.map(|s| s.additional), Some(AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED));
}

#[test]
fn the_same_initiator_port_replaces_its_session_and_another_does_not() {
    let directory = Directory::new();
    let program = Program::start(&directory, &["size=1M"]);
    let mut first = Initiator::login(program.address, TARGET, 1).expect("the login succeeds");
    let mut other = Initiator::login(program.address, TARGET, 2).expect("the login succeeds");
    let mut second = Initiator::login(program.address, TARGET, 1).expect("the login succeeds");
    assert!(matches!(first.try_run(ScsiCommand::test_unit_ready(0)), Err(CloseReason::StreamEnded { .. })));
    assert!(other.run(ScsiCommand::test_unit_ready(0)).is_good());
    assert!(second.run(ScsiCommand::test_unit_ready(0)).is_good());
}

#[test]
fn an_unknown_target_is_refused_and_garbage_harms_nobody() {
    let directory = Directory::new();
    let program = Program::start(&directory, &["size=1M"]);
    let refused = Initiator::login(program.address, "iqn.2026-11.org.corral:none", 1).err();
    assert_eq!(refused, Some(CloseReason::LoginRefused { status: LoginStatus::NOT_FOUND, redirect: None }));
    for garbage in [&[0xff; 4096][..], b"GET / HTTP/1.1\r\n\r\n0123456789012345678901234567890123456789", &[0; 48]] {
        let mut stream = TcpStream::connect(program.address).expect("it listens");
        stream.write_all(garbage).expect("it takes some bytes");
        // Closed, with or without an answer; a reset is as good.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let mut initiator = Initiator::login(program.address, TARGET, 1).expect("the login succeeds");
    assert!(initiator.run(ScsiCommand::test_unit_ready(0)).is_good());
}

/// Runs somebody else's tool; `None`, and loudly so, if it is not installed.
pub fn tool(name: &str, arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new(name).args(arguments).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            if said.contains("Unknown protocol 'iscsi'") {
                eprintln!("SKIPPED: {name} cannot speak iSCSI here; that comes with qemu-block-extra");
                return None;
            }
            Some((output.status.success(), said))
        }
        Err(error) => {
            eprintln!(
                "SKIPPED: {name} cannot be run ({error}); it comes with qemu-utils, qemu-block-extra, libiscsi-bin"
            );
            None
        }
    }
}

#[test]
fn qemu_writes_an_image_and_finds_the_same() {
    let directory = Directory::new();
    let program = Program::start(&directory, &["size=16M"]);
    let image = directory.path("source.img");
    let content: Vec<u8> = (0..16u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(&image, &content).expect("a file can be written");
    let url = program.url(0);
    let Some((done, said)) = tool("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &image, &url]) else {
        return;
    };
    assert!(done, "{said}");
    let compared = tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &url]);
    assert!(compared.is_some_and(|(same, _)| same));
    assert!(std::fs::read(directory.path("lun0.img")).expect("the file is there") == content);
}

#[test]
fn reservations_survive_a_restart_if_they_are_to() {
    let directory = Directory::new();
    let mut program = Program::start(&directory, &["size=1M"]);
    let mut first = Initiator::login(program.address, TARGET, 1).expect("the login succeeds");
    let mut list = [0u8; 24];
    list[15] = 7;
    list[20] = 1;
    let reserve = |initiator: &mut Initiator, action: u8, kind: u8, list: [u8; 24]| {
        let mut cdb = Cdb::default();
        (cdb.0[0], cdb.0[1], cdb.0[2], cdb.0[8]) = (0x5f, action, kind, 24);
        let data = DataPhase::Out { buffers: vec![Bytes::copy_from_slice(&list)] };
        initiator.run(ScsiCommand { lun: 0, cdb, data }).is_good()
    };
    assert!(reserve(&mut first, 0, 0, list));
    list[7] = 7;
    assert!(reserve(&mut first, 1, 5, list));
    assert_eq!(program.terminate(), Some(0));
    let program = Program::start(&directory, &["size=1M"]);
    let write = || ScsiCommand::write_16(0, 0, vec![vec![1; 512].into()], 512, false).expect("whole blocks");
    let mut first = Initiator::login(program.address, TARGET, 1).expect("the login succeeds");
    let mut other = Initiator::login(program.address, TARGET, 2).expect("the login succeeds");
    assert!(first.run(write()).is_good());
    assert_eq!(other.run(write()).status, Status::ReservationConflict);
}
