//! Reservations of one unit as a table: who is registered with which key, who holds what, and so which commands of
//! others conflict (SPC-4 §5.13, §6.16). Pure: [`Reservations::apply`] changes the table or refuses; whoever owns it
//! keeps it on the disk and tells the [`Outcome`] to the initiators.
//!
//! Invariants: a holder is registered; without registrants there is no holder; an initiator port is registered at most
//! once (there is one target port).

use super::operation::ReserveOutAction;
use super::sense::{AdditionalSense, Sense};
use super::transport_id::TransportId;

/// Registrations of one unit, at most.
const REGISTRANTS_MAX: usize = 256;

/// An initiator port: together with our only target port it is an I_T nexus.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nexus {
    pub initiator: String,
    pub isid: [u8; 6],
}

/// Type of a persistent reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveKind {
    WriteExclusive,
    ExclusiveAccess,
    WriteExclusiveRegistrants,
    ExclusiveAccessRegistrants,
    WriteExclusiveAll,
    ExclusiveAccessAll,
}

impl ReserveKind {
    /// From the byte that has the scope, which must be the whole unit, in its upper half.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrants,
            6 => Self::ExclusiveAccessRegistrants,
            7 => Self::WriteExclusiveAll,
            8 => Self::ExclusiveAccessAll,
            _ => return None,
        })
    }

    pub fn to_byte(self) -> u8 {
        match self {
            Self::WriteExclusive => 1,
            Self::ExclusiveAccess => 3,
            Self::WriteExclusiveRegistrants => 5,
            Self::ExclusiveAccessRegistrants => 6,
            Self::WriteExclusiveAll => 7,
            Self::ExclusiveAccessAll => 8,
        }
    }

    /// Whether others may read.
    fn lets_read(self) -> bool {
        matches!(self, Self::WriteExclusive | Self::WriteExclusiveRegistrants | Self::WriteExclusiveAll)
    }

    /// Whether registered initiators may do everything.
    fn lets_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether every registered initiator holds it.
    fn is_of_all(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }
}

/// What a command does, as far as reservations matter (SPC-4 table 65, SBC-3 table 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Conflicts with nothing.
    Free,
    /// Conflicts only with RESERVE (6) of another.
    Harmless,
    Read,
    Write,
}

/// A registered initiator port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registrant {
    pub nexus: Nexus,
    /// Not 0.
    pub key: u64,
}

/// A persistent reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub kind: ReserveKind,
    /// `None` for the types that all registrants hold.
    pub holder: Option<Nexus>,
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    /// Counts changes since the start (PRGENERATION).
    pub generation: u32,
    pub registrants: Vec<Registrant>,
    pub held: Option<Held>,
    /// It is to survive a restart (APTPL).
    pub persists: bool,
    /// RESERVE (6).
    pub reserved_6: Option<Nexus>,
}

/// Parameter list of PERSISTENT RESERVE OUT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReserveOutList {
    pub key: u64,
    pub service_action_key: u64,
    pub persists: bool,
    /// REGISTER: these ports are registered too (SPEC_I_PT).
    pub also: Option<Vec<TransportId>>,
    /// REGISTER AND MOVE: to whom, and whether the mover is no longer registered afterwards.
    pub move_to: Option<Nexus>,
    pub unregister: bool,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// RESERVATION CONFLICT.
    Conflict,
    Sense(Sense),
}

/// What others are to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub attentions: Vec<(Nexus, AdditionalSense)>,
    /// Initiator ports whose commands are to be aborted.
    pub aborted: Vec<Nexus>,
}

impl ReserveOutList {
    const LEN: usize = 24;

    /// From a parameter list of the length that the command block told.
    pub fn parse(action: ReserveOutAction, data: &[u8]) -> Result<Self, Sense> {
        const SPECIFY_PORTS: u8 = 0x08;
        const APTPL: u8 = 0x01;
        const UNREGISTER: u8 = 0x02;
        let length_error = || Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
        let invalid = || Sense::illegal_request(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST);
        let Some((fixed, rest)) = data.split_first_chunk::<{ Self::LEN }>() else { return Err(length_error()) };
        let number = |at: usize| fixed[at..at + 8].iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let list = Self { key: number(0), service_action_key: number(8), ..Self::default() };
        if action == ReserveOutAction::RegisterAndMove {
            let length = u32::from_be_bytes([fixed[20], fixed[21], fixed[22], fixed[23]]) as usize;
            if rest.len() != length {
                return Err(length_error());
            }
            let port = u16::from_be_bytes([fixed[18], fixed[19]]);
            let move_to = match TransportId::parse_list(rest).as_deref() {
                Some([TransportId::Port(port)]) => port.clone(),
                _ => return Err(invalid()),
            };
            if port != TARGET_PORT {
                return Err(invalid());
            }
            let flags = fixed[17];
            return Ok(Self {
                persists: flags & APTPL != 0,
                unregister: flags & UNREGISTER != 0,
                move_to: Some(move_to),
                ..list
            });
        }
        // ALL_TG_PT changes nothing: there is one target port.
        let list = Self { persists: fixed[20] & APTPL != 0, ..list };
        if fixed[20] & SPECIFY_PORTS == 0 {
            return if rest.is_empty() { Ok(list) } else { Err(length_error()) };
        }
        if action != ReserveOutAction::Register {
            return Err(invalid());
        }
        let (length, ports) = rest.split_first_chunk::<4>().ok_or_else(length_error)?;
        if u32::from_be_bytes(*length) as usize != ports.len() {
            return Err(length_error());
        }
        Ok(Self { also: Some(TransportId::parse_list(ports).ok_or_else(invalid)?), ..list })
    }
}

