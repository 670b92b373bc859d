//! What reads a damaged image: the check, the journal tool and the engine. Each has to end, with an answer or with an
//! error that says where.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use base::{BoxFuture, Host, Instant, WallTime};
use block_core::{BlockDevice, Image, MemoryDevice};
use dlm_api::local::LocalLocks;
use gfs_check::journal::{Journals, Log, Plan, Replayed, owners};
use gfs_check::{CheckError, Report};
use gfs_core::{Error, Fs, InodeRef, Lookup, MountOptions, NoKernelCaches, Ports, RequestOrigin};

/// Inodes that the engine reads of one image.
const INODES_MAX: usize = 400;
/// Bytes that it reads of one file, at its start and at its end.
const READ_MAX: u32 = 64 << 10;

/// Runs a future that never waits for anybody else.
pub fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

/// The check, on the image as it would be after a replay.
pub fn check(image: &Image) -> Result<Report, CheckError> {
    run(async {
        let device: Arc<dyn BlockDevice> = MemoryDevice::from_image(image.clone());
        let journals = Journals::open(device.clone()).await?;
        let mut plans = Vec::new();
        let mut refused = None;
        for journal in &journals.list {
            let plan = match Log::read(&journals, journal).await {
                Ok(log) => Plan::of(&journals, &log),
                Err(error) => Err(error),
            };
            match plan {
                Ok(plan) => plans.push(plan),
                Err(CheckError::Damaged(finding)) => refused = Some(*finding),
                Err(error) => return Err(error),
            }
        }
        let seen = Arc::new(Replayed::new(device, &journals, &plans).await?);
        let mut report = gfs_check::check(seen.clone()).await?;
        report.findings.extend(refused);
        if let Some(plan) = plans.iter().find(|plan| !plan.writes.is_empty()) {
            owners(seen, &plan.writes.keys().copied().collect()).await?;
        }
        Ok(report)
    })
}

/// A machine alone, whose tasks run when the main one waits, and whose time moves when all of them do.
struct IdleHost {
    tasks: Mutex<Vec<BoxFuture<'static, ()>>>,
    time: Arc<Mutex<Time>>,
    random: AtomicU64,
}

#[derive(Default)]
struct Time {
    now: u64,
    /// When somebody wants to be woken; may hold what nobody waits for any more.
    deadlines: BTreeSet<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("invariant: no panic under this lock")
}

impl Host for IdleHost {
    fn now(&self) -> Instant {
        Instant::from_nanos(lock(&self.time).now)
    }

    fn wall_time(&self) -> WallTime {
        WallTime { seconds: 1_700_000_000, nanos: 0 }
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let (deadline, time) = (deadline.as_nanos(), self.time.clone());
        lock(&time).deadlines.insert(deadline);
        Box::pin(std::future::poll_fn(move |_| match lock(&time).now >= deadline {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        lock(&self.tasks).push(task);
    }

    fn random(&self) -> u64 {
        self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }
}

/// Seconds of the engine's time after which it counts as hung.
const TIME_MAX: u64 = 600 * 1_000_000_000;
/// Rounds at one moment after which it does.
const ROUNDS_MAX: u32 = 10_000;

/// Runs `future` beside the host's tasks.
fn run_with<F: Future>(host: &IdleHost, future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    let mut running: Vec<BoxFuture<'static, ()>> = Vec::new();
    let mut rounds = 0;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        running.append(&mut lock(&host.tasks));
        running.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
        rounds += 1;
        // Nothing wakes anybody here, so everybody gets some rounds before time moves.
        if rounds % 4 == 0 {
            let mut time = lock(&host.time);
            if let Some(next) = time.deadlines.pop_first() {
                rounds = if next > time.now { 0 } else { rounds };
                time.now = time.now.max(next);
            }
            assert!(time.now < TIME_MAX && rounds < ROUNDS_MAX, "the engine waits for ever");
        }
    }
}

/// What the engine said.
#[derive(Debug, Default)]
pub struct Read {
    pub inodes: usize,
    pub errors: Vec<Error>,
}

/// Mounts the image, which replays its journals, and reads what there is.
pub fn engine(image: &Image) -> Read {
    let host = Arc::new(IdleHost { tasks: Mutex::default(), time: Arc::default(), random: AtomicU64::new(1) });
    let ports = Ports {
        device: MemoryDevice::from_image(image.clone()),
        locks: Arc::new(LocalLocks::new()),
        host: host.clone(),
        caches: Arc::new(NoKernelCaches),
    };
    run_with(&host, async {
        let mut read = Read::default();
        let options = MountOptions { is_read_only: true, has_acls: true, ..MountOptions::default() };
        match Fs::mount(ports, options).await {
            Ok(fs) => {
                walk(&fs, &mut read).await;
                if let Err(error) = fs.unmount().await {
                    read.errors.push(error);
                }
            }
            Err(error) => read.errors.push(error),
        }
        read
    })
}

async fn walk(fs: &Fs, read: &mut Read) {
    let mut pending = vec![fs.root()];
    while let Some(inode) = pending.pop() {
        if read.inodes >= INODES_MAX || fs.is_withdrawn() {
            return;
        }
        read.inodes += 1;
        let attributes = match fs.getattr(inode).await {
            Ok(reply) => reply.attributes,
            Err(error) => {
                read.errors.push(error);
                continue;
            }
        };
        match fs.list_xattrs(inode).await {
            Ok(names) => {
                for name in names.iter().take(20) {
                    read.errors.extend(fs.get_xattr(inode, name).await.err());
                }
            }
            Err(error) => read.errors.push(error),
        }
        match attributes.mode >> 12 {
            4 => directory(fs, inode, &mut pending, read).await,
            8 => {
                let end = attributes.size.saturating_sub(u64::from(READ_MAX));
                for offset in [0, end] {
                    read.errors.extend(fs.read(inode, offset, READ_MAX, RequestOrigin::Call).await.err());
                }
            }
            10 => read.errors.extend(fs.readlink(inode).await.err()),
            _ => {}
        }
    }
}

async fn directory(fs: &Fs, inode: InodeRef, pending: &mut Vec<InodeRef>, read: &mut Read) {
    let mut from = 0;
    // A listing that goes nowhere would be a hang.
    for _ in 0..INODES_MAX {
        let entries = match fs.readdir(inode, from, 64).await {
            Ok(entries) => entries,
            Err(error) => return read.errors.push(error),
        };
        let Some(last) = entries.last() else { return };
        from = last.next;
        for entry in entries {
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            match fs.lookup(inode, &entry.name).await {
                Ok(Lookup::Found(found)) => {
                    let attributes = &found.attributes;
                    pending.push(InodeRef { number: attributes.inode, generation: attributes.generation });
                }
                Ok(Lookup::Missing(_)) => {}
                Err(error) => read.errors.push(error),
            }
        }
    }
}
