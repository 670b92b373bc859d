//! Writers that keep many writes in flight until their session ends, and a slow device that a request goes on in when
//! its caller has gone.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use base::Instant;
use block_core::{BlockDevice, ByteLen, ByteOffset, Durability, Geometry, IoFuture, MemoryDevice};
use bytes::{Buf, Bytes};
use iscsi_target_proto::initiator::{CloseReason, CommandToken, InitiatorConfig, InitiatorSession, Input, Output};
use iscsi_target_proto::scsi::ScsiCommand;
use tokio::runtime::Handle;

/// Time stands still: nothing here waits for a time-out.
const NOW: Instant = Instant::from_nanos(1);
/// Writes that a writer keeps in flight.
const DEPTH: u64 = 32;
/// Bytes of a block.
const BLOCK: u32 = 512;

/// Numbers that look random and are the same for the same seed (SplitMix64).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A device whose requests take up to some milliseconds, each a task of its own.
pub struct SlowDevice {
    pub memory: Arc<MemoryDevice>,
    pub runtime: Handle,
    pub longest: Duration,
    pub seed: AtomicU64,
}

impl SlowDevice {
    fn later<T: Send + 'static>(
        &self,
        start: impl FnOnce(&MemoryDevice) -> IoFuture<T> + Send + 'static,
    ) -> IoFuture<T> {
        let number = Numbers(self.seed.fetch_add(1, Ordering::Relaxed)).next();
        let delay = Duration::from_nanos(number % (self.longest.as_nanos() as u64));
        let memory = self.memory.clone();
        let task = self.runtime.spawn(async move {
            tokio::time::sleep(delay).await;
            start(&memory).await
        });
        Box::pin(async move { task.await.expect("the memory device does not panic") })
    }
}

impl BlockDevice for SlowDevice {
    fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        self.later(move |memory| memory.read(at, len))
    }

    fn write(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> IoFuture<()> {
        self.later(move |memory| memory.write(at, data, durability))
    }

    fn flush(&self) -> IoFuture<()> {
        self.later(|memory| memory.flush())
    }
}

/// A device that holds the caller's thread in a write until it is released, as a file on a frozen filesystem does.
pub struct StuckDevice {
    memory: Arc<MemoryDevice>,
    entered: Sender<()>,
    released: Mutex<Receiver<()>>,
}

impl StuckDevice {
    /// The device; what tells of each write that came; what releases all when it is dropped.
    pub fn new(memory: Arc<MemoryDevice>) -> (Arc<Self>, Receiver<()>, Sender<()>) {
        let ((entered, tell), (release, released)) = (channel(), channel());
        (Arc::new(Self { memory, entered, released: Mutex::new(released) }), tell, release)
    }
}

impl BlockDevice for StuckDevice {
    fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        self.memory.read(at, len)
    }

    fn write(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> IoFuture<()> {
        // Nobody listens any more once the test has seen one.
        let _ = self.entered.send(());
        // An error is what is waited for: the sender is gone.
        let _ = self.released.lock().expect("nobody panics with it").recv();
        self.memory.write(at, data, durability)
    }

    fn flush(&self) -> IoFuture<()> {
        self.memory.flush()
    }
}

/// Logs in and writes blocks of `from..to` over and over, until the session ends.
pub struct Writer {
    thread: JoinHandle<CloseReason>,
    /// Writes that were answered.
    pub answered: Arc<AtomicU64>,
}

impl Writer {
    pub fn start(address: SocketAddr, target: &str, name: &str, qualifier: u32, blocks: (u64, u64), seed: u64) -> Self {
        let answered = Arc::new(AtomicU64::new(0));
        let config = InitiatorConfig::new(name, Some(target), qualifier);
        let count = answered.clone();
        let thread = std::thread::spawn(move || {
            let stream = TcpStream::connect(address).expect("the target listens");
            let session = InitiatorSession::new(config, NOW);
            Session { stream, session, numbers: Numbers(seed), blocks, next: 0 }.write_on(&count)
        });
        Self { thread, answered }
    }

    /// Why its session ended, once it has.
    pub fn join(self) -> CloseReason {
        self.thread.join().expect("the writer does not panic")
    }
}

struct Session {
    stream: TcpStream,
    session: InitiatorSession,
    numbers: Numbers,
    blocks: (u64, u64),
    next: u64,
}

impl Session {
    fn write_on(mut self, answered: &AtomicU64) -> CloseReason {
        loop {
            while let Some(output) = self.session.poll_output() {
                match output {
                    Output::LoggedIn { .. } => (0..DEPTH).for_each(|_| self.submit()),
                    Output::Completed { completion, .. } => {
                        // The first command is told that the session is new.
                        if completion.is_good() {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        self.submit();
                    }
                    Output::Closed(reason) => return reason,
                    _ => {}
                }
            }
            self.exchange();
        }
    }

    fn submit(&mut self) {
        let (from, to) = self.blocks;
        let lba = from + self.numbers.next() % (to - from);
        let data = Bytes::from(self.numbers.next().to_be_bytes().repeat(BLOCK as usize / 8));
        let command = ScsiCommand::write_16(0, lba, vec![data], BLOCK, false).expect("whole blocks");
        self.next += 1;
        self.session.handle(Input::Command { token: CommandToken(self.next), command }, NOW);
    }

    fn exchange(&mut self) {
        let ended = |error: std::io::Error| Input::StreamEnded { what: error.to_string() };
        while self.session.transmit().has_remaining() {
            match self.stream.write(self.session.transmit().chunk()) {
                Ok(count) => self.session.transmit().advance(count),
                Err(error) => return self.session.handle(ended(error), NOW),
            }
        }
        let mut piece = [0; 8192];
        match self.stream.read(&mut piece) {
            Ok(0) => self.session.handle(Input::StreamEnded { what: "closed".to_owned() }, NOW),
            Ok(count) => {
                self.session.receive_buffer().extend_from_slice(&piece[..count]);
                self.session.handle(Input::Received, NOW);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => self.session.handle(ended(error), NOW),
        }
    }
}