/// Relative identifier of the only target port.
const TARGET_PORT: u16 = 1;

impl Reservations {
    /// Whether a command of `nexus` conflicts.
    pub fn conflicts(&self, nexus: &Nexus, access: Access) -> bool {
        if access == Access::Free {
            return false;
        }
        if self.reserved_6.as_ref().is_some_and(|holder| holder != nexus) {
            return true;
        }
        let Some(held) = &self.held else { return false };
        let may = access == Access::Harmless
            || held.holder.as_ref() == Some(nexus)
            || held.kind.lets_registrants() && self.key_of(nexus).is_some()
            || access == Access::Read && held.kind.lets_read();
        !may
    }

    /// Whether no command can conflict.
    pub fn is_open(&self) -> bool {
        self.held.is_none() && self.reserved_6.is_none()
    }

    /// RESERVE (6): conflicts with another's, and with any registration.
    pub fn reserve_6(&mut self, nexus: &Nexus) -> Result<(), Refusal> {
        if !self.registrants.is_empty() || self.reserved_6.as_ref().is_some_and(|holder| holder != nexus) {
            return Err(Refusal::Conflict);
        }
        self.reserved_6 = Some(nexus.clone());
        Ok(())
    }

    /// RELEASE (6): only the holder's has an effect.
    pub fn release_6(&mut self, nexus: &Nexus) -> Result<(), Refusal> {
        if !self.registrants.is_empty() {
            return Err(Refusal::Conflict);
        }
        self.reserved_6.take_if(|holder| holder == nexus);
        Ok(())
    }

    fn key_of(&self, nexus: &Nexus) -> Option<u64> {
        self.registrants.iter().find(|registrant| registrant.nexus == *nexus).map(|registrant| registrant.key)
    }

    fn holds(&self, nexus: &Nexus) -> bool {
        self.held.as_ref().is_some_and(|held| match &held.holder {
            Some(holder) => holder == nexus,
            None => self.key_of(nexus).is_some(),
        })
    }

    /// The reservation's key as it is told: 0 where all hold it.
    fn held_key(&self) -> u64 {
        self.held.as_ref().and_then(|held| held.holder.as_ref()).and_then(|holder| self.key_of(holder)).unwrap_or(0)
    }

    /// PERSISTENT RESERVE OUT of `nexus`. After a refusal the table may be half changed: work on a copy.
    ///
    /// `ports_of` knows the ports of an initiator that are logged in: a registration may be for all of them.
    pub fn apply(
        &mut self,
        nexus: &Nexus,
        action: ReserveOutAction,
        kind: Option<ReserveKind>,
        list: &ReserveOutList,
        ports_of: impl Fn(&str) -> Vec<Nexus>,
    ) -> Result<Outcome, Refusal> {
        use ReserveOutAction::*;
        let own = self.key_of(nexus);
        let must_match = match action {
            RegisterAndIgnore => false,
            Register => own.is_some() || list.key != 0,
            Reserve | Release | Clear | Preempt | PreemptAndAbort | RegisterAndMove => true,
        };
        if must_match && own != Some(list.key) {
            return Err(Refusal::Conflict);
        }
        match action {
            Register | RegisterAndIgnore => self.register(nexus, list, ports_of),
            Reserve => self.reserve(nexus, kind.ok_or_else(no_kind)?),
            Release => self.release(nexus, kind.ok_or_else(no_kind)?),
            Clear => {
                let others = self.others(nexus);
                self.registrants.clear();
                self.held = None;
                self.count();
                Ok(tell(others, AdditionalSense::RESERVATIONS_PREEMPTED))
            }
            Preempt => self.preempt(nexus, kind, list.service_action_key),
            PreemptAndAbort => {
                let before = self.others(nexus);
                let mut outcome = self.preempt(nexus, kind, list.service_action_key)?;
                outcome.aborted = before.into_iter().filter(|other| self.key_of(other).is_none()).collect();
                Ok(outcome)
            }
            RegisterAndMove => self.move_away(nexus, list),
        }
    }

