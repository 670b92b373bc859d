//! A mount from begin to end.
//!
//! 1. Device, superblock, locks, and the filesystem's own mount: nothing is visible yet, and
//!    whatever is wrong is said here.
//! 2. The FUSE mount; requests are served; the caller is told that it is ready.
//! 3. The end: umount(8), a signal, an aborted connection, or a withdrawal.
//! 4. When no request can come any more: handles are given back, the filesystem is unmounted, the
//!    lockspace is left.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gfs_core::{Fs, MountOptions, Ports};
use nix::mount::MsFlags;
use tokio::runtime::Handle as Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::arguments::{Arguments, LockProtocol};
use super::background::{self, Server as Background};
use super::host::ProcessHost;
use super::log;
use super::parts::{self, Access, Locks, Sharing};
use super::record::{Facts, Record, State};
use crate::adapter::{Adapter, WriterCaching};
use crate::handles::Handles;
use crate::kernel_caches::MountCaches;
use crate::nodes::Nodes;
use crate::port::CachePort;
use crate::server::Server;
use crate::session::{End, Session, SessionOptions, SizeChanges, Unmounting};

/// Threads that read requests: more than the processors gain nothing, one stalls behind a copy.
const READERS_MAX: usize = 4;
/// How often it is looked whether the filesystem has withdrawn.
const WITHDRAW_CHECK: Duration = Duration::from_millis(200);

/// A mount that ended otherwise than by being unmounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Withdrawn,
    Aborted,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Withdrawn => write!(f, "the filesystem has withdrawn after an error; unmount and mount it again"),
            Self::Aborted => write!(f, "the FUSE connection was aborted"),
        }
    }
}

impl Error for Failure {}

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Mounts, serves until the mount is gone, and unmounts.
pub async fn serve(arguments: Arguments, background: Background) -> Result<()> {
    let shown = background::shown_device(&arguments.device);
    let options = &arguments.options;
    check_mountpoint(&arguments.directory)?;
    let access = Access::of(options);
    let mut device = parts::open_device(&arguments.device, access, Sharing::Shared).await?;
    let superblock = parts::read_superblock(&device, &shown).await?;
    let protocol = parts::lock_protocol(options, &superblock)?;
    if protocol == LockProtocol::NoLock {
        // Without a lock manager nothing else keeps a second mount, or mkfs, away from it.
        drop(device);
        device = parts::open_device(&arguments.device, access, Sharing::Alone).await?;
    }
    let locks = parts::open_locks(protocol, options, &superblock).await?;
    let port = Arc::new(CachePort::default());
    let ports = Ports {
        device,
        locks: locks.manager(),
        host: Arc::new(ProcessHost::new(Runtime::current())),
        caches: port.clone(),
    };
    let mount_options = MountOptions {
        is_read_only: options.is_read_only,
        is_spectator: options.is_spectator,
        has_acls: options.has_acls,
        preferred_journal: options.node.map_or(0, |node| node - 1),
        ..Default::default()
    };
    let fs = match Fs::mount(ports, mount_options).await {
        Ok(fs) => fs,
        Err(error) => {
            locks.close().await;
            return Err(format!("{shown}: {error}").into());
        }
    };
    match show(&arguments, &shown, protocol, fs.clone(), &port) {
        Ok(mounted) => {
            let facts = Facts {
                device: shown,
                mountpoint: mounted.session.mountpoint().to_owned(),
                lock_table: parts::lock_table(options, &superblock),
                journal: fs.journal_slot(),
                log: log::path(&arguments),
            };
            let record = Record::begin(mounted.session.connection().number(), facts);
            mounted.run(fs, locks, background, record).await
        }
        Err(error) => {
            // Nothing was changed through it, so there is nothing to lose; the error is in the log.
            let _ = close(&fs, locks).await;
            Err(error)
        }
    }
}

/// A filesystem in the tree.
struct Mounted {
    session: Arc<Session>,
    adapter: Adapter,
}

/// Puts the filesystem into the tree and wires it to its requests.
fn show(arguments: &Arguments, shown: &str, protocol: LockProtocol, fs: Arc<Fs>, port: &CachePort) -> Result<Mounted> {
    let options = &arguments.options;
    let mut flags = options.flags;
    flags.set(MsFlags::MS_RDONLY, options.is_read_only);
    let readers = std::thread::available_parallelism().map_or(1, usize::from).clamp(2, READERS_MAX);
    let (sizes, writers) = match protocol {
        LockProtocol::NoLock => (SizeChanges::HereOnly, WriterCaching::WriteThrough),
        LockProtocol::Dlm => (SizeChanges::Elsewhere, WriterCaching::Direct),
    };
    let session = Arc::new(Session::mount(SessionOptions {
        source: shown.to_owned(),
        mountpoint: arguments.directory.clone(),
        flags,
        readers,
        sizes,
        has_acls: options.has_acls,
    })?);
    for lack in session.kernel().lacks() {
        warn!("this kernel has {lack}");
    }
    if protocol == LockProtocol::Dlm {
        warn!("flock and fcntl locks hold on this node only");
    }
    let nodes = Arc::new(Nodes::default());
    let handles = Arc::new(Handles::default());
    let caches = MountCaches::new(session.notifier(), nodes.clone(), handles.clone());
    port.attach(caches.clone(), fs.root().number.0);
    let interrupts = session.interrupts().clone();
    let server_nodes = nodes.clone();
    let adapter = Adapter::new(fs, nodes, handles, caches, writers, move |release| {
        Server::new(Runtime::current(), interrupts, server_nodes, release)
    });
    Ok(Mounted { session, adapter })
}

