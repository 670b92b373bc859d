//! Who takes part: the view, how it changes when members join and leave, and who is lost.
//!
//! The first view has every member of the static view. After that one member at a time joins or
//! leaves, as the coordinator (the lowest member of the view) says. Until the control plane gives
//! views, this is how they are agreed on; it needs every member concerned to be alive, and waits,
//! saying so, while one is lost.
//!
//! A change, in order:
//! 1. `Join` or `Leave` goes to the coordinator; it serves one at a time;
//! 2. `Prepare` to the members of the old and the new view: they ask directories nothing new, and a
//!    leaver hands its masterships over (`handover`);
//! 3. `Ready` when nothing asked of a directory is unanswered, the entries of the last change have
//!    come, and a leaver masters nothing;
//! 4. `Commit` when all are ready: each adopts the view, sends the directory entries that have a new
//!    home, then `EntriesDone`; a directory answers for a moved name when the old one has said that;
//! 5. a leaver is free when every member has said `EntriesTaken`.
//!
//! Messages of a newer view wait until it is adopted, so no directory question crosses a change.
//! ```text
//!   Joining ──Commit──► Member ──Leave──► Leaving ──Commit──► Departing ──EntriesTaken──► Left
//!      └──► Refused                          └──member lost──► Failed
//! ```

use std::collections::{BTreeMap, BTreeSet};

use base::{Incarnation, NodeId, ViewId};
use dlm_api::{LockError, ResourceName};

use crate::directory::directory_of;
use crate::message::{Life, Message};
use crate::{Lockspace, Output};

mod coordinator;
mod loss;

#[derive(Default)]
pub(crate) struct Membership {
    standing: Standing,
    /// `None` before the first view that has this member.
    view: Option<View>,
    /// The view that may come next.
    prepared: Option<Prepared>,
    /// Who was in the view before this one, while entries of theirs are still to come.
    previous: Vec<NodeId>,
    entries_awaited: BTreeSet<NodeId>,
    /// A view of others that this member could join.
    known: Option<View>,
    is_join_asked: bool,
    is_leave_asked: bool,
    /// The user wants to leave, but this member may be in a view any moment.
    is_leave_wanted: bool,
    /// At the coordinator: who wants to join, in which life (`Some`), or to leave (`None`).
    wishes: BTreeMap<NodeId, Option<Incarnation>>,
    /// At the coordinator: the change under way.
    change: Option<Change>,
    /// Highest number of a view seen.
    view_last: ViewId,
}

#[derive(Default)]
enum Standing {
    #[default]
    Joining,
    Member,
    Leaving,
    /// Not in the view any more; waits for these to say that they have everything.
    Departing {
        waiting: BTreeSet<NodeId>,
    },
    Left,
    /// An earlier life of this member is still counted on.
    Refused,
    /// A member was lost while this one wanted to leave.
    Failed,
}

struct View {
    id: ViewId,
    members: Vec<Life>,
}

struct Prepared {
    id: ViewId,
    members: Vec<Life>,
    previous: Vec<NodeId>,
    coordinator: NodeId,
    is_handover_started: bool,
    is_ready_sent: bool,
}

struct Change {
    id: ViewId,
    members: Vec<Life>,
    previous: Vec<NodeId>,
    ready: BTreeSet<NodeId>,
}

impl Change {
    /// Old and new members.
    fn concerned(&self) -> BTreeSet<NodeId> {
        self.members.iter().map(|life| life.node).chain(self.previous.iter().copied()).collect()
    }

    /// Whether `node` is to come in by this change.
    fn brings(&self, node: NodeId) -> bool {
        self.members.iter().any(|life| life.node == node) && !self.previous.contains(&node)
    }
}

impl Membership {
    pub(crate) fn view_id(&self) -> ViewId {
        self.view.as_ref().map_or(ViewId(0), |view| view.id)
    }

    pub(crate) fn has_view(&self) -> bool {
        self.view.is_some()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.view.iter().flat_map(|view| view.members.iter().map(|life| life.node))
    }

