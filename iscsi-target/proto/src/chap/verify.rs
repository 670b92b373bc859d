//! The target's side: asks for a proof, checks it, and gives its own where it is asked for.
//!
//! ```text
//! AwaitingMethod ──(AuthMethod)──► AwaitingAlgorithm ──(CHAP_A)──► AwaitingResponse ──(CHAP_N, CHAP_R)──► Proved
//!        └───────────────────────────────┴──── anything else ───────────────┴──► refused
//! ```
//! An initiator has one try for a connection, and every refusal is the same to it.

use super::algorithm::is_same;
use super::{ALGORITHM, Algorithm, CHALLENGE, ChapDemand, ChapUser, IDENTIFIER, NAME, RESPONSE, binary};
use crate::text::Parameters;

/// Longest challenge, in bytes (RFC 7143 §12.1.3).
pub(super) const CHALLENGE_MAX: usize = 1024;

/// One login's authentication, seen from the target.
#[derive(Debug)]
pub(crate) struct Authenticator {
    demand: ChapDemand,
    state: State,
}

#[derive(Debug)]
enum State {
    AwaitingMethod,
    AwaitingAlgorithm,
    AwaitingResponse(Algorithm),
    Proved,
}

/// What a request led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verified {
    /// Answer with these; the initiator has proved nothing yet.
    Continue(Parameters),
    /// The initiator is who it says; answer with these, which may be nothing.
    Proved(Parameters),
}

impl Authenticator {
    pub(crate) fn new(demand: ChapDemand) -> Self {
        Self { demand, state: State::AwaitingMethod }
    }

    /// Whether the initiator has proved who it is.
    pub(crate) fn is_proved(&self) -> bool {
        matches!(self.state, State::Proved)
    }

    /// Whether the initiator has chosen CHAP.
    pub(crate) fn has_begun(&self) -> bool {
        !matches!(self.state, State::AwaitingMethod)
    }

    /// Takes the parameters of one request. The error is for our own log: the initiator learns only that
    /// authentication failed.
    pub(crate) fn request(&mut self, parameters: &Parameters) -> Result<Verified, String> {
        match self.state {
            State::AwaitingMethod => {
                let Some(methods) = parameters.get("AuthMethod") else {
                    // The names may come alone; the session refuses to go on to another stage.
                    return Ok(Verified::Continue(Parameters::new()));
                };
                if !methods.split(',').any(|method| method == "CHAP") {
                    return Err(format!("CHAP is needed and the initiator can do {}", quote(methods)));
                }
                self.state = State::AwaitingAlgorithm;
                let mut answer = Parameters::new();
                answer.push("AuthMethod", "CHAP");
                Ok(Verified::Continue(answer))
            }
            State::AwaitingAlgorithm => {
                let offer = parameters.get(ALGORITHM).ok_or("CHAP_A is missing")?;
                // Our choice among what is offered, best first.
                let algorithm = Algorithm::ALL
                    .into_iter()
                    .find(|algorithm| offer.split(',').any(|number| number == algorithm.number()))
                    .ok_or_else(|| format!("CHAP_A={} names no digest that is known here", quote(offer)))?;
                self.state = State::AwaitingResponse(algorithm);
                let mut answer = Parameters::new();
                answer.push(ALGORITHM, algorithm.number());
                answer.push(IDENTIFIER, self.demand.identifier.to_string());
                answer.push(CHALLENGE, binary::encode(&self.demand.challenge));
                Ok(Verified::Continue(answer))
            }
            State::AwaitingResponse(algorithm) => {
                let name = self.check(algorithm, parameters)?.name.clone();
                let answer = self.prove(algorithm, parameters, &name)?;
                self.state = State::Proved;
                Ok(Verified::Proved(answer))
            }
            State::Proved => match parameters.iter().find(|(key, _)| is_security_key(key)) {
                Some((key, _)) => Err(format!("{key} after the authentication")),
                None => Ok(Verified::Proved(Parameters::new())),
            },
        }
    }

    /// Whose response this is.
    fn check(&self, algorithm: Algorithm, parameters: &Parameters) -> Result<&ChapUser, String> {
        let name = parameters.get(NAME).ok_or("CHAP_N is missing")?;
        let response = parameters.get(RESPONSE).ok_or("CHAP_R is missing")?;
        let response = binary::decode(response, CHALLENGE_MAX).ok_or("CHAP_R is no binary value")?;
        let demand = &self.demand;
        let found = demand.policy.incoming.iter().find(|user| user.name == name);
        // An unknown name takes the time of a known one.
        let secret = found.unwrap_or(&demand.policy.incoming[0]).secret.bytes();
        let expected = algorithm.response(demand.identifier, secret, &demand.challenge);
        match found {
            Some(user) if is_same(&response, &expected) => Ok(user),
            Some(_) => Err(format!("CHAP user {}: the response is wrong", quote(name))),
            None => Err(format!("CHAP user {} is not known here", quote(name))),
        }
    }

    /// Our own proof, if the initiator asks for one.
    fn prove(&self, algorithm: Algorithm, parameters: &Parameters, peer: &str) -> Result<Parameters, String> {
        let mut answer = Parameters::new();
        let (identifier, challenge) = match (parameters.get(IDENTIFIER), parameters.get(CHALLENGE)) {
            (None, None) => return Ok(answer),
            (Some(identifier), Some(challenge)) => (identifier, challenge),
            _ => return Err("of CHAP_I and CHAP_C there is only one".to_owned()),
        };
        let own = self.demand.policy.outgoing.as_ref();
        let own = own.ok_or_else(|| format!("{} asks for mutual CHAP, which is not set up", quote(peer)))?;
        let identifier = binary::decode_byte(identifier).ok_or("CHAP_I is not a number from 0 to 255")?;
        let challenge = binary::decode(challenge, CHALLENGE_MAX);
        let challenge = challenge.ok_or_else(|| format!("CHAP_C is not a value of 1 to {CHALLENGE_MAX} bytes"))?;
        if challenge == self.demand.challenge {
            return Err("CHAP_C is our own challenge, reflected".to_owned());
        }
        answer.push(NAME, own.name.as_str());
        answer.push(RESPONSE, binary::encode(&algorithm.response(identifier, own.secret.bytes(), &challenge)));
        Ok(answer)
    }
}

/// Whether a key belongs to the authentication.
pub(crate) fn is_security_key(key: &str) -> bool {
    key == "AuthMethod" || key.starts_with("CHAP_")
}

/// Some of what a stranger sent, for a log.
fn quote(text: &str) -> String {
    format!("'{}'", text.escape_debug().take(64).collect::<String>())
}
