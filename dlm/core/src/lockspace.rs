//! One member of one lockspace: owns all of its state, takes inputs in and gives outputs out.
//!
//! Between two inputs the invariants of `invariants.rs` hold. Every message, also one to itself, goes
//! through `act`, so that a member is its own directory and master by the same code as any other.

use std::collections::{BTreeMap, VecDeque};

use base::{Incarnation, Instant, NodeId};
use bytes::Bytes;
use dlm_api::queues::Effect;
use dlm_api::{LockId, Mode, ResourceName};

use crate::codec::Frame;
use crate::directory::Directory;
use crate::link::Link;
use crate::membership::Membership;
use crate::message::{Holder, Message};
use crate::resource::{LocalLock, Resource};
use crate::{Config, Faults, Input, Output};

/// One member of one lockspace.
pub struct Lockspace {
    pub(crate) config: Config,
    pub(crate) faults: Faults,
    pub(crate) now: Instant,
    pub(crate) links: BTreeMap<NodeId, Link>,
    pub(crate) outputs: VecDeque<Output>,
    /// Messages of this member to itself.
    pub(crate) to_self: VecDeque<Message>,
    /// The locks of this member's users.
    pub(crate) locks: BTreeMap<LockId, LocalLock>,
    /// Every name that this member's users use, or that it masters.
    pub(crate) resources: BTreeMap<ResourceName, Resource>,
    pub(crate) directory: Directory,
    /// Questions to directories that are not yet answered.
    pub(crate) directory_outstanding: usize,
    /// Questions to this directory about names whose entries have not yet come from their old one.
    pub(crate) directory_early: Vec<(NodeId, Message)>,
    /// Names that may be unused, by when to look at them; each name at most once.
    pub(crate) unused: VecDeque<(Instant, ResourceName)>,
    pub(crate) membership: Membership,
    /// Members of the view that are lost, and why.
    pub(crate) lost: BTreeMap<NodeId, String>,
    /// Kept for its capacity.
    pub(crate) effects: Vec<Effect<Holder>>,
}

impl Lockspace {
    /// A member that is about to join. Hand in a `Tick` to start it.
    pub fn new(config: Config, now: Instant) -> Lockspace {
        Lockspace::with_faults(config, now, Faults::default())
    }

