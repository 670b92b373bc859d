//! The block device: checks, splits and joins requests.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use block_core::completion::{Completion as Answer, completion};
use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset, Durability, Geometry, IoFuture, IscsiUrl};
use bytes::{Bytes, BytesMut};
use iscsi_target_proto::scsi::ScsiCommand;

use crate::clock;
use crate::error::ConnectError;
use crate::name;
use crate::options::Options;
use crate::probe::Unit;
use crate::queue::{ConnectionStatus, Limits, Role, Shared};
use crate::task::Task;

/// Makes connections.
pub struct Initiator;

impl Initiator {
    /// Logs in to the target and finds the unit. Tries once: what is wrong is said at once.
    pub async fn connect(url: &IscsiUrl, options: Options) -> Result<Arc<IscsiDevice>, ConnectError> {
        if url.user.is_some() {
            return Err(ConnectError::CredentialsUnsupported);
        }
        let runtime = match &options.runtime {
            Some(runtime) => runtime.clone(),
            None => tokio::runtime::Handle::try_current().map_err(|_| ConnectError::NoRuntime)?,
        };
        let initiator_name = name::initiator_name(options.initiator_name.as_deref(), options.state_dir.as_deref());
        let shared = Shared::new(Limits {
            lun: url.lun,
            command_timeout: options.command_timeout,
            recovery_limit: options.recovery_limit,
            unflushed_max: options.unflushed_max,
        });
        let (unit, sectors) = (Arc::new(OnceLock::new()), Arc::new(AtomicU64::new(0)));
        let task = Task {
            url: url.clone(),
            options,
            initiator_name: initiator_name.map_err(ConnectError::Name)?,
            session_id: name::session_id().map_err(ConnectError::Random)?,
            shared: shared.clone(),
            unit: unit.clone(),
            sectors: sectors.clone(),
        };
        // Made first: if this future is dropped, the device's end ends the task.
        let closer = Closer { shared: shared.clone() };
        let (completer, connected) = completion();
        let task = runtime.spawn(task.run(completer));
        connected.await.unwrap_or(Err(ConnectError::NoRuntime))?;
        let unit = unit.get().cloned().ok_or(ConnectError::NoRuntime)?;
        Ok(Arc::new(IscsiDevice { lun: url.lun, name: url.to_string(), unit, sectors, shared, closer, task }))
    }
}

/// A logical unit. What a read returns may be a slice of a larger receive buffer (64 KiB and more): who keeps small pieces
/// for long copies them.
pub struct IscsiDevice {
    lun: u16,
    name: String,
    unit: Unit,
    sectors: Arc<AtomicU64>,
    shared: Arc<Shared>,
    closer: Closer,
    task: tokio::task::JoinHandle<()>,
}

impl IscsiDevice {
    /// How the connection is; for status displays.
    pub fn status(&self) -> ConnectionStatus {
        self.shared.with(|core| core.status(clock::now()))
    }

    /// Whether the unit refuses writes.
    pub fn is_read_only(&self) -> bool {
        self.unit.is_read_only
    }

    /// Logs out once every request is answered, and waits for the end of it. Flushes nothing. Dropping the device
    /// does the same without waiting. Requests made through other references afterwards are not to be expected.
    pub async fn close(self: Arc<Self>) {
        self.closer.close();
        while !self.task.is_finished() {
            tokio::time::sleep(CLOSE_POLL).await;
        }
    }

    fn pieces(&self, at: ByteOffset, len: ByteLen) -> impl Iterator<Item = (ByteOffset, ByteLen)> + use<> {
        let most = self.transfer_max().0;
        let end = at.0 + len.0;
        (at.0..end).step_by(most as usize).map(move |at| (ByteOffset(at), ByteLen(most.min(end - at))))
    }

    /// Whole sectors.
    fn transfer_max(&self) -> ByteLen {
        let sector = u64::from(self.unit.sector);
        ByteLen((self.unit.transfer_max.0 / sector).max(1) * sector)
    }

    fn read_command(&self, at: ByteOffset, len: ByteLen) -> (ScsiCommand, Role) {
        let sector = u64::from(self.unit.sector);
        let command = ScsiCommand::read_16(self.lun, at.0 / sector, (len.0 / sector) as u32, self.unit.sector)
            .expect("invariant: a piece is shorter than 4 GiB");
        (command, Role::Read { at, len })
    }

