//! The block device: connecting, and the port. Checks requests; the way to the unit splits and sends them.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use block_core::completion::completion;
use block_core::{
    BlockDevice, BlockError, ByteLen, ByteOffset, Compared, Durability, Geometry, HeldReservation, IoFuture, IscsiUrl,
    RegisteredKeys, ReservationChange, ReservationOutcome, ReservationStatus,
};
use bytes::{Bytes, BytesMut};
use iscsi_target_proto::scsi::ScsiCommand;

use crate::clock;
use crate::error::ConnectError;
use crate::name;
use crate::options::Options;
use crate::queue::{ConnectionStatus, Limits, Shared};
use crate::random;
use crate::secrets;
use crate::task::Task;
use crate::way::{Way, all_settled, length, pieces, settled};

/// Makes connections.
pub struct Initiator;

impl Initiator {
    /// Logs in to the target and finds the unit. Tries once: what is wrong is said at once.
    pub async fn connect(url: &IscsiUrl, options: Options) -> Result<Arc<IscsiDevice>, ConnectError> {
        let runtime = match &options.runtime {
            Some(runtime) => runtime.clone(),
            None => tokio::runtime::Handle::try_current().map_err(|_| ConnectError::NoRuntime)?,
        };
        let identity = secrets::identity(&url.login(), Some(&url.target), options.secrets_file.as_deref());
        let identity = identity.map_err(ConnectError::Secrets)?;
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
            session_id: random::session_id().map_err(ConnectError::Random)?,
            identity,
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
        let way = Way { lun: url.lun, unit, shared: shared.clone(), can_write_same: AtomicBool::new(true) };
        Ok(Arc::new(IscsiDevice { name: url.to_string(), sectors, way: Arc::new(way), closer, task }))
    }
}

/// A logical unit. What a read returns may be a slice of a larger receive buffer (64 KiB and more): who keeps small pieces
/// for long copies them.
pub struct IscsiDevice {
    name: String,
    sectors: Arc<AtomicU64>,
    way: Arc<Way>,
    closer: Closer,
    task: tokio::task::JoinHandle<()>,
}

impl IscsiDevice {
    /// How the connection is; for status displays.
    pub fn status(&self) -> ConnectionStatus {
        self.way.shared.with(|core| core.status(clock::now()))
    }

    /// Whether the unit refuses writes.
    pub fn is_read_only(&self) -> bool {
        self.way.unit.is_read_only
    }

    /// Logs out once every request is answered, and waits for the end of it. Flushes nothing. Dropping the device
    /// does the same without waiting. Requests made through other references afterwards are not to be expected.
    pub async fn close(self: Arc<Self>) {
        self.closer.close();
        while !self.task.is_finished() {
            tokio::time::sleep(CLOSE_POLL).await;
        }
    }

    pub(crate) fn way(&self) -> &Way {
        &self.way
    }

    fn check(&self, at: ByteOffset, len: ByteLen, access: Access) -> Result<(), BlockError> {
        if access == Access::Write && self.way.unit.is_read_only {
            return Err(BlockError::ReadOnly);
        }
        self.geometry().check(at, len)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl BlockDevice for IscsiDevice {
    fn geometry(&self) -> Geometry {
        Geometry { sector: self.way.unit.sector, sectors: self.sectors.load(Ordering::Relaxed) }
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        if let Err(error) = self.check(at, len, Access::Read) {
            return ready(Err(error));
        }
        if len.0 == 0 {
            return ready(Ok(Bytes::new()));
        }
        let way = &self.way;
        let most = way.transfer_max();
        if len <= most {
            let (command, role) = way.read_command(at, len);
            return Box::pin(settled(way.shared.submit_one(command, role)));
        }
        let answers = way.shared.submit(pieces(at, len, most).map(|(at, len)| way.read_command(at, len)).collect());
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
        if let Err(error) = self.check(at, len, Access::Write) {
            return ready(Err(error));
        }
        data.retain(|part| !part.is_empty());
        if data.is_empty() {
            return ready(Ok(()));
        }
        if len <= self.way.transfer_max() {
            let (command, role) = self.way.write_command(at, data, durability);
            let answer = self.way.shared.submit_one(command, role);
            return Box::pin(async move { settled(answer).await.map(drop) });
        }
        Box::pin(all_settled(self.way.write(at, data, durability)))
    }

    fn flush(&self) -> IoFuture<()> {
        let answer = self.way.shared.submit_flush(ScsiCommand::synchronize_cache_16(self.way.lun));
        Box::pin(async move { settled(answer).await.map(drop) })
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        if let Err(error) = self.check(at, len, Access::Write) {
            return ready(Err(error));
        }
        match self.way.unit.unmap_max {
            Some(most) => Box::pin(all_settled(self.way.unmap(at, len, most))),
            None => ready(Err(BlockError::Unsupported { operation: "discard" })),
        }
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        match self.check(at, len, Access::Write) {
            Ok(()) => Box::pin(self.way.clone().make_zeroes(at, len)),
            Err(error) => ready(Err(error)),
        }
    }

    fn compare_and_write(&self, at: ByteOffset, expected: Bytes, new: Bytes) -> IoFuture<Compared> {
        let len = ByteLen::of(&expected);
        if let Err(error) = self.check(at, len, Access::Write) {
            return ready(Err(error));
        }
        if len.0 == 0 || len != ByteLen::of(&new) {
            return ready(Err(BlockError::Misaligned { at, len: ByteLen::of(&new), sector: self.way.unit.sector }));
        }
        Box::pin(self.way.clone().compare_and_write(at, expected, new))
    }

    fn change_reservation(&self, change: ReservationChange) -> IoFuture<ReservationOutcome> {
        Box::pin(self.way.clone().change_reservation(change))
    }

    fn reservation_keys(&self) -> IoFuture<RegisteredKeys> {
        Box::pin(self.way.clone().reservation_keys())
    }

    fn reservation(&self) -> IoFuture<HeldReservation> {
        Box::pin(self.way.clone().reservation())
    }

    fn reservation_status(&self) -> IoFuture<ReservationStatus> {
        Box::pin(self.way.clone().reservation_status())
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

fn ready<T: Send + 'static>(result: Result<T, BlockError>) -> IoFuture<T> {
    Box::pin(std::future::ready(result))
}
