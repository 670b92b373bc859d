//! A file or block device as a block device.
//!
//! A small request is tried at once, on the caller's thread, where the page cache can answer it
//! without waiting (RWF_NOWAIT); all else goes to the pool. Not every filesystem knows RWF_NOWAIT
//! for buffered writes (ext4 does not): there, small writes are done on the caller's thread too, but
//! as soon as one has to wait (write-back throttling, a journal commit) the next ones go to the pool
//! for a while, so a slow disk holds a thread up once in [`REST`], not at every write. Requests hold the open file: it is closed, and
//! its lock released, only after the last of them has ended, so whoever can open it exclusively
//! afterwards sees no late write.
//!
//! Direct requests (O_DIRECT) go through io_uring where the kernel has it (`ring.rs`), else to the pool.
//!
//! A failed write-back is told once by the kernel, to the next fsync, and forgotten. So the first
//! failed flush makes every later one fail: what was acknowledged may be lost and stays in doubt.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use block_core::completion::{Completer, completion};
use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset, Durability, Extent, Geometry, IoFuture};
use bytes::{Bytes, BytesMut};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};
use tracing::warn;

use crate::direct::{aligned_buffer, gather, is_aligned, slices};
use crate::open::{self, Handle, Kind, OpenError, OpenOptions};
use crate::pool::Pool;
use crate::ring::{Ring, Transfer};
use crate::system;

/// A file or block device.
pub struct FileDevice {
    open: Arc<Open>,
    pool: Pool,
    /// For direct requests; none if the kernel refuses it, or it was not asked for.
    ring: Option<Ring<Arc<Open>>>,
}