    fn register(
        &mut self,
        nexus: &Nexus,
        list: &ReserveOutList,
        ports_of: impl Fn(&str) -> Vec<Nexus>,
    ) -> Result<Outcome, Refusal> {
        let key = list.service_action_key;
        let mut outcome = Outcome::default();
        match (self.key_of(nexus), key, &list.also) {
            // A stranger who stays one says nothing about the others' persistence either.
            (None, 0, _) => return Ok(outcome),
            (Some(_), _, Some(_)) => return Err(Refusal::Sense(Sense::invalid_field(1))),
            (Some(_), 0, None) => outcome = self.unregister(nexus),
            (Some(_), _, None) | (None, _, None) => self.set_key(nexus, key)?,
            (None, _, Some(also)) => {
                self.set_key(nexus, key)?;
                for port in named(also, ports_of)? {
                    // One that is registered keeps the key it has.
                    if self.key_of(&port).is_none() {
                        self.set_key(&port, key)?;
                    }
                }
            }
        }
        self.persists = list.persists;
        self.count();
        Ok(outcome)
    }

    fn set_key(&mut self, nexus: &Nexus, key: u64) -> Result<(), Refusal> {
        let is_full = self.registrants.len() >= REGISTRANTS_MAX;
        match self.registrants.iter_mut().find(|registrant| registrant.nexus == *nexus) {
            Some(registrant) => registrant.key = key,
            None if is_full => {
                let full = AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES;
                return Err(Refusal::Sense(Sense::illegal_request(full)));
            }
            None => self.registrants.push(Registrant { nexus: nexus.clone(), key }),
        }
        Ok(())
    }

    /// Its reservation goes with it, unless others hold it too.
    fn unregister(&mut self, nexus: &Nexus) -> Outcome {
        let was_holder = self.held.as_ref().is_some_and(|held| held.holder.as_ref() == Some(nexus));
        self.registrants.retain(|registrant| registrant.nexus != *nexus);
        if !was_holder && !self.registrants.is_empty() {
            return Outcome::default();
        }
        match self.held.take() {
            Some(held) if held.kind.lets_registrants() => {
                tell(self.others(nexus), AdditionalSense::RESERVATIONS_RELEASED)
            }
            Some(_) | None => Outcome::default(),
        }
    }

    fn reserve(&mut self, nexus: &Nexus, kind: ReserveKind) -> Result<Outcome, Refusal> {
        match &self.held {
            None => self.held = Some(held_by(nexus, kind)),
            Some(held) if held.kind == kind && self.holds(nexus) => {}
            Some(_) => return Err(Refusal::Conflict),
        }
        Ok(Outcome::default())
    }

    fn release(&mut self, nexus: &Nexus, kind: ReserveKind) -> Result<Outcome, Refusal> {
        if !self.holds(nexus) {
            return Ok(Outcome::default());
        }
        if self.held.as_ref().is_some_and(|held| held.kind != kind) {
            return Err(Refusal::Sense(Sense::illegal_request(AdditionalSense::INVALID_RELEASE)));
        }
        self.held = None;
        let told = if kind.lets_registrants() { self.others(nexus) } else { Vec::new() };
        Ok(tell(told, AdditionalSense::RESERVATIONS_RELEASED))
    }

    fn preempt(&mut self, nexus: &Nexus, kind: Option<ReserveKind>, key: u64) -> Result<Outcome, Refusal> {
        let is_of_all = self.held.as_ref().is_some_and(|held| held.kind.is_of_all());
        let takes_over = match key {
            0 if is_of_all => true,
            0 => {
                let invalid = AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST;
                return Err(Refusal::Sense(Sense::illegal_request(invalid)));
            }
            _ => self.held.is_some() && !is_of_all && self.held_key() == key,
        };
        if !takes_over && !self.registrants.iter().any(|registrant| registrant.key == key) {
            return Err(Refusal::Conflict);
        }
        let is_meant = |registrant: &Registrant| key == 0 || registrant.key == key;
        let others = self.registrants.iter().filter(|registrant| registrant.nexus != *nexus);
        let (removed, kept): (Vec<_>, Vec<_>) = others.cloned().partition(is_meant);
        self.registrants.retain(|registrant| !is_meant(registrant) || takes_over && registrant.nexus == *nexus);
        let mut outcome = tell(nexuses(removed), AdditionalSense::REGISTRATIONS_PREEMPTED);
        if takes_over {
            let kind = kind.ok_or_else(no_kind)?;
            let before = self.held.replace(held_by(nexus, kind));
            if before.is_some_and(|before| before.kind != kind) {
                outcome.attentions.extend(tell(nexuses(kept), AdditionalSense::RESERVATIONS_RELEASED).attentions);
            }
        } else if self.registrants.is_empty() {
            self.held = None;
        }
        self.count();
        Ok(outcome)
    }

