//! Who may log in, and who proves what: names and secrets, checked before they are used.

use std::fmt;
use std::sync::Arc;

/// Bytes of the challenges that we make.
pub const CHALLENGE_LENGTH: usize = 16;
/// Longest name or secret, in bytes (a text value's length: RFC 7143 §6.1).
const LENGTH_MAX: usize = 255;

/// A CHAP secret. It is compared and used, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ChapSecret(Arc<[u8]>);

impl ChapSecret {
    /// Takes a secret in; whether it can be used is looked at with the name ([`ChapUser::new`]).
    pub fn new(secret: impl AsRef<[u8]>) -> Self {
        Self(secret.as_ref().into())
    }

    /// Whether RFC 7143 §9.2.1 wants a longer one (96 random bits) where no IPsec protects the connection.
    pub fn is_short(&self) -> bool {
        self.0.len() < 12
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ChapSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A name and its secret: one side of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChapUser {
    pub(super) name: String,
    pub(super) secret: ChapSecret,
}

impl ChapUser {
    /// Name and secret have 1 to 255 bytes; a name has no control characters.
    pub fn new(name: &str, secret: ChapSecret) -> Result<Self, PolicyError> {
        if name.is_empty() || name.len() > LENGTH_MAX || name.chars().any(char::is_control) {
            return Err(PolicyError::BadName { name: name.escape_debug().take(40).collect() });
        }
        if secret.0.is_empty() || secret.0.len() > LENGTH_MAX {
            return Err(PolicyError::BadSecret { user: name.to_owned(), length: secret.0.len() });
        }
        Ok(Self { name: name.to_owned(), secret })
    }

    /// The name, as CHAP_N has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The secret; it does not print itself.
    pub fn secret(&self) -> &ChapSecret {
        &self.secret
    }
}

/// What a target asks of initiators, and can prove itself. One for each target's normal sessions; discovery sessions
/// (which name no target) have one of their own, with other users. A target or discovery without a policy asks for
/// nothing: [`Authentication::None`](crate::target::Authentication::None).
///
/// tgt's words for it: `incominguser` (several), `outgoinguser` (one), and for discovery those outside of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChapPolicy {
    pub(super) incoming: Vec<ChapUser>,
    pub(super) outgoing: Option<ChapUser>,
}

impl ChapPolicy {
    /// `incoming`: each of them may log in; at least one, with different names. `outgoing`: with this one the target
    /// proves itself to an initiator that asks for it (mutual CHAP); such an initiator is refused if there is none.
    /// The outgoing secret differs from every incoming one: else an initiator's own response would prove the target.
    pub fn new(incoming: Vec<ChapUser>, outgoing: Option<ChapUser>) -> Result<Self, PolicyError> {
        if incoming.is_empty() {
            return Err(PolicyError::NoIncomingUser);
        }
        for (index, user) in incoming.iter().enumerate() {
            if incoming[..index].iter().any(|other| other.name == user.name) {
                return Err(PolicyError::DuplicateUser { name: user.name.clone() });
            }
            if outgoing.as_ref().is_some_and(|outgoing| outgoing.secret == user.secret) {
                return Err(PolicyError::SameSecret { name: user.name.clone() });
            }
        }
        Ok(Self { incoming, outgoing })
    }

    /// Who may log in.
    pub fn incoming(&self) -> &[ChapUser] {
        &self.incoming
    }

    /// Who the target can prove to be.
    pub fn outgoing(&self) -> Option<&ChapUser> {
        self.outgoing.as_ref()
    }
}

/// A policy and the randomness for one login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChapDemand {
    pub(super) policy: Arc<ChapPolicy>,
    pub(super) identifier: u8,
    pub(super) challenge: [u8; CHALLENGE_LENGTH],
}

impl ChapDemand {
    /// `random` comes from the operating system's generator, fresh for each login.
    pub fn new(policy: Arc<ChapPolicy>, random: [u8; CHALLENGE_LENGTH + 1]) -> Self {
        let [identifier, challenge @ ..] = random;
        Self { policy, identifier, challenge }
    }
}

/// Who an initiator can prove to be, and who its target must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChapIdentity {
    pub(super) own: ChapUser,
    pub(super) target: Option<ChapUser>,
}

impl ChapIdentity {
    /// `target`: what the target has to prove (mutual CHAP); its secret is another than our own.
    pub fn new(own: ChapUser, target: Option<ChapUser>) -> Result<Self, PolicyError> {
        if target.as_ref().is_some_and(|target| target.secret == own.secret) {
            return Err(PolicyError::SameSecret { name: own.name });
        }
        Ok(Self { own, target })
    }

    /// The name we log in by.
    pub fn own_name(&self) -> &str {
        &self.own.name
    }

    /// Whether the target has to prove itself.
    pub fn is_mutual(&self) -> bool {
        self.target.is_some()
    }
}

/// Why names and secrets cannot be used. Never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyError {
    BadName {
        name: String,
    },
    BadSecret {
        user: String,
        length: usize,
    },
    NoIncomingUser,
    DuplicateUser {
        name: String,
    },
    /// One secret for both directions.
    SameSecret {
        name: String,
    },
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName { name } => {
                write!(f, "CHAP user '{name}': a name has 1 to {LENGTH_MAX} bytes and no control characters")
            }
            Self::BadSecret { user, length } => {
                write!(f, "CHAP user '{user}': its secret has {length} bytes, allowed are 1 to {LENGTH_MAX}")
            }
            Self::NoIncomingUser => write!(f, "CHAP without a user who may log in"),
            Self::DuplicateUser { name } => write!(f, "CHAP user '{name}' is there twice"),
            Self::SameSecret { name } => write!(
                f,
                "CHAP user '{name}' has the same secret as the user of the other direction; RFC 7143 §9.2.1 wants two"
            ),
        }
    }
}

impl std::error::Error for PolicyError {}