impl FileDevice {
    /// Opens `path`.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Arc<FileDevice>, OpenError> {
        let (handle, kind, geometry) = open::open(path, &options)?;
        let open = Open {
            kind,
            sector: geometry.sector,
            sectors: AtomicU64::new(geometry.sectors),
            read_only: options.read_only,
            direct: options.direct,
            inline: options.inline && !options.direct,
            in_memory: open::is_in_memory(&handle),
            reads_nowait: AtomicBool::new(true),
            writes_nowait: AtomicBool::new(true),
            origin: now(),
            inline_writes_rest_until: AtomicU64::new(0),
            flushing: Mutex::default(),
            handle,
        };
        let ring = if options.direct && options.ring { open_ring(path) } else { None };
        Ok(Arc::new(FileDevice { open: Arc::new(open), pool: Pool::new(options.threads_max.max(1)), ring }))
    }

    /// Looks whether the file or device has grown, and says its size. It never shrinks here.
    pub fn refresh(&self) -> io::Result<Geometry> {
        let open = &self.open;
        let size = match open.kind {
            Kind::File => open.file().metadata()?.len(),
            Kind::Device => system::block_device_geometry(open.file())?.0,
        };
        open.sectors.fetch_max(size / u64::from(open.sector), Ordering::Relaxed);
        Ok(open.geometry())
    }

    /// Makes a file larger, with all its space (`is_full`) or as a hole, durably, and says the new size. If there is no
    /// room it keeps the size it has. A device has the size it has.
    pub fn grow(&self, size: ByteLen, is_full: bool) -> io::Result<Geometry> {
        let (open, file) = (&self.open, self.open.file());
        let before = file.metadata()?.len();
        if open.kind == Kind::File && size.0 > before {
            let more = ByteLen(size.0 - before);
            let made = match is_full {
                true => open.allocate(FallocateFlags::empty(), ByteOffset(before), more),
                false => file.set_len(size.0),
            };
            let made = match made {
                Err(error) if is_unsupported(&error) => file.set_len(size.0),
                other => other,
            };
            if let Err(error) = made {
                // Nobody has been told of the new blocks yet. The error to report is the first one.
                let _ = file.set_len(before);
                return Err(error);
            }
            file.sync_all()?;
        }
        self.refresh()
    }

    fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Open) -> Result<T, BlockError> + Send + 'static,
    ) -> IoFuture<T> {
        let (completer, answer) = completion();
        let open = self.open.clone();
        self.pool.run(move || {
            let result = work(&open);
            // Before the answer: whoever has it may rely on the file being closed with the device.
            drop(open);
            completer.complete(result);
        });
        Box::pin(async move { answer.await.unwrap_or_else(|| Err(stopped())) })
    }

    fn read_through(&self, ring: &Ring<Arc<Open>>, buffer: BytesMut, at: ByteOffset, len: usize) -> IoFuture<Bytes> {
        let (completer, answer) = completion();
        let then = move |transfer, open: Arc<Open>, result: io::Result<usize>| {
            let result = match (transfer, result) {
                (Transfer::Read { buffer, .. }, Ok(count)) if count == len => Ok(buffer.freeze()),
                // Short at the file's end, or interrupted: rare enough to be finished here.
                (Transfer::Read { buffer, .. }, Ok(_)) => open.read_rest(buffer, at, len),
                (Transfer::Read { buffer, .. }, Err(error)) if is_to_be_repeated(&error) => {
                    open.read_rest(buffer, at, len)
                }
                (_, Err(error)) => Err(open.cause_of(at, &error)),
                (Transfer::Write { .. }, Ok(_)) => Err(stopped()),
            };
            // Before the answer: whoever has it may rely on the file being closed with the device.
            drop(open);
            completer.complete(result);
        };
        ring.start(Transfer::Read { buffer, len }, self.open.clone(), at.0, Box::new(then));
        Box::pin(async move { answer.await.unwrap_or_else(|| Err(stopped())) })
    }

    fn write_through(
        &self,
        ring: &Ring<Arc<Open>>,
        at: ByteOffset,
        data: Vec<Bytes>,
        durability: Durability,
    ) -> IoFuture<()> {
        let (completer, answer) = completion();
        let data = match &data[..] {
            [one] if is_aligned(&data, self.open.sector) => one.clone(),
            _ => gather(&data),
        };
        let flags = write_flags(durability);
        let then = move |transfer, open: Arc<Open>, result: io::Result<usize>| {
            let result = match (transfer, result) {
                (Transfer::Write { data, .. }, Ok(count)) if count == data.len() => Ok(()),
                (Transfer::Write { data, .. }, Ok(count)) => open.write_rest(at, &[data], count as u64, durability),
                (Transfer::Write { data, .. }, Err(error)) if is_to_be_repeated(&error) => {
                    open.write_rest(at, &[data], 0, durability)
                }
                (_, Err(error)) => Err(open.cause_of(at, &error)),
                (Transfer::Read { .. }, Ok(_)) => Err(stopped()),
            };
            drop(open);
            completer.complete(result);
        };
        ring.start(Transfer::Write { data, flags }, self.open.clone(), at.0, Box::new(then));
        Box::pin(async move { answer.await.unwrap_or_else(|| Err(stopped())) })
    }

    fn change_range(
        &self,
        at: ByteOffset,
        len: ByteLen,
        work: impl FnOnce(&Open, ByteOffset, ByteLen) -> Result<(), BlockError> + Send + 'static,
    ) -> IoFuture<()> {
        match self.open.check_write(at, len) {
            Err(error) => ready(Err(error)),
            Ok(()) if len.0 == 0 => ready(Ok(())),
            Ok(()) => self.submit(move |open| work(open, at, len)),
        }
    }
}

impl BlockDevice for FileDevice {
    fn geometry(&self) -> Geometry {
        self.open.geometry()
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        if let Err(error) = self.open.geometry().check(at, len) {
            return ready(Err(error));
        }
        let Some(count) = len.as_usize() else { return ready(Err(stopped())) };
        let mut buffer = if self.open.direct { aligned_buffer(count) } else { BytesMut::with_capacity(count) };
        if count <= INLINE_READ_MAX && self.open.read_now(&mut buffer, at, count) {
            return ready(Ok(buffer.freeze()));
        }
        match &self.ring {
            Some(ring) if count > 0 && count <= RING_MAX => self.read_through(ring, buffer, at, count),
            _ => self.submit(move |open| open.read_rest(buffer, at, count)),
        }
    }

