//! The deliberate faults of world `fs`: in the ports that a mount stands on, in the lock manager and
//! in the filesystem itself. Each must be noticed by the checkers, who know nothing of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use block_core::{BlockDevice, ByteLen, ByteOffset, Durability, Geometry, IoFuture};
use bytes::Bytes;
use dlm_api::{BlockingCallback, Flags, Granted, LockFuture, LockId, LockManager, Mode, ResourceName, ValueBlock};
use dlm_core::Faults;
use tokio::sync::Notify;

use crate::executor::{Sim, TaskKind, lock};
use crate::kernel::KernelFaults;
use crate::trace::Who;

/// A plant's name and how it is set.
type NamedPlant = (&'static str, fn(&mut Plant));

/// What is planted in a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plant {
    pub kernel: KernelFaults,
    pub device: Option<DeviceFault>,
    pub locks: Option<LockFault>,
    pub members: Faults,
    pub filesystem: gfs_core::Faults,
}

impl Plant {
    const ALL: [NamedPlant; 15] = [
        ("kernel-keeps-pages", |plant| plant.kernel.keep_pages = true),
        ("kernel-keeps-attributes", |plant| plant.kernel.keep_attributes = true),
        ("kernel-keeps-names", |plant| plant.kernel.keep_names = true),
        ("kernel-forgets-announcements", |plant| plant.kernel.forget_announcements = true),
        ("disk-answers-writes-early", |plant| plant.device = Some(DeviceFault::AnswerWritesEarly)),
        ("disk-serves-old-reads", |plant| plant.device = Some(DeviceFault::ServeOldReads)),
        ("disk-loses-writes", |plant| plant.device = Some(DeviceFault::LoseWrites)),
        ("locks-drop-blocking", |plant| plant.locks = Some(LockFault::DropBlocking)),
        ("locks-grant-early", |plant| plant.locks = Some(LockFault::GrantEarly)),
        ("members-grant-past-holder", |plant| plant.members.grant_past_holder = true),
        ("members-convert-past-holder", |plant| plant.members.convert_past_holder = true),
        ("fs-skips-flush-on-demote", |plant| plant.filesystem.skip_flush_on_demote = true),
        ("fs-skips-data-on-demote", |plant| plant.filesystem.skip_data_on_demote = true),
        ("fs-sets-attributes-from-before", |plant| plant.filesystem.stale_xattrs = true),
        ("fs-appends-at-stale-end", |plant| plant.filesystem.stale_append = true),
    ];

    /// Every plant's name.
    pub fn names() -> Vec<&'static str> {
        Plant::ALL.iter().map(|(name, _)| *name).collect()
    }

    /// The plant of that name; none for none.
    pub fn by_name(name: Option<&str>) -> Plant {
        let mut plant = Plant::default();
        if let Some((_, set)) = Plant::ALL.iter().find(|(known, _)| Some(*known) == name) {
            set(&mut plant);
        }
        plant
    }
}

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceFault {
    /// Some writes are answered before anybody else can read them.
    AnswerWritesEarly,
    /// Now and then a node is given what it read there before.
    ServeOldReads,
    /// Some writes are answered and forgotten.
    LoseWrites,
}

/// A disk with a fault.
pub struct FaultyDevice {
    device: Arc<dyn BlockDevice>,
    sim: Sim,
    fault: DeviceFault,
    /// What this node has read, by place; its own writes take it out.
    reads: Arc<Mutex<BTreeMap<ByteOffset, Bytes>>>,
}

impl FaultyDevice {
    pub fn new(device: Arc<dyn BlockDevice>, sim: &Sim, fault: DeviceFault) -> Arc<FaultyDevice> {
        Arc::new(FaultyDevice { device, sim: sim.clone(), fault, reads: Arc::default() })
    }

    fn forget_reads(&self, at: ByteOffset, len: u64) {
        lock(&self.reads).retain(|start, bytes| start.0 >= at.0 + len || start.0 + bytes.len() as u64 <= at.0);
    }
}

