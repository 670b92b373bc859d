//! What a fence promises: once it has answered, nothing of the initiator lands any more, and it stays out, whatever was
//! under way and however slow the device is.

mod load;
#[path = "../program/running.rs"]
#[expect(dead_code, reason = "shared with the tests of the program")]
mod running;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use block_core::{BlockDevice, ByteLen, ByteOffset, HeldDevice, MemoryDevice, RequestKind};
use corral_target::access::Access;
use corral_target::fence::{Fences, Whom};
use corral_target::portal::Portals;
use corral_target::registry::Target;
use corral_target::server::Server;
use corral_target::unit::LogicalUnit;
use iscsi_target_proto::initiator::CloseReason;
use iscsi_target_proto::pdu::LoginStatus;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use load::{Numbers, SlowDevice, StuckDevice, Writer};
use running::Directory;

const TARGET: &str = "iqn.2026-11.org.corral:fencing";
const VICTIM: &str = "iqn.2026-11.org.corral:victim";
const OTHER: &str = "iqn.2026-11.org.corral:other";
/// Blocks of the unit: the first half is the victim's.
const BLOCKS: u64 = 512;

/// A target over a device of the test's.
struct Served {
    server: Arc<Server>,
    address: SocketAddr,
    runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
    directory: Directory,
}

impl Served {
    fn start(device: impl FnOnce(&Runtime) -> Arc<dyn BlockDevice>) -> Self {
        let runtime =
            Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime can be made");
        let directory = Directory::new();
        let unit = LogicalUnit::over(0, TARGET, device(&runtime), None);
        let target = Target::new(TARGET.to_owned(), Access::default(), vec![unit]);
        let fences = Fences::open(directory.path("fences.json").into()).expect("there is none yet");
        let portals =
            runtime.block_on(Portals::bind(&[vec![SocketAddr::from(([127, 0, 0, 1], 0))]])).expect("a port is free");
        let address = portals.addresses()[0];
        let server = Arc::new(Server::new(vec![target], None, fences, portals.addresses()));
        let (stop, stopped) = oneshot::channel();
        let served = server.clone();
        runtime.spawn(portals.serve(served, async move {
            let _ = stopped.await;
        }));
        Self { server, address, runtime, stop: Some(stop), directory }
    }

    fn writer(&self, name: &str, qualifier: u32, seed: u64) -> Writer {
        let blocks = if name == OTHER { (BLOCKS / 2, BLOCKS) } else { (0, BLOCKS / 2) };
        Writer::start(self.address, TARGET, name, qualifier, blocks, seed)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

fn victim() -> Whom {
    VICTIM.parse().expect("a name")
}

/// Waits until a writer has got `more` further answers.
fn wait_for_answers(writer: &Writer, more: u64) {
    let wanted = writer.answered.load(Ordering::Relaxed) + more;
    while writer.answered.load(Ordering::Relaxed) < wanted {
        std::thread::yield_now();
    }
}

fn victims_blocks(memory: &MemoryDevice) -> Vec<u8> {
    let mut read = memory.read(ByteOffset(0), ByteLen(BLOCKS / 2 * 512));
    match read.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(content) => content.expect("it is in range").to_vec(),
        std::task::Poll::Pending => panic!("a disk in memory does not wait"),
    }
}

fn is_refused(reason: &CloseReason) -> bool {
    matches!(reason, CloseReason::LoginRefused { status: LoginStatus::AUTHORIZATION_FAILURE, .. })
}

#[test]
fn after_a_fence_under_load_nothing_of_the_initiator_lands() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    eprintln!("SEED={seed}");
    let mut numbers = Numbers(seed);
    let memory = MemoryDevice::new(ByteLen(BLOCKS * 512));
    let slow = memory.clone();
    let served = Served::start(|runtime| {
        let longest = Duration::from_millis(20);
        Arc::new(SlowDevice { memory: slow, runtime: runtime.handle().clone(), longest, seed: AtomicU64::new(seed) })
    });
    let other = served.writer(OTHER, 9, numbers.next());
    for round in 0..12 {
        let writers: Vec<_> = (0..3).map(|qualifier| served.writer(VICTIM, qualifier, numbers.next())).collect();
        writers.iter().for_each(|writer| wait_for_answers(writer, numbers.next() % 100));
        let (has_changed, mut leaving) = served.server.fence(&victim()).expect("the fence is kept");
        assert!(has_changed);
        served.runtime.block_on(leaving.wait());
        let content = victims_blocks(&memory);
        // Longer than the slowest request takes, many times over: each of these comes after the one before.
        wait_for_answers(&other, 300);
        assert!(victims_blocks(&memory) == content, "round {round}: a write of the fenced initiator landed");
        for writer in writers {
            assert!(matches!(writer.join(), CloseReason::StreamEnded { .. }));
        }
        assert!(is_refused(&served.writer(VICTIM, 0, 1).join()));
        assert!(served.server.fences.remove(&victim()).expect("the file can be written"));
    }
    assert!(served.server.fence(&OTHER.parse().expect("a name")).is_ok());
    assert!(matches!(other.join(), CloseReason::StreamEnded { .. }));
}