impl Mounted {
    async fn run(self, fs: Arc<Fs>, locks: Locks, background: Background, record: Record) -> Result<()> {
        let serving = self.session.serve(Arc::new(self.adapter.clone()))?;
        let (mountpoint, connection) = (self.session.mountpoint().display(), self.session.connection().number());
        info!(%mountpoint, connection, journal = fs.journal_slot(), "mounted");
        spare_from_oom();
        let watch = tokio::spawn(watch(self.session.clone(), fs.clone(), record.clone()));
        let told = background.ready();
        if let Err(error) = &told {
            error!(%error, "cannot tell that the mount is ready");
            let _ = self.session.unmount();
        }
        let end = tokio::task::spawn_blocking(move || serving.join()).await?;
        watch.abort();
        info!(?end, "the kernel has let go of the mount");
        self.adapter.finish().await;
        let is_withdrawn = fs.is_withdrawn();
        let closed = close(&fs, locks).await;
        match (fs.why_withdrawn(), closed) {
            (Some(why), _) => record.set(&State::NotClean { why: format!("it had withdrawn: {why}") }),
            (None, Err(error)) => record.set(&State::NotClean { why: error.to_string() }),
            (None, Ok(())) => record.end(),
        }
        told?;
        match end {
            _ if is_withdrawn => Err(Failure::Withdrawn.into()),
            End::Aborted => Err(Failure::Aborted.into()),
            End::Unmounted => Ok(()),
        }
    }
}

/// Looked at before the device is opened: a mount that cannot succeed must not replay a journal.
fn check_mountpoint(directory: &Path) -> Result<()> {
    let at = |what: String| format!("mount point {}: {what}", directory.display());
    let path = directory.canonicalize().map_err(|error| at(error.to_string()))?;
    let is_mount = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        fields.next().map(Path::new) == Some(&path) && fields.next() == Some("fuse.gfs2")
    };
    if std::fs::read_to_string("/proc/self/mounts")?.lines().any(is_mount) {
        return Err(at("there is a Corral mount already; `corral umount` it first".into()).into());
    }
    if !path.metadata().map_err(|error| at(error.to_string()))?.is_dir() {
        return Err(at("not a directory".into()).into());
    }
    Ok(())
}

/// A mount process that is killed for memory takes every user of the mount with it.
fn spare_from_oom() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-900") {
        info!(%error, "the process cannot be spared when memory runs out");
    }
}

async fn close(fs: &Fs, locks: Locks) -> gfs_core::Result<()> {
    if let Err(error) = fs.unmount().await {
        error!(%error, "the unmount was not clean: the journal has to be replayed before others go on");
        // The locks stay held in the eyes of the other members, who lose this one: what they
        // protect is not on the disk.
        return Err(error);
    }
    info!("unmounted");
    locks.close().await;
    Ok(())
}

/// Ends the mount on a signal, or when the filesystem has withdrawn.
async fn watch(session: Arc<Session>, fs: Arc<Fs>, record: Record) {
    let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        error!("signals cannot be caught");
        return;
    };
    let mut is_ending = false;
    loop {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
            () = tokio::time::sleep(WITHDRAW_CHECK) => {
                if let Some(why) = fs.why_withdrawn() {
                    record.set(&State::Withdrawn { why });
                    // Calls that wait end, and nothing cached is shown any more.
                    error!("the filesystem has withdrawn; its FUSE connection is aborted");
                    abort(&session);
                    return;
                }
                continue;
            }
        }
        if is_ending {
            warn!("a second signal: the FUSE connection is aborted");
            abort(&session);
            return;
        }
        is_ending = true;
        let session = session.clone();
        // umount(2) waits for requests that are served by other threads.
        let unmounted = tokio::task::spawn_blocking(move || session.unmount());
        match unmounted.await {
            Ok(Ok(Unmounting::Done)) => {}
            Ok(Ok(Unmounting::WhenUnused)) => {
                warn!("the mount is in use: it is out of the tree and ends with its last user");
            }
            Ok(Err(errno)) => error!(%errno, "cannot unmount"),
            Err(error) => error!(%error, "cannot unmount"),
        }
    }
}

fn abort(session: &Session) {
    if let Err(error) = session.connection().abort() {
        error!(%error, "cannot abort the FUSE connection");
    }
}
