//! A mount: made with mount(2), its INIT negotiated, its requests read by threads of their own.
//!
//! Order at the start: mount, INIT (answered here, before anything else can come), find the
//! connection's number, then `serve`. A reader thread never blocks on anything but `/dev/fuse`
//! and what its handler does, and a handler must not wait.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::connection::Connection;
use crate::device::Device;
use crate::interrupt::Interrupts;
use crate::notify::Notifier;
use crate::reply::Reply;
use crate::request::{BadFrame, Operation, Request};
use crate::wire::{self, init};

/// Serves requests. Called on reader threads, concurrently.
pub trait Handler: Send + Sync + 'static {
    /// Answers now or later, through `reply`; must not wait.
    fn handle(&self, request: Request<'_>, reply: Reply);
    /// The kernel has dropped `lookups` references to `node`.
    fn forget(&self, node: u64, lookups: u64);
}

/// How to mount.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Shown as the mount's source to everybody: no secrets in it.
    pub source: String,
    pub mountpoint: PathBuf,
    pub flags: MsFlags,
    pub readers: usize,
    pub sizes: SizeChanges,
    /// The kernel asks for access control lists and goes by them.
    pub has_acls: bool,
}

/// Who else may change a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeChanges {
    /// Nobody: pages go only when we say so.
    HereOnly,
    /// Other nodes: the kernel asks for the attributes before a cached read when it has none, so
    /// that a read ends where the file ends now.
    Elsewhere,
}

/// What the kernel agreed to.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    pub minor: u32,
    /// Flags in force (`wire::init`).
    pub flags: u64,
}

impl Kernel {
    pub fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// What this kernel lacks, and what is lost by it; to be shown at mount.
    pub fn lacks(&self) -> Vec<&'static str> {
        let mut lacks = Vec::new();
        if self.minor < wire::MINOR_EPOCH {
            lacks.push("no epoch (Linux 6.16): names are looked up every time");
        }
        if !self.has(init::DIRECT_IO_ALLOW_MMAP) {
            lacks.push("no shared mmap of files that are open for writing (Linux 6.6)");
        }
        if !self.has(init::HANDLE_KILLPRIV_V2) {
            lacks.push("set-user-id bits are cleared by extra requests (Linux 5.12)");
        }
        lacks
    }
}

/// Why a mount failed.
#[derive(Debug)]
pub enum MountError {
    /// `/dev/fuse` cannot be opened.
    Device(io::Error),
    /// The mount point is not a directory that can be used.
    Mountpoint { path: PathBuf, error: io::Error },
    /// mount(2) refused.
    Mount { path: PathBuf, error: Errno },
    /// The kernel's FUSE is too old.
    TooOld { major: u32, minor: u32 },
    /// The first request was not INIT, or could not be answered.
    Init(io::Error),
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => write!(f, "cannot open /dev/fuse: {error} (is the fuse module loaded?)"),
            Self::Mountpoint { path, error } => write!(f, "mount point {}: {error}", path.display()),
            Self::Mount { path, error } => write!(f, "cannot mount at {}: {}", path.display(), error.desc()),
            Self::TooOld { major, minor } => {
                write!(f, "the kernel speaks FUSE {major}.{minor}; {}.{} is needed", wire::MAJOR, wire::MINOR_OLDEST)
            }
            Self::Init(error) => write!(f, "the kernel's FUSE did not start: {error}"),
        }
    }
}

impl std::error::Error for MountError {}

/// How far an unmount has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounting {
    Done,
    /// Out of the tree; the last user ends it.
    WhenUnused,
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// umount, or nothing refers to the mount any more.
    Unmounted,
    /// The connection was aborted.
    Aborted,
}

/// A mounted filesystem.
pub struct Session {
    device: Arc<Device>,
    mountpoint: PathBuf,
    kernel: Kernel,
    connection: Connection,
    interrupts: Arc<Interrupts>,
    readers: usize,
}

/// The threads that serve a session.
pub struct Serving {
    readers: Vec<JoinHandle<End>>,
    watcher: JoinHandle<()>,
    interrupts: Arc<Interrupts>,
}

/// Largest WRITE and READ.
pub const MAX_WRITE: u32 = 1 << 20;
/// Pages of a request: what MAX_WRITE needs with 4 KiB pages, and the kernel's default limit.
const MAX_PAGES: u16 = 256;
/// Background requests (readahead, write-back) the kernel may have under way. Practically
/// unlimited, and it must be: requests parked for one glock would fill a small limit, the reads of
/// another inode that its drain waits for would queue behind them in the kernel, and two nodes
/// that do this to one another never end.
const MAX_BACKGROUND: u16 = u16::MAX;

