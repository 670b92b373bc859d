//! A member of a lockspace, as the process that embeds it sees it.
//!
//! The core sits in a mutex; a call of a user takes it, hands its input in and carries the outputs
//! out, so a request whose master is here is answered within the call. A thread of the member's own
//! runs the connections, the deadlines and the blocking callbacks. Nothing is called while the mutex
//! is held.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{Incarnation, Instant, NodeId, ViewId};
use bytes::{Bytes, BytesMut};
use dlm_api::completion::{self, Completer};
use dlm_api::{
    BlockingCallback, Flags, Granted, LockError, LockFuture, LockId, LockManager, Mode, ResourceName, ValueBlock,
};
use dlm_core::{Config, Input, Lockspace, Output, Status};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tracing::{error, info, warn};

use crate::hello::Hello;
use crate::links;
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

/// What the users' calls and the member's thread share.
pub(crate) struct Shared {
    pub(crate) view: View,
    pub(crate) address: SocketAddr,
    pub(crate) hello: Hello,
    origin: tokio::time::Instant,
    state: Mutex<State>,
    /// The standing, or what joining waits for, may have changed.
    changed: Condvar,
    /// The next deadline has come nearer.
    timer: Notify,
    stop: Notify,
    /// Bounded by what it holds: a blocking callback for each lock and mode since its last grant.
    calls: mpsc::UnboundedSender<Call>,
}

/// A call to make on the member's thread, outside of the mutex.
enum Call {
    Blocking(BlockingCallback, Mode),
    Lost(NodeId, String),
}

struct State {
    lockspace: Lockspace,
    users: HashMap<LockId, User>,
    peers: BTreeMap<NodeId, Peer>,
    standing: Standing,
    lost: BTreeMap<NodeId, String>,
    last_lock: u64,
    last_connection: u64,
    /// What the timer sleeps until.
    deadline: Option<Instant>,
}

struct User {
    blocking: BlockingCallback,
    waiting: Option<Waiting>,
}

enum Waiting {
    Grant(Completer<Granted>),
    Unlock(Completer<()>),
}

#[derive(Default)]
struct Peer {
    /// Highest life seen; an earlier one is refused.
    incarnation: Incarnation,
    connection: Option<u64>,
    outgoing: VecDeque<Bytes>,
    wake: Arc<Notify>,
}

enum Standing {
    Joining,
    Member,
    Left,
    Refused { peer: Option<NodeId>, why: String },
    Failed { why: String },
}

/// Answers to pass on once the mutex is free.
#[derive(Default)]
struct Answers {
    granted: Vec<(Completer<Granted>, Result<Granted, LockError>)>,
    unlocked: Vec<(Completer<()>, Result<(), LockError>)>,
    /// For the lock that is asking in this very call.
    own_granted: Option<Result<Granted, LockError>>,
    own_unlocked: Option<Result<(), LockError>>,
}

impl Answers {
    fn pass_on(self) {
        for (completer, result) in self.granted {
            completer.complete(result);
        }
        for (completer, result) in self.unlocked {
            completer.complete(result);
        }
    }
}

impl Shared {
    /// Hands an input to the core and carries out what it says.
    pub(crate) fn handle(&self, input: Input) {
        let mut state = self.state();
        let answers = self.run(&mut state, input, None);
        drop(state);
        answers.pass_on();
    }

    /// The same for news of a connection. False if another has taken its place.
    pub(crate) fn handle_of_connection(&self, peer: NodeId, connection: u64, input: Input) -> bool {
        let mut state = self.state();
        if state.peers.get(&peer).and_then(|peer| peer.connection) != Some(connection) {
            return false;
        }
        let answers = self.run(&mut state, input, None);
        drop(state);
        answers.pass_on();
        true
    }

    /// A connection is there; it takes the place of the peer's last. `None` if the peer is not a
    /// member or has been seen in a later life.
    pub(crate) fn connected(&self, peer: NodeId, incarnation: Incarnation) -> Option<(u64, Arc<Notify>)> {
        let mut state = self.state();
        state.last_connection += 1;
        let connection = state.last_connection;
        let known = state.peers.get_mut(&peer).filter(|known| known.incarnation <= incarnation)?;
        known.incarnation = incarnation;
        known.connection = Some(connection);
        known.outgoing.clear();
        // Whoever serves the last connection finds out and ends.
        known.wake.notify_one();
        known.wake = Arc::new(Notify::new());
        let wake = Arc::clone(&known.wake);
        let answers = self.run(&mut state, Input::LinkUp { peer, incarnation }, None);
        drop(state);
        answers.pass_on();
        self.changed.notify_all();
        Some((connection, wake))
    }

