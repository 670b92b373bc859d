//! A target, its units and its sessions: who is logged in, and what happens when the same initiator port comes again.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iscsi_target_proto::chap::ChapPolicy;
use iscsi_target_proto::pdu::LoginStatus;
use iscsi_target_proto::scsi::{AdditionalSense, Nexus};
use iscsi_target_proto::target::LoginIdentity;
use tokio::sync::watch;

use crate::access::Access;
use crate::attention::Attentions;
use crate::guests::{Leave, Why};
use crate::unit::LogicalUnit;

/// The only portal group.
pub const PORTAL_GROUP: u16 = 1;
/// Sessions of all initiators together.
pub const SESSIONS_MAX: usize = 256;

/// An iSCSI target.
pub struct Target {
    /// In lower case.
    pub name: String,
    /// Who may use it.
    pub access: Access,
    /// What initiators must prove.
    pub authentication: Option<Arc<ChapPolicy>>,
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
    leave: Arc<Leave>,
    attentions: Arc<Attentions>,
    /// Closed when nothing of the session is under way any more.
    gone: watch::Receiver<()>,
}

/// A session's place in the registry; given back when it is dropped.
pub struct Membership {
    pub target: Arc<Target>,
    pub port: Nexus,
    pub tsih: u16,
    pub attentions: Arc<Attentions>,
    _gone: watch::Sender<()>,
}

impl Target {
    pub fn new(name: String, access: Access, units: Vec<LogicalUnit>) -> Self {
        let units = units.into_iter().map(|unit| (unit.number, Arc::new(unit))).collect();
        Self { name, access, authentication: None, units, sessions: Mutex::default() }
    }

    /// The same target, where initiators must prove who they are.
    pub fn with_authentication(self, authentication: Option<Arc<ChapPolicy>>) -> Self {
        Self { authentication, ..self }
    }

    pub fn unit(&self, number: u16) -> Option<&Arc<LogicalUnit>> {
        self.units.get(&number)
    }

    pub fn unit_numbers(&self) -> Vec<u16> {
        self.units.keys().copied().collect()
    }

    pub fn units(&self) -> impl Iterator<Item = &Arc<LogicalUnit>> {
        self.units.values()
    }

    /// Whether a session has this handle.
    pub fn has_session(&self, tsih: u16) -> bool {
        self.sessions().by_port.values().any(|entry| entry.tsih == tsih)
    }

    /// Makes room for a session: an older one of the same initiator port is ended first, with all that is under way.
    /// `leave` is how the new one is told to make room in its turn.
    pub async fn establish(
        self: Arc<Self>,
        leave: Arc<Leave>,
        identity: LoginIdentity,
    ) -> Result<Membership, LoginStatus> {
        let port = Nexus { initiator: identity.initiator_name, isid: identity.isid };
        loop {
            let mut gone = {
                let mut sessions = self.sessions();
                match sessions.by_port.get(&port) {
                    Some(older) => {
                        older.leave.tell(Why::Replaced);
                        older.gone.clone()
                    }
                    None => return sessions.enter(&self, port, leave),
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

    /// The ports of an initiator that are logged in.
    pub fn ports_of(&self, initiator: &str) -> Vec<Nexus> {
        let sessions = self.sessions();
        let mut ports: Vec<Nexus> =
            sessions.by_port.keys().filter(|port| port.initiator == initiator).cloned().collect();
        ports.sort();
        ports
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

    /// Lets every session be told that a unit has grown.
    pub fn tell_of_growth(&self, unit: u16) {
        self.raise_attention(unit, AdditionalSense::CAPACITY_DATA_HAS_CHANGED, None);
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
    fn enter(&mut self, target: &Arc<Target>, port: Nexus, leave: Arc<Leave>) -> Result<Membership, LoginStatus> {
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
        let attentions = Arc::new(Attentions::default());
        for unit in target.units.keys() {
            attentions.raise(*unit, AdditionalSense::POWER_ON_OR_RESET);
        }
        self.by_port.insert(port.clone(), Entry { tsih, leave, attentions: attentions.clone(), gone });
        Ok(Membership { target: target.clone(), port, tsih, attentions, _gone: sender })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        for unit in self.target.units.values() {
            unit.reservations.end_reserve_6(Some(&self.port));
        }
        self.target.sessions().by_port.remove(&self.port);
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "target {}", self.name)?;
        self.units.values().try_for_each(|unit| write!(f, ", {unit}"))
    }
}