const WANTED: u64 = init::ASYNC_READ
    | init::ATOMIC_O_TRUNC
    | init::BIG_WRITES
    | init::PARALLEL_DIROPS
    | init::ABORT_ERROR
    | init::MAX_PAGES
    | init::HANDLE_KILLPRIV_V2
    | init::INIT_EXT
    | init::HAS_EXPIRE_ONLY
    | init::DIRECT_IO_ALLOW_MMAP
    | init::NO_EXPORT_SUPPORT
    // A directory's default access control list takes the umask's place, which only we know.
    | init::DONT_MASK
    | init::SETXATTR_EXT;

impl Session {
    /// Mounts and negotiates. Needs root.
    pub fn mount(options: SessionOptions) -> Result<Session, MountError> {
        let at = |error| MountError::Mountpoint { path: options.mountpoint.clone(), error };
        let mountpoint = options.mountpoint.canonicalize().map_err(at)?;
        let device = Arc::new(Device::open().map_err(MountError::Device)?);
        let data =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", device.raw_fd());
        mount(Some(options.source.as_str()), &mountpoint, Some("fuse.gfs2"), options.flags, Some(data.as_str()))
            .map_err(|error| MountError::Mount { path: mountpoint.clone(), error })?;
        let started = negotiate(&device, options.sizes, options.has_acls)
            .and_then(|kernel| Ok((kernel, Connection::of_mount(&mountpoint).map_err(MountError::Init)?)));
        match started {
            Ok((kernel, connection)) => Ok(Session {
                device,
                mountpoint,
                kernel,
                connection,
                interrupts: Arc::default(),
                readers: options.readers.max(1),
            }),
            Err(error) => {
                let _ = umount2(&mountpoint, MntFlags::MNT_DETACH);
                Err(error)
            }
        }
    }

