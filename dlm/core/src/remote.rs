//! The owner's side: the locks of this member's users, wherever they are mastered, and the requests
//! under way for them.
//!
//! A request stays pending until its master has answered, and is sent again when the master changes;
//! masters recognise repeated ones. When a request cannot be answered because a member is lost, the
//! user is told and the request goes on abandoned: should the answer come after all, what it grants
//! is given back.

use base::NodeId;
use dlm_api::{Flags, Granted, LockError, LockId, Mode, ResourceName, ValueBlock};

use crate::message::{About, Message, Refusal};
use crate::resource::{LocalLock, Pending, Resource, Role, Verb};
use crate::{Lockspace, Output};

impl Lockspace {
    pub(crate) fn user_lock(&mut self, lock: LockId, name: ResourceName, mode: Mode, flags: Flags) {
        if self.locks.contains_key(&lock) {
            self.outputs.push_back(Output::Refused { lock, error: LockError::Busy { lock } });
            return;
        }
        if let Err(error) = self.is_open() {
            self.outputs.push_back(Output::Refused { lock, error });
            return;
        }
        let is_new = !self.resources.contains_key(&name);
        let resource = self.resources.entry(name.clone()).or_insert_with(Resource::new);
        resource.local_locks.push(lock);
        resource.unused_since = None;
        self.locks.insert(lock, LocalLock { name: name.clone(), granted: None, sequence: 0, pending: None });
        self.ask(lock, Verb::Request { mode, flags });
        if is_new {
            self.start_lookup(&name);
        }
    }

    pub(crate) fn user_convert(&mut self, lock: LockId, mode: Mode, flags: Flags, value: Option<ValueBlock>) {
        match self.is_idle(lock) {
            Ok(()) => self.ask(lock, Verb::Convert { mode, flags, value }),
            Err(error) => self.outputs.push_back(Output::Refused { lock, error }),
        }
    }

    pub(crate) fn user_unlock(&mut self, lock: LockId, value: Option<ValueBlock>) {
        // Giving up is possible even while the answer to an abandoned conversion is out.
        let is_abandoned = self.locks.get(&lock).is_some_and(|found| {
            let pending = found.pending.as_ref().filter(|pending| pending.is_abandoned);
            pending.is_some_and(|pending| matches!(pending.verb, Verb::Convert { .. }))
        });
        let checked = if is_abandoned { self.is_open() } else { self.is_idle(lock) };
        match checked {
            Ok(()) => self.ask(lock, Verb::Unlock { value }),
            Err(error) => self.outputs.push_back(Output::Refused { lock, error }),
        }
    }

    pub(crate) fn user_cancel(&mut self, lock: LockId) {
        let Some(found) = self.locks.get_mut(&lock) else { return };
        let Some(pending) = &mut found.pending else { return };
        if matches!(pending.verb, Verb::Unlock { .. }) || pending.is_abandoned || pending.is_cancel_wanted {
            return;
        }
        pending.is_cancel_wanted = true;
        if pending.is_sent {
            let about = About { name: found.name.clone(), lock, sequence: found.sequence };
            self.send_to_master(Message::Cancel { about });
        } else {
            self.end_refused(lock, LockError::Cancelled);
        }
    }

    /// Gives up every lock; pending requests end with `Unavailable`.
    pub(crate) fn release_all(&mut self) {
        let all: Vec<_> = self.locks.keys().copied().collect();
        for lock in all {
            let Some(found) = self.locks.get_mut(&lock) else { continue };
            let mut value = None;
            let was_sent = found.pending.as_ref().is_some_and(|pending| pending.is_sent);
            if let Some(pending) = found.pending.take()
                && !pending.is_abandoned
            {
                if matches!(pending.verb, Verb::Unlock { .. }) {
                    // Under way already: go on with it.
                    found.pending = Some(pending);
                    continue;
                }
                if let Verb::Convert { value: unwritten, .. } = pending.verb {
                    value = unwritten;
                }
                let error = LockError::Unavailable { what: "this member leaves the lockspace".to_owned() };
                self.outputs.push_back(Output::Refused { lock, error });
            }
            if found.granted.is_none() && !was_sent {
                self.drop_lock(lock);
                continue;
            }
            self.ask(lock, Verb::Unlock { value });
            if let Some(pending) = self.locks.get_mut(&lock).and_then(|found| found.pending.as_mut()) {
                pending.is_abandoned = true;
            }
        }
    }

