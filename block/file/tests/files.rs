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
fn many_requests_in_flight_are_all_answered() {
    let folder = Folder::new("many");
    let options = OpenOptions { inline: false, threads_max: 4, ..sized(8) };
    let disk = FileDevice::open(&folder.path("disk.img"), options).expect("the file is created");
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
