//! Starts that fail: a clear message, the right exit code, and nothing made or changed. And strangers in numbers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use iscsi_target_proto::scsi::ScsiCommand;

use crate::driver::Initiator;
use crate::running::{Directory, Program, TARGET};

/// Everything below a folder with its length.
fn contents(folder: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("the folder is there").flatten() {
        // Of a link, itself.
        let kind = entry.metadata().expect("it can be looked at");
        if kind.is_dir() {
            found.extend(contents(&entry.path()));
        }
        found.insert(entry.path().display().to_string(), if kind.is_dir() { 0 } else { kind.len() });
    }
    found
}

#[test]
fn a_start_that_fails_makes_and_changes_nothing() {
    let directory = Directory::new();
    let path = |name: &str| directory.path(name);
    std::fs::write(path("empty.img"), b"").expect("a file can be written");
    std::fs::write(path("odd.img"), vec![0; 1000]).expect("a file can be written");
    std::fs::write(path("whole.img"), vec![0; 8192]).expect("a file can be written");
    std::fs::create_dir(path("folder")).expect("a folder can be made");
    std::os::unix::fs::symlink(path("new.img"), path("link.img")).expect("a link can be made");
    let other = Directory::new();
    let running = Program::start(&other, &["size=1M"]);
    let taken = running.address.to_string();
    let file = |options: &str| format!("file={}", path(options));
    let before = contents(Path::new(&path("")));
    for (listen, luns, code, word) in [
        (taken.as_str(), vec![file("new.img,size=1M")], 1, "cannot listen"),
        ("127.0.0.1:0", vec![file("new.img,size=1M"), file("missing.img")], 1, "missing.img"),
        ("127.0.0.1:0", vec![file("new.img,size=1M"), file("folder")], 1, "directory"),
        ("127.0.0.1:0", vec![file("new.img,size=1M"), file("no/new.img,size=1M")], 1, "new.img"),
        ("127.0.0.1:0", vec![file("empty.img,size=1M"), file("odd.img")], 1, "multiple"),
        ("127.0.0.1:0", vec![file("whole.img,block=4096"), file("whole.img")], 2, "already"),
        ("127.0.0.1:0", vec![file("new.img,size=1M"), file("./new.img,size=1M")], 2, "already"),
        ("127.0.0.1:0", vec![file("new.img,size=1M"), file("link.img,size=1M")], 1, "in use"),
        ("127.0.0.1:0", vec![file("new.img,size=1000")], 2, "multiple"),
        ("127.0.0.1:0", vec![file("empty.img,size=1M"), file("new.img,size=9000000T")], 2, "size="),
        ("127.0.0.1:0", vec![file("empty.img,size=1M"), file("new.img,size=7000000T")], 1, "new.img"),
        ("127.0.0.1:0", vec![file("new.img,size=1M,lun=3"), file("b.img,size=1M,lun=3")], 2, "LUN 3"),
        ("127.0.0.1:0", vec![file("whole.img,size=1M")], 1, "8192 bytes"),
        ("127.0.0.1:0", vec!["file=/dev/null".to_owned()], 1, "neither a regular file nor a block device"),
    ] {
        let state = path("state");
        let mut arguments = vec!["--listen", listen, "--state", &state, "--target", TARGET];
        luns.iter().for_each(|lun| arguments.extend(["--lun", lun]));
        let (ended, said) = Program::fails(&arguments);
        assert_eq!(ended, Some(code), "{luns:?} said {said}");
        assert!(said.contains(word), "'{word}' is not in: {said}");
        assert_eq!(contents(Path::new(&path(""))), before, "{luns:?} left something");
    }
}

#[test]
fn a_flood_of_connections_neither_stops_others_nor_stays() {
    let directory = Directory::new();
    let program = Program::start(&directory, &["size=1M"]);
    let mut working = Initiator::login(program.address, TARGET, 1).expect("the login succeeds");
    // Some say nothing, some begin a login and stop in the middle of it.
    let mut flood = Vec::new();
    for index in 0..600 {
        let Ok(mut stream) = TcpStream::connect(program.address) else { continue };
        if index % 2 == 0 {
            // A refused connection may be closed already.
            let _ = stream.write_all(&[0x43, 0x87, 0, 0, 0, 0, 0xff, 0xff]);
        }
        flood.push(stream);
    }
    assert!(working.run(ScsiCommand::test_unit_ready(0)).is_good());
    let is_closed = |mut stream: &TcpStream| {
        stream.set_nonblocking(true).expect("sockets can do that");
        !matches!(stream.read(&mut [0; 64]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    // All but those that may be in login at once are closed, as soon as they were accepted.
    while flood.iter().filter(|stream| !is_closed(stream)).count() > 32 {
        std::thread::yield_now();
    }
    drop(flood);
    // Their places are free again once their end was seen.
    while Initiator::connect(program.address, "iqn.2026-11.org.corral:late", TARGET, 1).is_err() {
        std::thread::yield_now();
    }
    assert!(working.run(ScsiCommand::test_unit_ready(0)).is_good());
}
