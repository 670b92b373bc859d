//! A leaver's share goes to the others before it leaves: first what it masters, name by name, then
//! its directory entries. Nothing is lost because it cooperates.
//!
//! One mastership, in order; each step is acknowledged before the next:
//! 1. the leaver freezes the name: requests for it are parked (`Role::Moving`);
//! 2. `Transfer`: the queues go to the lowest member that has a lock there, which is the master now;
//! 3. `Redirect`: the directory names the new master;
//! 4. `Moved` to everybody else with a lock there, who sends what is pending to the new master, and to
//!    the new master itself, which may forget the name from now on; what was parked is bounced. Requests that the leaver had queued are in the state that was
//!    transferred, so those that are sent again are recognised by their number.
//!
//! The new master is active before the directory names it. That is safe because the old one is
//! frozen from step 1 until every step is acknowledged, and because a directory that named the new
//! master first would make it begin with empty queues if it asked. A move that a loss cuts short
//! leaves a name whose directory entry names the lost member: in doubt.

use base::{NodeId, ViewId};
use dlm_api::ResourceName;
use dlm_api::queues::Queues;

use crate::message::{Holder, Message};
use crate::resource::{Move, Resource, Role};
use crate::{Lockspace, Output};

impl Lockspace {
    /// Begins to hand over everything that this member masters; its users have no lock any more.
    pub(crate) fn start_handover(&mut self) {
        let names: Vec<_> = self.resources.keys().cloned().collect();
        for name in names {
            self.hand_over(&name);
        }
    }

    /// The same for one name, if its role is settled; else once it is.
    pub(crate) fn hand_over(&mut self, name: &ResourceName) {
        let Some(resource) = self.resources.get_mut(name) else { return };
        match &mut resource.role {
            Role::Master(queues) if !queues.is_unused() => {
                let queues = std::mem::take(&mut **queues);
                self.move_mastership(name.clone(), queues);
            }
            Role::Master(_) | Role::Remote { .. } | Role::LookupParked => self.forget_unused(name),
            Role::LookingUp | Role::Removing | Role::Moving(_) => {}
        }
    }

    fn move_mastership(&mut self, name: ResourceName, queues: Queues<Holder>) {
        let others = || self.membership.prepared_members().filter(|node| !self.lost.contains_key(node));
        let to = others().filter(|node| queues.entries().any(|entry| entry.key.node == *node)).min();
        let Some(to) = to.or_else(|| others().min()) else { return };
        let message = Message::Transfer { name: name.clone(), queues: Box::new(queues.clone()) };
        if let Some(resource) = self.resources.get_mut(&name) {
            resource.role = Role::Moving(Box::new(Move { to, queues }));
        }
        self.send(to, message);
    }

    /// A leaver's mastership comes here.
    pub(crate) fn take_mastership(&mut self, from: NodeId, name: ResourceName, queues: Box<Queues<Holder>>) {
        let mut keys: Vec<_> = queues.entries().map(|entry| entry.key).collect();
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        let resource = self.resources.entry(name.clone()).or_insert_with(Resource::new);
        let is_free = match resource.role {
            Role::LookupParked | Role::LookingUp | Role::Remote { .. } => true,
            Role::Master(_) | Role::Removing | Role::Moving(_) => false,
        };
        // A fault planted in a grant shows here too; it is for the checker to find, not for the link.
        if !is_free || keys.len() != count {
            let why = format!("it hands over {name}, which is mastered here or has a lock twice");
            self.outputs.push_back(Output::LinkFault { peer: from, why });
            return;
        }
        resource.role = Role::Master(queues);
        resource.is_incoming = true;
        self.send(from, Message::Transferred { name: name.clone() });
        self.send_pending_of(&name);
        self.note_if_unused(&name);
    }

    pub(crate) fn mastership_taken(&mut self, from: NodeId, name: &ResourceName) {
        let Some(resource) = self.resources.get(name) else { return };
        let Role::Moving(moving) = &resource.role else { return };
        if moving.to == from {
            let directory = self.directory_of(name);
            self.directory_outstanding += 1;
            self.send(directory, Message::Redirect { name: name.clone(), master: from });
        }
    }

    pub(crate) fn mastership_redirected(&mut self, name: &ResourceName) {
        self.directory_outstanding = self.directory_outstanding.saturating_sub(1);
        if !matches!(self.resources.get(name), Some(Resource { role: Role::Moving(_), .. })) {
            return;
        }
        let Some(Resource { role: Role::Moving(moving), parked, .. }) = self.resources.remove(name) else { return };
        let mut told: Vec<_> = moving.queues.entries().map(|entry| entry.key.node).collect();
        told.sort_unstable();
        told.dedup();
        // The new master as well: from now on it may forget the name.
        if !told.contains(&moving.to) {
            told.push(moving.to);
        }
        for node in told {
            if node != self.config.me {
                self.send(node, Message::Moved { name: name.clone(), master: moving.to });
            }
        }
        for (from, message) in parked {
            self.bounce(from, &message);
        }
    }

    /// The master of a name has handed it to another.
    pub(crate) fn mastership_moved(&mut self, from: NodeId, name: &ResourceName, to: NodeId) {
        let Some(resource) = self.resources.get_mut(name) else { return };
        if to == self.config.me {
            resource.is_incoming = false;
            self.note_if_unused(name);
            return;
        }
        if matches!(resource.role, Role::Remote { master } if master == from) {
            resource.role = Role::Remote { master: to };
            self.send_pending_of(name);
        }
    }

    /// Sends the directory entries that have another home in the view just adopted, and says so.
    pub(crate) fn hand_directory_over(&mut self, view: ViewId) {
        let me = self.config.me;
        let members: Vec<_> = self.membership.members().collect();
        for (home, entries) in self.directory.take_moved(me, &members) {
            for some in entries.chunks(ENTRIES_COUNT_MAX) {
                if !self.faults.drop_directory_share {
                    self.send(home, Message::Entries { view, entries: some.to_vec() });
                }
            }
        }
        for member in members {
            if member != me {
                self.send(member, Message::EntriesDone { view });
            }
        }
    }

    pub(crate) fn take_entries(&mut self, view: ViewId, entries: Vec<(ResourceName, NodeId)>) {
        if view == self.membership.view_id() {
            for (name, master) in entries {
                self.directory.set(name, master);
            }
        }
    }

    /// All entries of `from` that belong here have come.
    pub(crate) fn entries_done(&mut self, from: NodeId, view: ViewId) {
        if view != self.membership.view_id() || !self.membership.entries_came(from) {
            return;
        }
        if !self.membership.members().any(|member| member == from) {
            // It answers no more. What it mastered has moved, and whoever had a lock there was told.
            let stale = self
                .resources
                .iter()
                .filter(|(_, resource)| matches!(resource.role, Role::Remote { master } if master == from));
            for name in stale.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                match self.resources.get(&name) {
                    Some(resource) if resource.local_locks.is_empty() => self.forget_unused(&name),
                    Some(_) => self.start_lookup(&name),
                    None => {}
                }
            }
            self.send(from, Message::EntriesTaken { view });
        }
        for (asking, message) in std::mem::take(&mut self.directory_early) {
            self.serve_directory(asking, message);
        }
    }
}

/// Directory entries in one message.
const ENTRIES_COUNT_MAX: usize = 512;
