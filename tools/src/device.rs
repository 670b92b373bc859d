//! Opens DEV for commands that look at a disk or change a label on it: a file, a block device, a unit of an iSCSI
//! target. Reading takes no lock, so that a volume in use can be looked at; writing is exclusive.
//!
//! Called by `fs`, `faces` and `journal`. Everything is polled on the calling thread by [`block_on`].

use std::path::Path;
use std::sync::Arc;

use block_core::{BlockDevice, DevName};
use block_file::{FileDevice, OpenErrorCause, OpenOptions};
use iscsi_target_initiator::{Initiator, IscsiDevice, Options};

/// What a command wants to do with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Beside whoever uses it.
    Read,
    /// Alone: refused while it is mounted or open for writing elsewhere on this machine.
    Write,
}

/// An open device, and the session to end when the work is done.
pub struct Opened {
    pub device: Arc<dyn BlockDevice>,
    session: Option<Arc<IscsiDevice>>,
}

impl Opened {
    /// Lets go of the device; logs out of a target.
    pub async fn close(self) {
        drop(self.device);
        if let Some(session) = self.session {
            session.close().await;
        }
    }
}

/// Opens the device that a user has named. The message says what was wrong with which name; a missing path is told
/// in the system's words.
pub async fn open(name: &str, access: Access) -> Result<Opened, String> {
    match DevName::parse(name, Path::exists).map_err(|error| format!("{name}: {error}"))? {
        DevName::Path(path) => {
            let read_only = access == Access::Read;
            let options = OpenOptions { read_only, exclusive: !read_only, ..OpenOptions::default() };
            let device = FileDevice::open(&path, options).map_err(|error| match error.cause {
                OpenErrorCause::NotFound => format!("{name}: No such file or directory"),
                _ => error.to_string(),
            })?;
            Ok(Opened { device, session: None })
        }
        DevName::Iscsi(url) => {
            let session =
                Initiator::connect(&url, Options::default()).await.map_err(|error| format!("{url}: {error}"))?;
            if access == Access::Write && session.is_read_only() {
                session.close().await;
                return Err(format!("{url}: it can only be read"));
            }
            Ok(Opened { device: session.clone(), session: Some(session) })
        }
        DevName::Volume { .. } => Err(format!("{name}: a logical volume cannot be reached from here yet")),
    }
}

/// Opens `name`, hands it to `work`, and lets go of it whatever came of that.
pub fn with<T, F: Future<Output = Result<T, String>>>(
    name: &str,
    access: Access,
    work: impl FnOnce(Arc<dyn BlockDevice>) -> F,
) -> Result<T, String> {
    block_on(async {
        let opened = open(name, access).await?;
        let result = work(opened.device.clone()).await;
        opened.close().await;
        result
    })?
}

/// Runs `future` to its end on this thread; iSCSI sessions run beside it.
pub fn block_on<F: Future>(future: F) -> Result<F::Output, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    Ok(runtime.block_on(future))
}