    /// Who will be in the next view.
    pub(crate) fn prepared_members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.prepared.iter().flat_map(|prepared| prepared.members.iter().map(|life| life.node))
    }

    /// Whether this member leaves by the view that is prepared.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.prepared.as_ref().is_some_and(|prepared| prepared.is_handover_started)
    }

    /// Whether messages of `node` have a meaning: a member, or a leaver that is not yet done.
    pub(crate) fn counts_on(&self, node: NodeId) -> bool {
        self.members().any(|member| member == node) || self.entries_awaited.contains(&node)
    }

    pub(crate) fn is_changing(&self) -> bool {
        self.prepared.is_some() || !self.entries_awaited.is_empty()
    }

    /// Whether the entry of `name` is still to come from its old directory.
    pub(crate) fn is_entry_to_come(&self, name: &ResourceName) -> bool {
        !self.entries_awaited.is_empty()
            && directory_of(name, self.previous.iter().copied()).is_some_and(|old| self.entries_awaited.contains(&old))
    }

    /// Notes that all entries of `node` have come; false if none were to come.
    pub(crate) fn entries_came(&mut self, node: NodeId) -> bool {
        self.entries_awaited.remove(&node)
    }

    /// Whether this member is on its way in: who must connect before it can be.
    pub(crate) fn is_joining(&self) -> bool {
        matches!(self.standing, Standing::Joining)
    }

    pub(crate) fn standing_word(&self) -> &'static str {
        match &self.standing {
            Standing::Joining => "joining",
            Standing::Member if self.is_changing() => "member, view changing",
            Standing::Member => "member",
            Standing::Leaving => "leaving",
            Standing::Departing { .. } => "departing",
            Standing::Left => "left",
            Standing::Refused => "refused",
            Standing::Failed => "failed to leave",
        }
    }

    fn coordinator(&self) -> Option<NodeId> {
        self.members().min()
    }

    fn life_of(&self, node: NodeId) -> Option<Life> {
        self.view.iter().flat_map(|view| &view.members).find(|life| life.node == node).copied()
    }
}

/// Joining and leaving, as this member wants it.
impl Lockspace {
    /// The members whose connections this member waits for before it can join.
    pub fn waiting_for(&self) -> Vec<NodeId> {
        if !self.membership.is_joining() {
            return Vec::new();
        }
        let is_down = |node: &NodeId| self.links.get(node).is_some_and(|link| !link.is_up);
        match &self.membership.known {
            Some(view) => view.members.iter().map(|life| life.node).filter(is_down).collect(),
            None => self.config.members.iter().copied().filter(is_down).collect(),
        }
    }

    /// Whether users' requests are taken.
    pub(crate) fn is_open(&self) -> Result<(), LockError> {
        let what = match self.membership.standing {
            Standing::Member => return Ok(()),
            Standing::Joining => "this member has not joined the lockspace yet",
            Standing::Leaving | Standing::Departing { .. } => "this member leaves the lockspace",
            Standing::Left | Standing::Failed => "this member has left the lockspace",
            Standing::Refused => "this member was not let into the lockspace",
        };
        Err(LockError::Unavailable { what: what.to_owned() })
    }

    /// Whether new questions to directories may be asked in this view.
    pub(crate) fn may_ask_directories(&self) -> bool {
        self.membership.prepared.is_none()
            && matches!(self.membership.standing, Standing::Member | Standing::Leaving | Standing::Failed)
    }

    pub(crate) fn user_leave(&mut self) {
        let is_ready_sent = self.membership.prepared.as_ref().is_some_and(|prepared| prepared.is_ready_sent);
        match self.membership.standing {
            // The others may count on it already: come in, then leave in order.
            Standing::Joining if is_ready_sent => self.membership.is_leave_wanted = true,
            Standing::Joining | Standing::Refused => {
                self.membership.standing = Standing::Left;
                self.outputs.push_back(Output::Left);
            }
            Standing::Member => {
                self.membership.standing = Standing::Leaving;
                self.release_all();
                self.fail_leaving_if_lost();
            }
            Standing::Leaving | Standing::Departing { .. } | Standing::Left | Standing::Failed => {}
        }
    }

    /// Takes the next step of whatever is under way. True if there was one.
    pub(crate) fn advance_membership(&mut self) -> bool {
        match self.membership.standing {
            Standing::Joining => self.advance_joining() || self.advance_prepared(),
            Standing::Member => self.advance_change() || self.advance_prepared(),
            Standing::Leaving => self.advance_change() || self.advance_prepared() || self.advance_leaving(),
            Standing::Departing { .. } => self.advance_departing(),
            Standing::Left | Standing::Refused | Standing::Failed => false,
        }
    }

    fn advance_joining(&mut self) -> bool {
        let me = self.config.me;
        if self.membership.prepared.is_some() || self.membership.change.is_some() {
            return false;
        }
        if let Some(known) = &self.membership.known {
            let is_linked = known.members.iter().all(|life| self.links.get(&life.node).is_some_and(|link| link.is_up));
            let Some(coordinator) = known.members.iter().map(|life| life.node).min() else { return false };
            if self.membership.is_join_asked || !is_linked {
                return false;
            }
            self.membership.is_join_asked = true;
            self.send(coordinator, Message::Join);
            return true;
        }
        if self.config.members.iter().min() != Some(&me) || self.links.values().any(|link| !link.is_up) {
            return false;
        }
        let mut members = vec![Life { node: me, incarnation: self.config.incarnation }];
        members.extend(
            self.links
                .iter()
                .filter_map(|(node, link)| link.incarnation.map(|incarnation| Life { node: *node, incarnation })),
        );
        self.begin_change(members, Vec::new());
        true
    }

