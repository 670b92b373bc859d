//! Two mounts of a toy filesystem in one process, over a trivial lock manager, with the real
//! session, gate and cache dropping. Every pair runs under a watchdog that aborts its connections.
//!
//! Nothing in this process maps a file of the mounts: a page fault may hold the process's memory
//! map while it waits for us. Mappers are child processes (`child`).

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod child;
pub mod cluster;
pub mod filesystem;
pub mod glock;
pub mod map;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gfs_fuse::handles::Handles;
use gfs_fuse::kernel_caches::MountCaches;
use gfs_fuse::nodes::Nodes;
use gfs_fuse::server::Server;
use gfs_fuse::session::{Mounts, Serving, Session, SessionOptions, SizeChanges};
use nix::mount::MsFlags;
use tokio::runtime::Runtime;

use cluster::{Cluster, Shared};
use filesystem::{Toy, ToyHandler};

/// Two mounts.
pub struct Pair {
    pub nodes: Vec<Node>,
    pub cluster: Shared,
    runtime: Option<Runtime>,
    done: Option<mpsc::Sender<()>>,
    watchdog: Option<JoinHandle<()>>,
    is_late: Arc<AtomicBool>,
}

pub struct Node {
    pub toy: Arc<Toy>,
    pub session: Session,
    pub directory: PathBuf,
    serving: Option<Serving>,
}

static PAIRS: AtomicU64 = AtomicU64::new(0);

/// `None`, said loudly, where the tests cannot run.
pub fn pair(name: &str, limit: Duration) -> Option<Pair> {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("SKIPPED {name}: needs root and /dev/fuse");
        return None;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cluster = Arc::new(Cluster::default());
    let mounts = Arc::new(Mounts::default());
    let mut nodes = Vec::new();
    for node in 0..2 {
        let number = PAIRS.fetch_add(1, Ordering::SeqCst);
        let directory = std::env::temp_dir().join(format!("corral-toy-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let session = Session::mount(SessionOptions {
            source: "toy".into(),
            mountpoint: directory.clone(),
            flags: MsFlags::empty(),
            readers: 2,
            sizes: SizeChanges::Elsewhere,
            has_acls: false,
        })
        .unwrap();
        mounts.add(session.connection());
        let known = Arc::new(Nodes::default());
        let handles = Arc::new(Handles::default());
        let caches = MountCaches::new(session.notifier(), known.clone(), handles.clone());
        let toy = Toy::new(node, cluster.clone(), caches, known.clone(), handles);
        let releasing = toy.clone();
        let server = Server::new(
            runtime.handle().clone(),
            session.interrupts().clone(),
            known,
            Box::new(move |handle| {
                releasing.handles.remove(handle);
            }),
        );
        let weak: std::sync::Weak<Toy> = Arc::downgrade(&toy);
        cluster.join(node, weak);
        let serving = session.serve(Arc::new(ToyHandler(toy.clone(), server))).unwrap();
        nodes.push(Node { toy, session, directory, serving: Some(serving) });
    }
    let (done, stopped) = mpsc::channel();
    let is_late = Arc::new(AtomicBool::new(false));
    let (late, name) = (is_late.clone(), name.to_owned());
    let watchdog = thread::spawn(move || {
        if let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(limit) {
            eprintln!("WATCHDOG {name}: still running after {limit:?}; aborting its connections");
            late.store(true, Ordering::SeqCst);
            mounts.abort_all();
            if let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_secs(5)) {
                std::process::abort();
            }
        }
    });
    Some(Pair { nodes, cluster, runtime: Some(runtime), done: Some(done), watchdog: Some(watchdog), is_late })
}

impl Pair {
    pub fn path(&self, node: usize, name: &str) -> PathBuf {
        self.nodes[node].directory.join(name)
    }

    pub fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap()
    }

    /// A file as it would be after a fresh start: known to no kernel.
    pub fn plant(&self, name: &str, data: Vec<u8>) {
        let mut disk = self.cluster.disk.lock().unwrap();
        disk.last += 1;
        let number = 100 + disk.last;
        disk.root.insert(name.as_bytes().to_vec(), number);
        disk.files.insert(number, data);
    }

    pub fn is_late(&self) -> bool {
        self.is_late.load(Ordering::SeqCst)
    }

    /// Unmounts both and says what went wrong.
    pub fn finish(mut self) {
        self.close();
        let violations = self.cluster.violations.lock().unwrap().clone();
        assert!(violations.is_empty(), "served without the lock: {violations:?}");
        assert!(!self.is_late(), "the watchdog had to end it");
    }

    fn close(&mut self) {
        for node in &mut self.nodes {
            let Some(serving) = node.serving.take() else { continue };
            let _ = node.session.unmount();
            if thread::panicking() {
                let _ = node.session.connection().abort();
            }
            serving.join();
            let _ = std::fs::remove_dir(&node.directory);
        }
        if let Some(done) = self.done.take() {
            let _ = done.send(());
        }
        if let Some(watchdog) = self.watchdog.take() {
            let _ = watchdog.join();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.close();
    }
}

/// Versions of something: a writer is between `started` and `finished`.
#[derive(Default)]
pub struct Versions {
    pub started: AtomicU64,
    pub finished: AtomicU64,
}

impl Versions {
    /// Runs `read` and gives the versions it may have seen with what it saw.
    pub fn around<T>(&self, read: impl FnOnce() -> T) -> (u64, T, u64) {
        let first = self.finished.load(Ordering::SeqCst);
        let seen = read();
        (first, seen, self.started.load(Ordering::SeqCst))
    }

    /// Runs `write` as the next version.
    pub fn write(&self, write: impl FnOnce(u64)) {
        let version = self.finished.load(Ordering::SeqCst) + 1;
        self.started.store(version, Ordering::SeqCst);
        write(version);
        self.finished.store(version, Ordering::SeqCst);
    }
}

/// Calls `step` until the time is over; gives how often.
pub fn hammer(time: Duration, mut step: impl FnMut()) -> u64 {
    let end = now() + time;
    let mut count = 0;
    while now() < end {
        step();
        count += 1;
    }
    count
}

#[expect(clippy::disallowed_methods, reason = "tests of the real kernel run in real time")]
pub fn now() -> Instant {
    Instant::now()
}

pub const PAGE: usize = 4096;

/// A page that says its version everywhere.
pub fn page_of(version: u64) -> Vec<u8> {
    version.to_le_bytes().repeat(PAGE / 8)
}

/// The version of each whole page; panics if a page has two.
pub fn versions_of(bytes: &[u8]) -> Vec<u64> {
    let version = |page: &[u8]| {
        let first = u64::from_le_bytes(page[..8].try_into().unwrap());
        assert!(page == page_of(first), "a page has more than one version");
        first
    };
    bytes.chunks_exact(PAGE).map(version).collect()
}

/// Reads up to `len` bytes at `offset`, as far as the file goes.
pub fn read_at(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut got = 0;
    while got < len {
        match file.read_at(&mut bytes[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) => panic!("read: {error}"),
        }
    }
    bytes.truncate(got);
    bytes
}
