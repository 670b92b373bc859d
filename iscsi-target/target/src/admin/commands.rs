//! What the administrator's requests do.

use std::sync::Arc;
use std::time::Duration;

use iscsi_target_proto::scsi::{Nexus, ReserveKind};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::protocol::{Answer, Request};
use crate::clock::seconds_since_1970;
use crate::fence::Whom;
use crate::guests::{Leaving, Seen};
use crate::server::Server;
use crate::unit::LogicalUnit;

/// How often a fence that waits says so.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// All requests but a fence.
pub async fn answer(server: &Arc<Server>, request: Request) -> Answer {
    match request {
        Request::Status => Answer::Done(status(server)),
        Request::Sessions => Answer::Done(json!({ "sessions": sessions(server) })),
        Request::Reservations => Answer::Done(json!({ "units": reservations(server) })),
        Request::Fence { .. } => Answer::Refused { what: "a fence has a way of its own".to_owned() },
        Request::Unfence { initiator } => unfence(server, &initiator).await,
        Request::Grow { target, lun, size } => grow(server, &target, lun, size).await,
    }
}

fn status(server: &Server) -> Value {
    let guests = server.guests.all();
    let now = seconds_since_1970();
    let fences = server.fences.all().into_iter().map(|fence| {
        json!({ "initiator": fence.whom.to_string(), "since": fence.since, "seconds": now.saturating_sub(fence.since) })
    });
    let targets = server.targets().map(|target| {
        let is_here = |seen: &&Seen| seen.session.as_ref().is_some_and(|s| s.target.as_ref() == Some(&target.name));
        json!({
            "name": target.name,
            "sessions": guests.iter().filter(is_here).count(),
            "allowed_initiators": target.access.names,
            "allowed_addresses": target.access.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "units": target.units().map(|unit| unit_status(unit)).collect::<Vec<_>>(),
        })
    });
    json!({
        "program": concat!("corral-target ", env!("CARGO_PKG_VERSION")),
        "pid": std::process::id(),
        "portals": server.portals().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "connections": guests.len(),
        "connections_max": server.guests.limits.connections,
        "logins_under_way": guests.iter().filter(|seen| seen.session.is_none()).count(),
        "connections_refused": server.guests.refused(),
        "fences": fences.collect::<Vec<_>>(),
        "targets": targets.collect::<Vec<_>>(),
    })
}

fn unit_status(unit: &LogicalUnit) -> Value {
    let capacity = unit.capacity();
    json!({
        "lun": unit.number,
        "backing": unit.backing(),
        "bytes": capacity.blocks * u64::from(capacity.block_length),
        "block_length": capacity.block_length,
        "read_only": unit.is_read_only,
        "thin": unit.is_thin,
        "write_cache": unit.has_write_cache(),
        "serial": unit.serial(),
    })
}

fn sessions(server: &Server) -> Vec<Value> {
    let now = seconds_since_1970();
    let told = server.guests.all().into_iter().map(|seen| {
        let session = seen.session.as_ref();
        let kind = match session {
            None => "login",
            Some(session) if session.target.is_none() => "discovery",
            Some(_) => "normal",
        };
        let is_ending = seen.is_leaving.then_some(seen.under_way);
        json!({
            "kind": kind,
            "initiator": seen.initiator,
            "address": seen.peer.to_string(),
            "target": session.and_then(|session| session.target.as_ref()),
            "isid": session.filter(|session| session.target.is_some()).map(|session| hex(&session.isid)),
            "tsih": session.filter(|session| session.target.is_some()).map(|session| session.tsih),
            "since": session.map(|session| session.since),
            "seconds": session.map(|session| now.saturating_sub(session.since)),
            "ending_with_requests": is_ending,
        })
    });
    told.collect()
}

fn reservations(server: &Server) -> Vec<Value> {
    let units = server.targets().flat_map(|target| target.units().map(move |unit| (target, unit)));
    let told = units.map(|(target, unit)| {
        unit.reservations.read(|table| {
            let port = |nexus: &Nexus| json!({ "initiator": nexus.initiator, "isid": hex(&nexus.isid) });
            let registrants = table.registrants.iter().map(|registrant| {
                let Nexus { initiator, isid } = &registrant.nexus;
                json!({ "initiator": initiator, "isid": hex(isid), "key": format!("{:#x}", registrant.key) })
            });
            let held = table.held.as_ref().map(|held| {
                json!({
                    "type": kind_name(held.kind),
                    "type_number": held.kind.to_byte(),
                    "holder": held.holder.as_ref().map(port),
                })
            });
            json!({
                "target": target.name,
                "lun": unit.number,
                "survives_restart": table.persists,
                "registrants": registrants.collect::<Vec<_>>(),
                "reservation": held,
                "reserve_6": table.reserved_6.as_ref().map(port),
            })
        })
    });
    told.collect()
}

