//! A process that waits for another node can be killed, and is not disturbed by other signals.

mod toy;

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use gfs_core::glock::RequestClass;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use toy::cluster::Mode;
use toy::glock::Guard;
use toy::{Pair, pair};

const LIMIT: Duration = Duration::from_secs(15);
/// The number of the first planted file.
const NUMBER: u64 = 101;

/// Node 0 holds the file, and lets go only when the guard is dropped.
fn hold(pair: &Pair) -> Guard {
    let glock = pair.nodes[0].toy.glock(NUMBER);
    pair.runtime().block_on(glock.hold(Mode::Exclusive, RequestClass::Ordinary))
}

fn wait_until_parked(pair: &Pair, node: usize) {
    while pair.nodes[node].session.interrupts().parked_count() == 0 {
        assert!(!pair.is_late());
        thread::yield_now();
    }
}

#[test]
fn a_process_that_waits_dies_of_a_signal() {
    let Some(pair) = pair("kill", LIMIT) else { return };
    pair.plant("f", vec![1; 10]);
    for (program, signal) in
        [("stat", Signal::SIGTERM), ("stat", Signal::SIGKILL), ("cat", Signal::SIGINT), ("cat", Signal::SIGKILL)]
    {
        let held = hold(&pair);
        let mut child =
            Command::new(program).arg(pair.path(1, "f")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until_parked(&pair, 1);
        let start = toy::now();
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let status = child.wait().unwrap();
        eprintln!("kill: {program} died of {signal} after {:?}", start.elapsed());
        assert!(!status.success());
        assert!(start.elapsed() < Duration::from_secs(2));
        drop(held);
        // What the dead had asked for ends by itself.
        while pair.nodes[1].session.interrupts().parked_count() > 0 {
            thread::yield_now();
        }
    }
    assert_eq!(std::fs::read(pair.path(1, "f")).unwrap(), vec![1; 10]);
    pair.finish();
}

#[test]
fn a_signal_that_is_handled_does_not_end_a_wait() {
    let Some(pair) = pair("handled signal", LIMIT) else { return };
    pair.plant("f", vec![1; 10]);
    let held = hold(&pair);
    let script = "trap 'echo got' USR1; echo go; test -e \"$1\" && echo there";
    let mut child = Command::new("bash")
        .args(["-c", script, "bash"])
        .arg(pair.path(1, "f"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    output.read_line(&mut said).unwrap();
    wait_until_parked(&pair, 1);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGUSR1).unwrap();
    // Several looks at the interrupted caller go by.
    thread::sleep(Duration::from_millis(300));
    assert_eq!(pair.nodes[1].session.interrupts().parked_count(), 1, "still waiting");
    drop(held);
    output.read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(said.contains("there") && said.contains("got"), "{said}");
    pair.finish();
}

#[test]
fn an_abort_ends_every_wait() {
    let Some(pair) = pair("abort", LIMIT) else { return };
    pair.plant("f", vec![1; 10]);
    let held = hold(&pair);
    let path = pair.path(1, "f");
    let waits = thread::spawn(move || std::fs::metadata(path));
    wait_until_parked(&pair, 1);
    pair.nodes[1].session.connection().abort().unwrap();
    assert!(waits.join().unwrap().is_err());
    drop(held);
    pair.finish();
}
