//! A whole cluster with one filesystem: a shared disk, a lockspace, and a mount on every node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use base::{Host, NodeId};
use block_core::{BlockDevice, ByteLen, Image, Latency, LatencyDevice, MemoryDevice, SharedDisk};
use dlm_api::LockManager;
use gfs_core::ports::NoKernelCaches;
use gfs_core::{Fs, MountOptions, Ports};

use crate::checkers::history::History;
use crate::dice::Dice;
use crate::executor::{Limits, NodeHost, Sim, TaskKind, lock};
use crate::faults::{FaultyDevice, FaultyLocks, Plant};
use crate::kernel::{self, Kernel};
use crate::member::{self, Lockspaces};
use crate::node::Node;
use crate::trace::{TraceWish, Who};

/// The cluster of one run.
pub struct Cluster {
    sim: Sim,
    plant: Plant,
    memory: Arc<MemoryDevice>,
    disk: SharedDisk,
    pub lockspaces: Arc<Lockspaces>,
    history: Arc<History>,
    has_kernel: Vec<bool>,
    /// Whether each node tries a journal of its own first.
    is_spread: bool,
}

impl Cluster {
    /// A freshly made filesystem with a journal for each of the `count` nodes.
    pub fn new(sim: &Sim, dice: &mut Dice, count: u32, plant: Plant) -> Result<Cluster, String> {
        let memory = MemoryDevice::from_image(fresh_image(count)?);
        let latency =
            Latency { min: Duration::from_micros(5), max: Duration::from_micros(*dice.pick(&[20, 100, 1000])) };
        let host = NodeHost::new(sim, 0, Duration::ZERO);
        let slow = LatencyDevice::new(memory.clone(), host, latency);
        Ok(Cluster {
            sim: sim.clone(),
            plant,
            memory,
            disk: SharedDisk::new(slow),
            lockspaces: Lockspaces::new(sim, dice, count, plant.members),
            history: Arc::new(History::new(sim)),
            has_kernel: (0..count).map(|_| dice.percent(75)).collect(),
            is_spread: dice.percent(50),
        })
    }

    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// How many nodes there are.
    pub fn len(&self) -> u32 {
        self.has_kernel.len() as u32
    }

    pub fn is_empty(&self) -> bool {
        self.has_kernel.is_empty()
    }

    /// What is on the disk.
    pub fn image(&self) -> Image {
        self.memory.snapshot()
    }

    /// Mounts on one node, numbered from 1.
    pub async fn mount(&self, number: u32) -> Result<Node, String> {
        let sim = &self.sim;
        let has_kernel = self.has_kernel[number as usize - 1];
        let kernel = has_kernel.then(|| Kernel::new(sim, number, self.plant.kernel));
        let host: Arc<dyn Host> = NodeHost::new(sim, number, Duration::from_millis(u64::from(number) * 7));
        let ports = Ports {
            device: self.device(number),
            locks: self.locks(number),
            host,
            caches: match &kernel {
                Some(kernel) => Arc::new(kernel::Port(kernel.clone())),
                None => Arc::new(NoKernelCaches),
            },
        };
        let preferred_journal = if self.is_spread { number - 1 } else { 0 };
        let options = MountOptions { preferred_journal, faults: self.plant.filesystem, ..MountOptions::default() };
        let fs = Fs::mount(ports, options).await.map_err(|error| format!("node {number} cannot mount: {error}"))?;
        sim.event(Who::Node(number), format_args!("has mounted, journal {}", fs.journal_slot()));
        let (history, sim) = (self.history.clone(), sim.clone());
        Ok(Node { number, fs, kernel, history, sim, rename: Arc::default() })
    }

    /// Lets go of what holds the parts together.
    pub fn tear_down(&self) {
        self.lockspaces.tear_down();
    }

    fn device(&self, number: u32) -> Arc<dyn BlockDevice> {
        let device = self.disk.node(NodeId(number));
        match self.plant.device {
            Some(fault) => FaultyDevice::new(device, &self.sim, fault),
            None => device,
        }
    }

    fn locks(&self, number: u32) -> Arc<dyn LockManager> {
        let port = Arc::new(member::Port(self.lockspaces.members[number as usize - 1].clone()));
        match self.plant.locks {
            Some(fault) => FaultyLocks::new(port, &self.sim, fault),
            None => port,
        }
    }
}

/// The image that mkfs makes; made once for each number of journals, because that takes far longer
/// than a run.
fn fresh_image(journals: u32) -> Result<Image, String> {
    static IMAGES: OnceLock<Mutex<BTreeMap<u32, Image>>> = OnceLock::new();
    let mut images = lock(IMAGES.get_or_init(Mutex::default));
    if let Some(image) = images.get(&journals) {
        return Ok(image.clone());
    }
    let memory = MemoryDevice::new(ByteLen(DISK_BYTES));
    let device: Arc<dyn BlockDevice> = memory.clone();
    let mut options = mkfs::Options::new(mkfs::Protocol::Dlm, "sim:fs", [0x51; 16]);
    options.journals = journals;
    options.journal_mb = Some(8);
    options.group_mb = Some(32);
    // Made by a run of its own: memory answers at once, so no seed has a part in it.
    let sim = Sim::new(0, TraceWish::Nothing);
    let outcome = Arc::new(Mutex::new(None));
    let made = outcome.clone();
    sim.spawn(Who::World, "mkfs", TaskKind::Client, async move {
        let result = mkfs::format(&device, &options).await.map(drop).map_err(|error| format!("mkfs: {error}"));
        *lock(&made) = Some(result);
    });
    let _ = sim.run(Limits { time: Duration::from_secs(1), steps: 1_000_000 });
    lock(&outcome).take().unwrap_or_else(|| Err("mkfs does not end".into()))?;
    let image = memory.snapshot();
    images.insert(journals, image.clone());
    Ok(image)
}

const DISK_BYTES: u64 = 128 << 20;