fn kind_name(kind: ReserveKind) -> &'static str {
    match kind {
        ReserveKind::WriteExclusive => "Write Exclusive",
        ReserveKind::ExclusiveAccess => "Exclusive Access",
        ReserveKind::WriteExclusiveRegistrants => "Write Exclusive, Registrants Only",
        ReserveKind::ExclusiveAccessRegistrants => "Exclusive Access, Registrants Only",
        ReserveKind::WriteExclusiveAll => "Write Exclusive, All Registrants",
        ReserveKind::ExclusiveAccessAll => "Exclusive Access, All Registrants",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A fence that is kept, and waits until nothing of the initiator is under way.
pub struct Fencing {
    whom: Whom,
    has_changed: bool,
    leaving: Leaving,
    begun: Instant,
}

impl Fencing {
    /// Bars the initiator and cuts its connections.
    pub async fn begin(server: &Arc<Server>, initiator: &str) -> Result<Self, Answer> {
        let begun = Instant::now();
        let whom: Whom = initiator.parse().map_err(|what| Answer::Refused { what })?;
        let (fencing, by) = (server.clone(), whom.clone());
        let done = tokio::task::spawn_blocking(move || fencing.fence(&by)).await;
        let (has_changed, leaving) = flatten(done)?;
        warn!(initiator = %whom, sessions = leaving.sessions, "shut out by the administrator");
        Ok(Self { whom, has_changed, leaving, begun })
    }

    /// Waits; not longer than `patience` since the beginning, and says so every now and then.
    pub async fn wait(&mut self, patience: Option<Duration>) -> Answer {
        let say_at = Instant::now() + SAY_EVERY;
        let end = patience.and_then(|patience| self.begun.checked_add(patience));
        let until = end.map_or(say_at, |end| end.min(say_at));
        if timeout_at(until, self.leaving.wait()).await.is_ok() {
            return Answer::Done(json!({
                "initiator": self.whom.to_string(),
                "fenced": true,
                "changed": self.has_changed,
                "sessions_ended": self.leaving.sessions,
            }));
        }
        let under_way = self.leaving.under_way();
        match end.is_some_and(|end| end <= Instant::now()) {
            true => Answer::Failed {
                what: format!(
                    "{} is shut out and cut, but requests of it are still with the devices and may land; \
                     ask again to wait on",
                    self.whom
                ),
            },
            false => Answer::Waiting { under_way },
        }
    }
}

async fn unfence(server: &Arc<Server>, initiator: &str) -> Answer {
    let whom: Whom = match initiator.parse() {
        Ok(whom) => whom,
        Err(what) => return Answer::Refused { what },
    };
    let (changing, by) = (server.clone(), whom.clone());
    match flatten(tokio::task::spawn_blocking(move || changing.fences.remove(&by)).await) {
        Ok(has_changed) => {
            if has_changed {
                warn!(initiator = %whom, "let in again by the administrator");
            }
            Answer::Done(json!({ "initiator": whom.to_string(), "fenced": false, "changed": has_changed }))
        }
        Err(answer) => answer,
    }
}

async fn grow(server: &Arc<Server>, target: &str, lun: u16, size: Option<u64>) -> Answer {
    let Some(target) = server.target(target).cloned() else {
        return Answer::Refused { what: format!("there is no target '{target}'") };
    };
    let Some(unit) = target.unit(lun).cloned() else {
        return Answer::Refused { what: format!("target {} has no LUN {lun}", target.name) };
    };
    let growing = unit.clone();
    match flatten(tokio::task::spawn_blocking(move || growing.grow(size)).await) {
        Ok((before, after)) => {
            if before != after {
                target.tell_of_growth(lun);
                warn!(target = %target.name, lun, before, after, "grown by the administrator");
            }
            Answer::Done(json!({ "target": target.name, "lun": lun, "bytes_before": before, "bytes": after }))
        }
        Err(answer) => answer,
    }
}

/// What came of work on another thread.
fn flatten<T>(done: Result<Result<T, String>, tokio::task::JoinError>) -> Result<T, Answer> {
    match done {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(what)) => Err(Answer::Failed { what }),
        Err(error) => Err(Answer::Failed { what: format!("the work was not finished: {error}") }),
    }
}
