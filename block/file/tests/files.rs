//! What a file device promises, seen from outside: the file's bytes and the errors' words.

use std::fs;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset, Durability, Extent};
use block_file::{FileDevice, OpenOptions};
use bytes::Bytes;

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// A folder of this test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("block-file-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary folder is writable");
        Folder(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Not eprintln!, which the test harness swallows.
fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

fn sized(mebibytes: u64) -> OpenOptions {
    OpenOptions { create_size: Some(ByteLen(mebibytes << 20)), ..OpenOptions::default() }
}

fn refusal(path: &Path, options: OpenOptions) -> String {
    match FileDevice::open(path, options) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    }
}

fn pattern(len: usize, salt: u8) -> Bytes {
    (0..len).map(|index| (index / 512) as u8 ^ (index % 251) as u8 ^ salt).collect::<Vec<u8>>().into()
}

/// Writes in all sizes and both durabilities, discards, zeroes, and compares with a plain buffer.
fn check_against_a_buffer(options: OpenOptions, name: &str) {
    let folder = Folder::new(name);
    let path = folder.path("disk.img");
    let direct = options.direct;
    let disk = match FileDevice::open(&path, options) {
        Ok(disk) => disk,
        Err(error) if direct && error.to_string().contains("does not support direct") => {
            skipped(&format!("O_DIRECT is not possible in {}", folder.0.display()));
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let mut model = vec![0u8; 8 << 20];
    let sizes = [512usize, 4096, 7 * 512, 65536, 300 * 512, 1 << 20, 3 << 20];
    for (round, size) in sizes.into_iter().enumerate() {
        let at = 512 * (round * 977 + 3);
        let data = pattern(size, round as u8);
        // Cut in odd places, to meet vectored writes and unaligned memory.
        let cut = (size / 512 / 3) * 512;
        let parts = vec![data.slice(..cut), data.slice(cut..)];
        let durability = if round % 2 == 0 { Durability::Cached } else { Durability::Forced };
        wait(disk.write(ByteOffset(at as u64), parts, durability)).expect("the write works");
        model[at..at + size].copy_from_slice(&data);
    }
    wait(disk.write_zeroes(ByteOffset(1024), ByteLen(4096))).expect("zeroes can be written");
    model[1024..5120].fill(0);
    wait(disk.flush()).expect("the file can be flushed");
    let read = wait(disk.read(ByteOffset(0), ByteLen(8 << 20))).expect("the read works");
    assert!(read == model, "the device differs from the model");
    assert!(fs::read(&path).expect("the file is there") == model, "the file differs from the model");
    match wait(disk.discard(ByteOffset(1 << 20), ByteLen(1 << 20))) {
        Ok(()) => model[1 << 20..2 << 20].fill(0),
        Err(error) => skipped(&format!("no discard here: {error}")),
    }
    assert!(fs::read(&path).expect("the file is there") == model, "the file differs after the discard");
}

#[test]
fn a_buffered_file_holds_what_was_written() {
    check_against_a_buffer(sized(8), "buffered");
}

#[test]
fn a_file_on_the_pool_alone_holds_what_was_written() {
    check_against_a_buffer(OpenOptions { inline: false, threads_max: 2, ..sized(8) }, "pool");
}

#[test]
fn a_direct_file_holds_what_was_written_from_unaligned_memory() {
    check_against_a_buffer(OpenOptions { direct: true, ..sized(8) }, "direct");
}

#[test]
fn a_direct_file_without_io_uring_holds_what_was_written() {
    check_against_a_buffer(OpenOptions { direct: true, ring: false, ..sized(8) }, "threads");
}

#[test]
fn where_the_kernel_refuses_io_uring_threads_do_the_same() {
    let program = std::env::current_exe().expect("this test is a program");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=io_uring_setup", "-e", "inject=io_uring_setup:error=EPERM"]);
    strace.arg(program).args(["--exact", "a_direct_file_holds_what_was_written_from_unaligned_memory"]);
    let Ok(output) = strace.output() else { return skipped("strace is not installed") };
    let (said, traced) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if traced.contains("Operation not permitted") && !traced.contains("INJECTED") {
        return skipped("nobody may be traced here");
    }
    assert!(said.contains("1 passed"), "{said} {traced}");
    assert!(traced.contains("EPERM") || traced.contains("SKIPPED"), "io_uring was not asked for: {traced}");
}

fn check_many_in_flight(name: &str, options: OpenOptions) {
    let folder = Folder::new(name);
    let disk = match FileDevice::open(&folder.path("disk.img"), options) {
        Err(error) if error.to_string().contains("does not support direct") => {
            return skipped(&format!("O_DIRECT is not possible in {}", folder.0.display()));
        }
        other => other.expect("the file is created"),
    };
    let writes: Vec<_> = (0..512u64)
        .map(|index| disk.write(ByteOffset(index * 4096), vec![pattern(4096, index as u8)], Durability::Cached))
        .collect();
    let flushes: Vec<_> = (0..20).map(|_| disk.flush()).collect();
    writes.into_iter().for_each(|write| wait(write).expect("the write works"));
    flushes.into_iter().for_each(|flush| wait(flush).expect("the flush works"));
    for index in 0..512u64 {
        let read = wait(disk.read(ByteOffset(index * 4096), ByteLen(4096))).expect("the read works");
        assert!(read == pattern(4096, index as u8), "block {index} differs");
    }
    // Closed with requests under way: they are done, and then the file is free.
    let late: Vec<_> = (0..300u64)
        .map(|index| disk.write(ByteOffset(index * 4096), vec![pattern(4096, !index as u8)], Durability::Cached))
        .collect();
    drop(disk);
    late.into_iter().for_each(|write| wait(write).expect("the write works"));
    let found = fs::read(folder.path("disk.img")).expect("the file is there");
    assert!(found[299 * 4096..300 * 4096] == pattern(4096, !299u64 as u8), "a late write is lost");
    FileDevice::open(&folder.path("disk.img"), OpenOptions::default()).expect("nobody has it any more");
}

#[test]
fn many_requests_in_flight_are_all_answered() {
    check_many_in_flight("many", OpenOptions { inline: false, threads_max: 4, ..sized(8) });
}

#[test]
fn many_direct_requests_in_flight_are_all_answered() {
    check_many_in_flight("many-direct", OpenOptions { direct: true, ..sized(8) });
}

#[test]
fn a_file_that_became_shorter_fails_reads_beyond_its_end_and_no_others() {
    for direct in [false, true] {
        let folder = Folder::new(if direct { "short-direct" } else { "short" });
        let path = folder.path("disk.img");
        let disk = match FileDevice::open(&path, OpenOptions { direct, ..sized(1) }) {
            Err(error) if error.to_string().contains("does not support direct") => {
                skipped(&format!("O_DIRECT is not possible in {}", folder.0.display()));
                continue;
            }
            other => other.expect("the file is created"),
        };
        fs::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(8192)).expect("it shrinks");
        wait(disk.read(ByteOffset(4096), ByteLen(4096))).expect("it is there");
        for (at, len) in [(4096, 8192), (8192, 4096), (1 << 19, 1 << 19)] {
            match wait(disk.read(ByteOffset(at), ByteLen(len))) {
                Err(BlockError::Io { at: told, what }) => {
                    assert_eq!(told, ByteOffset(at));
                    assert!(what.contains("shorter"), "{what}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A filesystem in memory with this much room, mounted at a folder of the test's own.
struct Small(Folder);

impl Small {
    fn mount(test: &str, size: &str) -> Option<Small> {
        let folder = Folder::new(test);
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&folder.0).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            skipped("a small filesystem cannot be mounted here (needs root)");
            return None;
        }
        Some(Small(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0.0).status();
    }
}

#[test]
fn a_full_filesystem_is_told_as_no_space_and_frees_itself_by_discarding() {
    let Some(small) = Small::mount("full", "256k") else { return };
    for inline in [true, false] {
        let path = small.0.path("disk.img");
        let disk = FileDevice::open(&path, OpenOptions { inline, ..sized(1) }).expect("the sparse file is created");
        let write = |at: u64| wait(disk.write(ByteOffset(at), vec![pattern(65536, 1)], Durability::Cached));
        let written = (0..16).take_while(|index| write(index * 65536).is_ok()).count() as u64;
        assert!((1..16).contains(&written), "{written} writes fit");
        assert_eq!(write(written * 65536), Err(BlockError::NoSpace));
        assert_eq!(wait(disk.read(ByteOffset(0), ByteLen(65536))), Ok(pattern(65536, 1)));
        wait(disk.discard(ByteOffset(0), ByteLen(65536))).expect("a hole needs no room");
        assert_eq!(write(written * 65536), Ok(()), "there is room again");
        fs::remove_file(path).expect("it is there");
    }
}

/// A loop device over a file, detached at the end.
struct Loop(PathBuf);

impl Loop {
    fn attach(file: &Path) -> Option<Loop> {
        let attached = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let Some(output) = attached.ok().filter(|output| output.status.success()) else {
            skipped("no loop device can be set up here (needs root and losetup)");
            return None;
        };
        Some(Loop(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_device_that_fails_is_told_with_the_place_and_a_failed_flush_is_not_forgotten() {
    for direct in [false, true] {
        let folder = Folder::new(if direct { "broken-direct" } else { "broken" });
        let Some(small) = Small::mount(if direct { "below-direct" } else { "below" }, "512k") else { return };
        let below = small.0.path("disk.img");
        fs::File::create(&below).and_then(|file| file.set_len(4 << 20)).expect("a sparse file needs no room");
        let Some(device) = Loop::attach(&below) else { return };
        let disk = FileDevice::open(&device.0, OpenOptions { direct, ..OpenOptions::default() }).expect("it opens");
        let write = |at: u64| wait(disk.write(ByteOffset(at), vec![pattern(1 << 20, 1)], Durability::Cached));
        let flush = || wait(disk.flush());
        // The device has no room below it. Direct, a write says so; through the page cache, only the flush can.
        let outcome = if direct { write(1 << 20) } else { write(1 << 20).and_then(|()| flush()) };
        let is_told = matches!(&outcome, Err(BlockError::Io { .. } | BlockError::NoSpace));
        assert!(is_told, "{outcome:?}");
        if !direct {
            assert_eq!(flush(), outcome, "what was lost stays in doubt");
        }
        // Cut off below: the device has its size still, but nothing behind it.
        fs::OpenOptions::new().write(true).open(&below).and_then(|file| file.set_len(4096)).expect("it shrinks");
        match wait(disk.read(ByteOffset(3 << 20), ByteLen(4096))) {
            Err(BlockError::Io { at, .. }) => assert_eq!(at, ByteOffset(3 << 20)),
            other => panic!("{other:?}"),
        }
        drop(folder);
    }
}

#[test]
fn a_device_is_discarded_and_zeroed_and_written_directly() {
    let folder = Folder::new("direct-loop");
    let below = folder.path("disk.img");
    fs::write(&below, vec![7; 4 << 20]).expect("the folder is writable");
    let Some(device) = Loop::attach(&below) else { return };
    let options = OpenOptions { direct: true, ..OpenOptions::default() };
    let disk = FileDevice::open(&device.0, options).expect("it opens");
    wait(disk.discard(ByteOffset(1 << 20), ByteLen(1 << 20))).expect("a loop device discards");
    wait(disk.write_zeroes(ByteOffset(65536), ByteLen(65536))).expect("it is zeroed");
    let data = pattern(12288, 9);
    let parts = vec![data.slice(..512), data.slice(512..)];
    wait(disk.write(ByteOffset(512), parts, Durability::Forced)).expect("it is written");
    wait(disk.flush()).expect("it is flushed");
    let mut model = vec![7; 4 << 20];
    model[1 << 20..2 << 20].fill(0);
    model[65536..131072].fill(0);
    model[512..512 + 12288].copy_from_slice(&data);
    assert!(wait(disk.read(ByteOffset(0), ByteLen(4 << 20))).expect("it is read") == model, "the device differs");
    drop(disk);
    assert!(fs::read(&below).expect("the file is there") == model, "the file below differs");
}

#[test]
fn a_file_that_cannot_be_a_disk_is_refused_in_words() {
    let folder = Folder::new("refused");
    let missing = folder.path("missing");
    assert!(refusal(&missing, OpenOptions::default()).ends_with("missing: there is no such file or device"));
    assert!(!missing.exists());
    assert!(refusal(&folder.0, OpenOptions::default()).ends_with("it is a directory"));
    fs::write(folder.path("empty"), "").expect("the folder is writable");
    assert!(refusal(&folder.path("empty"), OpenOptions::default()).contains("it is empty"));
    assert!(refusal(Path::new("/dev/null"), OpenOptions::default()).contains("neither a regular file"));
    let sector = OpenOptions { sector: 1000, ..sized(1) };
    assert!(refusal(&missing, sector).contains("power of two"));
    assert!(refusal(&missing, sized(1 << 42)).contains("no room"), "a size beyond any file");
}

#[test]
fn a_second_exclusive_open_is_refused_until_the_first_is_closed() {
    let folder = Folder::new("exclusive");
    let path = folder.path("disk.img");
    let first = FileDevice::open(&path, sized(1)).expect("the file is created");
    assert!(refusal(&path, OpenOptions::default()).contains("in use"));
    let guest = OpenOptions { exclusive: false, ..OpenOptions::default() };
    FileDevice::open(&path, guest).expect("a guest does not ask");
    let late = first.write(ByteOffset(0), vec![pattern(4096, 1)], Durability::Forced);
    drop(first);
    wait(late).expect("the write works");
    FileDevice::open(&path, OpenOptions::default()).expect("nobody has it any more");
}

#[test]
fn a_read_only_file_refuses_changes_and_a_grown_file_is_seen_grown() {
    let folder = Folder::new("read-only");
    let path = folder.path("disk.img");
    fs::write(&path, vec![7; 1 << 20]).expect("the folder is writable");
    let disk = FileDevice::open(&path, OpenOptions { read_only: true, ..OpenOptions::default() }).expect("it opens");
    let write = disk.write(ByteOffset(0), vec![pattern(512, 0)], Durability::Cached);
    assert_eq!(wait(write), Err(BlockError::ReadOnly));
    assert_eq!(wait(disk.discard(ByteOffset(0), ByteLen(512))), Err(BlockError::ReadOnly));
    assert!(matches!(wait(disk.read(ByteOffset(1 << 20), ByteLen(512))), Err(BlockError::OutOfRange { .. })));
    fs::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(2 << 20)).expect("it grows");
    assert_eq!(disk.refresh().expect("it is there").size(), ByteLen(2 << 20));
    wait(disk.read(ByteOffset(1 << 20), ByteLen(512))).expect("the new sector is there");
}

#[test]
fn a_loop_device_is_a_block_device_with_its_own_size_and_is_claimed() {
    let folder = Folder::new("loop");
    let path = folder.path("disk.img");
    fs::write(&path, vec![0; 4 << 20]).expect("the folder is writable");
    let attached = Command::new("losetup").args(["--find", "--show"]).arg(&path).output();
    let Some(output) = attached.ok().filter(|output| output.status.success()) else {
        skipped("no loop device can be set up here (needs root and losetup)");
        return;
    };
    let device = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let opened = FileDevice::open(&device, OpenOptions::default());
    let second = FileDevice::open(&device, OpenOptions::default()).map(drop).map_err(|error| error.to_string());
    let seen = opened.as_ref().ok().map(|disk| {
        let write = wait(disk.write(ByteOffset(8192), vec![pattern(8192, 3)], Durability::Cached));
        (disk.geometry().size(), write, wait(disk.flush()), wait(disk.write_zeroes(ByteOffset(8192), ByteLen(4096))))
    });
    drop(opened);
    Command::new("losetup").arg("--detach").arg(&device).status().expect("losetup was there before");
    assert_eq!(seen, Some((ByteLen(4 << 20), Ok(()), Ok(()), Ok(()))));
    assert!(second.is_err_and(|error| error.contains("in use")));
}

#[test]
fn a_discarded_range_takes_no_space_and_reads_as_zeroes() {
    let folder = Folder::new("extent");
    let options = OpenOptions { create_size: Some(ByteLen(1 << 20)), ..OpenOptions::default() };
    let device = FileDevice::open(&folder.path("disk"), options).expect("it opens");
    let extent = |at, len| wait(device.extent(ByteOffset(at), ByteLen(len)));
    wait(device.write(ByteOffset(0), vec![vec![1; 65536].into()], Durability::Forced)).expect("it is written");
    assert_eq!(extent(512, 512), Ok(Extent { len: ByteLen(512), takes_space: true }));
    wait(device.discard(ByteOffset(0), ByteLen(32768))).expect("holes can be punched");
    assert_eq!(extent(0, 1 << 20), Ok(Extent { len: ByteLen(32768), takes_space: false }));
    assert_eq!(extent(32768, 65536), Ok(Extent { len: ByteLen(32768), takes_space: true }));
    assert_eq!(wait(device.read(ByteOffset(0), ByteLen(512))), Ok(vec![0; 512].into()));
}
