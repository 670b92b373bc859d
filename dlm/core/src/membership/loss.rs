//! Members that are lost: silent for too long, or started again without having left. What involves
//! one is not granted and ends with an error that names it; what it holds stays held. Nothing is
//! given away, so a member that is heard again in the same life is simply back.

use base::{Instant, NodeId};

use super::Standing;
use crate::resource::Role;
use crate::{Lockspace, Output};

impl Lockspace {
    /// Whether `node` must be heard of.
    fn is_watched(&self, node: NodeId) -> bool {
        match &self.membership.standing {
            Standing::Member | Standing::Leaving | Standing::Failed => self.membership.counts_on(node),
            Standing::Departing { waiting } => waiting.contains(&node),
            Standing::Joining | Standing::Left | Standing::Refused => false,
        }
    }

    fn watched(&self) -> Vec<NodeId> {
        self.links.keys().copied().filter(|node| self.is_watched(*node)).collect()
    }

    pub(crate) fn loss_deadline(&self) -> Option<Instant> {
        self.config.keepalive?;
        let heard = self.links.iter().filter(|(node, _)| self.is_watched(**node) && !self.lost.contains_key(node));
        heard.map(|(_, link)| link.last_heard + self.config.lost_after).min()
    }

    pub(crate) fn detect_losses(&mut self) {
        if self.config.keepalive.is_none() {
            return;
        }
        for node in self.watched() {
            let silence = self.links.get(&node).map(|link| self.now - link.last_heard);
            if let Some(silence) = silence.filter(|silence| *silence >= self.config.lost_after) {
                self.lose(node, format!("silent for {:.1} s", silence.as_secs_f64()));
            }
        }
    }

    /// Takes members for lost that are connected in another life than the view's.
    pub(super) fn check_lives(&mut self) {
        for node in self.watched() {
            let Some(linked) = self.links.get(&node).and_then(|link| link.incarnation) else { continue };
            if self.membership.life_of(node).is_none_or(|life| life.incarnation != linked)
                && (self.membership.life_of(node).is_some() || !self.membership.previous.contains(&node))
            {
                self.lose(node, "it was started again without having left".to_owned());
            }
        }
    }

    /// A valid frame came from `peer`: if it was taken for lost, it is not.
    pub(crate) fn heard(&mut self, peer: NodeId) {
        if !self.lost.contains_key(&peer) {
            return;
        }
        let linked = self.links.get(&peer).filter(|link| link.is_up).and_then(|link| link.incarnation);
        if linked.is_none() || self.membership.life_of(peer).map(|life| life.incarnation) != linked {
            return;
        }
        self.lost.remove(&peer);
        self.outputs.push_back(Output::MemberBack { node: peer });
        if self.may_ask_directories() {
            self.resume_lookups();
        }
        let its: Vec<_> = self
            .resources
            .iter()
            .filter(|(_, resource)| matches!(resource.role, Role::Remote { master } if master == peer))
            .map(|(name, _)| name.clone())
            .collect();
        for name in its {
            self.send_pending_of(&name);
        }
    }

    pub(crate) fn describe_losses(&self) -> String {
        let lost: Vec<_> = self.lost.iter().map(|(node, why)| format!("{node} is lost: {why}")).collect();
        lost.join(", ")
    }

    /// Whatever involves `node` stops being granted; what it holds stays held.
    fn lose(&mut self, node: NodeId, why: String) {
        if let Standing::Departing { waiting } = &mut self.membership.standing {
            waiting.remove(&node);
            return;
        }
        if self.lost.insert(node, why.clone()).is_some() {
            return;
        }
        self.outputs.push_back(Output::MemberLost { node, why });
        let names: Vec<_> = self.resources.keys().cloned().collect();
        for name in names {
            self.refuse_blocked_by_lost(&name);
            self.fail_if_stuck(&name);
        }
        self.fail_leaving_if_lost();
    }

    pub(super) fn fail_leaving_if_lost(&mut self) {
        if !self.lost.is_empty() && matches!(self.membership.standing, Standing::Leaving) {
            self.membership.standing = Standing::Failed;
            self.outputs.push_back(Output::LeaveFailed { why: self.describe_losses() });
        }
    }
}
