//! The shell of a simulated lockspace: it drives each member's machine, carries its frames over the
//! simulated network, and is the lock manager port of its node.
//!
//! Owns the driver's duties of `dlm_core::event`. Connections come and go as the seed has it; a
//! member that reports a lost peer is wrong here, because nobody dies.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Incarnation, Instant, NodeId};
use bytes::Bytes;
use dlm_api::{
    BlockingCallback, Flags, Granted, LockError, LockFuture, LockId, LockManager, Mode, ResourceName, ValueBlock,
};
use dlm_core::{Config, Faults, Input, Lockspace, Output};
use tokio::sync::{Notify, oneshot};

use crate::dice::Dice;
use crate::executor::{Sim, lock};
use crate::net::{Net, Weather};
use crate::trace::Who;

/// All members of one lockspace.
pub struct Lockspaces {
    sim: Sim,
    net: Arc<Net<Frame>>,
    /// By node, from node 1 on.
    pub members: Vec<Arc<Member>>,
    weather: Weather,
}

impl Lockspaces {
    /// Members 1 to `count`, unconnected.
    pub fn new(sim: &Sim, dice: &mut Dice, count: u32, faults: Faults) -> Arc<Lockspaces> {
        let weather = Weather::of(dice);
        sim.event(Who::World, format_args!("{weather:?}"));
        let net = Net::new(sim, weather);
        let has_keepalive = dice.percent(50);
        let settings = Settings { count, faults, has_keepalive };
        let members = (1..=count).map(|node| Member::new(sim, &net, node, settings)).collect();
        Arc::new(Lockspaces { sim: sim.clone(), net, members, weather })
    }

    /// Starts every member and connects all of them, in some order.
    pub fn start(self: &Arc<Self>) {
        for member in &self.members {
            member.start();
        }
        for one in 1..=self.members.len() as u32 {
            for other in one + 1..=self.members.len() as u32 {
                let lockspaces = self.clone();
                let delay = self.sim.roll(|dice| Duration::from_micros(dice.below(2000)));
                self.sim.call_after(delay, move || lockspaces.connect(one, other));
            }
        }
    }

    /// Completes when every member is in the view.
    pub async fn all_joined(&self) {
        for member in &self.members {
            member.reached(|state| state.phase == Phase::Joined).await;
        }
    }

    /// Cuts the connection of two members for a while.
    pub async fn interrupt(self: &Arc<Self>, one: u32, other: u32) {
        self.net.cut(one, other);
        self.sim.event(Who::World, format_args!("the connection of nodes {one} and {other} ends"));
        for (node, peer) in [(one, other), (other, one)] {
            self.sim.pause(self.weather.delay_most).await;
            self.member(node).feed(Input::LinkDown { peer: NodeId(peer) });
        }
        self.sim.pause(OUTAGE_MOST).await;
        self.connect(one, other);
    }

    /// Lets a member leave and come back in a new life. Its locks are gone then.
    pub async fn restart(self: &Arc<Self>, node: u32) {
        let member = self.member(node);
        member.set_phase(Phase::Leaving);
        member.feed(Input::Leave);
        member.reached(|state| state.phase == Phase::Left).await;
        let peers: Vec<u32> = (1..=self.members.len() as u32).filter(|peer| *peer != node).collect();
        for peer in &peers {
            self.net.cut(node, *peer);
            self.member(*peer).feed(Input::LinkDown { peer: NodeId(node) });
        }
        self.sim.pause(OUTAGE_MOST).await;
        member.start();
        for peer in &peers {
            self.sim.pause(self.weather.delay_most).await;
            self.connect(node, *peer);
        }
        member.reached(|state| state.phase == Phase::Joined).await;
    }

    /// Lets go of what holds the network and the members together.
    pub fn tear_down(&self) {
        self.net.tear_down();
    }

    fn member(&self, node: u32) -> &Arc<Member> {
        &self.members[node as usize - 1]
    }

    fn connect(&self, one: u32, other: u32) {
        self.sim.event(Who::World, format_args!("nodes {one} and {other} are connected"));
        self.net.connect(one, other);
        let (a, b) = (self.member(one), self.member(other));
        a.feed(Input::LinkUp { peer: NodeId(other), incarnation: b.incarnation() });
        b.feed(Input::LinkUp { peer: NodeId(one), incarnation: a.incarnation() });
    }
}

/// Far below `Config::lost_after`.
const OUTAGE_MOST: Duration = Duration::from_millis(200);

#[derive(Clone, Copy)]
struct Settings {
    count: u32,
    faults: Faults,
    has_keepalive: bool,
}

