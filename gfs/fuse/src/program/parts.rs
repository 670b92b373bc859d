//! What a mount stands on: its device and its locks, from their names.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::NodeId;
use block_core::dev::{DevName, DevNameError};
use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset};
use block_file::{FileDevice, OpenError, OpenErrorCause, OpenOptions};
use dlm_api::LockManager;
use dlm_api::local::LocalLocks;
use dlm_node::{JoinError, JoinOptions, Member, View, ViewError};
use gfs_format::Superblock;
use gfs_format::superblock::{SUPERBLOCK_OFFSET, SuperblockError};
use iscsi_target_initiator::{ConnectError, Initiator};

use super::arguments::{LockProtocol, Options};

/// Why a mount's parts could not be had.
#[derive(Debug)]
pub enum PartError {
    Name(DevNameError),
    Open(OpenError),
    Connect(ConnectError),
    /// Logical volumes are not mapped by this build.
    Volume {
        vg: String,
        lv: String,
    },
    Read(BlockError),
    /// Not a GFS2 filesystem, or a damaged one.
    Superblock {
        device: String,
        error: SuperblockError,
    },
    /// The volume names a lock protocol that is not known.
    LockProtocol {
        name: String,
    },
    /// What `lock_dlm` needs and was not given.
    Missing {
        what: &'static str,
    },
    /// The volume belongs to another cluster than the view.
    OtherCluster {
        table: String,
        cluster: String,
    },
    View(ViewError),
    Join {
        lockspace: String,
        error: JoinError,
    },
    Task(tokio::task::JoinError),
}

impl fmt::Display for PartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => write!(f, "{error}"),
            Self::Open(error) => write!(f, "{error}"),
            Self::Connect(error) => write!(f, "{error}"),
            Self::Volume { vg, lv } => write!(f, "{vg}/{lv}: logical volumes cannot be mounted by this build"),
            Self::Read(error) => write!(f, "cannot read the superblock: {error}"),
            Self::Superblock { device, error } => write!(f, "{device}: {error}"),
            Self::LockProtocol { name } => {
                write!(f, "the filesystem wants the lock protocol \"{name}\"; choose one with -o lockproto=")
            }
            Self::Missing { what } => write!(f, "lock_dlm needs {what}"),
            Self::OtherCluster { table, cluster } => {
                write!(f, "the filesystem's lock table \"{table}\" is not of the cluster \"{cluster}\" of the view")
            }
            Self::View(error) => write!(f, "{error}"),
            Self::Join { lockspace, error } => write!(f, "cannot join the lockspace {lockspace}: {error}"),
            Self::Task(error) => write!(f, "cannot join the lockspace: {error}"),
        }
    }
}

impl std::error::Error for PartError {}

/// Whether others on this machine may have an image file open as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Several nodes of one machine may serve one image file: that nobody mounts twice is for the
    /// lockspace to say.
    Shared,
    Alone,
}

/// What a mount may do with its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    /// A read-only mount replays a dirty journal, as the kernel does, where it can.
    ReadOnlyButForReplay,
    Write,
}

impl Access {
    /// What the options need.
    pub fn of(options: &Options) -> Access {
        match (options.is_read_only, options.is_spectator) {
            (_, true) => Access::ReadOnly,
            (true, false) => Access::ReadOnlyButForReplay,
            (false, false) => Access::Write,
        }
    }
}

/// Opens the device that `text` names.
pub async fn open_device(text: &str, access: Access, sharing: Sharing) -> Result<Arc<dyn BlockDevice>, PartError> {
    match DevName::parse(text, Path::exists).map_err(PartError::Name)? {
        DevName::Path(path) => {
            let exclusive = sharing == Sharing::Alone || is_block_device(&path);
            let open = |read_only| FileDevice::open(&path, OpenOptions { read_only, exclusive, ..Default::default() });
            let opened = match (access, open(access == Access::ReadOnly)) {
                (Access::ReadOnlyButForReplay, Err(error)) if is_write_refused(&error) => open(true),
                (_, opened) => opened,
            };
            Ok(opened.map_err(PartError::Open)?)
        }
        DevName::Iscsi(url) => Ok(Initiator::connect(&url, iscsi_target_initiator::Options::default())
            .await
            .map_err(PartError::Connect)?),
        DevName::Volume { vg, lv } => Err(PartError::Volume { vg, lv }),
    }
}

