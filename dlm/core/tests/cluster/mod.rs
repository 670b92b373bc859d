//! A cluster of members in memory: frames in flight that a seeded network loses, repeats and
//! reorders, users that take and give up locks, and a checker that sees only what users see.

#![allow(dead_code, reason = "not every test that includes this file needs all of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{Incarnation, Instant, NodeId};
use bytes::Bytes;
use dlm_api::{Flags, LockError, LockId, Mode, ResourceName, ValueBlock};
use dlm_core::codec::Frame;
use dlm_core::message::Message;
use dlm_core::{Config, Faults, Input, Lockspace, Output, invariants};

/// A small generator: the same seed, the same run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("small")
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// One lock as its user sees it.
#[derive(Clone, Debug)]
pub struct UserLock {
    pub node: NodeId,
    pub name: ResourceName,
    /// What the user believes it may rely on: lowered when it asks for less, raised by the answer.
    pub held: Option<Mode>,
    /// What it held before the conversion under way.
    pub before: Option<Mode>,
    pub asked: Option<Asked>,
    pub told: bool,
    pub fails: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Lock(Mode),
    Convert(Mode),
    Unlock,
}

pub struct Cluster {
    pub random: Random,
    pub now: Instant,
    pub members: BTreeMap<NodeId, Lockspace>,
    incarnations: BTreeMap<NodeId, u64>,
    pub left: BTreeSet<NodeId>,
    pub flying: Vec<(NodeId, NodeId, Bytes)>,
    pub links: BTreeSet<(NodeId, NodeId)>,
    pub locks: BTreeMap<LockId, UserLock>,
    /// Locks whose users have left.
    departed: BTreeSet<LockId>,
    pub values: BTreeMap<ResourceName, ValueBlock>,
    /// Names that nobody held for a moment: their value may have gone with the resource.
    pub forgotten: BTreeSet<ResourceName>,
    pub log: Vec<String>,
    last_lock: u64,
    last_value: u64,
    pub loss_percent: u64,
    pub grants: u64,
    pub faults: Faults,
    pub unused_after: Duration,
    pub all: Vec<NodeId>,
    pub lost_after: Option<Duration>,
}

impl Cluster {
    pub fn new(seed: u64, count: u32, faults: Faults) -> Cluster {
        let all: Vec<_> = (1..=count).map(NodeId).collect();
        Cluster {
            random: Random(seed),
            now: Instant::from_nanos(0),
            members: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            left: BTreeSet::new(),
            flying: Vec::new(),
            links: BTreeSet::new(),
            locks: BTreeMap::new(),
            departed: BTreeSet::new(),
            values: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            log: Vec::new(),
            last_lock: 0,
            last_value: 0,
            loss_percent: 0,
            grants: 0,
            faults,
            unused_after: Duration::from_millis(300),
            all,
            lost_after: None,
        }
    }

    /// Starts a member in a new life and connects it to every other that runs.
    pub fn start(&mut self, node: NodeId) {
        let life = self.incarnations.entry(node).or_insert(0);
        *life += 1;
        let config = Config {
            keepalive: self.lost_after.map(|after| after / 10),
            lost_after: self.lost_after.unwrap_or_default(),
            unused_after: self.unused_after,
            ..Config::new(node, Incarnation(*life), self.all.clone())
        };
        self.left.remove(&node);
        self.members.insert(node, Lockspace::with_faults(config, self.now, self.faults));
        self.input(node, Input::Tick);
        for peer in self.all.clone() {
            if peer != node && self.members.contains_key(&peer) {
                self.connect(node, peer);
            }
        }
    }

    /// Ends a member without a word.
    pub fn kill(&mut self, node: NodeId) {
        self.members.remove(&node);
        self.flying.retain(|(from, to, _)| *from != node && *to != node);
        for peer in self.all.clone() {
            if self.links.remove(&pair(node, peer)) && self.members.contains_key(&peer) {
                self.input(peer, Input::LinkDown { peer: node });
            }
        }
        for lock in self.locks.values_mut().filter(|lock| lock.node == node) {
            lock.asked = None;
        }
    }

