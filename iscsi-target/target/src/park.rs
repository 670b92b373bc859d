//! How a connection's thread sleeps: until its socket is ready, its time has come, or a waker was called.
//!
//! A waker costs a system call only if the thread sleeps. Used by `connection.rs` alone.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// The sleeping side.
pub struct Parker {
    shared: Arc<Shared>,
}

struct Shared {
    event: EventFd,
    state: AtomicU8,
}

const AWAKE: u8 = 0;
/// A waker was called since the last look.
const CALLED: u8 = 1;
const ASLEEP: u8 = 2;

/// Why a sleep ended. All false: time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    pub is_readable: bool,
    pub is_writable: bool,
    pub is_called: bool,
}

impl Parker {
    /// Fails when the process has no file left.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { shared: Arc::new(Shared { event, state: AtomicU8::new(AWAKE) }) })
    }

    /// Ends the current or the next [`Parker::sleep`].
    pub fn waker(&self) -> Waker {
        Waker::from(self.shared.clone())
    }

    /// Sleeps until `stream` can be read or written, as asked for, a waker is called, or `at_most` has passed.
    pub fn sleep(&self, stream: &TcpStream, read: bool, write: bool, at_most: Duration) -> io::Result<Woken> {
        let state = &self.shared.state;
        if state.compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            state.store(AWAKE, Ordering::SeqCst);
            return Ok(Woken { is_called: true, ..Woken::default() });
        }
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::POLLIN, read);
        wanted.set(PollFlags::POLLOUT, write);
        let mut files =
            [PollFd::new(self.shared.event.as_fd(), PollFlags::POLLIN), PollFd::new(stream.as_fd(), wanted)];
        // Rounded up, so that the time has come when the sleep ends for it.
        let milliseconds = at_most.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
        // A failed stream is told as ready: reading or writing says why.
        let count = if read || write { 2 } else { 1 };
        let slept = poll(&mut files[..count], timeout);
        let is_called = state.swap(AWAKE, Ordering::SeqCst) == CALLED;
        if files[0].any() == Some(true) {
            // A call whose write comes later than this makes a later sleep short, and is read then.
            let _ = self.shared.event.read();
        }
        match slept {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let found = files[1].revents().unwrap_or(PollFlags::empty());
        let is_broken = found.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL);
        Ok(Woken {
            is_readable: read && (is_broken || found.contains(PollFlags::POLLIN)),
            is_writable: write && (is_broken || found.contains(PollFlags::POLLOUT)),
            is_called,
        })
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(CALLED, Ordering::SeqCst) == ASLEEP {
            // It cannot fail: the counter is read after every call, long before it overflows.
            let _ = self.event.write(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let client = TcpStream::connect(listener.local_addr().expect("it listens")).expect("it accepts");
        (listener.accept().expect("it is there").0, client)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_call_before_the_sleep_ends_it_at_once_and_only_that_one() {
        let (parker, (stream, _client)) = (Parker::new().expect("files are left"), pair());
        parker.waker().wake();
        assert!(parker.sleep(&stream, true, false, LONG).expect("it sleeps").is_called);
        let after = parker.sleep(&stream, true, false, Duration::ZERO).expect("it sleeps");
        assert_eq!(after, Woken::default());
    }

    #[test]
    fn a_call_from_another_thread_ends_the_sleep() {
        let (parker, (stream, _client)) = (Parker::new().expect("files are left"), pair());
        for _ in 0..1000 {
            let waker = parker.waker();
            let caller = std::thread::spawn(move || waker.wake());
            assert!(parker.sleep(&stream, true, false, LONG).expect("it sleeps").is_called);
            caller.join().expect("it ends");
        }
    }

    #[test]
    fn the_stream_ends_the_sleep_when_it_is_asked_for() {
        let (parker, (stream, mut client)) = (Parker::new().expect("files are left"), pair());
        client.write_all(b"x").expect("it takes a byte");
        assert!(parker.sleep(&stream, true, true, LONG).expect("it sleeps").is_readable);
        assert!(parker.sleep(&stream, false, true, LONG).expect("it sleeps").is_writable);
        assert_eq!(parker.sleep(&stream, false, false, Duration::ZERO).expect("it sleeps"), Woken::default());
        drop(client);
        assert!(parker.sleep(&stream, true, false, LONG).expect("it sleeps").is_readable, "the end is readable too");
    }
}