impl Settings {
    fn config(&self, node: u32, incarnation: Incarnation) -> Config {
        let members = (1..=self.count).map(NodeId).collect();
        let mut config = Config::new(NodeId(node), incarnation, members);
        config.acknowledge_after = Duration::from_millis(1);
        config.resend_after = Duration::from_millis(10);
        config.unused_after = Duration::from_millis(5);
        config.unused_count_max = 3;
        if !self.has_keepalive {
            config.keepalive = None;
        }
        config
    }
}

/// One node's member, over all of its lives.
pub struct Member {
    sim: Sim,
    net: Arc<Net<Frame>>,
    node: u32,
    settings: Settings,
    state: Mutex<State>,
    /// Told at each change of phase.
    changed: Notify,
}

struct State {
    lockspace: Lockspace,
    incarnation: u64,
    phase: Phase,
    /// For the life of the process: ids are never used twice.
    last_lock: u64,
    locks: BTreeMap<LockId, Lock>,
    /// When the next tick is due to be handed in.
    tick_at: Option<Instant>,
}

/// Where a member is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Joining,
    Joined,
    Leaving,
    Left,
}

struct Lock {
    blocking: BlockingCallback,
    /// Whether it was ever granted.
    is_granted: bool,
    request: Option<Request>,
}

enum Request {
    Mode(oneshot::Sender<Result<Granted, LockError>>),
    Unlock(oneshot::Sender<Result<(), LockError>>),
}

impl Member {
    fn new(sim: &Sim, net: &Arc<Net<Frame>>, node: u32, settings: Settings) -> Arc<Member> {
        let incarnation = 1;
        let config = settings.config(node, Incarnation(incarnation));
        let state = State {
            lockspace: Lockspace::with_faults(config, sim.now(), settings.faults),
            incarnation,
            phase: Phase::Left,
            last_lock: 0,
            locks: BTreeMap::new(),
            tick_at: None,
        };
        let member = Arc::new(Member {
            sim: sim.clone(),
            net: net.clone(),
            node,
            settings,
            state: Mutex::new(state),
            changed: Notify::new(),
        });
        let receiver = member.clone();
        net.attach(
            node,
            Arc::new(move |from, frame| receiver.feed(Input::Received { peer: NodeId(from), frame: frame.0 })),
        );
        member
    }

    /// Begins a new life.
    fn start(self: &Arc<Self>) {
        {
            let mut state = lock(&self.state);
            state.incarnation += 1;
            let config = self.settings.config(self.node, Incarnation(state.incarnation));
            state.lockspace = Lockspace::with_faults(config, self.sim.now(), self.settings.faults);
            state.phase = Phase::Joining;
            state.locks.clear();
        }
        self.feed(Input::Tick);
    }

    fn incarnation(&self) -> Incarnation {
        Incarnation(lock(&self.state).incarnation)
    }

    fn set_phase(&self, phase: Phase) {
        lock(&self.state).phase = phase;
        self.changed.notify_waiters();
    }

