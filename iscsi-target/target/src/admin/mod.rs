//! The administrator's way in: a unix socket in the state directory, for root (or the user who runs the target) alone.
//!
//! One request and its answer for each connection, each a line of JSON (`protocol`); what a request does is in
//! `commands`. A fence that waits for a device says so while it waits. Used by `corral target`.

mod commands;
mod protocol;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use self::protocol::{Answer, Request};
use crate::server::Server;

/// The socket's name in the state directory.
pub const SOCKET: &str = "admin.sock";
/// Requests at once; others wait.
const REQUESTS_MAX: usize = 16;
/// Longest request, in bytes.
const REQUEST_LENGTH_MAX: u64 = 64 * 1024;
/// How long a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// The listening socket; its name is gone when it is dropped.
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Listens in the state directory, which nobody else uses: a socket that is there was left behind.
    pub fn bind(state: &Path) -> Result<Self, String> {
        let path = state.join(SOCKET);
        let tell = |error: io::Error| format!("admin socket {}: {error}", path.display());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(tell(error)),
            _ => {}
        }
        // A socket's name has 107 bytes at most; through the open directory it is short whatever the directory's is.
        let directory = File::open(state).map_err(tell)?;
        let short = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
        // It is never there with more rights. Nothing else makes files during the start.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(short);
        umask(before);
        Ok(Self { listener: bound.map_err(tell)?, path: path.clone() })
    }

    /// Answers requests, until it is dropped.
    pub async fn serve(self, server: Arc<Server>) {
        let places = Arc::new(Semaphore::new(REQUESTS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let server = server.clone();
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, &server).await {
                            warn!(%error, "an administrator's request was not answered");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a request");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One request and its answer.
async fn converse(stream: UnixStream, server: &Arc<Server>) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
        warn!(uid = peer.uid(), "an administrator's request of another user was refused");
        return Ok(());
    }
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(REQUEST_LENGTH_MAX));
    let arrived = tokio::time::timeout(PATIENCE, read.read_line(&mut line)).await;
    arrived.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let request = match protocol::parse(&line) {
        Ok(request) => request,
        Err(what) => return send(&mut write, &Answer::Refused { what }).await,
    };
    info!(?request, "administrator");
    let answer = match request {
        Request::Fence { initiator, timeout_seconds } => {
            let mut fencing = match commands::Fencing::begin(server, &initiator).await {
                Ok(fencing) => fencing,
                Err(answer) => return send(&mut write, &answer).await,
            };
            let patience = timeout_seconds.map(Duration::from_secs);
            loop {
                match fencing.wait(patience).await {
                    Answer::Waiting { under_way } => send(&mut write, &Answer::Waiting { under_way }).await?,
                    answer => break answer,
                }
            }
        }
        other => commands::answer(server, other).await,
    };
    send(&mut write, &answer).await
}

async fn send(write: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> io::Result<()> {
    write.write_all(protocol::encode(answer).as_bytes()).await
}
