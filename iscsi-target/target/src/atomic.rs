//! WRITE ATOMIC against a loss of power: what is about to be written is first kept, whole, in a journal in the state
//! directory. A start that finds it there writes it again.
//!
//! Order, each step durable before the next: the journal has the data and its checksum; the unit has the data; the journal is
//! empty. Only then is the command answered, still under the unit's gate: so a write that comes later is never undone by a
//! replay. A cut before the end of the first step leaves a journal whose checksum is wrong, and a unit that was not touched.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset, Durability};
use block_file::{FileDevice, OpenOptions};
use bytes::{Bytes, BytesMut};

/// Most data of one WRITE ATOMIC, in bytes.
pub const ATOMIC_MAX: u64 = 1024 * 1024;

/// A sector of the journal in bytes: the header's, which is written in one piece.
const SECTOR: u64 = 512;
const MAGIC: [u8; 8] = *b"CRLATOM1";
/// Magic, position and length (both in bytes, big endian); behind them the checksum (CRC32C) of all that and of the data.
const SUMMED: usize = 24;
const NO_HEADER: Bytes = Bytes::from_static(&[0; SECTOR as usize]);

/// The journal of one unit.
pub struct AtomicJournal {
    device: Arc<dyn BlockDevice>,
    /// For people.
    place: PathBuf,
}

/// A write that was found in a journal.
#[derive(Debug, PartialEq, Eq)]
pub struct Intent {
    pub at: ByteOffset,
    pub data: Bytes,
}

impl AtomicJournal {
    /// Opens the journal in `file`, which is made if it is not there, and finishes the write that it may hold.
    pub fn open(file: &Path, unit: &dyn BlockDevice) -> Result<Self, String> {
        let tell = |what: String| format!("journal {}: {what}", file.display());
        let options = OpenOptions { create_size: Some(ByteLen(SECTOR + ATOMIC_MAX)), ..OpenOptions::default() };
        let device = FileDevice::open(file, options).map_err(|error| tell(error.to_string()))?;
        let size = device.geometry().size();
        if size < ByteLen(SECTOR + ATOMIC_MAX) {
            return Err(tell(format!("it has {size}, too little for a journal")));
        }
        let journal = Self::over(device, file.to_owned());
        match wait(journal.replay(unit)) {
            Ok(Some(found)) => {
                tracing::warn!(at = %found.at, length = found.data.len(), "a WRITE ATOMIC that was cut off was finished");
            }
            Ok(None) => {}
            Err(error) => {
                return Err(tell(format!(
                    "the write that it holds cannot be finished: {error}; if the unit's file is another one now, move the journal away"
                )));
            }
        }
        Ok(journal)
    }

    /// A journal on any device with sectors of 512 bytes.
    pub fn over(device: Arc<dyn BlockDevice>, place: PathBuf) -> Self {
        Self { device, place }
    }

    /// Writes `data`, at most [`ATOMIC_MAX`] bytes, so that it is there whole or not at all, and durable. Whoever calls
    /// this holds the unit's gate.
    pub async fn write(&self, unit: &dyn BlockDevice, at: ByteOffset, data: Bytes) -> Result<(), BlockError> {
        let mut kept = vec![header(at, &data)];
        kept.push(data.clone());
        let padding = data.len().next_multiple_of(SECTOR as usize) - data.len();
        if padding > 0 {
            kept.push(Bytes::from(vec![0; padding]));
        }
        self.device.write(ByteOffset(0), kept, Durability::Forced).await?;
        let written = unit.write(at, vec![data], Durability::Forced).await;
        // After a failure too: what a later command writes there must not be undone.
        if let Err(error) = self.device.write(ByteOffset(0), vec![NO_HEADER], Durability::Forced).await {
            tracing::error!(%error, "{} cannot be emptied: remove it before the next start", self.place.display());
            return Err(error);
        }
        written
    }

    /// Writes what the journal holds, if that is a whole write, and empties it.
    pub async fn replay(&self, unit: &dyn BlockDevice) -> Result<Option<Intent>, BlockError> {
        let Some(found) = self.find().await? else { return Ok(None) };
        unit.write(found.at, vec![found.data.clone()], Durability::Forced).await?;
        self.device.write(ByteOffset(0), vec![NO_HEADER], Durability::Forced).await?;
        Ok(Some(found))
    }

    async fn find(&self) -> Result<Option<Intent>, BlockError> {
        let kept = self.device.read(ByteOffset(0), ByteLen(SECTOR)).await?;
        let number = |at: usize| kept[at..at + 8].iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let (at, length) = (number(8), number(16));
        if kept[..8] != MAGIC || length > ATOMIC_MAX {
            return Ok(None);
        }
        let padded = ByteLen(length.next_multiple_of(SECTOR));
        let data = self.device.read(ByteOffset(SECTOR), padded).await?.slice(..length as usize);
        let is_whole = kept[..SECTOR as usize] == header(ByteOffset(at), &data)[..];
        Ok(is_whole.then_some(Intent { at: ByteOffset(at), data }))
    }
}

fn header(at: ByteOffset, data: &[u8]) -> Bytes {
    let mut out = BytesMut::zeroed(SECTOR as usize);
    out[..8].copy_from_slice(&MAGIC);
    out[8..16].copy_from_slice(&at.0.to_be_bytes());
    out[16..24].copy_from_slice(&(data.len() as u64).to_be_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&out[..SUMMED]), data);
    out[SUMMED..SUMMED + 4].copy_from_slice(&checksum.to_be_bytes());
    out.freeze()
}

/// Waits on the caller's thread; for the start of the program, when nobody else waits for it.
fn wait<T>(work: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut work = std::pin::pin!(work);
    loop {
        match work.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::park(),
        }
    }
}
