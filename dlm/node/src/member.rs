//! A member of a lockspace, as the process that embeds it sees it.
//!
//! The core sits in a mutex; a call of a user takes it, hands its input in and carries the outputs
//! out, so a request whose master is here is answered within the call. A thread of the member's own
//! runs the connections, the deadlines and the blocking callbacks. Nothing is called while the mutex
//! is held.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use base::{Incarnation, Instant, NodeId};
use dlm_api::completion;
use dlm_api::{
    BlockingCallback, Flags, Granted, LockError, LockFuture, LockId, LockManager, Mode, ResourceName, ValueBlock,
};
use dlm_core::{Config, Input, Lockspace, Status};
use tokio::sync::{Notify, mpsc};
use tracing::info;

use crate::hello::Hello;
use crate::shared::{Peer, Shared, Standing, State, User, start_thread};
use crate::view::View;

/// A member of a lockspace. Dropping it without `leave` makes it lost to the others.
pub struct Member {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// How to join.
#[derive(Default)]
pub struct JoinOptions {
    /// Give up after this long; never if `None`.
    pub within: Option<Duration>,
    /// Told what joining waits for, whenever that changes.
    pub progress: Option<Progress>,
    /// Told, on the member's thread, when a member is lost and why. Must not block.
    pub lost: Option<Lost>,
}

/// See `JoinOptions::progress`.
pub type Progress = Box<dyn FnMut(&str) + Send>;
/// See `JoinOptions::lost`.
pub type Lost = Box<dyn FnMut(NodeId, &str) + Send>;

/// Why a member could not join.
#[derive(Debug)]
pub enum JoinError {
    NotInView {
        me: NodeId,
    },
    LockspaceName {
        name: String,
    },
    Listen {
        address: SocketAddr,
        error: std::io::Error,
    },
    Thread {
        error: std::io::Error,
    },
    /// A peer is of another cluster, lockspace, view file or protocol.
    Refused {
        peer: NodeId,
        why: String,
    },
    /// The others still count on an earlier life of this member.
    EarlierLife {
        why: String,
    },
    TimedOut {
        waiting_for: Vec<NodeId>,
    },
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInView { me } => write!(f, "{me} is not in the view file"),
            Self::LockspaceName { name } => {
                write!(f, "\"{}\" cannot name a lockspace: 1 to 64 bytes are needed", name.escape_default())
            }
            Self::Listen { address, error } => write!(f, "cannot listen on {address}: {error}"),
            Self::Thread { error } => write!(f, "cannot start the lock manager's thread: {error}"),
            Self::Refused { peer: NodeId(0), why } => write!(f, "refused {why}"),
            Self::Refused { peer, why } => write!(f, "{peer} cannot be in one lockspace with this member: {why}"),
            Self::EarlierLife { why } => write!(f, "{why}"),
            Self::TimedOut { waiting_for } => write!(f, "{}", describe_waiting(waiting_for)),
        }
    }
}

impl std::error::Error for JoinError {}

/// Why a member could not leave in order. It is gone all the same, and lost to the others.
#[derive(Debug)]
pub enum LeaveError {
    Failed { why: String },
    TimedOut,
}

impl fmt::Display for LeaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { why } => write!(f, "could not leave the lockspace in order: {why}"),
            Self::TimedOut => write!(f, "could not leave the lockspace in time"),
        }
    }
}

impl std::error::Error for LeaveError {}

impl Member {
    /// Joins `lockspace`; returns when this member is in, which needs every member of the view, or
    /// of the lockspace as it is, to be connected. Says what it waits for in the log.
    pub fn join(view: &View, me: NodeId, lockspace: &str) -> Result<Arc<Member>, JoinError> {
        Member::join_with(view, me, lockspace, JoinOptions::default())
    }

