//! All of what this program serves: its targets, its connections, and who may come in.
//!
//! Every login comes through [`Server::decide`] and [`Server::establish`]; the admin commands and the portals come
//! here too. The order that keeps a fence tight: a connection first tells its name, then looks at the fences; a fence
//! is first kept, then looks for connections with its name. So whichever comes second sees the other.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;

use iscsi_target_proto::chap::{CHALLENGE_LENGTH, ChapDemand, ChapPolicy};
use iscsi_target_proto::pdu::LoginStatus;
use iscsi_target_proto::target::{Authentication, LoginDecision, LoginIdentity, PortalTarget};

use crate::clock::seconds_since_1970;
use crate::fence::{Fences, Whom};
use crate::guests::{CONNECTIONS_MAX, Guest, Guests, Leaving, Session, Why};
use crate::registry::{Membership, PORTAL_GROUP, Target};

/// Everything that is served.
pub struct Server {
    targets: BTreeMap<String, Arc<Target>>,
    pub guests: Guests,
    pub fences: Fences,
    /// What initiators must prove in a discovery session.
    discovery: Option<Arc<ChapPolicy>>,
    /// Where initiators come in.
    portals: Vec<SocketAddr>,
}

impl Server {
    pub fn new(
        targets: Vec<Target>,
        discovery: Option<Arc<ChapPolicy>>,
        fences: Fences,
        portals: Vec<SocketAddr>,
    ) -> Self {
        let targets = targets.into_iter().map(|target| (target.name.clone(), Arc::new(target))).collect();
        Self { targets, guests: Guests::new(CONNECTIONS_MAX), fences, discovery, portals }
    }

    /// The same server with another number of connections at once, at most.
    pub fn with_connections(self, connections_max: usize) -> Self {
        Self { guests: Guests::new(connections_max), ..self }
    }

    pub fn target(&self, name: &str) -> Option<&Arc<Target>> {
        // Initiators may write names in any case (RFC 7143 §4.2.7.1); ours are in lower case.
        self.targets.get(name).or_else(|| self.targets.get(&name.to_ascii_lowercase()))
    }

    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.targets.values()
    }

    pub fn portals(&self) -> &[SocketAddr] {
        &self.portals
    }

    /// Whether a login may go on.
    pub fn decide(&self, guest: &Guest, identity: &LoginIdentity) -> LoginDecision {
        let (initiator, address) = (identity.initiator_name.as_str(), guest.peer.ip());
        guest.introduce(initiator);
        if self.fences.bars(initiator, address) {
            return LoginDecision::Refuse(LoginStatus::AUTHORIZATION_FAILURE);
        }
        let mut policy = &self.discovery;
        if let Some(name) = &identity.target_name {
            let Some(target) = self.target(name) else { return LoginDecision::Refuse(LoginStatus::NOT_FOUND) };
            if !target.access.allows(initiator, address) {
                return LoginDecision::Refuse(LoginStatus::AUTHORIZATION_FAILURE);
            }
            policy = &target.authentication;
            if identity.tsih != 0 {
                // A second connection of a session that there is, or of one that there is not.
                return LoginDecision::Refuse(match target.has_session(identity.tsih) {
                    true => LoginStatus::TOO_MANY_CONNECTIONS,
                    false => LoginStatus::SESSION_DOES_NOT_EXIST,
                });
            }
        } else if identity.tsih != 0 {
            return LoginDecision::Refuse(LoginStatus::SESSION_DOES_NOT_EXIST);
        }
        let authentication = match policy {
            None => Authentication::None,
            Some(policy) => match random() {
                Ok(random) => Authentication::Chap(ChapDemand::new(policy.clone(), random)),
                Err(error) => {
                    tracing::error!(%error, "no random numbers for a challenge");
                    return LoginDecision::Refuse(LoginStatus::TARGET_ERROR);
                }
            },
        };
        LoginDecision::Accept { portal_group: PORTAL_GROUP, authentication }
    }

    /// Makes room for a session: an older one of the same initiator port is ended first, with all that is under way.
    /// `None` for a discovery session, which has no place in any target.
    pub async fn establish(
        self: Arc<Self>,
        leave: Arc<crate::guests::Leave>,
        identity: LoginIdentity,
    ) -> Result<Option<Membership>, LoginStatus> {
        match &identity.target_name {
            None => Ok(None),
            Some(name) => {
                let target = self.target(name).ok_or(LoginStatus::TARGET_REMOVED)?.clone();
                target.establish(leave, identity).await.map(Some)
            }
        }
    }

    /// Notes in the list of connections that a login has succeeded; gives the session's handle for the initiator.
    pub fn settle(&self, guest: &Guest, membership: Option<&Membership>) -> u16 {
        let since = seconds_since_1970();
        let session = match membership {
            Some(membership) => Session {
                target: Some(membership.target.name.clone()),
                isid: membership.port.isid,
                tsih: membership.tsih,
                since,
            },
            None => Session { target: None, isid: [0; 6], tsih: 0, since },
        };
        guest.settle(session);
        membership.map_or(DISCOVERY_HANDLE, |membership| membership.tsih)
    }

    /// The answer to SendTargets: what this initiator may use, each with every portal, the one that was reached first.
    /// An address that listens on all interfaces is told as the one the initiator came to.
    pub fn visible_targets(
        &self,
        guest: &Guest,
        initiator: &str,
        own: Option<&Target>,
        which: &str,
        reached: Option<SocketAddr>,
    ) -> Vec<PortalTarget> {
        let concrete = self.portals.iter().map(|portal| match reached {
            Some(reached) if portal.ip().is_unspecified() => {
                SocketAddr::new(reached.ip().to_canonical(), portal.port())
            }
            _ => *portal,
        });
        let mut addresses: Vec<SocketAddr> = concrete.collect();
        addresses.sort_by_key(|address| Some(*address) != reached);
        addresses.dedup();
        let addresses: Vec<_> = addresses.iter().map(|address| format!("{address},{PORTAL_GROUP}")).collect();
        // Within a normal session only its own target is told (RFC 7143 appendix C).
        let is_asked = |target: &Target| match own {
            Some(own) => own.name == target.name && (which.is_empty() || which == "All" || which == own.name),
            None => which == "All" || which == target.name,
        };
        let visible = self.targets().filter(|target| is_asked(target));
        let visible = visible.filter(|target| target.access.allows(initiator, guest.peer.ip()));
        visible.map(|target| PortalTarget { name: target.name.clone(), addresses: addresses.clone() }).collect()
    }

    /// Shuts an initiator out: from now on, across restarts. Its connections are told to leave; whoever has waited for
    /// [`Leaving::wait`] knows that nothing of it lands any more. Waits for the disk.
    pub fn fence(&self, whom: &Whom) -> Result<(bool, Leaving), String> {
        let has_changed = self.fences.add(whom, seconds_since_1970())?;
        Ok((has_changed, self.guests.expel(Why::Fenced, |initiator, address| whom.is_meant(initiator, address))))
    }

    /// Makes everything that was written durable.
    pub async fn flush(&self) -> Result<(), String> {
        for target in self.targets() {
            target.flush().await?;
        }
        Ok(())
    }
}

/// From the operating system's generator.
fn random() -> std::io::Result<[u8; CHALLENGE_LENGTH + 1]> {
    let mut bytes = [0; CHALLENGE_LENGTH + 1];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The handle that initiators are told for a discovery session: not 0, and never looked up.
const DISCOVERY_HANDLE: u16 = 1;

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, target) in self.targets().enumerate() {
            if index > 0 {
                write!(f, "; ")?;
            }
            write!(f, "{target}")?;
        }
        Ok(())
    }
}