    fn advance_leaving(&mut self) -> bool {
        if !self.locks.is_empty() || self.membership.prepared.is_some() || self.membership.change.is_some() {
            return false;
        }
        if self.membership.members().all(|member| member == self.config.me) {
            // One that left before still waits to hear that its share has arrived.
            if !self.membership.entries_awaited.is_empty() {
                return false;
            }
            self.membership.standing = Standing::Departing { waiting: BTreeSet::new() };
            return true;
        }
        if self.membership.is_leave_asked {
            return false;
        }
        self.membership.is_leave_asked = true;
        if let Some(coordinator) = self.membership.coordinator() {
            self.send(coordinator, Message::Leave);
        }
        true
    }

    fn advance_departing(&mut self) -> bool {
        let Standing::Departing { waiting } = &self.membership.standing else { return false };
        let is_heard = self.links.values().all(|link| !link.is_up || link.is_drained());
        if !waiting.is_empty() || !is_heard {
            return false;
        }
        self.membership.standing = Standing::Left;
        self.outputs.push_back(Output::Left);
        true
    }

    /// Says `Ready` when this member is.
    fn advance_prepared(&mut self) -> bool {
        let me = self.config.me;
        let Some(prepared) = &mut self.membership.prepared else { return false };
        if prepared.is_ready_sent {
            return false;
        }
        let is_leaver = prepared.members.iter().all(|life| life.node != me);
        if is_leaver && !prepared.is_handover_started {
            prepared.is_handover_started = true;
            self.start_handover();
            return true;
        }
        let is_ready = self.directory_outstanding == 0
            && self.membership.entries_awaited.is_empty()
            && (!is_leaver || self.resources.is_empty());
        if is_ready {
            prepared.is_ready_sent = true;
            let (coordinator, view) = (prepared.coordinator, prepared.id);
            self.send(coordinator, Message::Ready { view });
        }
        is_ready
    }
}

/// Every member's side.
impl Lockspace {
    pub(crate) fn prepare(&mut self, from: NodeId, id: ViewId, members: Vec<Life>, previous: Vec<NodeId>) {
        let me = Life { node: self.config.me, incarnation: self.config.incarnation };
        let membership = &mut self.membership;
        let is_right = match membership.standing {
            // A first view that somebody proposes does not undo the way into one that exists.
            Standing::Joining => {
                let is_free = |prepared: &Prepared| prepared.coordinator == from || prepared.previous.is_empty();
                members.contains(&me) && membership.prepared.as_ref().is_none_or(is_free)
            }
            Standing::Member | Standing::Leaving => membership.coordinator() == Some(from) && id > membership.view_id(),
            Standing::Departing { .. } | Standing::Left | Standing::Refused | Standing::Failed => false,
        };
        if is_right {
            membership.view_last = membership.view_last.max(id);
            membership.prepared = Some(Prepared {
                id,
                members,
                previous,
                coordinator: from,
                is_handover_started: false,
                is_ready_sent: false,
            });
        }
    }

    pub(crate) fn commit(&mut self, from: NodeId, view: ViewId) {
        let membership = &mut self.membership;
        let is_right =
            |prepared: &mut Prepared| prepared.id == view && prepared.coordinator == from && prepared.is_ready_sent;
        if let Some(prepared) = membership.prepared.take_if(is_right) {
            self.adopt(prepared);
        }
    }

    pub(crate) fn abandon_view(&mut self, from: NodeId, view: ViewId) {
        let is_right = |prepared: &mut Prepared| prepared.id == view && prepared.coordinator == from;
        if self.membership.prepared.take_if(is_right).is_some() {
            self.membership.is_join_asked = false;
            self.resume_lookups();
            if self.membership.is_leave_wanted && matches!(self.membership.standing, Standing::Joining) {
                self.user_leave();
            }
        }
    }