    /// With deliberate bugs: for the simulator only.
    pub fn with_faults(config: Config, now: Instant, faults: Faults) -> Lockspace {
        let peers = config.members.iter().filter(|member| **member != config.me);
        let links = peers.map(|peer| (*peer, Link::new(*peer, now))).collect();
        Lockspace {
            config,
            faults,
            now,
            links,
            outputs: VecDeque::new(),
            to_self: VecDeque::new(),
            locks: BTreeMap::new(),
            resources: BTreeMap::new(),
            directory: Directory::default(),
            directory_outstanding: 0,
            directory_early: Vec::new(),
            unused: VecDeque::new(),
            membership: Membership::default(),
            lost: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    /// Takes one input in.
    pub fn handle(&mut self, input: Input, now: Instant) {
        self.now = self.now.max(now);
        match input {
            Input::Lock { lock, name, mode, flags } => self.user_lock(lock, name, mode, flags),
            Input::Convert { lock, mode, flags, value } => self.user_convert(lock, mode, flags, value),
            Input::Unlock { lock, value } => self.user_unlock(lock, value),
            Input::Cancel { lock } => self.user_cancel(lock),
            Input::Leave => self.user_leave(),
            Input::LinkUp { peer, incarnation } => self.link_up(peer, incarnation),
            Input::LinkDown { peer } => self.link_down(peer),
            Input::Received { peer, frame } => self.receive(peer, &frame),
            Input::Tick => self.tick(),
        }
        self.settle();
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        for (peer, link) in &mut self.links {
            if let Some(frame) = link.poll_frame(&self.config, self.now) {
                return Some(Output::Send { to: *peer, frame });
            }
        }
        None
    }

    /// When to hand in a `Tick`.
    pub fn next_deadline(&self) -> Option<Instant> {
        let links = self.links.values().filter_map(|link| link.next_deadline(&self.config));
        let unused = self.unused.front().map(|(at, _)| *at).filter(|_| self.may_ask_directories());
        links.chain(unused).chain(self.loss_deadline()).min()
    }

    /// The mode that a lock of this member was last granted; `None` if there is no such lock, or
    /// it waits for its first.
    pub fn granted_mode(&self, lock: LockId) -> Option<Mode> {
        self.locks.get(&lock)?.granted
    }

    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        if to == self.config.me {
            self.to_self.push_back(message);
        } else if let Some(link) = self.links.get_mut(&to) {
            link.push(self.membership.view_id(), &message);
        }
    }

    /// Acts on every message whose turn has come, until nothing moves any more.
    fn settle(&mut self) {
        loop {
            while let Some(message) = self.to_self.pop_front() {
                self.act(self.config.me, message);
            }
            if let Some((from, message)) = self.next_message() {
                self.act(from, message);
            } else if !self.advance_membership() {
                break;
            }
        }
    }

    /// The next message of some link, unless it is from a view that this member has yet to come to.
    fn next_message(&mut self) -> Option<(NodeId, Message)> {
        let view = self.membership.view_id();
        let has_view = self.membership.has_view();
        for (peer, link) in &mut self.links {
            let Some((stamp, message)) = link.inbox.front() else { continue };
            if *stamp <= view || (!has_view && message.is_about_views()) {
                return link.inbox.pop_front().map(|(_, message)| (*peer, message));
            }
        }
        None
    }

    fn act(&mut self, from: NodeId, message: Message) {
        if from != self.config.me && !message.is_about_views() && !self.membership.counts_on(from) {
            return;
        }
        match message {
            Message::Request { .. } | Message::Convert { .. } | Message::Unlock { .. } | Message::Cancel { .. } => {
                self.serve(from, message);
            }
            Message::Granted { about, mode, value, is_value_valid } => {
                self.answered_granted(from, about, mode, value, is_value_valid);
            }
            Message::Refused { about, refusal } => self.answered_refused(about, refusal),
            Message::Unlocked { about } => self.answered_unlocked(&about),
            Message::Blocking { lock, mode } => self.blocking(lock, mode),
            Message::NotMaster { about } => self.not_master(from, &about),
            Message::Lookup { .. } | Message::Remove { .. } | Message::Redirect { .. } => {
                self.serve_directory(from, message);
            }
            Message::MasterIs { name, master } => self.master_is(&name, master),
            Message::Removed { name } => self.removed(&name),
            Message::Transfer { name, queues } => self.take_mastership(from, name, queues),
            Message::Transferred { name } => self.mastership_taken(from, &name),
            Message::Redirected { name } => self.mastership_redirected(&name),
            Message::Moved { name, master } => self.mastership_moved(from, &name, master),
            Message::Entries { view, entries } => self.take_entries(view, entries),
            Message::EntriesDone { view } => self.entries_done(from, view),
            Message::EntriesTaken { view } => self.entries_taken(from, view),
            Message::Join => self.wish_join(from),
            Message::Leave => self.wish_leave(from),
            Message::Prepare { view, members, previous } => self.prepare(from, view, members, previous),
            Message::Ready { view } => self.member_ready(from, view),
            Message::Commit { view } => self.commit(from, view),
            Message::Abandon { view } => self.abandon_view(from, view),
            Message::ViewIs { view, members } => self.view_is(from, view, members),
        }
    }

    fn link_up(&mut self, peer: NodeId, incarnation: Incarnation) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&peer) else {
            let why = format!("{peer} is not a member of the view file");
            self.outputs.push_back(Output::LinkFault { peer, why });
            return;
        };
        let is_new_life = link.incarnation.is_some_and(|known| known != incarnation);
        let was_up = std::mem::replace(&mut link.is_up, false);
        if was_up {
            self.peer_down(peer);
        }
        if let Some(link) = self.links.get_mut(&peer) {
            link.up(incarnation, now);
        }
        self.peer_up(peer, incarnation, is_new_life);
    }

    fn link_down(&mut self, peer: NodeId) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.down();
            self.peer_down(peer);
        }
    }

    fn receive(&mut self, peer: NodeId, bytes: &Bytes) {
        let Some(link) = self.links.get_mut(&peer).filter(|link| link.is_up) else { return };
        let checked = match Frame::decode(bytes) {
            Err(error) => Err(error.to_string()),
            Ok(frame) if frame.sender != peer => Err(format!("a frame of {} came from {peer}", frame.sender)),
            // Late frames of a connection of an earlier life.
            Ok(frame) if Some(frame.sender_incarnation) != link.incarnation => return,
            Ok(frame) if frame.receiver_incarnation != self.config.incarnation => return,
            Ok(frame) => link.receive(frame, &self.config, self.faults.accept_out_of_order, self.now),
        };
        match checked {
            Ok(()) => self.heard(peer),
            Err(why) => self.outputs.push_back(Output::LinkFault { peer, why }),
        }
    }

    fn tick(&mut self) {
        for link in self.links.values_mut() {
            link.tick(&self.config, self.now);
        }
        self.detect_losses();
        self.expire_unused();
    }
}