    pub(crate) fn disconnected(&self, peer: NodeId, connection: u64) {
        let mut state = self.state();
        let Some(known) = state.peers.get_mut(&peer).filter(|known| known.connection == Some(connection)) else {
            return;
        };
        known.connection = None;
        known.outgoing.clear();
        let answers = self.run(&mut state, Input::LinkDown { peer }, None);
        drop(state);
        answers.pass_on();
        self.changed.notify_all();
    }

    /// Moves what is to be sent to `peer` to `buffer`. False if the connection has been replaced.
    pub(crate) fn take_outgoing(&self, peer: NodeId, connection: u64, buffer: &mut BytesMut) -> bool {
        let mut state = self.state();
        let Some(known) = state.peers.get_mut(&peer).filter(|known| known.connection == Some(connection)) else {
            return false;
        };
        for frame in known.outgoing.drain(..) {
            buffer.extend_from_slice(&frame);
        }
        true
    }

    /// A peer can never be in one lockspace with this member: joining fails.
    pub(crate) fn refuse_join(&self, peer: NodeId, why: &str) {
        let mut state = self.state();
        if matches!(state.standing, Standing::Joining) {
            state.standing = Standing::Refused { peer: Some(peer), why: why.to_owned() };
            self.changed.notify_all();
        }
    }

    fn ask(&self, mut state: MutexGuard<'_, State>, lock: LockId, input: Input) -> LockFuture<Granted> {
        let mut answers = self.run(&mut state, input, Some(lock));
        let future = match answers.own_granted.take() {
            Some(result) => completion::ready(result),
            None => {
                let (completer, future) = completion::pair();
                if let Some(user) = state.users.get_mut(&lock) {
                    user.waiting = Some(Waiting::Grant(completer));
                }
                future
            }
        };
        drop(state);
        answers.pass_on();
        future
    }

    fn ask_unlock(&self, mut state: MutexGuard<'_, State>, lock: LockId, input: Input) -> LockFuture<()> {
        let mut answers = self.run(&mut state, input, Some(lock));
        let own = answers.own_unlocked.take();
        // An unlock is only refused when the lock makes no sense to the core.
        let refused = answers.own_granted.take().and_then(Result::err).map(Err);
        let future = match own.or(refused) {
            Some(result) => completion::ready(result),
            None => {
                let (completer, future) = completion::pair();
                if let Some(user) = state.users.get_mut(&lock) {
                    user.waiting = Some(Waiting::Unlock(completer));
                }
                future
            }
        };
        drop(state);
        answers.pass_on();
        future
    }

    /// Hands an input in and carries the outputs out, all but the answers. `asking` is the lock whose
    /// request the input is, so that its answer comes back directly.
    fn run(&self, state: &mut State, input: Input, asking: Option<LockId>) -> Answers {
        let mut answers = Answers::default();
        state.lockspace.handle(input, self.now());
        while let Some(output) = state.lockspace.poll_output() {
            self.carry_out(state, output, asking, &mut answers);
        }
        let next = state.lockspace.next_deadline();
        if next.is_some_and(|next| state.deadline.is_none_or(|deadline| next < deadline)) {
            state.deadline = next;
            self.timer.notify_one();
        }
        answers
    }