    fn write_command(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> (ScsiCommand, Role) {
        let len = length(&data);
        let lba = at.0 / u64::from(self.unit.sector);
        let force = durability == Durability::Forced && self.unit.has_write_cache;
        let command = ScsiCommand::write_16(self.lun, lba, data, self.unit.sector, force)
            .expect("invariant: a piece is whole sectors and shorter than 4 GiB");
        (command, Role::Write { at, len, durability })
    }
}

impl BlockDevice for IscsiDevice {
    fn geometry(&self) -> Geometry {
        Geometry { sector: self.unit.sector, sectors: self.sectors.load(Ordering::Relaxed) }
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        if let Err(error) = self.geometry().check(at, len) {
            return ready(Err(error));
        }
        if len.0 == 0 {
            return ready(Ok(Bytes::new()));
        }
        if len <= self.transfer_max() {
            let (command, role) = self.read_command(at, len);
            return Box::pin(settled(self.shared.submit_one(command, role)));
        }
        let pieces = self.pieces(at, len).map(|(at, len)| self.read_command(at, len)).collect();
        let answers = self.shared.submit(pieces);
        Box::pin(async move {
            let mut all = BytesMut::with_capacity(len.0 as usize);
            for answer in answers {
                all.extend_from_slice(&settled(answer).await?);
            }
            Ok(all.freeze())
        })
    }

    fn write(&self, at: ByteOffset, mut data: Vec<Bytes>, durability: Durability) -> IoFuture<()> {
        let len = length(&data);
        if self.unit.is_read_only {
            return ready(Err(BlockError::ReadOnly));
        }
        if let Err(error) = self.geometry().check(at, len) {
            return ready(Err(error));
        }
        data.retain(|part| !part.is_empty());
        if data.is_empty() {
            return ready(Ok(()));
        }
        if len <= self.transfer_max() {
            let (command, role) = self.write_command(at, data, durability);
            let answer = self.shared.submit_one(command, role);
            return Box::pin(async move { settled(answer).await.map(drop) });
        }
        let pieces = split(data, self.transfer_max()).into_iter().scan(at, |at, piece| {
            let begin = *at;
            *at = begin + length(&piece);
            Some(self.write_command(begin, piece, durability))
        });
        let answers = self.shared.submit(pieces.collect());
        Box::pin(async move {
            let mut result = Ok(());
            // All of them: an answer must not come while a part is still under way.
            for answer in answers {
                result = result.and(settled(answer).await.map(drop));
            }
            result
        })
    }

    fn flush(&self) -> IoFuture<()> {
        let answer = self.shared.submit_flush(ScsiCommand::synchronize_cache_16(self.lun));
        Box::pin(async move { settled(answer).await.map(drop) })
    }

    /// Written as data; the unit's own way comes with WRITE SAME.
    fn write_zeroes(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        static ZEROES: [u8; 65536] = [0; 65536];
        if let Err(error) = self.geometry().check(at, len) {
            return ready(Err(error));
        }
        let parts = (0..len.0).step_by(ZEROES.len());
        let parts = parts.map(|done| Bytes::from_static(&ZEROES[..(len.0 - done).min(ZEROES.len() as u64) as usize]));
        self.write(at, parts.collect(), Durability::Cached)
    }
}

impl fmt::Debug for IscsiDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IscsiDevice({}, {:?})", self.name, self.status())
    }
}

/// Ends the task when the device goes.
struct Closer {
    shared: Arc<Shared>,
}

impl Closer {
    fn close(&self) {
        self.shared.with(|core| core.close());
        self.shared.wake.notify_one();
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.close();
    }
}

/// How often [`IscsiDevice::close`] looks.
const CLOSE_POLL: std::time::Duration = std::time::Duration::from_millis(2);

async fn settled(answer: Answer<Result<Bytes, BlockError>>) -> Result<Bytes, BlockError> {
    let gone = || Err(BlockError::Unavailable { what: "the connection's task has ended".to_owned() });
    answer.await.unwrap_or_else(gone)
}

fn ready<T: Send + 'static>(result: Result<T, BlockError>) -> IoFuture<T> {
    Box::pin(std::future::ready(result))
}

fn length(data: &[Bytes]) -> ByteLen {
    ByteLen(data.iter().map(|part| part.len() as u64).sum())
}

/// Cuts buffers into pieces of exactly `most` bytes each; the last may be shorter.
fn split(data: Vec<Bytes>, most: ByteLen) -> Vec<Vec<Bytes>> {
    let mut pieces = vec![Vec::new()];
    let mut room = most.0 as usize;
    for mut part in data {
        while !part.is_empty() {
            if room == 0 {
                pieces.push(Vec::new());
                room = most.0 as usize;
            }
            let now = part.split_to(room.min(part.len()));
            room -= now.len();
            if let Some(piece) = pieces.last_mut() {
                piece.push(now);
            }
        }
    }
    pieces
}
