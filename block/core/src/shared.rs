//! One disk, many nodes: every node reaches it through gates of its own, and fencing closes them.
//!
//! Owns the promise that fencing rests on: when [`SharedDisk::fence`] has completed, no write of
//! that node, not even one whose caller is long gone, will change the disk any more. A write that
//! was let in is therefore counted until the device has ended it; if its caller drops it, the gate
//! takes it over and the fence drives it to its end.
//!
//! Persistent reservations work here as on a target: each device that [`SharedDisk::node`] gives is a nexus of its own,
//! and a preempt-and-abort is answered when the victim's writes have ended, as a fence is.
//!
//! A closed gate stays closed. A node that comes back is let in again by [`SharedDisk::admit`] and
//! asks for a new device: what an earlier life of it still holds stays shut out.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use base::{BoxFuture, NodeId};
use bytes::Bytes;

use crate::completion::lock;
use crate::device::{BlockDevice, BlockError, Compared, Durability, Extent, Geometry, IoFuture};
use crate::memory::ready;
use crate::reservation::{HeldReservation, RegisteredKeys, ReservationChange, ReservationOutcome, ReservationStatus};
use crate::reserved::{Access, Changed, Nexus, ReservationTable};
use crate::units::{ByteLen, ByteOffset};

/// One disk that many nodes reach.
#[derive(Clone)]
pub struct SharedDisk {
    disk: Arc<dyn BlockDevice>,
    nodes: Arc<Mutex<BTreeMap<NodeId, NodeGates>>>,
    nexuses: Arc<Mutex<Nexuses>>,
}

/// Every way to the disk, and what is reserved. Locked before a gate's state, so that no write slips in between.
#[derive(Default)]
struct Nexuses {
    table: ReservationTable,
    /// By number: whose it is, and its gate while somebody has it or it has writes in flight.
    gates: Vec<(NodeId, Weak<Gate>)>,
}

impl SharedDisk {
    /// Shares `disk`.
    pub fn new(disk: Arc<dyn BlockDevice>) -> SharedDisk {
        SharedDisk { disk, nodes: Arc::default(), nexuses: Arc::default() }
    }

    /// The disk as `node` sees it: a new gate, open unless the node is fenced.
    pub fn node(&self, node: NodeId) -> Arc<dyn BlockDevice> {
        let mut nodes = lock(&self.nodes);
        let gates = nodes.entry(node).or_default();
        gates.open.retain(|gate| Arc::strong_count(gate) > 1 || lock(&gate.state).in_flight > 0);
        let gate = Arc::new(Gate::default());
        lock(&gate.state).is_closed = gates.is_fenced;
        if !gates.is_fenced {
            gates.open.push(gate.clone());
        }
        let nexus = {
            let mut nexuses = lock(&self.nexuses);
            nexuses.gates.push((node, Arc::downgrade(&gate)));
            nexuses.gates.len() as Nexus - 1
        };
        Arc::new(NodeDevice { disk: self.disk.clone(), gate, nexus, nexuses: self.nexuses.clone() })
    }

    /// Closes every gate of `node`, at once; completes when its last write has ended. Reads are
    /// refused too, and requests answer `Fenced` from now on. Fencing twice is fencing once.
    pub fn fence(&self, node: NodeId) -> BoxFuture<'static, ()> {
        let gates = {
            let mut nodes = lock(&self.nodes);
            let gates = nodes.entry(node).or_default();
            gates.is_fenced = true;
            // Kept until they are idle, so that a second fence waits for the same writes.
            gates.open.retain(|gate| {
                let mut state = lock(&gate.state);
                state.is_closed = true;
                state.in_flight > 0
            });
            gates.open.clone()
        };
        Box::pin(async move {
            for gate in gates {
                Drained { gate }.await;
            }
        })
    }

    /// Lets the node ask for a device again. Its old devices stay closed.
    pub fn admit(&self, node: NodeId) {
        lock(&self.nodes).entry(node).or_default().is_fenced = false;
    }

    /// Whether the node is shut out.
    pub fn is_fenced(&self, node: NodeId) -> bool {
        lock(&self.nodes).get(&node).is_some_and(|gates| gates.is_fenced)
    }
}

#[derive(Default)]
struct NodeGates {
    is_fenced: bool,
    /// Gates that a fence has to close or wait for.
    open: Vec<Arc<Gate>>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
}

#[derive(Default)]
struct GateState {
    is_closed: bool,
    /// Writes let in and not ended, orphans included.
    in_flight: u64,
    /// Writes whose caller has gone.
    orphans: Vec<IoFuture<()>>,
    waiters: Vec<Waker>,
}

impl Gate {
    /// Lets a write in, or says that the gate is closed.
    fn enter(self: &Arc<Self>) -> Result<(), BlockError> {
        let mut state = lock(&self.state);
        if state.is_closed {
            return Err(BlockError::Fenced);
        }
        state.in_flight += 1;
        Ok(())
    }

    fn leave(&self) {
        let is_idle = {
            let mut state = lock(&self.state);
            state.in_flight -= 1;
            state.in_flight == 0
        };
        if is_idle {
            self.wake_waiters();
        }
    }