    pub fn connect(&mut self, one: NodeId, other: NodeId) {
        self.links.insert(pair(one, other));
        for (node, peer) in [(one, other), (other, one)] {
            let incarnation = Incarnation(self.incarnations[&peer]);
            self.input(node, Input::LinkUp { peer, incarnation });
        }
    }

    /// The users of a member give everything up, and it leaves.
    pub fn leave(&mut self, node: NodeId) {
        self.log.push(format!("{node}: wants to leave"));
        self.departed.extend(self.locks.iter().filter(|(_, lock)| lock.node == node).map(|(lock, _)| *lock));
        self.locks.retain(|_, lock| lock.node != node);
        self.input(node, Input::Leave);
    }

    /// Breaks a connection; what was in flight on it is gone.
    pub fn disconnect(&mut self, one: NodeId, other: NodeId) {
        if self.links.remove(&pair(one, other)) {
            self.flying.retain(|(from, to, _)| pair(*from, *to) != pair(one, other));
            self.input(one, Input::LinkDown { peer: other });
            self.input(other, Input::LinkDown { peer: one });
        }
    }

    pub fn input(&mut self, node: NodeId, input: Input) {
        let now = self.now;
        self.note_forgotten();
        let Some(member) = self.members.get_mut(&node) else { return };
        member.handle(input, now);
        let mut outputs = Vec::new();
        while let Some(output) = member.poll_output() {
            outputs.push(output);
        }
        invariants::check_member(member).unwrap_or_else(|wrong| self.log.push(format!("WRONG {wrong}")));
        for output in outputs {
            self.output(node, output);
        }
    }

    fn output(&mut self, node: NodeId, output: Output) {
        match output {
            Output::Send { to, frame } => {
                if self.links.contains(&pair(node, to)) {
                    self.flying.push((node, to, frame));
                }
            }
            Output::Granted { lock, granted } => {
                self.grants += 1;
                let Some(user) = self.locks.get_mut(&lock) else {
                    if self.departed.contains(&lock) {
                        return;
                    }
                    self.log.push(format!("WRONG lock {lock:?} granted to nobody"));
                    return;
                };
                let was = user.held;
                user.held = Some(granted.mode);
                user.asked = None;
                user.told = user.told && was.is_some_and(|was| was < granted.mode);
                let name = user.name.clone();
                self.log.push(format!("{node}: {name} {} granted {}", lock.0, granted.mode));
                if granted.mode >= Mode::ProtectedRead
                    && let Some(value) = granted.value
                {
                    let expected = self.values.get(&name).copied().unwrap_or_default();
                    let may_be_gone = self.forgotten.contains(&name) && value == ValueBlock::default();
                    if value != expected && !may_be_gone {
                        self.log.push(format!("WRONG {name}: value {:?}, not {:?}", value.0[0], expected.0[0]));
                    }
                }
                self.check_holders(&name);
            }
            Output::Refused { lock, error } => {
                self.log.push(format!("{node}: {} refused: {error}", lock.0));
                let Some(user) = self.locks.get_mut(&lock) else { return };
                let asked = user.asked.take();
                if matches!(asked, Some(Asked::Convert(_))) {
                    user.held = user.before;
                }
                user.fails += 1;
                if matches!(asked, Some(Asked::Lock(_))) || matches!(error, LockError::UnknownLock { .. }) {
                    self.locks.remove(&lock);
                }
            }
            Output::Unlocked { lock } => {
                self.log.push(format!("{node}: {} unlocked", lock.0));
                self.locks.remove(&lock);
            }
            Output::Blocking { lock, mode } => {
                self.log.push(format!("{node}: {} is in the way of {mode}", lock.0));
                if let Some(user) = self.locks.get_mut(&lock) {
                    user.told = true;
                }
            }
            Output::Left => {
                self.log.push(format!("{node}: left"));
                self.left.insert(node);
                self.members.remove(&node);
                self.locks.retain(|_, lock| lock.node != node);
                for peer in self.all.clone() {
                    self.flying.retain(|(from, to, _)| pair(*from, *to) != pair(node, peer));
                    if self.links.remove(&pair(node, peer)) {
                        self.input(peer, Input::LinkDown { peer: node });
                    }
                }
            }
            Output::LinkFault { peer, why } => self.log.push(format!("WRONG {node}: {peer} {why}")),
            other => self.log.push(format!("{node}: {other:?}")),
        }
    }

