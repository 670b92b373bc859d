//! A printable snapshot: who holds, who waits, who masters, who is lost.

use std::fmt;
use std::time::Duration;

use base::{NodeId, ViewId};
use dlm_api::{LockId, Mode, ResourceName};

use crate::Lockspace;
use crate::resource::{Role, Verb};

/// The state of one member, in the order of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub me: NodeId,
    pub standing: &'static str,
    pub view: ViewId,
    pub members: Vec<MemberStatus>,
    /// Connections that joining waits for.
    pub waiting_for: Vec<NodeId>,
    pub directory_entry_count: usize,
    pub resources: Vec<ResourceStatus>,
}

/// A member of the static view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    pub node: NodeId,
    pub is_in_view: bool,
    pub is_linked: bool,
    /// Messages that it has not acknowledged.
    pub unacknowledged_count: usize,
    /// Why it is lost, if it is: its locks stay, and what involves it is not granted.
    pub lost: Option<String>,
}

/// A name that this member uses or masters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceStatus {
    pub name: ResourceName,
    pub directory: NodeId,
    /// `None` while it is being looked up or moves.
    pub master: Option<NodeId>,
    /// What this member is for it.
    pub role: &'static str,
    /// Every lock if it is mastered here, else this member's.
    pub locks: Vec<LockStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockStatus {
    pub node: NodeId,
    pub lock: LockId,
    pub granted: Option<Mode>,
    /// What it waits for; the mode granted if it is being given up.
    pub wanted: Option<Mode>,
    /// How long, where this member's user waits.
    pub waiting: Option<Duration>,
}

impl Lockspace {
    pub fn status(&self) -> Status {
        let peers = self.links.iter().map(|(node, link)| MemberStatus {
            node: *node,
            is_in_view: self.membership.members().any(|member| member == *node),
            is_linked: link.is_up,
            unacknowledged_count: link.unacknowledged_count(),
            lost: self.lost.get(node).cloned(),
        });
        Status {
            me: self.config.me,
            standing: self.membership.standing_word(),
            view: self.membership.view_id(),
            members: peers.collect(),
            waiting_for: self.waiting_for(),
            directory_entry_count: self.directory.entries().len(),
            resources: self.resources.keys().filter_map(|name| self.resource_status(name)).collect(),
        }
    }

    /// One name, if this member knows it.
    pub fn resource_status(&self, name: &ResourceName) -> Option<ResourceStatus> {
        let resource = self.resources.get(name)?;
        let me = self.config.me;
        let (role, master) = match &resource.role {
            Role::LookupParked => ("lookup waits", None),
            Role::LookingUp => ("looking up", None),
            Role::Remote { master } => ("user", Some(*master)),
            Role::Master(_) => ("master", Some(me)),
            Role::Removing => ("removing", None),
            Role::Moving(_) => ("moving", None),
        };
        let own = |lock: &LockId| self.locks.get(lock).and_then(|found| found.pending.as_ref());
        let locks = if let Role::Master(queues) = &resource.role {
            let locks = queues.entries().map(|entry| LockStatus {
                node: entry.key.node,
                lock: entry.key.lock,
                granted: entry.granted,
                wanted: entry.request.as_ref().map(|request| request.mode),
                waiting: own(&entry.key.lock).filter(|_| entry.key.node == me).map(|pending| self.now - pending.since),
            });
            locks.collect()
        } else {
            let locks = resource.local_locks.iter().map(|lock| LockStatus {
                node: me,
                lock: *lock,
                granted: self.locks.get(lock).and_then(|found| found.granted),
                wanted: own(lock).map(|pending| match pending.verb {
                    Verb::Request { mode, .. } | Verb::Convert { mode, .. } => mode,
                    Verb::Unlock { .. } => Mode::Null,
                }),
                waiting: own(lock).map(|pending| self.now - pending.since),
            });
            locks.collect()
        };
        Some(ResourceStatus { name: name.clone(), directory: self.directory_of(name), master, role, locks })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} in {}", self.me, self.standing, self.view)?;
        for member in &self.members {
            let view = if member.is_in_view { "in the view" } else { "not in the view" };
            let link = if member.is_linked { "linked" } else { "not linked" };
            write!(f, "  {}: {view}, {link}, {} unacknowledged", member.node, member.unacknowledged_count)?;
            match &member.lost {
                Some(why) => writeln!(f, "; LOST: {why}; waiting for it, what it holds stays held")?,
                None => writeln!(f)?,
            }
        }
        if !self.waiting_for.is_empty() {
            let nodes: Vec<_> = self.waiting_for.iter().map(|node| node.0.to_string()).collect();
            writeln!(f, "  waiting for node {}", nodes.join(", "))?;
        }
        writeln!(f, "  {} directory entries, {} names", self.directory_entry_count, self.resources.len())?;
        for resource in &self.resources {
            write!(f, "{resource}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ResourceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let master = self.master.map_or("nobody yet".to_owned(), |node| node.to_string());
        writeln!(f, "  {}: {}, mastered by {master}, directory {}", self.name, self.role, self.directory)?;
        for lock in &self.locks {
            write!(f, "    {} lock {}:", lock.node, lock.lock.0)?;
            match (lock.granted, lock.wanted) {
                (Some(granted), None) => write!(f, " holds {granted}")?,
                (Some(granted), Some(wanted)) => write!(f, " holds {granted}, converts to {wanted}")?,
                (None, Some(wanted)) => write!(f, " waits for {wanted}")?,
                (None, None) => write!(f, " asks for nothing")?,
            }
            match lock.waiting {
                Some(waiting) => writeln!(f, " since {:.3} s", waiting.as_secs_f64())?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