fn is_write_refused(error: &OpenError) -> bool {
    matches!(error.cause, OpenErrorCause::ReadOnly | OpenErrorCause::Denied { .. })
}

fn is_block_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

/// Reads and checks the superblock.
pub async fn read_superblock(device: &Arc<dyn BlockDevice>, shown: &str) -> Result<Superblock, PartError> {
    let sector = u64::from(device.geometry().sector);
    let len = ByteLen((size_of::<Superblock>() as u64).next_multiple_of(sector));
    let bytes = device.read(ByteOffset(SUPERBLOCK_OFFSET), len).await.map_err(PartError::Read)?;
    Superblock::decode(&bytes).map_err(|error| PartError::Superblock { device: shown.to_owned(), error })
}

/// The protocol asked for, else the one that the filesystem was made with.
pub fn lock_protocol(options: &Options, superblock: &Superblock) -> Result<LockProtocol, PartError> {
    options.lock_protocol.or_else(|| LockProtocol::parse(superblock.lock_protocol())).ok_or_else(|| {
        PartError::LockProtocol { name: String::from_utf8_lossy(superblock.lock_protocol()).into_owned() }
    })
}

/// `CLUSTER:FILESYSTEM`: the one asked for, else the one that the filesystem was made with; may be empty.
pub fn lock_table(options: &Options, superblock: &Superblock) -> String {
    let on_disk = || String::from_utf8_lossy(superblock.lock_table()).into_owned();
    options.lock_table.clone().unwrap_or_else(on_disk)
}

/// The locks of a mount.
pub enum Locks {
    Local(Arc<LocalLocks>),
    Member(Arc<Member>),
}

/// How long joining may take: every member of the view has to be there.
const JOIN_MAX: Duration = Duration::from_secs(60);
/// How long leaving in order may take.
const LEAVE_MAX: Duration = Duration::from_secs(20);

/// Joins the lockspace.
pub async fn open_locks(
    protocol: LockProtocol,
    options: &Options,
    superblock: &Superblock,
) -> Result<Locks, PartError> {
    match protocol {
        LockProtocol::NoLock => Ok(Locks::Local(Arc::new(LocalLocks::new()))),
        LockProtocol::Dlm => join(options, superblock).await.map(Locks::Member),
    }
}

async fn join(options: &Options, superblock: &Superblock) -> Result<Arc<Member>, PartError> {
    let table = lock_table(options, superblock);
    let missing_table =
        PartError::Missing { what: "-o locktable=CLUSTER:FILESYSTEM, which the filesystem does not name" };
    let (cluster, lockspace) = table.split_once(':').ok_or(missing_table)?;
    let view =
        options.view.as_ref().ok_or(PartError::Missing { what: "-o view=FILE, the members of the lockspace" })?;
    let node = options.node.ok_or(PartError::Missing { what: "-o node=N, this node's number in the view" })?;
    let view = View::from_file(view).map_err(PartError::View)?;
    if view.cluster != cluster {
        return Err(PartError::OtherCluster { table: table.clone(), cluster: view.cluster });
    }
    let lockspace = lockspace.to_owned();
    let joined = tokio::task::spawn_blocking(move || {
        let options = JoinOptions {
            within: Some(JOIN_MAX),
            progress: None,
            lost: Some(Box::new(|node, why| tracing::error!(%node, why, "a member is lost"))),
        };
        Member::join_with(&view, NodeId(node), &lockspace, options)
            .map_err(|error| PartError::Join { lockspace: lockspace.clone(), error })
    });
    joined.await.map_err(PartError::Task)?
}

impl Locks {
    pub fn manager(&self) -> Arc<dyn LockManager> {
        match self {
            Locks::Local(local) => local.clone(),
            Locks::Member(member) => member.clone(),
        }
    }

    /// Leaves the lockspace; every lock has been given up.
    pub async fn close(self) {
        let Locks::Member(member) = self else { return };
        let left = tokio::task::spawn_blocking(move || member.leave(LEAVE_MAX)).await;
        match left {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the lockspace was not left in order"),
            Err(error) => tracing::error!(%error, "the lockspace was not left in order"),
        }
    }
}
