//! The login phase, seen from the target.
//!
//! ```text
//! Fresh ──(first request)──► Deciding ──(Accept)──► Negotiating ──(transit to full feature)──► Ending ──► done
//!                               └──(Refuse)──► refused        └── requests in both stages ──┘
//! ```
//! Where the decision asks for a proof, no request leads out of the security stage before it was given.
//! Owned by the session, which fills in the numbers and sends what [`LoginStep`] says.

use super::event::{Authentication, LoginDecision, LoginIdentity};
use crate::chap::{Authenticator, Verified, is_security_key};
use crate::negotiate::{NOT_UNDERSTOOD, Negotiated, REJECT, Willing};
use crate::pdu::{CONTINUE, FINAL, LoginRequestHeader, LoginStage, LoginStatus};
use crate::text::{Collector, Parameters};
use crate::wire::LOGIN_DATA_LIMIT;

/// One connection's login.
#[derive(Debug)]
pub(super) struct TargetLogin {
    progress: Progress,
    stage: Option<LoginStage>,
    identity: Option<LoginIdentity>,
    /// What the initiator has to prove; `None`: nothing.
    authenticator: Option<Authenticator>,
    gathered: Collector,
    negotiated: Negotiated,
    portal_group: u16,
    has_named_portal_group: bool,
    has_declared_length: bool,
    rounds: u32,
}

#[derive(Debug)]
enum Progress {
    Fresh,
    /// The request that waits for the shell's decision.
    Deciding(LoginRequestHeader, Parameters),
    Negotiating,
    /// The answer that waits for the session to be established.
    Ending(Response),
}

/// A login response without its numbers.
#[derive(Debug)]
pub(super) struct Response {
    pub request: LoginRequestHeader,
    /// Transit bit, continue bit, stages.
    pub flags: u8,
    pub status: LoginStatus,
    pub tsih: u16,
    pub parameters: Parameters,
}

/// What a request leads to.
#[derive(Debug)]
pub(super) enum LoginStep {
    Send(Response),
    /// Ask the shell.
    Decide(LoginIdentity),
    /// Tell the shell to make room.
    End(LoginIdentity),
    /// Send this and begin the full feature phase.
    Done(Response, Negotiated),
    /// Send this and close.
    Refuse(Response, String),
}

/// An initiator that needs more requests than this never comes to an end.
const ROUNDS_MAX: u32 = 32;
/// Longest iSCSI name, in bytes (RFC 7143 §4.2.7.2).
const NAME_MAX: usize = 223;

/// A refusal and what to write into the log.
type Refusal = (LoginStatus, String);

impl TargetLogin {
    pub(super) fn new() -> Self {
        Self {
            progress: Progress::Fresh,
            stage: None,
            identity: None,
            authenticator: None,
            gathered: Collector::default(),
            negotiated: Negotiated::default(),
            portal_group: 0,
            has_named_portal_group: false,
            has_declared_length: false,
            rounds: 0,
        }
    }

