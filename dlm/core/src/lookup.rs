//! Finding masters: questions to directories and their answers, and names that nobody uses any more.
//!
//! Before a view changes no question may be under way (`membership` waits for
//! `directory_outstanding` to be zero); those that come up meanwhile are parked.

use base::NodeId;
use dlm_api::ResourceName;

use crate::Lockspace;
use crate::directory::directory_of;
use crate::message::{About, Message, Refusal};
use crate::resource::Role;

impl Lockspace {
    /// The directory of `name` in this view.
    pub(crate) fn directory_of(&self, name: &ResourceName) -> NodeId {
        directory_of(name, self.membership.members()).unwrap_or(self.config.me)
    }

    /// Asks who masters `name`, or notes that it must be asked when the view has changed.
    pub(crate) fn start_lookup(&mut self, name: &ResourceName) {
        let directory = self.directory_of(name);
        let may_ask = self.may_ask_directories();
        let Some(resource) = self.resources.get_mut(name) else { return };
        if !may_ask || self.lost.contains_key(&directory) {
            resource.role = Role::LookupParked;
            self.fail_if_stuck(name);
        } else {
            resource.role = Role::LookingUp;
            self.directory_outstanding += 1;
            self.send(directory, Message::Lookup { name: name.clone() });
        }
    }

    /// Asks for every name that was parked.
    pub(crate) fn resume_lookups(&mut self) {
        let parked: Vec<_> = self
            .resources
            .iter()
            .filter(|(_, resource)| matches!(resource.role, Role::LookupParked))
            .map(|(name, _)| name.clone())
            .collect();
        for name in parked {
            match self.resources.get(&name) {
                Some(resource) if resource.local_locks.is_empty() => {
                    self.resources.remove(&name);
                }
                Some(_) => self.start_lookup(&name),
                None => {}
            }
        }
    }

    pub(crate) fn master_is(&mut self, name: &ResourceName, master: NodeId) {
        self.directory_outstanding = self.directory_outstanding.saturating_sub(1);
        let me = self.config.me;
        let Some(resource) = self.resources.get_mut(name) else { return };
        if !matches!(resource.role, Role::LookingUp) {
            return;
        }
        resource.role = if master == me { Role::Master(Box::default()) } else { Role::Remote { master } };
        self.send_pending_of(name);
        self.fail_if_stuck(name);
        if self.membership.is_handing_over() {
            self.hand_over(name);
        } else {
            self.note_if_unused(name);
        }
    }

    /// The answer to `Remove`: the name is nobody's, or somebody else's.
    pub(crate) fn removed(&mut self, name: &ResourceName) {
        self.directory_outstanding = self.directory_outstanding.saturating_sub(1);
        let Some(resource) = self.resources.get_mut(name) else { return };
        if !matches!(resource.role, Role::Removing) {
            return;
        }
        let parked = std::mem::take(&mut resource.parked);
        let is_wanted = !resource.local_locks.is_empty();
        for (from, message) in parked {
            self.bounce(from, &message);
        }
        if is_wanted {
            self.start_lookup(name);
        } else {
            self.resources.remove(name);
        }
    }

    /// A question to this directory. It waits if the name's entry is still to come.
    pub(crate) fn serve_directory(&mut self, from: NodeId, message: Message) {
        let (Message::Lookup { name } | Message::Remove { name } | Message::Redirect { name, .. }) = &message else {
            return;
        };
        if self.membership.is_entry_to_come(name) {
            self.directory_early.push((from, message));
            return;
        }
        match message {
            Message::Lookup { name } => {
                let master = self.directory.lookup(&name, from, self.faults.forget_directory_entry);
                self.send(from, Message::MasterIs { name, master });
            }
            Message::Remove { name } => {
                self.directory.remove(&name, from);
                self.send(from, Message::Removed { name });
            }
            Message::Redirect { name, master } => {
                self.directory.set(name.clone(), master);
                self.send(from, Message::Redirected { name });
            }
            _ => {}
        }
    }

    /// Tells the sender of a request that this is not the master; it will look the name up again.
    pub(crate) fn bounce(&mut self, from: NodeId, message: &Message) {
        if let Some(about) = request_about(message)
            && from != self.config.me
        {
            self.send(from, Message::NotMaster { about: about.clone() });
        }
    }

    /// Refuses what is parked on a name whose removal or move cannot end.
    pub(crate) fn refuse_parked(&mut self, name: &ResourceName) {
        let Some(resource) = self.resources.get_mut(name) else { return };
        for (from, message) in std::mem::take(&mut resource.parked) {
            if let Some(about) = request_about(&message) {
                self.send(from, Message::Refused { about: about.clone(), refusal: Refusal::MemberLost });
            }
        }
    }

    /// Puts a name without locks on the list from which it will be forgotten.
    pub(crate) fn note_if_unused(&mut self, name: &ResourceName) {
        let now = self.now;
        let Some(resource) = self.resources.get_mut(name) else { return };
        if !resource.is_unused() {
            resource.unused_since = None;
            return;
        }
        resource.unused_since = Some(now);
        if !resource.is_listed_unused {
            resource.is_listed_unused = true;
            self.unused.push_back((now + self.config.unused_after, name.clone()));
        }
        if self.unused.len() > self.config.unused_count_max && self.may_ask_directories() {
            self.expire_first();
        }
    }

    pub(crate) fn expire_unused(&mut self) {
        if !self.may_ask_directories() {
            return;
        }
        while self.unused.front().is_some_and(|(at, _)| *at <= self.now) {
            self.expire_first();
        }
    }

    /// Forgets the first name of the list, if it is still unused and has been for long enough.
    fn expire_first(&mut self) {
        let is_full = self.unused.len() > self.config.unused_count_max;
        let Some((_, name)) = self.unused.pop_front() else { return };
        let Some(resource) = self.resources.get_mut(&name) else { return };
        resource.is_listed_unused = false;
        let Some(since) = resource.unused_since.filter(|_| resource.is_unused()) else { return };
        let due = since + self.config.unused_after;
        if due > self.now && !is_full {
            resource.is_listed_unused = true;
            self.unused.push_back((due, name));
        } else {
            self.forget_unused(&name);
        }
    }

    /// Drops a name without locks; a master asks the directory first.
    pub(crate) fn forget_unused(&mut self, name: &ResourceName) {
        let Some(resource) = self.resources.get_mut(name) else { return };
        if !matches!(resource.role, Role::Master(_)) {
            self.resources.remove(name);
            return;
        }
        if !self.faults.reuse_before_removed {
            resource.role = Role::Removing;
        }
        let directory = self.directory_of(name);
        self.directory_outstanding += 1;
        self.send(directory, Message::Remove { name: name.clone() });
    }
}

/// Which lock a request to a master is about.
pub(crate) fn request_about(message: &Message) -> Option<&About> {
    match message {
        Message::Request { about, .. }
        | Message::Convert { about, .. }
        | Message::Unlock { about, .. }
        | Message::Cancel { about } => Some(about),
        _ => None,
    }
}