    async fn reached(&self, is_reached: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            if is_reached(&lock(&self.state)) {
                return;
            }
            changed.await;
        }
    }

    /// Hands one input in and carries out what comes of it.
    fn feed(self: &Arc<Self>, input: Input) {
        let now = self.sim.now();
        let outputs = {
            let mut state = lock(&self.state);
            if state.phase == Phase::Left {
                return;
            }
            state.lockspace.handle(input, now);
            let mut outputs = Vec::new();
            while let Some(output) = state.lockspace.poll_output() {
                outputs.push(output);
            }
            self.arm_tick(&mut state);
            outputs
        };
        for output in outputs {
            self.carry_out(output);
        }
    }

    fn arm_tick(self: &Arc<Self>, state: &mut State) {
        let Some(deadline) = state.lockspace.next_deadline() else { return };
        let at = deadline.max(self.sim.now());
        if state.tick_at.is_none_or(|armed| at < armed) {
            state.tick_at = Some(at);
            let member = self.clone();
            self.sim.call_at(at, move || member.tick(at));
        }
    }

    fn tick(self: &Arc<Self>, at: Instant) {
        {
            let mut state = lock(&self.state);
            if state.tick_at != Some(at) {
                return;
            }
            state.tick_at = None;
            if state.lockspace.next_deadline().is_none_or(|deadline| deadline > self.sim.now()) {
                self.arm_tick(&mut state);
                return;
            }
        }
        self.feed(Input::Tick);
    }

    fn carry_out(&self, output: Output) {
        match output {
            Output::Send { to, frame } => self.net.send(self.node, to.0, Frame(frame)),
            Output::Granted { lock, granted } => self.answer(lock, Ok(granted)),
            Output::Refused { lock, error } => self.answer(lock, Err(error)),
            Output::Unlocked { lock: id } => {
                let request = lock(&self.state).locks.remove(&id).and_then(|lock| lock.request);
                match request {
                    Some(Request::Unlock(waiting)) => drop(waiting.send(Ok(()))),
                    _ => self.wrong(format_args!("unlocked lock {}, and nobody asked", id.0)),
                }
            }
            Output::Blocking { lock: id, mode } => {
                let blocking = lock(&self.state).locks.get(&id).map(|lock| lock.blocking.clone());
                if let Some(blocking) = blocking {
                    blocking(mode);
                }
            }
            Output::Joined { .. } => self.set_phase(Phase::Joined),
            Output::ViewChanged { view, members } => {
                self.sim.event(Who::Node(self.node), format_args!("{view}: {members:?}"));
            }
            Output::Left => self.set_phase(Phase::Left),
            Output::LeaveFailed { why } => self.wrong(format_args!("could not leave: {why}")),
            Output::JoinRefused { why } => self.wrong(format_args!("could not join: {why}")),
            Output::MemberLost { node, why } => {
                self.wrong(format_args!("takes {node} for lost, which is alive: {why}"));
            }
            Output::MemberBack { .. } => {}
            Output::LinkFault { peer, why } => {
                self.wrong(format_args!("finds that {peer} broke the protocol: {why}"));
            }
        }
    }

    fn answer(&self, id: LockId, answer: Result<Granted, LockError>) {
        let request = {
            let mut state = lock(&self.state);
            let Some(lock) = state.locks.get_mut(&id) else {
                drop(state);
                return self.wrong(format_args!("answered lock {}, which does not exist: {answer:?}", id.0));
            };
            lock.is_granted |= answer.is_ok();
            let request = lock.request.take();
            if !lock.is_granted {
                state.locks.remove(&id);
            }
            request
        };
        match (request, answer) {
            (Some(Request::Mode(waiting)), answer) => drop(waiting.send(answer)),
            (Some(Request::Unlock(waiting)), Err(error)) => drop(waiting.send(Err(error))),
            (Some(Request::Unlock(_)) | None, answer) => {
                self.wrong(format_args!("answered lock {}, and nobody asked: {answer:?}", id.0));
            }
        }
    }

    fn wrong(&self, what: fmt::Arguments<'_>) {
        self.sim.violated(format!("the member of node {} {what}", self.node));
    }

    /// Begins a request; the answer comes over the returned channel.
    fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        id: LockId,
        input: Input,
        request: impl FnOnce(oneshot::Sender<Result<T, LockError>>) -> Request,
    ) -> LockFuture<T> {
        let (sender, answer) = oneshot::channel();
        {
            let mut state = lock(&self.state);
            match state.locks.get_mut(&id) {
                None => return Box::pin(async move { Err(LockError::UnknownLock { lock: id }) }),
                Some(lock) if lock.request.is_some() => {
                    return Box::pin(async move { Err(LockError::Busy { lock: id }) });
                }
                Some(lock) => lock.request = Some(request(sender)),
            }
        }
        self.feed(input);
        Box::pin(async move {
            let gone = LockError::Unavailable { what: "the member has left".into() };
            answer.await.unwrap_or(Err(gone))
        })
    }
}

/// The lock manager port of one node.
pub struct Port(pub Arc<Member>);

impl LockManager for Port {
    fn lock(
        &self,
        name: ResourceName,
        mode: Mode,
        flags: Flags,
        blocking: BlockingCallback,
    ) -> (LockId, LockFuture<Granted>) {
        let id = {
            let mut state = lock(&self.0.state);
            state.last_lock += 1;
            let id = LockId(state.last_lock);
            state.locks.insert(id, Lock { blocking, is_granted: false, request: None });
            id
        };
        (id, self.0.ask(id, Input::Lock { lock: id, name, mode, flags }, Request::Mode))
    }

    fn convert(&self, lock: LockId, mode: Mode, flags: Flags, value: Option<ValueBlock>) -> LockFuture<Granted> {
        self.0.ask(lock, Input::Convert { lock, mode, flags, value }, Request::Mode)
    }

    fn unlock(&self, lock: LockId, value: Option<ValueBlock>) -> LockFuture<()> {
        self.0.ask(lock, Input::Unlock { lock, value }, Request::Unlock)
    }

    fn cancel(&self, lock: LockId) {
        self.0.feed(Input::Cancel { lock });
    }
}

/// One frame on the way.
#[derive(Clone)]
pub struct Frame(Bytes);

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match dlm_core::codec::Frame::decode(&self.0) {
            Ok(frame) if frame.messages.is_empty() => write!(f, "has all below {}", frame.acknowledged),
            Ok(frame) => {
                write!(f, "has all below {}; from {} on:", frame.acknowledged, frame.first)?;
                frame.messages.iter().try_for_each(|(view, message)| write!(f, " {message:?} ({view})"))
            }
            Err(error) => write!(f, "{} bytes that are no frame: {error}", self.0.len()),
        }
    }
}
