//! The initiator's side: proves who it is, and wants the target's proof where it was told to.
//!
//! ```text
//! Offered ──(AuthMethod=CHAP)──► Chosen ──(CHAP_A, CHAP_I, CHAP_C)──► Answered ──(CHAP_N, CHAP_R)──► Proved
//!    └──(AuthMethod=None, unless mutual)──────────────────────────────────────────────────────────────►┘
//! ```

use std::sync::Arc;

use super::algorithm::is_same;
use super::verify::CHALLENGE_MAX;
use super::{ALGORITHM, Algorithm, CHALLENGE, CHALLENGE_LENGTH, ChapIdentity, IDENTIFIER, NAME, RESPONSE, binary};
use crate::error::ProtocolError;
use crate::text::Parameters;

/// One login's authentication, seen from the initiator.
#[derive(Debug)]
pub(crate) struct Prover {
    identity: Arc<ChapIdentity>,
    identifier: u8,
    challenge: [u8; CHALLENGE_LENGTH],
    state: State,
}

#[derive(Debug)]
enum State {
    Offered,
    Chosen,
    /// With the digest that the target has chosen.
    Answered(Algorithm),
    Proved,
}

/// Why the authentication cannot end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProofError {
    /// The target wants another method.
    OtherMethod {
        wanted: String,
    },
    /// The target does not prove who it is.
    TargetUnproven {
        why: &'static str,
    },
    Protocol(ProtocolError),
}

impl Prover {
    pub(crate) fn new(identity: Arc<ChapIdentity>, random: [u8; CHALLENGE_LENGTH + 1]) -> Self {
        let [identifier, challenge @ ..] = random;
        Self { identity, identifier, challenge, state: State::Offered }
    }

    /// The methods to offer. A target that need not prove itself may also let us in without any proof.
    pub(crate) fn methods(&self) -> &'static str {
        if self.identity.is_mutual() { "CHAP" } else { "CHAP,None" }
    }

    /// Takes the target's parameters and gives what to answer; `None` once everything is proved.
    pub(crate) fn answer(&mut self, parameters: &Parameters) -> Result<Option<Parameters>, ProofError> {
        match self.state {
            State::Offered => match parameters.get("AuthMethod") {
                Some("CHAP") => {
                    self.state = State::Chosen;
                    let mut offer = Parameters::new();
                    offer.push(ALGORITHM, ALGORITHMS);
                    Ok(Some(offer))
                }
                // Whoever wants no authentication may say nothing about it.
                None | Some("None") if !self.identity.is_mutual() => {
                    self.state = State::Proved;
                    Ok(None)
                }
                None | Some("None") => Err(ProofError::TargetUnproven {
                    why: "it goes on without any authentication, and mutual CHAP is asked for",
                }),
                Some(other) => Err(ProofError::OtherMethod { wanted: other.to_owned() }),
            },
            State::Chosen => self.respond(parameters).map(Some),
            State::Answered(algorithm) => {
                self.check(algorithm, parameters)?;
                self.state = State::Proved;
                Ok(None)
            }
            State::Proved => Ok(None),
        }
    }

    /// Whether the answer that was just given is the last: the target's proof, if any, comes with the stage's end.
    pub(crate) fn is_last_answer(&self) -> bool {
        matches!(self.state, State::Answered(_))
    }

    fn respond(&mut self, parameters: &Parameters) -> Result<Parameters, ProofError> {
        let algorithm = value(parameters, ALGORITHM)?;
        let algorithm = Algorithm::from_number(algorithm).ok_or_else(|| bad(ALGORITHM, algorithm))?;
        let identifier = value(parameters, IDENTIFIER)?;
        let identifier = binary::decode_byte(identifier).ok_or_else(|| bad(IDENTIFIER, identifier))?;
        let challenge = value(parameters, CHALLENGE)?;
        let challenge = binary::decode(challenge, CHALLENGE_MAX).ok_or_else(|| bad(CHALLENGE, challenge))?;
        let own = &self.identity.own;
        let mut answer = Parameters::new();
        answer.push(NAME, own.name.as_str());
        answer.push(RESPONSE, binary::encode(&algorithm.response(identifier, own.secret.bytes(), &challenge)));
        if self.identity.is_mutual() {
            if challenge == self.challenge {
                return Err(ProofError::TargetUnproven { why: "it sends our own challenge" });
            }
            answer.push(IDENTIFIER, self.identifier.to_string());
            answer.push(CHALLENGE, binary::encode(&self.challenge));
        }
        self.state = State::Answered(algorithm);
        Ok(answer)
    }

    fn check(&self, algorithm: Algorithm, parameters: &Parameters) -> Result<(), ProofError> {
        let Some(target) = &self.identity.target else { return Ok(()) };
        let unproven = |why| ProofError::TargetUnproven { why };
        let name = parameters.get(NAME).ok_or(unproven("it sends no name (CHAP_N)"))?;
        let response = parameters.get(RESPONSE).ok_or(unproven("it sends no response (CHAP_R)"))?;
        let response = binary::decode(response, CHALLENGE_MAX).ok_or(unproven("its response is no binary value"))?;
        let expected = algorithm.response(self.identifier, target.secret.bytes(), &self.challenge);
        // Both are looked at, so that the time does not tell which one is wrong.
        let (is_named, is_known) = (name == target.name, is_same(&response, &expected));
        if is_named && is_known { Ok(()) } else { Err(unproven("its name or response is wrong")) }
    }
}

/// MD5 stands first because targets take the first one they know, and some know number 7 as something else than
/// SHA-256 (tgt takes it for SHA-1). A target that chooses by strength finds the better ones behind it.
const ALGORITHMS: &str = "5,7,6";

fn value<'a>(parameters: &'a Parameters, key: &str) -> Result<&'a str, ProofError> {
    parameters.get(key).ok_or_else(|| bad(key, ""))
}

fn bad(key: &str, value: &str) -> ProofError {
    let value = value.chars().take(64).collect();
    ProofError::Protocol(ProtocolError::BadValue { key: key.to_owned(), value })
}
