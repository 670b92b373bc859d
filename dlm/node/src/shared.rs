//! What a member's users and its thread share: the core in its mutex, who waits for what, and how
//! the core's outputs are carried out. Nothing is called while the mutex is held: answers are passed
//! on after it is free, blocking callbacks go to the thread.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::{Incarnation, Instant, NodeId, ViewId};
use bytes::{Bytes, BytesMut};
use dlm_api::completion::{self, Completer};
use dlm_api::{BlockingCallback, Granted, LockError, LockFuture, LockId, Mode};
use dlm_core::{Input, Lockspace, Output};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tracing::{error, info, warn};

use crate::hello::Hello;
use crate::links;
use crate::member::{JoinError, Lost};
use crate::view::View;

/// What the users' calls and the member's thread share.
pub(crate) struct Shared {
    pub(crate) view: View,
    pub(crate) address: SocketAddr,
    pub(crate) hello: Hello,
    pub(crate) origin: tokio::time::Instant,
    pub(crate) state: Mutex<State>,
    /// The standing, or what joining waits for, may have changed.
    pub(crate) changed: Condvar,
    /// The next deadline has come nearer.
    pub(crate) timer: Notify,
    pub(crate) stop: Notify,
    /// Bounded by what it holds: a blocking callback for each lock and mode since its last grant.
    pub(crate) calls: mpsc::UnboundedSender<Call>,
}

/// A call to make on the member's thread, outside of the mutex.
pub(crate) enum Call {
    Blocking(BlockingCallback, Mode),
    Lost(NodeId, String),
}

pub(crate) struct State {
    pub(crate) lockspace: Lockspace,
    pub(crate) users: HashMap<LockId, User>,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    pub(crate) standing: Standing,
    pub(crate) lost: BTreeMap<NodeId, String>,
    pub(crate) last_lock: u64,
    pub(crate) last_connection: u64,
    /// What the timer sleeps until.
    pub(crate) deadline: Option<Instant>,
}

pub(crate) struct User {
    pub(crate) blocking: BlockingCallback,
    pub(crate) waiting: Option<Waiting>,
}

pub(crate) enum Waiting {
    Grant(Completer<Granted>),
    Unlock(Completer<()>),
}

#[derive(Default)]
pub(crate) struct Peer {
    /// Highest life seen; an earlier one is refused.
    pub(crate) incarnation: Incarnation,
    pub(crate) connection: Option<u64>,
    pub(crate) outgoing: VecDeque<Bytes>,
    pub(crate) wake: Arc<Notify>,
}

pub(crate) enum Standing {
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

    pub(crate) fn ask(&self, mut state: MutexGuard<'_, State>, lock: LockId, input: Input) -> LockFuture<Granted> {
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

    pub(crate) fn ask_unlock(&self, mut state: MutexGuard<'_, State>, lock: LockId, input: Input) -> LockFuture<()> {
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

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
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
pub(crate) fn start_thread(
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

fn log_view(view: ViewId, members: &[NodeId]) {
    let members: Vec<_> = members.iter().map(|node| node.0.to_string()).collect();
    info!(view = view.0, members = members.join(","), "the members have changed");
}
