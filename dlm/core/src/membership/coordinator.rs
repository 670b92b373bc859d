//! The coordinator: the lowest member of the view, or of the static view for the first one. It serves
//! one wish at a time: prepare, collect who is ready, commit. It gives a change up only if whoever was
//! to come in is gone before the commit.

use std::collections::BTreeSet;

use base::{NodeId, ViewId};

use super::Change;
use crate::Lockspace;
use crate::message::{Life, Message};

impl Lockspace {
    pub(crate) fn wish_join(&mut self, from: NodeId) {
        let is_member = self.membership.members().any(|member| member == from);
        let incarnation = self.links.get(&from).and_then(|link| link.incarnation);
        if self.membership.coordinator() == Some(self.config.me) && !is_member && incarnation.is_some() {
            self.membership.wishes.insert(from, incarnation);
        }
    }

    pub(crate) fn wish_leave(&mut self, from: NodeId) {
        let is_member = self.membership.members().any(|member| member == from);
        if self.membership.coordinator() == Some(self.config.me) && is_member {
            self.membership.wishes.insert(from, None);
        }
    }

    /// Begins the next change that somebody wants.
    pub(super) fn advance_change(&mut self) -> bool {
        let membership = &mut self.membership;
        if membership.change.is_some() || membership.prepared.is_some() {
            return false;
        }
        let Some((node, wish)) = membership.wishes.pop_first() else { return false };
        let mut members: Vec<Life> = membership.view.iter().flat_map(|view| view.members.clone()).collect();
        let previous: Vec<_> = members.iter().map(|life| life.node).collect();
        match wish {
            Some(incarnation) if !previous.contains(&node) => members.push(Life { node, incarnation }),
            None if previous.contains(&node) => members.retain(|life| life.node != node),
            Some(_) | None => return true,
        }
        members.sort_unstable();
        self.begin_change(members, previous);
        true
    }

    pub(super) fn begin_change(&mut self, members: Vec<Life>, previous: Vec<NodeId>) {
        let id = ViewId(self.membership.view_last.0.max(self.membership.view_id().0) + 1);
        self.membership.view_last = id;
        let change = Change { id, members, previous, ready: BTreeSet::new() };
        for node in change.concerned() {
            let (members, previous) = (change.members.clone(), change.previous.clone());
            self.send(node, Message::Prepare { view: id, members, previous });
        }
        self.membership.change = Some(change);
    }

    pub(crate) fn member_ready(&mut self, from: NodeId, view: ViewId) {
        let Some(change) = self.membership.change.as_mut().filter(|change| change.id == view) else { return };
        change.ready.insert(from);
        let concerned = change.concerned();
        if concerned.is_subset(&change.ready) {
            self.membership.change = None;
            for node in concerned {
                self.send(node, Message::Commit { view });
            }
        }
    }

    /// Gives up a change because somebody who was to come in is gone.
    pub(super) fn abandon_change(&mut self) {
        let Some(change) = self.membership.change.take() else { return };
        for node in change.concerned() {
            self.send(node, Message::Abandon { view: change.id });
        }
    }
}
