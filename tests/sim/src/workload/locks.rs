//! World `locks`: members of a lockspace, each with a few clients that lock, convert, unlock and
//! cancel at random.
//!
//! A client has one lock at a time, so no deadlock between resources can arise; one between two
//! conversions is the lock manager's to notice. Some holders hold until they are told that they are
//! in the way: then a lost blocking callback leaves a request waiting for ever, and so does a lost
//! grant.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dlm_api::{BlockingCallback, Flags, Granted, LockError, LockId, LockManager, Mode, ResourceName, ValueBlock};
use dlm_core::Faults;
use tokio::sync::Notify;

use crate::checkers::locks::{Asked, Client, LockJudge};
use crate::dice::Dice;
use crate::executor::{Ended, Limits, Sim, TaskKind, lock};
use crate::member::{Lockspaces, Port};
use crate::trace::Who;
use crate::world::expect_done;

/// One run.
pub fn run(sim: &Sim, seed: u64, plant: Option<&str>) -> Result<(), String> {
    let mut dice = Dice::new(seed, "locks");
    let members = dice.between(3, 6) as u32;
    let clients = dice.between(1, 4) as u32;
    let resources = dice.between(1, 4) as usize;
    let lockspaces = Lockspaces::new(sim, &mut dice, members, plant.and_then(Faults::by_name).unwrap_or_default());
    let world = Arc::new(LockWorld {
        sim: sim.clone(),
        judge: Mutex::new(LockJudge::new(dice.percent(60))),
        names: (0..resources).map(|index| name_of(&mut dice, index)).collect(),
        nodes: (0..=members).map(|_| Node::default()).collect(),
        rounds: dice.between(5, 25),
        hold_most: Duration::from_micros(*dice.pick(&[50, 500, 5000])),
        is_stopping: AtomicBool::new(false),
        may_go: AtomicBool::new(false),
        changed: Notify::new(),
    });
    sim.event(Who::World, format_args!("{members} members with {clients} clients each, {resources} resources"));
    join(sim, &lockspaces)?;
    let keeps_values = lock(&world.judge).keeps_values();
    if keeps_values {
        keep_resources(&world, &mut dice, &lockspaces)?;
    }
    for (node, member) in (1..).zip(&lockspaces.members) {
        for task in 1..=clients {
            let client = Client { node, task };
            let dice = Dice::new(seed, &format!("client {node}.{task}"));
            let actor =
                Actor { world: world.clone(), client, manager: Arc::new(Port(member.clone())), dice, values: 0 };
            sim.spawn(Who::Node(node), "client", TaskKind::Client, actor.run());
        }
    }
    if dice.percent(50) {
        sim.spawn(Who::World, "outages", TaskKind::Client, outages(world.clone(), lockspaces.clone()));
    }
    // A member that leaves gives the keepers' locks up.
    if dice.percent(60) && !keeps_values {
        sim.spawn(Who::World, "restarts", TaskKind::Client, restarts(world.clone(), lockspaces.clone()));
    }
    let controller = world.clone();
    sim.spawn(Who::World, "the end of the load", TaskKind::Client, async move { controller.stop_load().await });
    let ended = sim.run(Limits { time: Duration::from_secs(600), steps: 5_000_000 });
    lockspaces.tear_down();
    let unanswered = match ended {
        Ended::Done | Ended::Violated(_) => Vec::new(),
        Ended::Stuck(_) | Ended::Late(_) | Ended::Busy(_) => lock(&world.judge).unanswered(sim.now()),
    };
    expect_done(ended, "the load").map_err(|why| [vec![why], unanswered].concat().join("\n    "))
}

/// Brings the members together.
pub fn join(sim: &Sim, lockspaces: &Arc<Lockspaces>) -> Result<(), String> {
    let joining = lockspaces.clone();
    sim.spawn(Who::World, "every member joins", TaskKind::Client, async move {
        joining.start();
        joining.all_joined().await;
    });
    expect_done(sim.run(Limits { time: Duration::from_secs(60), steps: 1_000_000 }), "joining the lockspace")
}

