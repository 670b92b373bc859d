//! Checks of whole states, for simulators and tests: of one member, and of all members together.

use std::collections::BTreeMap;

use base::NodeId;
use dlm_api::ResourceName;

use crate::Lockspace;
use crate::directory::directory_of;
use crate::resource::{Role, Verb};

/// What must hold within one member at any moment between two inputs.
pub fn check_member(member: &Lockspace) -> Result<(), String> {
    let me = member.config.me;
    for (name, resource) in &member.resources {
        if let Role::Master(queues) = &resource.role {
            queues.check().map_err(|wrong| format!("{me}, {name}: {wrong}"))?;
        }
        for lock in &resource.local_locks {
            if member.locks.get(lock).is_none_or(|found| found.name != *name) {
                return Err(format!("{me}, {name}: lock {} is listed and is not of this name", lock.0));
            }
        }
    }
    for (lock, found) in &member.locks {
        let resource = member.resources.get(&found.name);
        if resource.is_none_or(|resource| !resource.local_locks.contains(lock)) {
            return Err(format!("{me}: lock {} of {} is listed nowhere", lock.0, found.name));
        }
        if found.granted.is_none() && found.pending.is_none() {
            return Err(format!("{me}: lock {} of {} is neither granted nor asked for", lock.0, found.name));
        }
        if let Some(pending) = &found.pending
            && found.granted.is_none() != matches!(pending.verb, Verb::Request { .. })
            && !matches!(pending.verb, Verb::Unlock { .. })
        {
            return Err(format!("{me}: lock {} of {} asks for what it cannot", lock.0, found.name));
        }
    }
    Ok(())
}

/// What must hold among all members at any moment, whatever is under way between them: one master
/// a name. (That no two *users* hold incompatible modes is for an outside checker to see.)
pub fn check_masters<'a>(members: impl IntoIterator<Item = &'a Lockspace>) -> Result<(), String> {
    let mut masters: BTreeMap<&ResourceName, NodeId> = BTreeMap::new();
    for member in members {
        for (name, resource) in &member.resources {
            if matches!(resource.role, Role::Master(_))
                && let Some(other) = masters.insert(name, member.config.me)
            {
                return Err(format!("{name} is mastered by {other} and by {}", member.config.me));
            }
        }
    }
    Ok(())
}

/// What must hold when nothing is under way: masters, directory entries and owners agree.
pub fn check_quiet<'a>(members: impl IntoIterator<Item = &'a Lockspace>) -> Result<(), String> {
    let members: Vec<_> = members.into_iter().filter(|member| member.is_open().is_ok()).collect();
    check_masters(members.iter().copied())?;
    let by_node: BTreeMap<_, _> = members.iter().map(|member| (member.config.me, *member)).collect();
    for member in &members {
        let me = member.config.me;
        for (name, resource) in &member.resources {
            let home = directory_of(name, member.membership.members());
            let entry = home.and_then(|home| by_node.get(&home)?.directory.entries().get(name));
            match &resource.role {
                Role::Master(_) if entry != Some(&me) => {
                    return Err(format!("{me} masters {name}, but its directory {home:?} says {entry:?}"));
                }
                Role::Remote { master } if !resource.local_locks.is_empty() && entry != Some(master) => {
                    return Err(format!("{me} takes {master} for the master of {name}, its directory says {entry:?}"));
                }
                Role::LookupParked | Role::LookingUp | Role::Removing | Role::Moving(_) => {
                    return Err(format!("{me} is not done with {name}"));
                }
                Role::Master(_) | Role::Remote { .. } => {}
            }
        }
        for (lock, found) in &member.locks {
            if found.pending.is_some() {
                continue;
            }
            let entry = members.iter().find_map(|other| match &other.resources.get(&found.name)?.role {
                Role::Master(queues) => queues.find(crate::Holder { node: me, lock: *lock }),
                _ => None,
            });
            if entry.and_then(|entry| entry.granted) != found.granted {
                return Err(format!("{me} and the master of {} do not agree on lock {}", found.name, lock.0));
            }
        }
        for (name, master) in member.directory.entries() {
            let role = by_node.get(master).and_then(|master| master.resources.get(name)).map(|found| &found.role);
            if !matches!(role, Some(Role::Master(_))) {
                return Err(format!("the directory {me} says that {master} masters {name}, which it does not"));
            }
        }
    }
    Ok(())
}