    fn move_away(&mut self, nexus: &Nexus, list: &ReserveOutList) -> Result<Outcome, Refusal> {
        let invalid = || Refusal::Sense(Sense::illegal_request(AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST));
        let Some(held) = self.held.as_ref().filter(|held| held.holder.as_ref() == Some(nexus)) else {
            return Err(Refusal::Conflict);
        };
        let kind = held.kind;
        let to = list.move_to.as_ref().filter(|to| *to != nexus && list.service_action_key != 0);
        let to = to.ok_or_else(invalid)?;
        self.set_key(to, list.service_action_key)?;
        self.held = Some(held_by(to, kind));
        if list.unregister {
            self.registrants.retain(|registrant| registrant.nexus != *nexus);
        }
        self.persists = list.persists;
        self.count();
        Ok(Outcome::default())
    }

    fn others(&self, nexus: &Nexus) -> Vec<Nexus> {
        let others = self.registrants.iter().filter(|registrant| registrant.nexus != *nexus);
        others.map(|registrant| registrant.nexus.clone()).collect()
    }

    fn count(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// READ KEYS.
    pub fn read_keys(&self) -> Vec<u8> {
        let keys: Vec<u8> = self.registrants.iter().flat_map(|registrant| registrant.key.to_be_bytes()).collect();
        self.with_header(&keys)
    }

    /// READ RESERVATION.
    pub fn read_reservation(&self) -> Vec<u8> {
        let mut body = Vec::new();
        if let Some(held) = &self.held {
            body.extend_from_slice(&self.held_key().to_be_bytes());
            body.extend_from_slice(&[0, 0, 0, 0, 0, held.kind.to_byte(), 0, 0]);
        }
        self.with_header(&body)
    }

    /// READ FULL STATUS.
    pub fn read_full_status(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for Registrant { nexus, key } in &self.registrants {
            let kind = self.held.as_ref().filter(|_| self.holds(nexus)).map(|held| held.kind.to_byte());
            let transport_id = TransportId::encode(nexus);
            body.extend_from_slice(&key.to_be_bytes());
            body.extend_from_slice(&[0, 0, 0, 0, u8::from(kind.is_some()), kind.unwrap_or(0), 0, 0, 0, 0]);
            body.extend_from_slice(&TARGET_PORT.to_be_bytes());
            body.extend_from_slice(&(transport_id.len() as u32).to_be_bytes());
            body.extend_from_slice(&transport_id);
        }
        self.with_header(&body)
    }

    /// REPORT CAPABILITIES: registering other initiator ports, all target ports at once, persistence, all six types.
    pub fn report_capabilities(&self) -> Vec<u8> {
        const SIP_C: u8 = 0x08;
        const ATP_C: u8 = 0x04;
        const PTPL_C: u8 = 0x01;
        const TYPE_MASK_VALID: u8 = 0x80;
        vec![0, 8, SIP_C | ATP_C | PTPL_C, TYPE_MASK_VALID | u8::from(self.persists), 0xea, 0x01, 0, 0]
    }

    fn with_header(&self, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).expect("invariant: registrants are limited");
        [&self.generation.to_be_bytes()[..], &length.to_be_bytes(), body].concat()
    }
}

fn held_by(nexus: &Nexus, kind: ReserveKind) -> Held {
    Held { kind, holder: (!kind.is_of_all()).then(|| nexus.clone()) }
}

fn no_kind() -> Refusal {
    Refusal::Sense(Sense::invalid_field(2))
}

/// The ports that a list names. An initiator that is not logged in has none, and that is refused.
fn named(list: &[TransportId], ports_of: impl Fn(&str) -> Vec<Nexus>) -> Result<Vec<Nexus>, Refusal> {
    let mut ports = Vec::new();
    for id in list {
        match id {
            TransportId::Port(port) => ports.push(port.clone()),
            TransportId::Initiator(initiator) => {
                let of_it = ports_of(initiator);
                if of_it.is_empty() {
                    let invalid = AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST;
                    return Err(Refusal::Sense(Sense::illegal_request(invalid)));
                }
                ports.extend(of_it);
            }
        }
    }
    Ok(ports)
}

fn nexuses(registrants: Vec<Registrant>) -> Vec<Nexus> {
    registrants.into_iter().map(|registrant| registrant.nexus).collect()
}

fn tell(whom: Vec<Nexus>, what: AdditionalSense) -> Outcome {
    Outcome { attentions: whom.into_iter().map(|nexus| (nexus, what)).collect(), aborted: Vec::new() }
}

#[cfg(test)]
mod tests;
