//! Direct requests through io_uring: one thread owns a ring, puts in what others hand over, and gives out what is done.
//!
//! Used for O_DIRECT alone, where every request waits for the device: one thread then does what the pool needs one thread
//! per request for. Beside `system.rs` the only file of this crate with `unsafe`: a buffer stays in its slot, untouched,
//! until the kernel has said that it is done with it; where that cannot be waited for, it is leaked.
//!
//! Kernels refuse io_uring (ENOSYS, EPERM in containers, a sysctl); [`Ring::new`] says so and the pool serves instead.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use bytes::{BufMut, Bytes, BytesMut};
use io_uring::{IoUring, opcode, squeue, types};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Requests that the kernel has at once; more wait here.
const IN_FLIGHT_MAX: usize = 128;
/// Marks the completion that stands for new requests.
const BELL: u64 = u64::MAX;

/// The callers' side.
pub struct Ring<F> {
    shared: Arc<Shared<F>>,
}

/// A request to the kernel.
pub enum Transfer {
    /// Into the buffer's free room, which has `len` bytes at least.
    Read { buffer: BytesMut, len: usize },
    /// `flags` are `RWF_*`.
    Write { data: Bytes, flags: libc::c_int },
}

/// What is called, on the ring's thread, when the kernel is done: with the request, a buffer filled as far as the kernel
/// got, and with how many bytes that was.
pub type Then<F> = Box<dyn FnOnce(Transfer, F, io::Result<usize>) + Send>;

struct Request<F> {
    transfer: Transfer,
    /// The open file, which stays open until the end.
    file: F,
    at: u64,
    then: Then<F>,
}

struct Shared<F> {
    queue: Mutex<Queue<F>>,
    bell: EventFd,
}

struct Queue<F> {
    requests: VecDeque<Request<F>>,
    is_asleep: bool,
    is_closed: bool,
}

impl<F: AsRawFd + Send + 'static> Ring<F> {
    /// Starts the thread. Fails where the kernel does not let us.
    pub fn new() -> io::Result<Self> {
        let bell = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let queue = Queue { requests: VecDeque::new(), is_asleep: false, is_closed: false };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), bell });
        let (sender, result) = mpsc::channel();
        let of_thread = shared.clone();
        std::thread::Builder::new().name("block-ring".to_owned()).spawn(move || {
            // The ring belongs to the thread that makes it: completions are then told to no other.
            match open_ring() {
                Ok(ring) => {
                    let _ = sender.send(Ok(()));
                    Worker { ring, shared: of_thread, slots: Slots::new() }.work();
                }
                Err(error) => drop(sender.send(Err(error))),
            }
        })?;
        result.recv().unwrap_or_else(|_| Err(io::Error::other("the ring's thread ended")))?;
        Ok(Self { shared })
    }

    /// Hands a request over. Whoever makes requests bounds how many there are.
    pub fn start(&self, transfer: Transfer, file: F, at: u64, then: Then<F>) {
        let mut queue = self.shared.queue();
        queue.requests.push_back(Request { transfer, file, at, then });
        self.shared.ring_bell(queue);
    }
}

impl<F> Drop for Ring<F> {
    /// The thread ends when it has done what it was given.
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.is_closed = true;
        self.shared.ring_bell(queue);
    }
}

impl<F> Shared<F> {
    fn queue(&self) -> MutexGuard<'_, Queue<F>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_bell(&self, mut queue: MutexGuard<'_, Queue<F>>) {
        if std::mem::take(&mut queue.is_asleep) {
            drop(queue);
            // It cannot fail: the counter is read after every call, long before it overflows.
            let _ = self.bell.write(1);
        }
    }
}

fn open_ring() -> io::Result<IoUring> {
    let entries = IN_FLIGHT_MAX as u32 + 1;
    let best = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries);
    match best {
        // Kernels before 6.1.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(entries),
        other => other,
    }
}

