//! The master's side: requests of this and other members on the names that are mastered here.
//!
//! Idempotent: a request that is queued or done already, by its owner's number for it, has no effect.

use base::NodeId;
use dlm_api::queues::{Effect, Request};
use dlm_api::{LockError, ResourceName};

use crate::Lockspace;
use crate::lookup::request_about;
use crate::message::{About, Holder, Message, Refusal};
use crate::resource::Role;

impl Lockspace {
    /// One request, of `from`, to this member as the master.
    pub(crate) fn serve(&mut self, from: NodeId, message: Message) {
        let Some(about) = request_about(&message).cloned() else { return };
        let faults = self.faults;
        let Some(resource) = self.resources.get_mut(&about.name) else {
            self.bounce(from, &message);
            return;
        };
        let queues = match &mut resource.role {
            Role::Master(queues) => queues,
            Role::Moving(moving) if faults.grant_while_moving => &mut moving.queues,
            Role::Removing | Role::Moving(_) => {
                if from != self.config.me {
                    resource.parked.push_back((from, message));
                    if !self.lost.is_empty() {
                        self.fail_if_stuck(&about.name);
                    }
                }
                return;
            }
            Role::LookupParked | Role::LookingUp | Role::Remote { .. } => {
                self.bounce(from, &message);
                return;
            }
        };
        let key = Holder { node: from, lock: about.lock };
        let known = queues.find(key).map(|entry| (entry.sequence, entry.request.is_some()));
        let is_repeated = known.is_some_and(|(sequence, _)| about.sequence <= sequence);
        let mistakes = self.faults.mistakes();
        let mut effects = std::mem::take(&mut self.effects);
        let mut reply = None;
        match message {
            Message::Request { .. } | Message::Convert { .. } if is_repeated => {}
            Message::Request { mode, flags, .. } => {
                if known.is_some() {
                    reply = Some(Message::Refused { about: about.clone(), refusal: Refusal::Confused });
                } else {
                    queues.request(key, about.sequence, mode, flags, mistakes, &mut effects);
                }
            }
            Message::Convert { mode, flags, value, .. } => {
                let request = Request { mode, flags, value };
                if !queues.convert(key, about.sequence, request, mistakes, &mut effects) {
                    reply = Some(Message::Refused { about: about.clone(), refusal: Refusal::Confused });
                }
            }
            Message::Unlock { value, .. } => {
                queues.unlock(key, value, mistakes, &mut effects);
                reply = Some(Message::Unlocked { about: about.clone() });
            }
            Message::Cancel { .. } if known == Some((about.sequence, true)) => {
                queues.cancel(key, LockError::Cancelled, mistakes, &mut effects);
            }
            _ => {}
        }
        if let Some(reply) = reply {
            self.send(from, reply);
        }
        self.pass_on(&about.name, &mut effects);
        self.effects = effects;
        if !self.lost.is_empty() {
            self.refuse_blocked_by_lost(&about.name);
        }
        self.note_if_unused(&about.name);
    }

    /// Refuses whoever waits on a name mastered here of which a lost member has a lock: that
    /// member can neither give way nor be passed.
    pub(crate) fn refuse_blocked_by_lost(&mut self, name: &ResourceName) {
        let mistakes = self.faults.mistakes();
        let Some(resource) = self.resources.get_mut(name) else { return };
        let Role::Master(queues) = &mut resource.role else { return };
        if !queues.entries().any(|entry| self.lost.contains_key(&entry.key.node)) {
            return;
        }
        let queued = queues.converting.iter().chain(&queues.waiting);
        let refused: Vec<_> = queued.map(|entry| entry.key).filter(|key| !self.lost.contains_key(&key.node)).collect();
        let mut effects = std::mem::take(&mut self.effects);
        for key in refused {
            let error = LockError::Unavailable { what: String::new() };
            queues.cancel(key, error, mistakes, &mut effects);
        }
        self.pass_on(name, &mut effects);
        self.effects = effects;
    }

    /// Tells the owners what became of their locks.
    fn pass_on(&mut self, name: &ResourceName, effects: &mut Vec<Effect<Holder>>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Granted { key, sequence, granted } => {
                    let about = About { name: name.clone(), lock: key.lock, sequence };
                    let (mode, value, is_value_valid) = (granted.mode, granted.value, granted.is_value_valid);
                    self.send(key.node, Message::Granted { about, mode, value, is_value_valid });
                }
                Effect::Refused { key, sequence, error } => {
                    let refusal = match error {
                        LockError::WouldBlock => Refusal::WouldBlock,
                        LockError::Cancelled => Refusal::Cancelled,
                        LockError::Deadlock => Refusal::Deadlock,
                        LockError::Unavailable { .. } => Refusal::MemberLost,
                        LockError::Busy { .. } | LockError::UnknownLock { .. } => Refusal::Confused,
                    };
                    let about = About { name: name.clone(), lock: key.lock, sequence };
                    self.send(key.node, Message::Refused { about, refusal });
                }
                Effect::Blocking { key, mode } => self.send(key.node, Message::Blocking { lock: key.lock, mode }),
            }
        }
    }
}