#[test]
fn a_fence_waits_for_the_device_and_cuts_the_connection_at_once() {
    let memory = MemoryDevice::new(ByteLen(BLOCKS * 512));
    let held = HeldDevice::new(memory.clone());
    held.hold(|request| request.kind == RequestKind::Write);
    let device = held.clone();
    let served = Served::start(|_| device);
    let writer = served.writer(VICTIM, 1, 1);
    served.runtime.block_on(held.arrived(1));
    let (_, mut leaving) = served.server.fence(&victim()).expect("the fence is kept");
    // The initiator sees the end although the device has its writes.
    assert!(matches!(writer.join(), CloseReason::StreamEnded { .. }));
    // Its place is not given to a new session of the same port either.
    assert!(is_refused(&served.writer(VICTIM, 1, 2).join()));
    let mut context = Context::from_waker(Waker::noop());
    let is_over = |leaving: &mut corral_target::guests::Leaving, context: &mut Context<'_>| {
        std::pin::pin!(leaving.wait()).as_mut().poll(context).is_ready()
    };
    assert!(!is_over(&mut leaving, &mut context));
    while leaving.under_way() == 0 {
        std::thread::yield_now();
    }
    let requests = held.held();
    for (index, request) in requests.iter().enumerate() {
        assert!(!is_over(&mut leaving, &mut context), "{index} of {} requests had ended", requests.len());
        assert!(held.release(request.number));
    }
    served.runtime.block_on(leaving.wait());
    assert!(held.held().is_empty(), "something reached the device after the cut");
}

#[test]
fn a_fence_cuts_a_connection_whose_thread_waits_for_the_device() {
    let memory = MemoryDevice::new(ByteLen(BLOCKS * 512));
    let (stuck, entered, release) = StuckDevice::new(memory.clone());
    let served = Served::start(|_| stuck);
    let writer = served.writer(VICTIM, 1, 1);
    entered.recv().expect("a write comes");
    let (_, mut leaving) = served.server.fence(&victim()).expect("the fence is kept");
    assert!(matches!(writer.join(), CloseReason::StreamEnded { .. }));
    let mut context = Context::from_waker(Waker::noop());
    assert!(std::pin::pin!(leaving.wait()).as_mut().poll(&mut context).is_pending());
    drop(release);
    served.runtime.block_on(leaving.wait());
    let content = victims_blocks(&memory);
    assert!(is_refused(&served.writer(VICTIM, 1, 2).join()));
    assert!(victims_blocks(&memory) == content);
}

#[test]
fn a_login_that_was_under_way_when_the_fence_came_does_not_succeed() {
    let memory = MemoryDevice::new(ByteLen(BLOCKS * 512));
    let held = HeldDevice::new(memory);
    held.hold(|request| request.kind == RequestKind::Write);
    let device = held.clone();
    let served = Served::start(|_| device);
    let older = served.writer(VICTIM, 1, 1);
    served.runtime.block_on(held.arrived(1));
    // Waits for the end of the older session, which the device holds up.
    let newer = served.writer(VICTIM, 1, 2);
    older.join();
    let (_, mut leaving) = served.server.fence(&victim()).expect("the fence is kept");
    held.release_all();
    served.runtime.block_on(leaving.wait());
    let reason = newer.join();
    assert!(is_refused(&reason) || matches!(reason, CloseReason::StreamEnded { .. }), "{reason:?}");
    assert!(served.server.guests.all().is_empty());
}

#[test]
fn a_fence_is_there_after_a_restart_and_by_address_too() {
    let memory = MemoryDevice::new(ByteLen(BLOCKS * 512));
    let served = Served::start(|_| memory);
    let loopback: Whom = "127.0.0.0/8".parse().expect("a range");
    assert!(served.server.fence(&loopback).is_ok_and(|(has_changed, _)| has_changed));
    assert!(served.server.fence(&victim()).is_ok_and(|(has_changed, _)| has_changed));
    assert!(served.server.fence(&victim()).is_ok_and(|(has_changed, _)| !has_changed));
    assert!(is_refused(&served.writer(OTHER, 1, 1).join()));
    let again = Fences::open(served.directory.path("fences.json").into()).expect("it is whole");
    let elsewhere = IpAddr::from([10, 0, 0, 1]);
    assert!(again.bars(VICTIM, elsewhere) && again.bars(OTHER, IpAddr::from([127, 0, 0, 1])));
    assert!(!again.bars(OTHER, elsewhere));
}