    /// Joins `lockspace` as `options` say. Blocks the calling thread.
    pub fn join_with(
        view: &View,
        me: NodeId,
        lockspace: &str,
        mut options: JoinOptions,
    ) -> Result<Arc<Member>, JoinError> {
        let address = view.address_of(me).ok_or(JoinError::NotInView { me })?;
        if lockspace.is_empty() || lockspace.len() > 64 {
            return Err(JoinError::LockspaceName { name: lockspace.to_owned() });
        }
        let listener = std::net::TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|error| JoinError::Listen { address, error })?;
        let incarnation = new_incarnation();
        let config = Config {
            lost_after: view.lost_after,
            keepalive: Some((view.lost_after / 10).min(Duration::from_secs(1))),
            ..Config::new(me, incarnation, view.members.iter().map(|member| member.id).collect())
        };
        let hello = Hello {
            node: me,
            incarnation,
            fingerprint: view.fingerprint(),
            cluster: view.cluster.clone(),
            lockspace: lockspace.to_owned(),
        };
        let (calls, calls_receiver) = mpsc::unbounded_channel();
        let origin = tokio::time::Instant::now();
        let peers = config.members.iter().filter(|node| **node != me);
        let peers = peers.map(|node| (*node, Peer::default())).collect();
        let state = State {
            lockspace: Lockspace::new(config, Instant::from_nanos(0)),
            users: HashMap::new(),
            peers,
            standing: Standing::Joining,
            lost: BTreeMap::new(),
            last_lock: 0,
            last_connection: 0,
            deadline: None,
        };
        let shared = Arc::new(Shared {
            view: view.clone(),
            address,
            hello,
            origin,
            state: Mutex::new(state),
            changed: Condvar::new(),
            timer: Notify::new(),
            stop: Notify::new(),
            calls,
        });
        let thread = start_thread(Arc::clone(&shared), listener, calls_receiver, options.lost.take())?;
        let member = Member { shared, thread: Mutex::new(Some(thread)) };
        member.wait_until_joined(options)?;
        info!(node = me.0, lockspace, "joined");
        Ok(Arc::new(member))
    }

    /// Gives up all locks, hands over what this member masters and leaves. Blocks until the others
    /// have everything, `within` at most; after that, or an error, the member is closed.
    pub fn leave(&self, within: Duration) -> Result<(), LeaveError> {
        self.shared.handle(Input::Leave);
        let state = self.shared.state();
        let is_pending = |state: &mut State| matches!(state.standing, Standing::Joining | Standing::Member);
        let (state, _) =
            self.shared.changed.wait_timeout_while(state, within, is_pending).unwrap_or_else(PoisonError::into_inner);
        let result = match &state.standing {
            Standing::Left => Ok(()),
            Standing::Failed { why } | Standing::Refused { why, .. } => Err(LeaveError::Failed { why: why.clone() }),
            Standing::Joining | Standing::Member => Err(LeaveError::TimedOut),
        };
        drop(state);
        self.close();
        result
    }

    /// Who holds, waits and masters, and who is lost; `Display` prints it.
    pub fn status(&self) -> Status {
        self.shared.state().lockspace.status()
    }

    /// The members that are lost, and why: what involves them is not granted.
    pub fn lost(&self) -> BTreeMap<NodeId, String> {
        self.shared.state().lost.clone()
    }

    pub fn node(&self) -> NodeId {
        self.shared.hello.node
    }

    fn wait_until_joined(&self, mut options: JoinOptions) -> Result<(), JoinError> {
        let started = tokio::time::Instant::now();
        let mut said = Vec::new();
        let mut state = self.shared.state();
        loop {
            match &state.standing {
                Standing::Member => return Ok(()),
                Standing::Refused { peer: Some(peer), why } => {
                    return Err(JoinError::Refused { peer: *peer, why: why.clone() });
                }
                Standing::Refused { peer: None, why } | Standing::Failed { why } => {
                    return Err(JoinError::EarlierLife { why: why.clone() });
                }
                Standing::Left => return Err(JoinError::EarlierLife { why: "the member has left".to_owned() }),
                Standing::Joining => {}
            }
            let waiting = state.lockspace.waiting_for();
            if options.within.is_some_and(|within| started.elapsed() >= within) {
                return Err(JoinError::TimedOut { waiting_for: waiting });
            }
            if waiting != said && !waiting.is_empty() && started.elapsed() >= PROGRESS_AFTER {
                let text = describe_waiting(&waiting);
                info!("{text}");
                if let Some(progress) = &mut options.progress {
                    progress(&text);
                }
                said = waiting;
            }
            let waited = self.shared.changed.wait_timeout(state, PROGRESS_AFTER);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Stops the thread: connections end, requests under way fail.
    fn close(&self) {
        self.shared.stop.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
        let users = std::mem::take(&mut self.shared.state().users);
        drop(users);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.close();
    }
}

impl LockManager for Member {
    fn lock(
        &self,
        name: ResourceName,
        mode: Mode,
        flags: Flags,
        blocking: BlockingCallback,
    ) -> (LockId, LockFuture<Granted>) {
        let mut state = self.shared.state();
        state.last_lock += 1;
        let lock = LockId(state.last_lock);
        state.users.insert(lock, User { blocking, waiting: None });
        (lock, self.shared.ask(state, lock, Input::Lock { lock, name, mode, flags }))
    }

    fn convert(&self, lock: LockId, mode: Mode, flags: Flags, value: Option<ValueBlock>) -> LockFuture<Granted> {
        let state = self.shared.state();
        match state.users.get(&lock) {
            None => completion::ready(Err(LockError::UnknownLock { lock })),
            Some(user) if user.waiting.is_some() => completion::ready(Err(LockError::Busy { lock })),
            Some(_) => self.shared.ask(state, lock, Input::Convert { lock, mode, flags, value }),
        }
    }

    fn unlock(&self, lock: LockId, value: Option<ValueBlock>) -> LockFuture<()> {
        let state = self.shared.state();
        match state.users.get(&lock) {
            None => completion::ready(Err(LockError::UnknownLock { lock })),
            Some(user) if user.waiting.is_some() => completion::ready(Err(LockError::Busy { lock })),
            Some(_) => self.shared.ask_unlock(state, lock, Input::Unlock { lock, value }),
        }
    }

    fn cancel(&self, lock: LockId) {
        self.shared.handle(Input::Cancel { lock });
    }
}

/// A later life has a higher number as long as the wall clock does not go back.
fn new_incarnation() -> Incarnation {
    #[expect(clippy::disallowed_methods, reason = "a shell reads the clock; nothing below sees more than a number")]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Incarnation(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn describe_waiting(nodes: &[NodeId]) -> String {
    let list: Vec<_> = nodes.iter().map(|node| node.0.to_string()).collect();
    match list.as_slice() {
        [] => "waiting for the view to be agreed on".to_owned(),
        _ => format!("waiting for node {}", list.join(", ")),
    }
}

const PROGRESS_AFTER: Duration = Duration::from_millis(500);