    fn check_holders(&mut self, name: &ResourceName) {
        let held: Vec<_> = self
            .locks
            .iter()
            .filter(|(_, lock)| lock.name == *name)
            .filter_map(|(id, lock)| lock.held.map(|held| (*id, lock.node, held)))
            .collect();
        for (index, (id, node, mode)) in held.iter().enumerate() {
            for (other_id, other_node, other) in &held[index + 1..] {
                if !mode.is_compatible(*other) {
                    self.log.push(format!(
                        "WRONG {name}: {node} holds {mode} ({}) and {other_node} {other} ({})",
                        id.0, other_id.0
                    ));
                }
            }
        }
    }

    pub fn lock(&mut self, node: NodeId, name: &ResourceName, mode: Mode, flags: Flags) -> LockId {
        self.last_lock += 1;
        let lock = LockId(self.last_lock);
        let asked = Some(Asked::Lock(mode));
        let user = UserLock { node, name: name.clone(), held: None, before: None, asked, told: false, fails: 0 };
        self.locks.insert(lock, user);
        self.log.push(format!("{node}: {name} {} asks for {mode}", lock.0));
        self.input(node, Input::Lock { lock, name: name.clone(), mode, flags: flags | Flags::VALBLK });
        lock
    }

    pub fn convert(&mut self, lock: LockId, mode: Mode, flags: Flags) {
        let Some(user) = self.locks.get_mut(&lock) else { return };
        let Some(held) = user.held else { return };
        let node = user.node;
        user.asked = Some(Asked::Convert(mode));
        let mut value = None;
        if held >= Mode::ProtectedWrite && mode <= held {
            value = Some(self.next_value(lock));
        }
        let user = self.locks.get_mut(&lock).expect("there");
        // On its way from CW to PR or back a lock is good for neither.
        user.before = Some(held);
        if held.covers(mode) {
            user.held = Some(mode);
        } else if !mode.covers(held) {
            user.held = Some(Mode::ConcurrentRead);
        }
        self.log.push(format!("{node}: {} converts to {mode}", lock.0));
        self.input(node, Input::Convert { lock, mode, flags: flags | Flags::VALBLK, value });
    }

    pub fn unlock(&mut self, lock: LockId) {
        let Some(user) = self.locks.get(&lock) else { return };
        let node = user.node;
        let writes = user.held.is_some_and(|held| held >= Mode::ProtectedWrite);
        let value = writes.then(|| self.next_value(lock));
        let user = self.locks.get_mut(&lock).expect("there");
        user.held = None;
        user.asked = Some(Asked::Unlock);
        self.log.push(format!("{node}: {} unlocks", lock.0));
        self.input(node, Input::Unlock { lock, value });
    }

    fn next_value(&mut self, lock: LockId) -> ValueBlock {
        self.last_value += 1;
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.last_value.to_le_bytes());
        let name = self.locks[&lock].name.clone();
        self.forgotten.remove(&name);
        self.values.insert(name, ValueBlock(bytes));
        ValueBlock(bytes)
    }

    /// Notes the names that nobody holds.
    fn note_forgotten(&mut self) {
        let held: BTreeSet<_> = self.locks.values().filter(|lock| lock.held.is_some()).map(|lock| &lock.name).collect();
        let gone: Vec<_> = self.values.keys().filter(|name| !held.contains(name)).cloned().collect();
        self.forgotten.extend(gone);
    }

    /// Delivers one frame in flight, at random, or lets time pass. False if nothing can happen.
    pub fn step(&mut self) -> bool {
        let deadline = self.members.values().filter_map(Lockspace::next_deadline).min();
        if self.flying.is_empty() || self.random.chance(3) {
            let Some(deadline) = deadline else { return !self.flying.is_empty() };
            self.now = self.now.max(deadline);
            for node in self.all.clone() {
                self.input(node, Input::Tick);
            }
            return true;
        }
        self.now = self.now + Duration::from_micros(50);
        let index = self.random.below(self.flying.len());
        if self.random.chance(self.loss_percent) {
            self.flying.swap_remove(index);
            return true;
        }
        let (from, to, frame) =
            if self.random.chance(5) { self.flying[index].clone() } else { self.flying.swap_remove(index) };
        self.input(to, Input::Received { peer: from, frame });
        true
    }

    /// Delivers in order of sending, with time passing only when nothing flies, until nothing moves.
    pub fn calm(&mut self) {
        for _ in 0..10_000 {
            if self.flying.is_empty() {
                let horizon = self.now + Duration::from_millis(100);
                let deadline = self.members.values().filter_map(Lockspace::next_deadline).min();
                let Some(deadline) = deadline.filter(|deadline| *deadline <= horizon) else { return };
                self.now = self.now.max(deadline);
                for node in self.all.clone() {
                    self.input(node, Input::Tick);
                }
            } else {
                let (from, to, frame) = self.flying.remove(0);
                if let Ok(frame) = Frame::decode(&frame) {
                    for (_, message) in &frame.messages {
                        self.log.push(format!("    {} -> {}  {}", from.0, to.0, describe(message)));
                    }
                }
                self.input(to, Input::Received { peer: from, frame });
            }
        }
        panic!("it never calms down:\n{}", self.log.join("\n"));
    }

    pub fn wrong(&self) -> Option<&String> {
        self.log.iter().find(|line| line.starts_with("WRONG"))
    }
}

