//! The login phase, seen from the initiator: who we are, then what we agree on, then commands.
//!
//! ```text
//! Security ──(who we are is proved)──► Operational ──(offers answered)──► FullFeature
//! ```
//! Owned by the session, which sends what [`Login`] asks for. With CHAP the security stage takes several requests; it
//! ends when we asked for its end and the target agrees, and never before the target's own proof where we want one.

use super::event::{CloseReason, Credentials, InitiatorConfig};
use crate::chap::{ProofError, Prover, is_security_key};
use crate::error::ProtocolError;
use crate::negotiate::{self, Negotiated};
use crate::pdu::{
    CONTINUE, FINAL, IMMEDIATE, LoginRequestHeader, LoginResponseHeader, LoginStage, LoginStatus, Opcode,
};
use crate::text::{Collector, Parameters};

/// Where the login is.
#[derive(Debug)]
pub(super) struct Login {
    stage: LoginStage,
    /// `None`: there is nothing to prove.
    prover: Option<Prover>,
    answers: Collector,
    negotiated: Negotiated,
    rounds: u32,
}

/// What a response leads to.
#[derive(Debug)]
pub(super) enum LoginStep {
    /// Send this request.
    Send(Request),
    /// The full feature phase begins.
    Done(Negotiated),
}

/// A login request without its numbers, which the session fills in.
#[derive(Debug)]
pub(super) struct Request {
    pub header: LoginRequestHeader,
    pub parameters: Parameters,
}

/// A target that needs more requests than this never comes to an end.
const ROUNDS_MAX: u32 = 32;

impl Login {
    /// The login and its first request.
    pub(super) fn new(config: &InitiatorConfig) -> (Self, Request) {
        let prover = match &config.credentials {
            Credentials::None => None,
            Credentials::Chap { identity, random } => Some(Prover::new(identity.clone(), *random)),
        };
        let login = Self {
            stage: LoginStage::Security,
            prover,
            answers: Collector::default(),
            negotiated: Negotiated::default(),
            rounds: 0,
        };
        let mut parameters = Parameters::new();
        parameters.push("InitiatorName", config.initiator_name.as_str());
        match &config.target_name {
            Some(name) => {
                parameters.push("SessionType", "Normal");
                parameters.push("TargetName", name.as_str());
            }
            None => parameters.push("SessionType", "Discovery"),
        }
        parameters.push("AuthMethod", login.prover.as_ref().map_or("None", Prover::methods));
        let next = login.prover.is_none().then_some(LoginStage::Operational);
        let request = login.request(config, next, parameters);
        (login, request)
    }

    /// Takes a response.
    pub(super) fn handle(
        &mut self,
        config: &InitiatorConfig,
        header: &LoginResponseHeader,
        data: &[u8],
        at_byte: u64,
    ) -> Result<LoginStep, CloseReason> {
        let misbehaved = |cause| CloseReason::misbehaved(at_byte, cause);
        let bad_field = |field, value: u8| {
            misbehaved(ProtocolError::BadField { pdu: "Login Response", field, value: value.into() })
        };
        let status = LoginStatus { class: header.status_class, detail: header.status_detail };
        if status != LoginStatus::SUCCESS {
            let redirect = match status.class {
                1 => Parameters::parse(data).ok().and_then(|p| p.get("TargetAddress").map(str::to_owned)),
                _ => None,
            };
            return Err(CloseReason::LoginRefused { status, redirect });
        }
        if LoginStage::current(header.flags) != Some(self.stage) {
            return Err(bad_field("CSG", header.flags));
        }
        self.rounds += 1;
        if self.rounds > ROUNDS_MAX {
            return Err(misbehaved(ProtocolError::TooMany { what: "login responses", limit: ROUNDS_MAX as usize }));
        }
        self.answers.add(data).map_err(misbehaved)?;
        if header.flags & CONTINUE != 0 {
            return Ok(LoginStep::Send(self.request(config, None, Parameters::new())));
        }
        let answers = self.answers.finish().map_err(misbehaved)?;
        if let Some(request) = self.prove(config, &answers, at_byte)? {
            // Our next proof; the target cannot have agreed to the end of a stage that we did not ask for.
            return if header.flags & FINAL == 0 {
                Ok(LoginStep::Send(request))
            } else {
                Err(bad_field("T", header.flags))
            };
        }
        self.take_answers(config, &answers, at_byte)?;
        if header.flags & FINAL == 0 {
            let next = match self.stage {
                LoginStage::Security => LoginStage::Operational,
                _ => LoginStage::FullFeature,
            };
            return Ok(LoginStep::Send(self.request(config, Some(next), Parameters::new())));
        }
        match (self.stage, LoginStage::next(header.flags)) {
            (LoginStage::Security, Some(LoginStage::Operational)) => {
                self.stage = LoginStage::Operational;
                let offers = negotiate::offers(&config.willing, config.target_name.is_none());
                Ok(LoginStep::Send(self.request(config, Some(LoginStage::FullFeature), offers)))
            }
            (LoginStage::Operational, Some(LoginStage::FullFeature)) => Ok(LoginStep::Done(self.negotiated.clone())),
            _ => Err(bad_field("NSG", header.flags)),
        }
    }

    /// Takes the authentication's part of an answer; gives the request that goes on with it, if it goes on.
    fn prove(
        &mut self,
        config: &InitiatorConfig,
        answers: &Parameters,
        at_byte: u64,
    ) -> Result<Option<Request>, CloseReason> {
        let Some(prover) = self.prover.as_mut().filter(|_| self.stage == LoginStage::Security) else {
            return Ok(None);
        };
        match prover.answer(answers) {
            Ok(None) => Ok(None),
            Ok(Some(answer)) => {
                let next = prover.is_last_answer().then_some(LoginStage::Operational);
                Ok(Some(self.request(config, next, answer)))
            }
            Err(ProofError::OtherMethod { wanted }) => Err(CloseReason::AuthenticationImpossible { wanted }),
            Err(ProofError::TargetUnproven { why }) => Err(CloseReason::TargetUnproven { why }),
            Err(ProofError::Protocol(cause)) => Err(CloseReason::misbehaved(at_byte, cause)),
        }
    }

    fn take_answers(
        &mut self,
        config: &InitiatorConfig,
        answers: &Parameters,
        at_byte: u64,
    ) -> Result<(), CloseReason> {
        for (key, value) in answers.iter() {
            match key {
                _ if self.prover.is_some() && is_security_key(key) => {}
                "AuthMethod" if value != "None" => {
                    return Err(CloseReason::AuthenticationImpossible { wanted: value.to_owned() });
                }
                _ => self
                    .negotiated
                    .accept(&config.willing, key, value)
                    .map_err(|cause| CloseReason::misbehaved(at_byte, cause))?,
            }
        }
        Ok(())
    }

    /// A request of the current stage; with `next` it asks to go on to that stage.
    fn request(&self, config: &InitiatorConfig, next: Option<LoginStage>, parameters: Parameters) -> Request {
        let transit = next.map_or(0, |next| FINAL | next as u8);
        let header = LoginRequestHeader {
            opcode: Opcode::LoginRequest as u8 | IMMEDIATE,
            flags: (self.stage as u8) << 2 | transit,
            version_max: 0,
            version_min: 0,
            additional_header_words: 0,
            data_segment_length: Default::default(),
            isid: config.isid,
            tsih: 0.into(),
            initiator_task_tag: 0.into(),
            connection_id: 0.into(),
            reserved: [0; 2],
            command_sn: 0.into(),
            expected_status_sn: 0.into(),
            reserved_end: [0; 16],
        };
        Request { header, parameters }
    }
}