/// The lock manager's own deliberate faults.
pub fn plants() -> Vec<&'static str> {
    Faults::ALL.iter().map(|(name, _)| *name).collect()
}

/// Cuts connections now and then while the load lasts.
async fn outages(world: Arc<LockWorld>, lockspaces: Arc<Lockspaces>) {
    let members = lockspaces.members.len() as u64;
    while !world.is_stopping.load(Ordering::Relaxed) {
        world.sim.pause(LOAD / 4).await;
        let one = world.sim.roll(|dice| dice.between(1, members)) as u32;
        let other = world.sim.roll(|dice| dice.between(1, members)) as u32;
        // A restart has the node's connections in hand.
        if one != other && !world.is_closed(one) && !world.is_closed(other) {
            world.set_busy(&[one, other], true);
            lockspaces.interrupt(one, other).await;
            world.set_busy(&[one, other], false);
        }
    }
}

/// Lets members leave and come back while the load lasts.
async fn restarts(world: Arc<LockWorld>, lockspaces: Arc<Lockspaces>) {
    let members = lockspaces.members.len() as u64;
    while !world.is_stopping.load(Ordering::Relaxed) {
        world.sim.pause(LOAD / 4).await;
        let node = world.sim.roll(|dice| dice.between(1, members)) as u32;
        if world.nodes[node as usize].has_outage.load(Ordering::Relaxed) {
            continue;
        }
        world.close(node).await;
        world.sim.event(Who::Node(node), format_args!("leaves"));
        lockspaces.restart(node).await;
        world.sim.event(Who::Node(node), format_args!("is back"));
        world.open(node);
    }
}

struct LockWorld {
    sim: Sim,
    judge: Mutex<LockJudge>,
    names: Vec<ResourceName>,
    /// By number; number 0 is nobody's.
    nodes: Vec<Node>,
    /// Locks that each client takes.
    rounds: u64,
    hold_most: Duration,
    /// No new rounds.
    is_stopping: AtomicBool,
    /// Holders that nobody told to go may go.
    may_go: AtomicBool,
    /// Told when one of the flags here changes, or a round ends.
    changed: Notify,
}

/// A node as its clients see it.
#[derive(Default)]
struct Node {
    /// No round may begin: the member is about to leave, or has left.
    is_closed: AtomicBool,
    has_outage: AtomicBool,
    /// Rounds under way.
    rounds: AtomicU32,
}

impl LockWorld {
    /// Ends the load; once everything that can end has ended, no request may be left waiting, and
    /// only then do those let go who were never told to.
    async fn stop_load(&self) {
        self.sim.sleep(LOAD).await;
        self.set(&self.is_stopping, true);
        for _ in 0..SETTLE_TIMES {
            self.sim.sleep(SETTLE).await;
            let unanswered = lock(&self.judge).unanswered(self.sim.now());
            if unanswered.is_empty() {
                self.set(&self.may_go, true);
                return;
            }
        }
        let unanswered = lock(&self.judge).unanswered(self.sim.now());
        self.sim.violated(format!("requests never end, though the load has:\n    {}", unanswered.join("\n    ")));
    }

    fn judged(&self, verdict: Result<(), String>) {
        if let Err(what) = verdict {
            self.sim.violated(what);
        }
    }