fn pair(one: NodeId, other: NodeId) -> (NodeId, NodeId) {
    (one.min(other), one.max(other))
}

pub fn name(text: &str) -> ResourceName {
    ResourceName::new(text.as_bytes()).expect("a name")
}

/// A message in a few words.
fn describe(message: &Message) -> String {
    let value = |value: &Option<ValueBlock>| value.map_or(String::new(), |value| format!(", value {}", value.0[0]));
    match message {
        Message::Request { about, mode, .. } => format!("Request {} for lock {}, {mode}", about.name, about.lock.0),
        Message::Convert { about, mode, value: written, .. } => {
            format!("Convert lock {} to {mode}{}", about.lock.0, value(written))
        }
        Message::Unlock { about, value: written } => format!("Unlock lock {}{}", about.lock.0, value(written)),
        Message::Cancel { about } => format!("Cancel lock {}", about.lock.0),
        Message::Granted { about, mode, value: read, .. } => {
            format!("Granted lock {}, {mode}{}", about.lock.0, value(read))
        }
        Message::Refused { about, refusal } => format!("Refused lock {}, {refusal:?}", about.lock.0),
        Message::Unlocked { about } => format!("Unlocked lock {}", about.lock.0),
        Message::Blocking { lock, mode } => format!("Blocking lock {}, in the way of {mode}", lock.0),
        Message::NotMaster { about } => format!("NotMaster of {}, lock {}", about.name, about.lock.0),
        Message::Lookup { name } => format!("Lookup {name}"),
        Message::MasterIs { name, master } => format!("MasterIs {name}, {master}"),
        Message::Remove { name } => format!("Remove {name}"),
        Message::Removed { name } => format!("Removed {name}"),
        Message::Transfer { name, queues } => format!("Transfer {name}, {} locks", queues.entries().count()),
        Message::Transferred { name } => format!("Transferred {name}"),
        Message::Redirect { name, master } => format!("Redirect {name}, {master}"),
        Message::Redirected { name } => format!("Redirected {name}"),
        Message::Moved { name, master } => format!("Moved {name}, {master}"),
        Message::Entries { view, entries } => format!("Entries of {view}: {}", entries.len()),
        Message::EntriesDone { view } => format!("EntriesDone of {view}"),
        Message::EntriesTaken { view } => format!("EntriesTaken of {view}"),
        Message::Join | Message::Leave => format!("{message:?}"),
        Message::Prepare { view, members, .. } | Message::ViewIs { view, members } => {
            let kind = if matches!(message, Message::ViewIs { .. }) { "ViewIs" } else { "Prepare" };
            let nodes: Vec<_> = members.iter().map(|life| life.node.0.to_string()).collect();
            format!("{kind} {view} of {}", nodes.join(" "))
        }
        Message::Ready { view } => format!("Ready for {view}"),
        Message::Commit { view } => format!("Commit {view}"),
        Message::Abandon { view } => format!("Abandon {view}"),
    }
}