/// The ring's thread.
struct Worker<F> {
    ring: IoUring,
    shared: Arc<Shared<F>>,
    slots: Slots<F>,
}

impl<F: AsRawFd> Worker<F> {
    fn work(mut self) {
        let bell = types::Fd(self.shared.bell.as_raw_fd());
        self.push(&opcode::PollAdd::new(bell, libc::POLLIN as u32).build().user_data(BELL));
        let mut waiting = VecDeque::new();
        loop {
            if self.take_requests(&mut waiting) {
                return;
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                // No memory for the moment, or too much at once: what is done makes room.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
                // The buffers stay where they are, see `Slots`.
                Err(error) => panic!("io_uring_enter failed on a ring of our own: {error}"),
            }
            self.shared.queue().is_asleep = false;
            let done: Vec<(u64, i32)> =
                self.ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
            for (name, result) in done {
                if name == BELL {
                    let _ = self.shared.bell.read();
                    self.push(&opcode::PollAdd::new(bell, libc::POLLIN as u32).build().user_data(BELL));
                } else {
                    self.slots.finish(name as usize, result);
                }
            }
        }
    }

    /// Gives requests to the kernel; true if none is left and none will come.
    fn take_requests(&mut self, waiting: &mut VecDeque<Request<F>>) -> bool {
        {
            let mut queue = self.shared.queue();
            waiting.append(&mut queue.requests);
            if queue.is_closed && waiting.is_empty() && self.slots.in_flight == 0 {
                return true;
            }
            queue.is_asleep = true;
        }
        while self.slots.in_flight < IN_FLIGHT_MAX {
            let Some(request) = waiting.pop_front() else { break };
            let entry = self.slots.put(request);
            self.push(&entry);
        }
        false
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: what the entry points to is in a slot until the kernel is done with it; a poll points to nothing.
            // The file is open, because the slot or `shared` holds it.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            // Full only if an earlier submission was put off: there are entries for all slots and the bell.
            let _ = self.ring.submit();
        }
    }
}

/// The requests that the kernel has.
struct Slots<F> {
    slots: Vec<Option<Request<F>>>,
    free: Vec<usize>,
    in_flight: usize,
}

impl<F: AsRawFd> Slots<F> {
    fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), in_flight: 0 }
    }

    /// Keeps a request and describes it to the kernel. Moving the slot moves no bytes: they are on the heap.
    fn put(&mut self, mut request: Request<F>) -> squeue::Entry {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let file = types::Fd(request.file.as_raw_fd());
        let at = request.at;
        let entry = match &mut request.transfer {
            Transfer::Read { buffer, len } => {
                let room = buffer.spare_capacity_mut();
                let len = room.len().min(*len) as u32;
                opcode::Read::new(file, room.as_mut_ptr().cast(), len).offset(at).build()
            }
            Transfer::Write { data, flags } => {
                opcode::Write::new(file, data.as_ptr(), data.len() as u32).offset(at).rw_flags(*flags).build()
            }
        };
        self.slots[slot] = Some(request);
        self.in_flight += 1;
        entry.user_data(slot as u64)
    }

    fn finish(&mut self, slot: usize, result: i32) {
        let Some(mut request) = self.slots.get_mut(slot).and_then(Option::take) else { return };
        self.free.push(slot);
        self.in_flight -= 1;
        let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        if let (Transfer::Read { buffer, len }, Ok(count)) = (&mut request.transfer, &result) {
            assert!(*count <= *len, "the kernel read more than it was asked for");
            // SAFETY: the kernel has initialised the first `count` bytes of the spare capacity.
            unsafe { buffer.advance_mut(*count) };
        }
        (request.then)(request.transfer, request.file, result);
    }
}

impl<F> Drop for Slots<F> {
    /// After a panic the kernel may still write into buffers: they are leaked rather than freed.
    fn drop(&mut self) {
        if self.in_flight > 0 {
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}
