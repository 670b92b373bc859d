//! CHAP (RFC 1994 as RFC 7143 §12.1 carries it in login requests), for both sides, one way or mutual.
//!
//! What each side may prove is data ([`ChapPolicy`] for a target, [`ChapIdentity`] for an initiator); the machines
//! ([`Authenticator`], [`Prover`]) take text parameters and the random bytes that were handed in, and say what to
//! answer. Invariants: a secret is never printed and never leaves this module but as a digest over a challenge; every
//! failure of an initiator looks the same from outside; nobody gets a response to a challenge that he was given by
//! the side that is to be proved (reflection).

mod algorithm;
mod binary;
mod policy;
mod prove;
mod verify;

pub use algorithm::Algorithm;
pub use policy::{CHALLENGE_LENGTH, ChapDemand, ChapIdentity, ChapPolicy, ChapSecret, ChapUser, PolicyError};
pub(crate) use prove::{ProofError, Prover};
pub(crate) use verify::{Authenticator, Verified, is_security_key};

/// The four keys of one direction, and the algorithm (RFC 7143 §12.1.3).
const ALGORITHM: &str = "CHAP_A";
const IDENTIFIER: &str = "CHAP_I";
const CHALLENGE: &str = "CHAP_C";
const NAME: &str = "CHAP_N";
const RESPONSE: &str = "CHAP_R";