    fn write(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> IoFuture<()> {
        let len = ByteLen(data.iter().map(|part| part.len() as u64).sum());
        if let Err(error) = self.open.check_write(at, len) {
            return ready(Err(error));
        }
        let mut done = 0;
        if durability == Durability::Cached && len.0 <= INLINE_WRITE_MAX {
            done = self.open.write_now(at, &data);
            if done == len.0 {
                return ready(Ok(()));
            }
        }
        match &self.ring {
            Some(ring) if len.0 > 0 && len.0 <= RING_MAX as u64 => self.write_through(ring, at, data, durability),
            _ => self.submit(move |open| open.write_rest(at, &data, done, durability)),
        }
    }

    fn flush(&self) -> IoFuture<()> {
        let (completer, answer) = completion();
        let start = {
            let mut flushing = self.open.flushing();
            flushing.waiting.push(completer);
            !std::mem::replace(&mut flushing.is_running, true)
        };
        if start {
            let open = self.open.clone();
            self.pool.run(move || open.flush_all());
        }
        Box::pin(async move { answer.await.unwrap_or_else(|| Err(stopped())) })
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.change_range(at, len, Open::discard)
    }

    fn extent(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Extent> {
        match self.open.geometry().check(at, len) {
            Err(error) => ready(Err(error)),
            Ok(()) if len.0 == 0 || self.open.kind == Kind::Device => ready(Ok(Extent { len, takes_space: true })),
            Ok(()) => self.submit(move |open| open.extent(at, len)),
        }
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.change_range(at, len, Open::write_zeroes)
    }
}

/// What requests need and hold.
struct Open {
    handle: Handle,
    kind: Kind,
    sector: u32,
    sectors: AtomicU64,
    read_only: bool,
    direct: bool,
    /// Small requests are tried on the caller's thread.
    inline: bool,
    /// The filesystem is in memory: nothing waits, and RWF_NOWAIT is not known.
    in_memory: bool,
    /// Cleared when the filesystem turns out not to know RWF_NOWAIT.
    reads_nowait: AtomicBool,
    writes_nowait: AtomicBool,
    origin: Instant,
    /// Nanoseconds since `origin`; until then writes go to the pool.
    inline_writes_rest_until: AtomicU64,
    flushing: Mutex<Flushing>,
}

/// One fdatasync serves every flush that was asked for before it began.
#[derive(Default)]
struct Flushing {
    is_running: bool,
    waiting: Vec<Completer<Result<(), BlockError>>>,
    /// The first failure; it is the answer to every later flush.
    failure: Option<BlockError>,
}

impl AsRawFd for Open {
    fn as_raw_fd(&self) -> RawFd {
        self.file().as_raw_fd()
    }
}

impl Open {
    fn file(&self) -> &File {
        self.handle.file()
    }

    fn geometry(&self) -> Geometry {
        Geometry { sector: self.sector, sectors: self.sectors.load(Ordering::Relaxed) }
    }

    fn check_write(&self, at: ByteOffset, len: ByteLen) -> Result<(), BlockError> {
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        self.geometry().check(at, len)
    }

    /// Reads what the page cache has; true if that was all. What it did read stays in the buffer.
    fn read_now(&self, buffer: &mut BytesMut, at: ByteOffset, len: usize) -> bool {
        if !self.inline || !self.reads_nowait.load(Ordering::Relaxed) {
            return false;
        }
        let flags = if self.in_memory { 0 } else { libc::RWF_NOWAIT };
        match system::read_at(self.file(), buffer, len, at.0, flags) {
            Ok(count) => count == len,
            Err(error) => {
                if is_unsupported(&error) {
                    self.reads_nowait.store(false, Ordering::Relaxed);
                }
                false
            }
        }
    }

    fn read_rest(&self, mut buffer: BytesMut, at: ByteOffset, len: usize) -> Result<Bytes, BlockError> {
        while buffer.len() < len {
            let position = at.0 + buffer.len() as u64;
            let missing = len - buffer.len();
            match system::read_at(self.file(), &mut buffer, missing, position, 0) {
                Ok(0) => return Err(io_error(at, "the file has become shorter")),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.cause_of(at, &error)),
            }
        }
        Ok(buffer.freeze())
    }

    /// Writes what the page cache takes without waiting, or without having waited lately; returns
    /// how many bytes. An error is left for the pool to meet again.
    fn write_now(&self, at: ByteOffset, data: &[Bytes]) -> u64 {
        if !self.inline {
            return 0;
        }
        let parts = slices(data);
        if self.in_memory {
            return system::write_at(self.file(), &parts, at.0, 0).map_or(0, |count| count as u64);
        }
        if self.writes_nowait.load(Ordering::Relaxed) {
            match system::write_at(self.file(), &parts, at.0, libc::RWF_NOWAIT) {
                Ok(count) => return count as u64,
                Err(error) if is_unsupported(&error) => self.writes_nowait.store(false, Ordering::Relaxed),
                Err(_) => return 0,
            }
        }
        let begin = now();
        let since_origin = begin.duration_since(self.origin).as_nanos() as u64;
        if since_origin < self.inline_writes_rest_until.load(Ordering::Relaxed) {
            return 0;
        }
        let written = system::write_at(self.file(), &parts, at.0, 0);
        let took = now().duration_since(begin);
        if took > PATIENCE {
            let until = since_origin + (took + REST).as_nanos() as u64;
            self.inline_writes_rest_until.store(until, Ordering::Relaxed);
        }
        written.map_or(0, |count| count as u64)
    }

    fn write_rest(&self, at: ByteOffset, data: &[Bytes], done: u64, durability: Durability) -> Result<(), BlockError> {
        let gathered;
        let data = if self.direct && !is_aligned(data, self.sector) {
            gathered = [gather(data)];
            &gathered[..]
        } else {
            data
        };
        let mut parts = slices(data);
        let mut parts = &mut parts[..];
        IoSlice::advance_slices(&mut parts, done as usize);
        let flags = write_flags(durability);
        let mut position = at.0 + done;
        while !parts.is_empty() {
            match system::write_at(self.file(), parts, position, flags) {
                Ok(0) => return Err(io_error(at, "the device takes no more bytes")),
                Ok(count) => {
                    IoSlice::advance_slices(&mut parts, count);
                    position += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.cause_of(at, &error)),
            }
        }
        Ok(())
    }

    fn flush_all(&self) {
        loop {
            let (waiting, failure) = {
                let mut flushing = self.flushing();
                if flushing.waiting.is_empty() {
                    flushing.is_running = false;
                    return;
                }
                (std::mem::take(&mut flushing.waiting), flushing.failure.clone())
            };
            let result = match failure {
                Some(failure) => Err(failure),
                None if self.read_only => Ok(()),
                None => self.file().sync_data().map_err(|error| self.cause_of(ByteOffset(0), &error)),
            };
            if let Err(error) = &result {
                self.flushing().failure.get_or_insert_with(|| error.clone());
            }
            for completer in waiting {
                completer.complete(result.clone());
            }
        }
    }

    fn flushing(&self) -> MutexGuard<'_, Flushing> {
        self.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries what leaves zeroes, then, of a device, what leaves anything.
    fn discard(&self, at: ByteOffset, len: ByteLen) -> Result<(), BlockError> {
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let punched = match self.allocate(punch, at, len) {
            Err(error) if is_unsupported(&error) && self.kind == Kind::Device => {
                system::discard(self.file(), at.0, len.0)
            }
            other => other,
        };
        match punched {
            Err(error) if is_unsupported(&error) => Err(BlockError::Unsupported { operation: "discard" }),
            other => other.map_err(|error| self.cause_of(at, &error)),
        }
    }

    /// Whole sectors: one that has a byte with space takes space.
    fn extent(&self, at: ByteOffset, len: ByteLen) -> Result<Extent, BlockError> {
        let sector = u64::from(self.sector);
        let seek = |from: u64, whence| {
            let from = i64::try_from(from).map_err(|_| io_error(at, "the offset is too large"))?;
            match lseek(self.file(), from, whence) {
                Ok(found) => Ok(found as u64),
                Err(nix::Error::ENXIO) => Ok(u64::MAX),
                Err(error) => Err(self.cause_of(at, &error.into())),
            }
        };
        let end = at.0 + len.0;
        let data = seek(at.0, Whence::SeekData)? / sector * sector;
        let until = |limit: u64| ByteLen(limit.min(end) - at.0);
        if data > at.0 {
            return Ok(Extent { len: until(data), takes_space: false });
        }
        let hole = seek(at.0.max(data), Whence::SeekHole)?.div_ceil(sector).saturating_mul(sector);
        Ok(Extent { len: until(hole.max(at.0 + sector)), takes_space: true })
    }

    /// Tries what keeps the space, then what frees it, then plain writing.
    fn write_zeroes(&self, at: ByteOffset, len: ByteLen) -> Result<(), BlockError> {
        let keep_size = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        for how in [FallocateFlags::FALLOC_FL_ZERO_RANGE, FallocateFlags::FALLOC_FL_PUNCH_HOLE] {
            match self.allocate(how | keep_size, at, len) {
                Err(error) if is_unsupported(&error) => {}
                other => return other.map_err(|error| self.cause_of(at, &error)),
            }
        }
        let zeroes = gather(&[Bytes::from_static(&[0; ZEROES])]);
        let (mut position, end) = (at.0, at.0 + len.0);
        while position < end {
            let count = (end - position).min(ZEROES as u64);
            self.write_rest(ByteOffset(position), &[zeroes.slice(..count as usize)], 0, Durability::Cached)?;
            position += count;
        }
        Ok(())
    }

    fn allocate(&self, how: FallocateFlags, at: ByteOffset, len: ByteLen) -> io::Result<()> {
        let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
        let (at, len) = (i64::try_from(at.0).map_err(invalid)?, i64::try_from(len.0).map_err(invalid)?);
        loop {
            match fallocate(self.file(), how, at, len) {
                Err(nix::Error::EINTR) => {}
                other => return other.map_err(io::Error::from),
            }
        }
    }

    fn cause_of(&self, at: ByteOffset, error: &io::Error) -> BlockError {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => BlockError::NoSpace,
            Some(libc::EROFS | libc::EPERM | libc::EBADF) => BlockError::ReadOnly,
            Some(libc::EBADE) if self.kind == Kind::Device => BlockError::Fenced,
            Some(libc::ENODEV | libc::ENXIO | libc::ENOMEDIUM) => BlockError::Unavailable { what: error.to_string() },
            Some(_) | None => io_error(at, &error.to_string()),
        }
    }
}