    /// Sends, or applies here, every pending request on `name`; the master has just become known.
    pub(crate) fn send_pending_of(&mut self, name: &ResourceName) {
        let Some(resource) = self.resources.get(name) else { return };
        for lock in resource.local_locks.clone() {
            self.send_pending(lock);
        }
    }

    /// Fails what cannot be answered: the master or the directory of `name` is lost.
    pub(crate) fn fail_if_stuck(&mut self, name: &ResourceName) {
        if self.lost.is_empty() {
            return;
        }
        let is_changing = self.membership.is_changing();
        let directory = self.directory_of(name);
        let Some(resource) = self.resources.get(name) else { return };
        let culprit = match &resource.role {
            Role::Master(_) => None,
            Role::Remote { master } => Some(*master).filter(|master| self.lost.contains_key(master)),
            Role::LookupParked | Role::LookingUp | Role::Removing | Role::Moving(_) => {
                let any = self.lost.keys().next().copied().filter(|_| is_changing);
                Some(directory).filter(|directory| self.lost.contains_key(directory)).or(any)
            }
        };
        let Some(culprit) = culprit else { return };
        for lock in resource.local_locks.clone() {
            self.abandon(lock, culprit);
        }
        self.refuse_parked(name);
        self.note_if_unused(name);
    }

    pub(crate) fn answered_granted(
        &mut self,
        from: NodeId,
        about: About,
        mode: Mode,
        value: Option<ValueBlock>,
        is_value_valid: bool,
    ) {
        let Some(found) = self.locks.get_mut(&about.lock) else {
            // Granted to nobody: give it back, or it would stay for ever.
            let about = About { sequence: about.sequence + 1, ..about };
            self.send(from, Message::Unlock { about, value: None });
            return;
        };
        if found.sequence != about.sequence {
            return;
        }
        let Some(pending) = found.pending.take() else { return };
        found.granted = Some(mode);
        if !pending.is_abandoned {
            let granted = Granted { mode, value, is_value_valid };
            self.outputs.push_back(Output::Granted { lock: about.lock, granted });
        } else if matches!(pending.verb, Verb::Request { .. }) {
            self.ask(about.lock, Verb::Unlock { value: None });
            if let Some(pending) = self.locks.get_mut(&about.lock).and_then(|found| found.pending.as_mut()) {
                pending.is_abandoned = true;
            }
        }
    }

    pub(crate) fn answered_refused(&mut self, about: About, refusal: Refusal) {
        let error = match refusal {
            Refusal::WouldBlock => LockError::WouldBlock,
            Refusal::Cancelled => LockError::Cancelled,
            Refusal::Deadlock => LockError::Deadlock,
            Refusal::Confused => LockError::UnknownLock { lock: about.lock },
            Refusal::MemberLost => LockError::Unavailable { what: self.describe_losses() },
        };
        let Some(found) = self.locks.get(&about.lock) else { return };
        if found.sequence == about.sequence && found.pending.is_some() {
            self.end_refused(about.lock, error);
        }
    }

    pub(crate) fn answered_unlocked(&mut self, about: &About) {
        let Some(found) = self.locks.get(&about.lock) else { return };
        let Some(pending) = &found.pending else { return };
        if found.sequence == about.sequence && matches!(pending.verb, Verb::Unlock { .. }) {
            if !pending.is_abandoned {
                self.outputs.push_back(Output::Unlocked { lock: about.lock });
            }
            self.drop_lock(about.lock);
        }
    }

    pub(crate) fn blocking(&mut self, lock: LockId, mode: Mode) {
        let Some(found) = self.locks.get(&lock) else { return };
        let is_going = found.pending.as_ref().is_some_and(|pending| matches!(pending.verb, Verb::Unlock { .. }));
        if !is_going {
            self.outputs.push_back(Output::Blocking { lock, mode });
        }
    }

    /// The member that was taken for the master is it not: look the name up again.
    pub(crate) fn not_master(&mut self, from: NodeId, about: &About) {
        let is_believed = self
            .resources
            .get(&about.name)
            .is_some_and(|resource| matches!(resource.role, Role::Remote { master } if master == from));
        if is_believed {
            self.start_lookup(&about.name);
        }
    }