    /// Whether the session will be a discovery session.
    pub(super) fn is_discovery(&self) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.target_name.is_none())
    }

    /// Takes a request.
    pub(super) fn request(&mut self, willing: &Willing, header: LoginRequestHeader, data: &[u8]) -> LoginStep {
        self.try_request(willing, header, data).unwrap_or_else(|refusal| refuse(header, refusal))
    }

    /// Takes the shell's decision about [`LoginStep::Decide`]; `None` if it was not asked for.
    pub(super) fn decided(&mut self, willing: &Willing, decision: LoginDecision) -> Option<LoginStep> {
        let (header, parameters) = match std::mem::replace(&mut self.progress, Progress::Negotiating) {
            Progress::Deciding(header, parameters) => (header, parameters),
            other @ (Progress::Fresh | Progress::Negotiating | Progress::Ending(_)) => {
                self.progress = other;
                return None;
            }
        };
        Some(match decision {
            LoginDecision::Refuse(status) => refuse(header, (status, "refused by the target's rules".to_owned())),
            LoginDecision::Accept { portal_group, authentication } => {
                self.portal_group = portal_group;
                self.authenticator = match authentication {
                    Authentication::None => None,
                    Authentication::Chap(demand) => Some(Authenticator::new(demand)),
                };
                self.negotiate(willing, header, &parameters).unwrap_or_else(|refusal| refuse(header, refusal))
            }
        })
    }

    /// Takes the shell's answer to [`LoginStep::End`]; `None` if it was not asked for.
    pub(super) fn established(&mut self, result: Result<u16, LoginStatus>) -> Option<LoginStep> {
        match std::mem::replace(&mut self.progress, Progress::Negotiating) {
            Progress::Ending(mut response) => Some(match result {
                Ok(tsih) => {
                    response.tsih = tsih;
                    LoginStep::Done(response, self.negotiated.clone())
                }
                Err(status) => refuse(response.request, (status, "the session cannot be established".to_owned())),
            }),
            other @ (Progress::Fresh | Progress::Deciding(..) | Progress::Negotiating) => {
                self.progress = other;
                None
            }
        }
    }

    fn try_request(
        &mut self,
        willing: &Willing,
        header: LoginRequestHeader,
        data: &[u8],
    ) -> Result<LoginStep, Refusal> {
        self.check_header(&header)?;
        self.gathered.add(data).map_err(|error| (LoginStatus::INITIATOR_ERROR, error.to_string()))?;
        if header.flags & CONTINUE != 0 {
            return Ok(LoginStep::Send(self.response(header, None, Parameters::new())));
        }
        let parameters = self.gathered.finish().map_err(|error| (LoginStatus::INITIATOR_ERROR, error.to_string()))?;
        match &self.progress {
            Progress::Fresh => {
                let identity = identify(&header, &parameters)?;
                self.identity = Some(identity.clone());
                self.progress = Progress::Deciding(header, parameters);
                Ok(LoginStep::Decide(identity))
            }
            Progress::Negotiating => self.negotiate(willing, header, &parameters),
            Progress::Deciding(..) | Progress::Ending(_) => {
                Err((LoginStatus::INVALID_DURING_LOGIN, "a request before the answer to the last one".to_owned()))
            }
        }
    }

    fn check_header(&mut self, header: &LoginRequestHeader) -> Result<(), Refusal> {
        if header.version_min > 0 {
            return Err((LoginStatus::UNSUPPORTED_VERSION, format!("version {} at least", header.version_min)));
        }
        self.rounds += 1;
        if self.rounds > ROUNDS_MAX {
            return Err((LoginStatus::INITIATOR_ERROR, format!("more than {ROUNDS_MAX} login requests")));
        }
        let invalid = |what: String| Err((LoginStatus::INVALID_DURING_LOGIN, what));
        let current = LoginStage::current(header.flags);
        let stage = match (self.stage, current) {
            (None, Some(stage @ (LoginStage::Security | LoginStage::Operational))) => stage,
            (Some(stage), Some(current)) if stage == current => stage,
            _ => return invalid(format!("current stage in flags {:#04x}, expected {:?}", header.flags, self.stage)),
        };
        self.stage = Some(stage);
        if header.flags & FINAL != 0 {
            let is_forward = match LoginStage::next(header.flags) {
                Some(LoginStage::Operational) => stage == LoginStage::Security,
                Some(LoginStage::FullFeature) => true,
                Some(LoginStage::Security) | None => false,
            };
            if !is_forward || header.flags & CONTINUE != 0 {
                return invalid(format!("flags {:#04x} do not lead forward", header.flags));
            }
        }
        Ok(())
    }

    fn negotiate(
        &mut self,
        willing: &Willing,
        header: LoginRequestHeader,
        parameters: &Parameters,
    ) -> Result<LoginStep, Refusal> {
        let mut answers = Parameters::new();
        if !self.has_named_portal_group && !self.is_discovery() {
            self.has_named_portal_group = true;
            answers.push("TargetPortalGroupTag", self.portal_group.to_string());
        }
        let next = if header.flags & FINAL != 0 { LoginStage::next(header.flags) } else { None };
        let next = self.authenticate(next, parameters, &mut answers)?;
        for (key, value) in parameters.iter() {
            match key {
                "InitiatorName" | "InitiatorAlias" | "SessionType" | "TargetName" => {}
                // Taken care of above.
                _ if self.authenticator.is_some() && is_security_key(key) => {}
                "AuthMethod" => {
                    if !value.split(',').any(|method| method == "None") {
                        let why = format!("authentication by {value} is not set up");
                        return Err((LoginStatus::AUTHENTICATION_FAILURE, why));
                    }
                    answers.push(key, "None");
                }
                // A target may not offer what was not asked; answers to nothing are ignored.
                _ if value == NOT_UNDERSTOOD || value == REJECT => {}
                _ => {
                    let answer = self
                        .negotiated
                        .answer(willing, key, value)
                        .map_err(|error| (LoginStatus::INITIATOR_ERROR, error.to_string()))?;
                    if let Some(answer) = answer {
                        answers.push(key, answer);
                    }
                }
            }
        }
        if self.stage == Some(LoginStage::Operational) && !self.has_declared_length {
            self.has_declared_length = true;
            answers.push("MaxRecvDataSegmentLength", willing.max_recv_data_segment_length.to_string());
        }
        if answers.encode().len() > LOGIN_DATA_LIMIT as usize {
            return Err((LoginStatus::INITIATOR_ERROR, "the answers do not fit into a login response".to_owned()));
        }
        let response = self.response(header, next, answers);
        match (next, &self.identity) {
            (Some(LoginStage::FullFeature), Some(identity)) => {
                let identity = identity.clone();
                self.progress = Progress::Ending(response);
                Ok(LoginStep::End(identity))
            }
            (Some(next), _) => {
                self.stage = Some(next);
                Ok(LoginStep::Send(response))
            }
            (None, _) => Ok(LoginStep::Send(response)),
        }
    }

    /// Takes a request's part in the authentication; gives the stage to go on to, which is none before its end.
    fn authenticate(
        &mut self,
        next: Option<LoginStage>,
        parameters: &Parameters,
        answers: &mut Parameters,
    ) -> Result<Option<LoginStage>, Refusal> {
        let Some(authenticator) = &mut self.authenticator else { return Ok(next) };
        let failed = |why: String| (LoginStatus::AUTHENTICATION_FAILURE, why);
        if self.stage != Some(LoginStage::Security) && !authenticator.is_proved() {
            return Err(failed("the initiator leaves the authentication out, and CHAP is needed".to_owned()));
        }
        match authenticator.request(parameters).map_err(failed)? {
            Verified::Continue(_) if next.is_some() && !authenticator.has_begun() => {
                Err(failed("the initiator offers no authentication, and CHAP is needed".to_owned()))
            }
            Verified::Continue(more) => {
                answers.append(more);
                Ok(None)
            }
            Verified::Proved(more) => {
                answers.append(more);
                Ok(next)
            }
        }
    }

    fn response(&self, request: LoginRequestHeader, next: Option<LoginStage>, parameters: Parameters) -> Response {
        let current = request.flags & 0x0c;
        let transit = next.map_or(0, |next| FINAL | next as u8);
        Response { request, flags: current | transit, status: LoginStatus::SUCCESS, tsih: 0, parameters }
    }
}