    fn set(&self, flag: &AtomicBool, value: bool) {
        flag.store(value, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    async fn until(&self, is_reached: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            if is_reached() {
                return;
            }
            changed.await;
        }
    }

    fn is_closed(&self, node: u32) -> bool {
        self.nodes[node as usize].is_closed.load(Ordering::Relaxed)
    }

    fn set_busy(&self, nodes: &[u32], value: bool) {
        nodes.iter().for_each(|node| self.nodes[*node as usize].has_outage.store(value, Ordering::Relaxed));
    }

    /// Waits until no client of the node has a lock, and lets none ask.
    async fn close(&self, node: u32) {
        let node = &self.nodes[node as usize];
        self.set(&node.is_closed, true);
        self.until(|| node.rounds.load(Ordering::Relaxed) == 0).await;
    }

    fn open(&self, node: u32) {
        self.set(&self.nodes[node as usize].is_closed, false);
    }
}

const LOAD: Duration = Duration::from_millis(300);
/// Far longer than any queue of holders takes.
const SETTLE: Duration = Duration::from_secs(2);
const SETTLE_TIMES: u32 = 10;

struct Actor {
    world: Arc<LockWorld>,
    client: Client,
    manager: Arc<dyn LockManager>,
    dice: Dice,
    values: u32,
}

/// What a blocking callback sets.
struct InTheWay {
    world: Arc<LockWorld>,
    client: Client,
    is_told: AtomicBool,
}

impl InTheWay {
    fn callback(self: &Arc<Self>) -> BlockingCallback {
        let this = self.clone();
        Arc::new(move |mode| {
            let who = Who::Node(this.client.node);
            this.world.sim.event(who, format_args!("{} is in the way of {mode}", this.client));
            lock(&this.world.judge).told(this.client, mode);
            this.world.set(&this.is_told, true);
        })
    }
}

impl Actor {
    async fn run(mut self) {
        for _ in 0..self.world.rounds {
            if self.world.is_stopping.load(Ordering::Relaxed) {
                break;
            }
            let world = self.world.clone();
            let node = &world.nodes[self.client.node as usize];
            world.until(|| !node.is_closed.load(Ordering::Relaxed)).await;
            node.rounds.fetch_add(1, Ordering::Relaxed);
            self.round().await;
            node.rounds.fetch_sub(1, Ordering::Relaxed);
            world.changed.notify_waiters();
            self.world.sim.pause(self.world.hold_most).await;
        }
    }

    /// One lock from its request to its end.
    async fn round(&mut self) {
        let resource = self.dice.index(self.world.names.len());
        let mode = *self.dice.pick(&Mode::ALL);
        let flags = self.flags();
        let in_the_way =
            Arc::new(InTheWay { world: self.world.clone(), client: self.client, is_told: AtomicBool::new(false) });
        let asked = Asked { mode: Some(mode), with_value: flags.contains(Flags::VALBLK), value: None };
        self.note(format_args!("asks for {mode} on resource {resource}, flags {:#x}", flags.0));
        lock(&self.world.judge).request(self.client, resource, asked, self.world.sim.now());
        let name = self.world.names[resource].clone();
        let (id, answer) = self.manager.lock(name, mode, flags, in_the_way.callback());
        if self.answer(id, answer).await.is_err() {
            return;
        }
        let mut held = mode;
        self.hold(&in_the_way).await;
        for _ in 0..self.dice.weighted(&[(4, 0), (3, 1), (2, 2), (1, 4)]) {
            held = self.convert(id, held).await;
            self.hold(&in_the_way).await;
        }
        self.unlock(id).await;
    }

    async fn convert(&mut self, id: LockId, held: Mode) -> Mode {
        let mode = *self.dice.pick(&Mode::ALL);
        let mut flags = self.flags();
        if self.dice.percent(20) {
            flags = flags | Flags::QUECVT;
        }
        let value = flags.contains(Flags::VALBLK).then(|| self.new_value());
        let asked = Asked { mode: Some(mode), with_value: value.is_some(), value };
        self.note(format_args!("converts from {held} to {mode}, flags {:#x}", flags.0));
        lock(&self.world.judge).change(self.client, asked, self.world.sim.now());
        let answer = self.manager.convert(id, mode, flags, value);
        match self.answer(id, answer).await {
            Ok(granted) => granted.mode,
            Err(_) => held,
        }
    }