/// Reads up to this many bytes are tried on the caller's thread: copying is cheaper there than handing over, see
/// `examples/measure.rs`.
const INLINE_READ_MAX: usize = 1024 * 1024;

/// Writes up to this many bytes are tried on the caller's thread. Larger ones are not: an iSCSI connection has other
/// things to do meanwhile (asking for the next write's data), and stood still half of the time.
const INLINE_WRITE_MAX: u64 = 64 * 1024;

/// Requests up to this many bytes go through the ring. The kernel's own limit is 2 GiB.
const RING_MAX: usize = 1 << 30;

/// A write that takes longer than this has waited for something (and was not merely preempted).
const PATIENCE: Duration = Duration::from_millis(4);

/// How long writes stay away from the caller's thread after one has waited there.
const REST: Duration = Duration::from_millis(50);

/// Bytes per write where zeroes have to be written.
const ZEROES: usize = 64 * 1024;

/// The kernel says so for RWF_NOWAIT and for fallocate's ways.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}

/// The kernel says so instead of waiting, or after a signal.
fn is_to_be_repeated(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR))
}

fn write_flags(durability: Durability) -> libc::c_int {
    match durability {
        Durability::Cached => 0,
        Durability::Forced => libc::RWF_DSYNC,
    }
}

fn open_ring(path: &Path) -> Option<Ring<Arc<Open>>> {
    match Ring::new() {
        Ok(ring) => Some(ring),
        Err(error) => {
            let path = path.display();
            warn!(%path, %error, "the kernel refuses io_uring: direct requests go through threads, which costs more");
            None
        }
    }
}

fn io_error(at: ByteOffset, what: &str) -> BlockError {
    BlockError::Io { at, what: what.to_owned() }
}

fn stopped() -> BlockError {
    BlockError::Unavailable { what: "the device's threads have stopped".to_owned() }
}

fn ready<T: Send + 'static>(result: Result<T, BlockError>) -> IoFuture<T> {
    Box::pin(std::future::ready(result))
}

#[expect(clippy::disallowed_methods, reason = "this shell times its own system calls; no result depends on it")]
fn now() -> Instant {
    Instant::now()
}
