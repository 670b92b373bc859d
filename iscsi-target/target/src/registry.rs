//! The target, its units and its sessions: who is logged in, and what happens when the same initiator port comes again.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iscsi_target_proto::pdu::LoginStatus;
use iscsi_target_proto::scsi::{AdditionalSense, Nexus};
use iscsi_target_proto::target::{Authentication, LoginDecision, LoginIdentity};
use tokio::sync::{Notify, watch};

use crate::attention::Attentions;
use crate::unit::LogicalUnit;

/// The only portal group.
pub const PORTAL_GROUP: u16 = 1;
/// Sessions of all initiators together.
const SESSIONS_MAX: usize = 256;

/// An iSCSI target.
pub struct Target {
    pub name: String,
    units: BTreeMap<u16, Arc<LogicalUnit>>,
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    by_port: HashMap<Nexus, Entry>,
    last_tsih: u16,
}

struct Entry {
    tsih: u16,
    /// Tells the connection to end.
    leave: Arc<Notify>,
    attentions: Arc<Attentions>,
    /// Closed when nothing of the session is under way any more.
    gone: watch::Receiver<()>,
}

/// A session's place in the registry; given back when it is dropped.
pub struct Membership {
    target: Arc<Target>,
    /// `None` for a discovery session.
    pub port: Option<Nexus>,
    pub tsih: u16,
    pub leave: Arc<Notify>,
    pub attentions: Arc<Attentions>,
    _gone: watch::Sender<()>,
}

impl Target {
    pub fn new(name: String, units: Vec<LogicalUnit>) -> Self {
        let units = units.into_iter().map(|unit| (unit.number, Arc::new(unit))).collect();
        Self { name, units, sessions: Mutex::default() }
    }

    pub fn unit(&self, number: u16) -> Option<&Arc<LogicalUnit>> {
        self.units.get(&number)
    }

    pub fn unit_numbers(&self) -> Vec<u16> {
        self.units.keys().copied().collect()
    }

    /// Whether a login may go on.
    pub fn decide(&self, identity: &LoginIdentity) -> LoginDecision {
        if identity.target_name.as_ref().is_some_and(|name| *name != self.name) {
            return LoginDecision::Refuse(LoginStatus::NOT_FOUND);
        }
        if identity.tsih != 0 {
            // A second connection of a session that there is, or of one that there is not.
            let is_known = self.sessions().by_port.values().any(|entry| entry.tsih == identity.tsih);
            let status = if is_known { LoginStatus::TOO_MANY_CONNECTIONS } else { LoginStatus::SESSION_DOES_NOT_EXIST };
            return LoginDecision::Refuse(status);
        }
        LoginDecision::Accept { portal_group: PORTAL_GROUP, authentication: Authentication::None }
    }

    /// Makes room for a session: an older one of the same initiator port is ended first, with all that is under way.
    pub async fn establish(self: Arc<Self>, identity: LoginIdentity) -> Result<Membership, LoginStatus> {
        let port = Nexus { initiator: identity.initiator_name, isid: identity.isid };
        let is_discovery = identity.target_name.is_none();
        loop {
            let mut gone = {
                let mut sessions = self.sessions();
                match sessions.by_port.get(&port).filter(|_| !is_discovery) {
                    Some(older) => {
                        older.leave.notify_one();
                        older.gone.clone()
                    }
                    None => return sessions.enter(&self, (!is_discovery).then_some(port)),
                }
            };
            // An error is what is waited for: the sender is gone.
            while gone.changed().await.is_ok() {}
        }
    }

    /// Lets every session, but that of `except`, be told something about a unit.
    pub fn raise_attention(&self, unit: u16, what: AdditionalSense, except: Option<&Nexus>) {
        for (port, entry) in &self.sessions().by_port {
            if except != Some(port) {
                entry.attentions.raise(unit, what);
            }
        }
    }

    /// Lets one session be told something about a unit, if it is there.
    pub fn raise_attention_of(&self, port: &Nexus, unit: u16, what: AdditionalSense) {
        if let Some(entry) = self.sessions().by_port.get(port) {
            entry.attentions.raise(unit, what);
        }
    }

    /// Ends what one session has waiting on a unit. Whoever calls this holds the unit's gate.
    pub fn abort_tasks_of(&self, port: &Nexus, unit: u16) {
        if let Some(entry) = self.sessions().by_port.get(port) {
            entry.attentions.abort_tasks(unit);
        }
    }

    /// Ends what all sessions but that of `except` have waiting on a unit.
    pub fn abort_tasks(&self, unit: u16, except: &Nexus) {
        for (_, entry) in self.sessions().by_port.iter().filter(|(port, _)| *port != except) {
            entry.attentions.abort_tasks(unit);
        }
    }

    /// The unit with this NAA designator.
    pub fn unit_by_naa(&self, naa: u64) -> Option<&Arc<LogicalUnit>> {
        self.units.values().find(|unit| unit.naa() == naa)
    }

    /// Makes everything that was written durable.
    pub async fn flush(&self) -> Result<(), String> {
        for unit in self.units.values().filter(|unit| !unit.is_read_only) {
            unit.device.flush().await.map_err(|error| format!("LUN {}: {error}", unit.number))?;
        }
        Ok(())
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    fn enter(&mut self, target: &Arc<Target>, port: Option<Nexus>) -> Result<Membership, LoginStatus> {
        if self.by_port.len() >= SESSIONS_MAX {
            return Err(LoginStatus::OUT_OF_RESOURCES);
        }
        let in_use = |tsih: u16| tsih == 0 || self.by_port.values().any(|entry| entry.tsih == tsih);
        let mut tsih = self.last_tsih.wrapping_add(1);
        while in_use(tsih) {
            tsih = tsih.wrapping_add(1);
        }
        self.last_tsih = tsih;
        let (sender, gone) = watch::channel(());
        let leave = Arc::new(Notify::new());
        let attentions = Arc::new(Attentions::default());
        for unit in target.units.keys() {
            attentions.raise(*unit, AdditionalSense::POWER_ON_OR_RESET);
        }
        if let Some(port) = &port {
            let entry = Entry { tsih, leave: leave.clone(), attentions: attentions.clone(), gone };
            self.by_port.insert(port.clone(), entry);
        }
        Ok(Membership { target: target.clone(), port, tsih, leave, attentions, _gone: sender })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(port) = &self.port {
            for unit in self.target.units.values() {
                unit.reservations.end_reserve_6(Some(port));
            }
            self.target.sessions().by_port.remove(port);
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "target {}", self.name)?;
        self.units.values().try_for_each(|unit| write!(f, ", {unit}"))
    }
}