    /// Starts the reader threads.
    pub fn serve(&self, handler: Arc<dyn Handler>) -> io::Result<Serving> {
        let interrupts = self.interrupts.clone();
        let watcher = thread::Builder::new().name("fuse-interrupt".into()).spawn(move || interrupts.watch())?;
        let mut serving = Serving { readers: Vec::new(), watcher, interrupts: self.interrupts.clone() };
        for index in 0..self.readers {
            let device = if index == 0 { self.device.clone() } else { Arc::new(self.device.attach()?) };
            let reader = Reader { device, handler: handler.clone(), interrupts: self.interrupts.clone() };
            serving.readers.push(thread::Builder::new().name(format!("fuse-{index}")).spawn(move || reader.run())?);
        }
        Ok(serving)
    }

    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    pub fn notifier(&self) -> Notifier {
        Notifier::new(self.device.clone(), self.kernel.minor)
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    pub fn interrupts(&self) -> &Arc<Interrupts> {
        &self.interrupts
    }

    /// As the kernel knows it: absolute, links resolved.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// umount(2), or, while files are open, takes the mount out of the tree: serving ends when the
    /// kernel has let go of the last. May wait for requests that are being served.
    pub fn unmount(&self) -> Result<Unmounting, Errno> {
        match umount2(&self.mountpoint, MntFlags::UMOUNT_NOFOLLOW) {
            // EINVAL: somebody was faster.
            Ok(()) | Err(Errno::EINVAL) => Ok(Unmounting::Done),
            Err(Errno::EBUSY) => {
                umount2(&self.mountpoint, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
                Ok(Unmounting::WhenUnused)
            }
            Err(other) => Err(other),
        }
    }
}

impl Serving {
    /// Waits until the mount is gone.
    pub fn join(self) -> End {
        let mut end = End::Unmounted;
        for reader in self.readers {
            match reader.join() {
                Ok(End::Unmounted) => {}
                Ok(End::Aborted) | Err(_) => end = End::Aborted,
            }
        }
        self.interrupts.stop();
        let _ = self.watcher.join();
        end
    }
}

/// One thread's part in serving.
struct Reader {
    device: Arc<Device>,
    handler: Arc<dyn Handler>,
    interrupts: Arc<Interrupts>,
}

impl Reader {
    fn run(self) -> End {
        let mut buffer = frame_buffer();
        loop {
            match self.device.read(&mut buffer) {
                Ok(len) => self.dispatch(&buffer[..len]),
                Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                    Errno::EINTR | Errno::EAGAIN | Errno::ENOENT => {}
                    Errno::ENODEV => return End::Unmounted,
                    Errno::ECONNABORTED => return End::Aborted,
                    _ => {
                        tracing::error!(%error, "cannot read from /dev/fuse");
                        return End::Aborted;
                    }
                },
            }
        }
    }

    fn dispatch(&self, frame: &[u8]) {
        let request = match Request::parse(frame) {
            Ok(request) => request,
            Err(BadFrame::Truncated { len }) => {
                tracing::error!(len, "a frame from the kernel is too short");
                return;
            }
            Err(BadFrame::BadBody { opcode, unique }) => {
                tracing::error!(opcode, "a request from the kernel does not fit its kind");
                Reply::new(self.device.clone(), unique).error(Errno::EINVAL);
                return;
            }
        };
        let reply = Reply::new(self.device.clone(), request.unique);
        match request.operation {
            Operation::Forget { lookups } => {
                reply.none();
                self.handler.forget(request.node, lookups);
            }
            Operation::BatchForget { nodes } => {
                reply.none();
                for node in nodes {
                    self.handler.forget(node.nodeid, node.nlookup);
                }
            }
            Operation::Interrupt { unique } => {
                reply.none();
                self.interrupts.interrupt(unique);
            }
            Operation::Init(_) => drop(reply.error(Errno::EIO)),
            Operation::Destroy => drop(reply.empty()),
            _ => self.handler.handle(request, reply),
        }
    }
}

/// Room for the largest request: a WRITE and its headers, which the kernel wants in one page.
fn frame_buffer() -> Vec<u8> {
    vec![0; MAX_WRITE as usize + 4096]
}

fn negotiate(device: &Arc<Device>, sizes: SizeChanges, has_acls: bool) -> Result<Kernel, MountError> {
    let mut buffer = frame_buffer();
    loop {
        let len = device.read(&mut buffer).map_err(MountError::Init)?;
        let unexpected =
            || MountError::Init(io::Error::new(io::ErrorKind::InvalidData, "the first request is not INIT"));
        let request = Request::parse(&buffer[..len]).map_err(|_| unexpected())?;
        let reply = Reply::new(device.clone(), request.unique);
        let Operation::Init(asked) = request.operation else { return Err(unexpected()) };
        if asked.major > wire::MAJOR {
            // A newer major asks again in ours.
            reply.value(&wire::InitOut { major: wire::MAJOR, minor: wire::MINOR, ..Default::default() });
            continue;
        }
        if asked.major < wire::MAJOR || asked.minor < wire::MINOR_OLDEST {
            reply.error(Errno::EPROTO);
            return Err(MountError::TooOld { major: asked.major, minor: asked.minor });
        }
        let (kernel, answer) = answer_init(&asked, sizes, has_acls);
        reply.value(&answer);
        return Ok(kernel);
    }
}

fn answer_init(asked: &wire::InitIn, sizes: SizeChanges, has_acls: bool) -> (Kernel, wire::InitOut) {
    let sizes = match sizes {
        SizeChanges::HereOnly => init::EXPLICIT_INVAL_DATA,
        SizeChanges::Elsewhere => init::AUTO_INVAL_DATA,
    };
    let offered = u64::from(asked.flags) | u64::from(asked.flags2) << 32;
    let acls = if has_acls { init::POSIX_ACL } else { 0 };
    let flags = offered & (WANTED | sizes | acls);
    let minor = asked.minor.min(wire::MINOR);
    let answer = wire::InitOut {
        major: wire::MAJOR,
        minor,
        max_readahead: asked.max_readahead,
        flags: (flags & u64::from(u32::MAX)) as u32,
        flags2: (flags >> 32) as u32,
        max_background: MAX_BACKGROUND,
        congestion_threshold: MAX_BACKGROUND,
        max_write: MAX_WRITE,
        max_pages: MAX_PAGES,
        // Times are kept in nanoseconds.
        time_gran: 1,
        ..Default::default()
    };
    (Kernel { minor, flags }, answer)
}

/// The mounts a process has made, so that a watchdog can end them all.
#[derive(Default)]
pub struct Mounts(Mutex<Vec<Connection>>);

impl Mounts {
    pub fn add(&self, connection: &Connection) {
        self.0.lock().expect("invariant: no panic under this lock").push(connection.clone());
    }

    /// Aborts every one of them; errors are for the log only.
    pub fn abort_all(&self) {
        for connection in self.0.lock().expect("invariant: no panic under this lock").iter() {
            if let Err(error) = connection.abort() {
                tracing::warn!(number = connection.number(), %error, "cannot abort the FUSE connection");
            }
        }
    }
}