    fn adopt(&mut self, prepared: Prepared) {
        let me = self.config.me;
        let now = self.now;
        let id = prepared.id;
        let members: Vec<_> = prepared.members.iter().map(|life| life.node).collect();
        for life in &prepared.members {
            if let Some(link) = self.links.get_mut(&life.node) {
                link.expect_life(life.incarnation, now);
                link.last_heard = link.last_heard.max(now);
            }
        }
        let membership = &mut self.membership;
        membership.view = Some(View { id, members: prepared.members });
        membership.known = None;
        membership.change = None;
        membership.is_join_asked = false;
        membership.is_leave_asked = false;
        if membership.coordinator() != Some(me) {
            membership.wishes.clear();
        }
        let others = |nodes: &[NodeId]| nodes.iter().copied().filter(|node| *node != me).collect::<BTreeSet<_>>();
        if members.contains(&me) {
            membership.entries_awaited = others(&prepared.previous);
            if matches!(membership.standing, Standing::Joining) {
                membership.standing = if membership.is_leave_wanted { Standing::Leaving } else { Standing::Member };
                self.outputs.push_back(Output::Joined { view: id });
            } else {
                self.outputs.push_back(Output::ViewChanged { view: id, members: members.clone() });
            }
        } else {
            membership.entries_awaited.clear();
            membership.standing = Standing::Departing { waiting: others(&members) };
        }
        membership.previous = prepared.previous;
        if membership.previous.contains(&me) {
            self.hand_directory_over(id);
        }
        if members.contains(&me) {
            self.resume_lookups();
            self.announce_view();
            self.check_lives();
        }
    }

    /// Tells the connected that are not in the view who is.
    fn announce_view(&mut self) {
        let strangers: Vec<_> = self
            .links
            .iter()
            .filter(|(node, link)| link.is_up && self.membership.life_of(**node).is_none())
            .map(|(node, _)| *node)
            .collect();
        for node in strangers {
            self.announce_view_to(node);
        }
    }

    fn announce_view_to(&mut self, node: NodeId) {
        if let Some(view) = &self.membership.view {
            let message = Message::ViewIs { view: view.id, members: view.members.clone() };
            self.send(node, message);
        }
    }

    pub(crate) fn entries_taken(&mut self, from: NodeId, view: ViewId) {
        if view == self.membership.view_id()
            && let Standing::Departing { waiting } = &mut self.membership.standing
        {
            waiting.remove(&from);
        }
    }

    /// Others have a view, which this member may ask to join.
    pub(crate) fn view_is(&mut self, from: NodeId, id: ViewId, members: Vec<Life>) {
        if !matches!(self.membership.standing, Standing::Joining) {
            return;
        }
        let me = self.config.me;
        if let Some(mine) = members.iter().find(|life| life.node == me) {
            if mine.incarnation != self.config.incarnation {
                let why = format!(
                    "{from} still counts on an earlier life of {me} that ended without leaving; \
                     stop the lockspace on every member, then start it again"
                );
                self.membership.standing = Standing::Refused;
                self.outputs.push_back(Output::JoinRefused { why });
            }
            return;
        }
        self.membership.view_last = self.membership.view_last.max(id);
        let is_newer = self.membership.known.as_ref().is_none_or(|known| known.id < id);
        let is_of_coordinator = members.iter().map(|life| life.node).min() == Some(from);
        if is_newer {
            self.membership.known = Some(View { id, members });
        }
        if is_newer || is_of_coordinator {
            self.membership.is_join_asked = false;
        }
        // Whoever has a view is not part of a first one.
        if self.membership.change.is_some() {
            self.abandon_change();
        }
    }

    pub(crate) fn peer_up(&mut self, peer: NodeId, incarnation: Incarnation, is_new_life: bool) {
        let membership = &mut self.membership;
        if is_new_life {
            membership.wishes.remove(&peer);
            if membership.prepared.as_ref().is_some_and(|prepared| prepared.coordinator == peer)
                && !membership.has_view()
            {
                membership.prepared = None;
            }
        }
        match membership.standing {
            Standing::Joining if membership.is_leave_wanted && membership.prepared.is_none() => self.user_leave(),
            Standing::Joining => membership.is_join_asked = false,
            Standing::Member | Standing::Leaving => match membership.life_of(peer) {
                Some(life) if life.incarnation == incarnation => self.heard(peer),
                Some(_) => self.check_lives(),
                None if is_new_life && membership.entries_awaited.contains(&peer) => self.check_lives(),
                None => self.announce_view_to(peer),
            },
            Standing::Departing { .. } => self.check_lives(),
            Standing::Left | Standing::Refused | Standing::Failed => {}
        }
    }

    pub(crate) fn peer_down(&mut self, peer: NodeId) {
        if self.membership.change.as_ref().is_some_and(|change| change.brings(peer)) {
            self.abandon_change();
        }
        self.membership.wishes.retain(|node, wish| *node != peer || wish.is_none());
        if let Some(known) = &self.membership.known {
            let is_gone = |life: &Life| self.links.get(&life.node).is_none_or(|link| !link.is_up);
            if known.members.iter().all(is_gone) {
                self.membership.known = None;
            }
        }
    }
}