    fn carry_out(&self, state: &mut State, output: Output, asking: Option<LockId>, answers: &mut Answers) {
        match output {
            Output::Send { to, frame } => {
                if let Some(peer) = state.peers.get_mut(&to).filter(|peer| peer.connection.is_some()) {
                    peer.outgoing.push_back(frame);
                    peer.wake.notify_one();
                }
            }
            Output::Granted { lock, granted } => answer(state, lock, Ok(granted), asking, answers),
            Output::Refused { lock, error } => answer(state, lock, Err(error), asking, answers),
            Output::Unlocked { lock } => {
                let user = state.users.remove(&lock);
                if asking == Some(lock) {
                    answers.own_unlocked = Some(Ok(()));
                } else if let Some(User { waiting: Some(Waiting::Unlock(completer)), .. }) = user {
                    answers.unlocked.push((completer, Ok(())));
                }
            }
            Output::Blocking { lock, mode } => {
                if let Some(user) = state.users.get(&lock) {
                    // Fails only when the thread has stopped; nobody can be helped then.
                    let _ = self.calls.send(Call::Blocking(Arc::clone(&user.blocking), mode));
                }
            }
            Output::Joined { view } => {
                info!(view = view.0, "the lockspace has this member");
                self.stand(state, Standing::Member);
            }
            Output::ViewChanged { view, members } => log_view(view, &members),
            Output::Left => self.stand(state, Standing::Left),
            Output::LeaveFailed { why } => self.stand(state, Standing::Failed { why }),
            Output::JoinRefused { why } => self.stand(state, Standing::Refused { peer: None, why }),
            Output::MemberLost { node, why } => {
                error!(node = node.0, %why, "a member is lost: locks that it holds stay held, and requests that involve it fail");
                let _ = self.calls.send(Call::Lost(node, why.clone()));
                state.lost.insert(node, why);
            }
            Output::MemberBack { node } => {
                warn!(node = node.0, "a member that was lost is back");
                state.lost.remove(&node);
            }
            Output::LinkFault { peer, why } => {
                warn!(peer = peer.0, %why, "the peer broke the protocol; its connection is closed");
                if let Some(known) = state.peers.get_mut(&peer) {
                    known.connection = None;
                    known.outgoing.clear();
                    known.wake.notify_one();
                    state.lockspace.handle(Input::LinkDown { peer }, self.now());
                }
            }
        }
    }

    fn stand(&self, state: &mut State, standing: Standing) {
        state.standing = standing;
        self.changed.notify_all();
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes the answer to a request on.
fn answer(
    state: &mut State,
    lock: LockId,
    result: Result<Granted, LockError>,
    asking: Option<LockId>,
    answers: &mut Answers,
) {
    let Some(user) = state.users.get_mut(&lock) else { return };
    let waiting = user.waiting.take();
    if result.is_err() && state.lockspace.granted_mode(lock).is_none() {
        state.users.remove(&lock);
    }
    if asking == Some(lock) {
        answers.own_granted = Some(result);
        return;
    }
    match waiting {
        Some(Waiting::Grant(completer)) => answers.granted.push((completer, result)),
        Some(Waiting::Unlock(completer)) => answers.unlocked.push((completer, result.map(|_| ()))),
        None => {}
    }
}

/// The member's thread: connections, deadlines, blocking callbacks.
fn start_thread(
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
    mut calls: mpsc::UnboundedReceiver<Call>,
    mut lost: Option<Lost>,
) -> Result<std::thread::JoinHandle<()>, JoinError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| JoinError::Thread { error })?;
    let address = shared.address;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener).map_err(|error| JoinError::Listen { address, error })?
    };
    let run = move || {
        runtime.block_on(async move {
            let me = shared.hello.node;
            tokio::spawn(links::accept_loop(Arc::clone(&shared), listener));
            for peer in shared.view.members.iter().filter(|peer| peer.id < me) {
                tokio::spawn(links::dial_loop(Arc::clone(&shared), peer.id, peer.address));
            }
            shared.handle(Input::Tick);
            let make_calls = async {
                while let Some(call) = calls.recv().await {
                    match (call, &mut lost) {
                        (Call::Blocking(blocking, mode), _) => blocking(mode),
                        (Call::Lost(node, why), Some(lost)) => lost(node, &why),
                        (Call::Lost(..), None) => {}
                    }
                }
            };
            tokio::select! {
                () = shared.stop.notified() => {}
                () = make_calls => {}
                () = keep_deadlines(&shared) => {}
            }
        });
    };
    std::thread::Builder::new().name("dlm".to_owned()).spawn(run).map_err(|error| JoinError::Thread { error })
}

async fn keep_deadlines(shared: &Shared) {
    loop {
        let deadline = {
            let mut state = shared.state();
            state.deadline = state.lockspace.next_deadline();
            state.deadline
        };
        let Some(deadline) = deadline else {
            shared.timer.notified().await;
            continue;
        };
        let at = shared.origin + Duration::from_nanos(deadline.as_nanos());
        tokio::select! {
            () = shared.timer.notified() => {}
            () = tokio::time::sleep_until(at) => shared.handle(Input::Tick),
        }
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

fn log_view(view: ViewId, members: &[NodeId]) {
    let members: Vec<_> = members.iter().map(|node| node.0.to_string()).collect();
    info!(view = view.0, members = members.join(","), "the members have changed");
}

const PROGRESS_AFTER: Duration = Duration::from_millis(500);