    async fn unlock(&mut self, id: LockId) {
        let value = self.dice.percent(40).then(|| self.new_value());
        self.note(format_args!("unlocks"));
        let asked = Asked { mode: None, with_value: value.is_some(), value };
        lock(&self.world.judge).change(self.client, asked, self.world.sim.now());
        let answer = self.manager.unlock(id, value).await;
        lock(&self.world.judge).unlocked(self.client);
        if let Err(error) = answer {
            self.world.sim.violated(format!("{} could not unlock: {error}", self.client));
        }
    }

    /// Waits for a request's end, now and then cancelling it.
    async fn answer(&mut self, id: LockId, answer: dlm_api::LockFuture<Granted>) -> Result<Granted, LockError> {
        if self.dice.percent(15) {
            let (sim, manager, note) = (self.world.sim.clone(), self.manager.clone(), self.client);
            let patience = Duration::from_nanos(self.dice.below(2 * self.world.hold_most.as_nanos() as u64));
            sim.clone().call_after(patience, move || {
                sim.event(Who::Node(note.node), format_args!("{note} cancels"));
                manager.cancel(id);
            });
        }
        let answer = answer.await;
        match &answer {
            Ok(granted) => self.note(format_args!("is granted {}", granted.mode)),
            Err(error) => self.note(format_args!("is refused: {error}")),
        }
        if let Err(error @ (LockError::Busy { .. } | LockError::UnknownLock { .. } | LockError::Unavailable { .. })) =
            &answer
        {
            self.world.sim.violated(format!("{} was refused without a reason: {error}", self.client));
        }
        let verdict = lock(&self.world.judge).answered(self.client, &answer);
        self.world.judged(verdict);
        answer
    }

    /// Holds for a while, or until told to be in the way.
    async fn hold(&mut self, in_the_way: &InTheWay) {
        if self.dice.percent(30) {
            let world = &self.world;
            let is_closed = &world.nodes[self.client.node as usize].is_closed;
            let flags = [&in_the_way.is_told, &world.may_go, is_closed];
            world.until(|| flags.iter().any(|flag| flag.load(Ordering::Relaxed))).await;
        } else {
            self.world.sim.pause(self.world.hold_most).await;
        }
    }

    fn flags(&mut self) -> Flags {
        let mut flags = Flags::NONE;
        if self.dice.percent(20) {
            flags = flags | Flags::NOQUEUE;
        }
        if self.dice.percent(10) {
            flags = flags | Flags::NOQUEUEBAST;
        }
        if self.dice.percent(50) {
            flags = flags | Flags::VALBLK;
        }
        flags
    }

    fn new_value(&mut self) -> ValueBlock {
        self.values += 1;
        let mut value = ValueBlock::default();
        value.0[..4].copy_from_slice(&self.client.node.to_be_bytes());
        value.0[4..8].copy_from_slice(&self.client.task.to_be_bytes());
        value.0[28..].copy_from_slice(&self.values.to_be_bytes());
        value
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.world.sim.event(Who::Node(self.client.node), format_args!("{} {what}", self.client));
    }
}

/// Takes a NL lock on every resource, so that none is ever without a lock and its value is kept.
fn keep_resources(world: &Arc<LockWorld>, dice: &mut Dice, lockspaces: &Lockspaces) -> Result<(), String> {
    for (index, name) in world.names.iter().enumerate() {
        let member = dice.pick(&lockspaces.members);
        let (_, answer) = Port(member.clone()).lock(name.clone(), Mode::Null, Flags::NONE, Arc::new(|_| {}));
        let sim = world.sim.clone();
        world.sim.spawn(Who::World, "keeper", TaskKind::Client, async move {
            if let Err(error) = answer.await {
                sim.violated(format!("NL on resource {index} was refused: {error}"));
            }
        });
    }
    expect_done(world.sim.run(Limits { time: Duration::from_secs(60), steps: 1_000_000 }), "locking every resource")
}

fn name_of(dice: &mut Dice, index: usize) -> ResourceName {
    let text = format!("resource {index} {:x}", dice.below(0x10000));
    ResourceName::new(text.as_bytes()).expect("invariant: shorter than 64 bytes and not empty")
}