impl BlockDevice for FaultyDevice {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        let reading = self.device.read(at, len);
        if self.fault != DeviceFault::ServeOldReads {
            return reading;
        }
        let is_old = self.sim.roll(|dice| dice.percent(30));
        let reads = self.reads.clone();
        Box::pin(async move {
            let old = lock(&reads).get(&at).filter(|old| is_old && old.len() as u64 == len.0).cloned();
            if let Some(old) = old {
                return Ok(old);
            }
            let bytes = reading.await?;
            lock(&reads).insert(at, bytes.clone());
            Ok(bytes)
        })
    }

    fn write(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> IoFuture<()> {
        self.forget_reads(at, data.iter().map(|part| part.len() as u64).sum());
        let is_hit = self.sim.roll(|dice| dice.percent(10));
        match self.fault {
            DeviceFault::LoseWrites if is_hit => Box::pin(async { Ok(()) }),
            DeviceFault::AnswerWritesEarly if is_hit => {
                let (sim, device) = (self.sim.clone(), self.device.clone());
                self.sim.spawn(Who::World, "a late write", TaskKind::Daemon, async move {
                    sim.pause(LATE_MOST).await;
                    let _ = device.write(at, data, durability).await;
                });
                Box::pin(async { Ok(()) })
            }
            _ => self.device.write(at, data, durability),
        }
    }

    fn flush(&self) -> IoFuture<()> {
        self.device.flush()
    }
}

const LATE_MOST: Duration = Duration::from_millis(5);

/// What is wrong with a lock manager's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockFault {
    /// Nobody is told that it is in the way.
    DropBlocking,
    /// A request that waits long is answered as if it had been granted.
    GrantEarly,
}

/// A lock manager's port with a fault.
pub struct FaultyLocks {
    port: Arc<dyn LockManager>,
    sim: Sim,
    fault: LockFault,
    late: Arc<Late>,
}

/// Requests that were answered before their time.
#[derive(Default)]
struct Late {
    pending: Mutex<BTreeMap<LockId, ()>>,
    ended: Notify,
}

impl FaultyLocks {
    pub fn new(port: Arc<dyn LockManager>, sim: &Sim, fault: LockFault) -> Arc<FaultyLocks> {
        Arc::new(FaultyLocks { port, sim: sim.clone(), fault, late: Arc::default() })
    }

    fn answer(&self, id: LockId, mode: Mode, flags: Flags, answer: LockFuture<Granted>) -> LockFuture<Granted> {
        if self.fault != LockFault::GrantEarly || flags.contains(Flags::NOQUEUE) {
            return answer;
        }
        let (sim, late) = (self.sim.clone(), self.late.clone());
        Box::pin(async move {
            let mut answer = answer;
            tokio::select! {
                biased;
                granted = &mut answer => return granted,
                () = sim.sleep(PATIENCE) => {}
            }
            lock(&late.pending).insert(id, ());
            sim.spawn(Who::World, "a late grant", TaskKind::Daemon, async move {
                let _ = answer.await;
                lock(&late.pending).remove(&id);
                late.ended.notify_waiters();
            });
            Ok(Granted { mode, value: None, is_value_valid: true })
        })
    }

    /// Runs `call` once no early answer for the lock is outstanding.
    fn after_late<T: Send + 'static>(
        &self,
        id: LockId,
        call: impl FnOnce(&dyn LockManager) -> LockFuture<T> + Send + 'static,
    ) -> LockFuture<T> {
        if !lock(&self.late.pending).contains_key(&id) {
            return call(&*self.port);
        }
        let (late, port) = (self.late.clone(), self.port.clone());
        Box::pin(async move {
            loop {
                let ended = late.ended.notified();
                if !lock(&late.pending).contains_key(&id) {
                    break;
                }
                ended.await;
            }
            call(&*port).await
        })
    }
}

const PATIENCE: Duration = Duration::from_millis(2);

impl LockManager for FaultyLocks {
    fn lock(
        &self,
        name: ResourceName,
        mode: Mode,
        flags: Flags,
        blocking: BlockingCallback,
    ) -> (LockId, LockFuture<Granted>) {
        let blocking = match self.fault {
            LockFault::DropBlocking => Arc::new(|_| {}),
            LockFault::GrantEarly => blocking,
        };
        let (id, answer) = self.port.lock(name, mode, flags, blocking);
        (id, self.answer(id, mode, flags, answer))
    }

    fn convert(&self, id: LockId, mode: Mode, flags: Flags, value: Option<ValueBlock>) -> LockFuture<Granted> {
        let answer = self.after_late(id, move |port| port.convert(id, mode, flags, value));
        self.answer(id, mode, flags, answer)
    }

    fn unlock(&self, id: LockId, value: Option<ValueBlock>) -> LockFuture<()> {
        self.after_late(id, move |port| port.unlock(id, value))
    }

    fn cancel(&self, lock: LockId) {
        self.port.cancel(lock);
    }
}