fn refuse(request: LoginRequestHeader, (status, why): Refusal) -> LoginStep {
    let flags = request.flags & 0x0c;
    LoginStep::Refuse(Response { request, flags, status, tsih: 0, parameters: Parameters::new() }, why)
}

fn identify(header: &LoginRequestHeader, parameters: &Parameters) -> Result<LoginIdentity, Refusal> {
    let name = |key: &str| match parameters.get(key) {
        Some(name) if name.is_empty() || name.len() > NAME_MAX => {
            Err((LoginStatus::INITIATOR_ERROR, format!("{key} has {} bytes, allowed are 1 to {NAME_MAX}", name.len())))
        }
        name => Ok(name.map(str::to_owned)),
    };
    let missing = |key: &str| (LoginStatus::MISSING_PARAMETER, format!("{key} is missing"));
    let initiator_name = name("InitiatorName")?.ok_or_else(|| missing("InitiatorName"))?;
    let target_name = match parameters.get("SessionType") {
        None | Some("Normal") => Some(name("TargetName")?.ok_or_else(|| missing("TargetName"))?),
        Some("Discovery") => None,
        Some(other) => return Err((LoginStatus::SESSION_TYPE_UNSUPPORTED, format!("SessionType={other}"))),
    };
    Ok(LoginIdentity {
        initiator_name,
        isid: header.isid,
        tsih: header.tsih.get(),
        connection_id: header.connection_id.get(),
        target_name,
    })
}