    /// Tells the user that the request has failed and goes on with it for nobody.
    pub(crate) fn abandon(&mut self, lock: LockId, culprit: NodeId) {
        let what = format!("{culprit} is lost: {}", self.lost.get(&culprit).map_or("", String::as_str));
        let Some(found) = self.locks.get_mut(&lock) else { return };
        let Some(pending) = found.pending.as_mut().filter(|pending| !pending.is_abandoned) else { return };
        pending.is_abandoned = true;
        let is_sent = pending.is_sent;
        match pending.verb {
            // Nobody holds it any more as far as its user can tell; the rest is on its way.
            Verb::Unlock { .. } => self.outputs.push_back(Output::Unlocked { lock }),
            Verb::Request { .. } | Verb::Convert { .. } => {
                let error = LockError::Unavailable { what };
                if is_sent {
                    self.outputs.push_back(Output::Refused { lock, error });
                } else {
                    pending.is_abandoned = false;
                    self.end_refused(lock, error);
                }
            }
        }
    }

    /// Makes `verb` the request under way of `lock` and sends it if the master is known.
    fn ask(&mut self, lock: LockId, verb: Verb) {
        let since = self.now;
        let Some(found) = self.locks.get_mut(&lock) else { return };
        found.sequence += 1;
        found.pending = Some(Pending { verb, since, is_sent: false, is_cancel_wanted: false, is_abandoned: false });
        self.send_pending(lock);
        if !self.lost.is_empty()
            && let Some(found) = self.locks.get(&lock)
        {
            let name = found.name.clone();
            self.fail_if_stuck(&name);
        }
    }

    fn send_pending(&mut self, lock: LockId) {
        let Some(found) = self.locks.get_mut(&lock) else { return };
        let Some(pending) = &mut found.pending else { return };
        let Some(resource) = self.resources.get(&found.name) else { return };
        match &resource.role {
            Role::Master(_) => {}
            Role::Remote { master } if !self.lost.contains_key(master) || pending.is_sent => {}
            Role::Remote { .. } | Role::LookupParked | Role::LookingUp | Role::Removing | Role::Moving(_) => return,
        }
        pending.is_sent = true;
        let about = About { name: found.name.clone(), lock, sequence: found.sequence };
        let cancel = pending.is_cancel_wanted.then(|| Message::Cancel { about: about.clone() });
        let message = match pending.verb.clone() {
            Verb::Request { mode, flags } => Message::Request { about, mode, flags },
            Verb::Convert { mode, flags, value } => Message::Convert { about, mode, flags, value },
            Verb::Unlock { value } => Message::Unlock { about, value },
        };
        self.send_to_master(message);
        if let Some(cancel) = cancel {
            self.send_to_master(cancel);
        }
    }

    /// To the master of the request's name, if it is known; here without a detour.
    fn send_to_master(&mut self, message: Message) {
        let Some(about) = crate::lookup::request_about(&message) else { return };
        match self.resources.get(&about.name).map(|resource| &resource.role) {
            Some(Role::Remote { master }) => {
                let master = *master;
                self.send(master, message);
            }
            Some(Role::Master(_)) => self.serve(self.config.me, message),
            Some(Role::LookupParked | Role::LookingUp | Role::Removing | Role::Moving(_)) | None => {}
        }
    }

    /// The request under way has ended without effect.
    fn end_refused(&mut self, lock: LockId, error: LockError) {
        let Some(found) = self.locks.get_mut(&lock) else { return };
        let Some(pending) = found.pending.take() else { return };
        if !pending.is_abandoned {
            self.outputs.push_back(Output::Refused { lock, error });
        }
        if matches!(pending.verb, Verb::Request { .. }) {
            self.drop_lock(lock);
        }
    }

    fn drop_lock(&mut self, lock: LockId) {
        let Some(found) = self.locks.remove(&lock) else { return };
        if let Some(resource) = self.resources.get_mut(&found.name) {
            resource.local_locks.retain(|other| *other != lock);
        }
        self.note_if_unused(&found.name);
    }

    /// Whether a new request for a granted lock may begin.
    fn is_idle(&self, lock: LockId) -> Result<(), LockError> {
        self.is_open()?;
        let found = self.locks.get(&lock).ok_or(LockError::UnknownLock { lock })?;
        match &found.pending {
            Some(pending) if pending.is_abandoned => Err(LockError::Unavailable { what: self.describe_losses() }),
            Some(_) => Err(LockError::Busy { lock }),
            None if found.granted.is_none() => Err(LockError::UnknownLock { lock }),
            None => Ok(()),
        }
    }
}