    fn wake_waiters(&self) {
        let waiters = std::mem::take(&mut lock(&self.state).waiters);
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Moves orphans on; they are polled outside the lock because a device may call back.
    fn drive_orphans(&self, context: &mut Context<'_>) {
        let mut orphans = std::mem::take(&mut lock(&self.state).orphans);
        orphans.retain_mut(|orphan| {
            let ended = orphan.as_mut().poll(context).is_ready();
            if ended {
                self.leave();
            }
            !ended
        });
        lock(&self.state).orphans.append(&mut orphans);
    }
}

/// The disk through one gate.
struct NodeDevice {
    disk: Arc<dyn BlockDevice>,
    gate: Arc<Gate>,
    nexus: Nexus,
    nexuses: Arc<Mutex<Nexuses>>,
}

impl NodeDevice {
    fn guarded<T: Send + 'static>(&self, start: impl FnOnce(&dyn BlockDevice) -> IoFuture<T>) -> IoFuture<T> {
        {
            // Held until the write is counted: a preempt after this waits for it.
            let nexuses = lock(&self.nexuses);
            let is_allowed = nexuses.table.allows(self.nexus, Access::Write);
            if let Err(fenced) = if is_allowed { self.gate.enter() } else { Err(BlockError::Fenced) } {
                return ready(Err(fenced));
            }
        }
        if !lock(&self.gate.state).orphans.is_empty() {
            self.gate.drive_orphans(&mut Context::from_waker(Waker::noop()));
            // That left the orphans with a waker that wakes nobody: a fence polls them again.
            self.gate.wake_waiters();
        }
        Box::pin(Admitted { write: Some(start(&*self.disk)), gate: self.gate.clone() })
    }

    fn check_open(&self, access: Access) -> Result<(), BlockError> {
        let is_allowed = lock(&self.nexuses).table.allows(self.nexus, access);
        if lock(&self.gate.state).is_closed || !is_allowed { Err(BlockError::Fenced) } else { Ok(()) }
    }

    /// What a question about reservations finds; a closed gate gives no answers.
    fn told<T: Send + 'static>(&self, tell: impl FnOnce(&Nexuses) -> T) -> IoFuture<T> {
        if lock(&self.gate.state).is_closed {
            return ready(Err(BlockError::Fenced));
        }
        ready(Ok(tell(&lock(&self.nexuses))))
    }
}

impl BlockDevice for NodeDevice {
    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        match self.check_open(Access::Read) {
            Ok(()) => self.disk.read(at, len),
            Err(fenced) => ready(Err(fenced)),
        }
    }

    fn write(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> IoFuture<()> {
        self.guarded(|disk| disk.write(at, data, durability))
    }

    fn flush(&self) -> IoFuture<()> {
        match self.check_open(Access::Write) {
            Ok(()) => self.disk.flush(),
            Err(fenced) => ready(Err(fenced)),
        }
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.guarded(|disk| disk.discard(at, len))
    }

    fn extent(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Extent> {
        match self.check_open(Access::Read) {
            Ok(()) => self.disk.extent(at, len),
            Err(fenced) => ready(Err(fenced)),
        }
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.guarded(|disk| disk.write_zeroes(at, len))
    }

    fn compare_and_write(&self, at: ByteOffset, expected: Bytes, new: Bytes) -> IoFuture<Compared> {
        self.guarded(|disk| disk.compare_and_write(at, expected, new))
    }

    fn change_reservation(&self, change: ReservationChange) -> IoFuture<ReservationOutcome> {
        let mut nexuses = lock(&self.nexuses);
        if lock(&self.gate.state).is_closed {
            return ready(Err(BlockError::Fenced));
        }
        let Changed { outcome, abort } = nexuses.table.change(self.nexus, &change);
        let gate = |nexus: &Nexus| usize::try_from(*nexus).ok().and_then(|at| nexuses.gates.get(at)?.1.upgrade());
        let gates: Vec<Arc<Gate>> = abort.iter().filter_map(gate).collect();
        Box::pin(async move {
            for gate in gates {
                Drained { gate }.await;
            }
            Ok(outcome)
        })
    }

    fn reservation_keys(&self) -> IoFuture<RegisteredKeys> {
        self.told(|nexuses| nexuses.table.keys())
    }

    fn reservation(&self) -> IoFuture<HeldReservation> {
        self.told(|nexuses| nexuses.table.reservation())
    }

    fn reservation_status(&self) -> IoFuture<ReservationStatus> {
        self.told(|nexuses| {
            nexuses.table.status(|nexus| {
                let node = usize::try_from(nexus).ok().and_then(|at| nexuses.gates.get(at)).map(|(node, _)| node.0);
                format!("node {}, nexus {nexus}", node.unwrap_or_default())
            })
        })
    }
}

/// A write that the gate let in.
struct Admitted<T: Send + 'static> {
    /// `None` once it has ended.
    write: Option<IoFuture<T>>,
    gate: Arc<Gate>,
}

impl<T: Send + 'static> Future for Admitted<T> {
    type Output = Result<T, BlockError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let write = self.write.as_mut().expect("invariant: not polled after its end");
        let Poll::Ready(result) = write.as_mut().poll(context) else { return Poll::Pending };
        self.write = None;
        self.gate.leave();
        Poll::Ready(result)
    }
}

impl<T: Send + 'static> Drop for Admitted<T> {
    fn drop(&mut self) {
        let Some(write) = self.write.take() else { return };
        lock(&self.gate.state).orphans.push(Box::pin(async move { write.await.map(drop) }));
        self.gate.wake_waiters();
    }
}

/// Completes when the gate has no write in flight.
struct Drained {
    gate: Arc<Gate>,
}

impl Future for Drained {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Registered first: a write that ends or is orphaned between the two steps wakes us again.
        lock(&self.gate.state).waiters.push(context.waker().clone());
        self.gate.drive_orphans(context);
        if lock(&self.gate.state).in_flight == 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Drained {
    /// The orphans know only the last waiter's waker; the others take over when that one goes.
    fn drop(&mut self) {
        self.gate.wake_waiters();
    }
}
