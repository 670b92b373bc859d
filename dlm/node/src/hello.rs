//! The handshake: both sides of a new connection say who they are before anything else.
//!
//! ```text
//!   magic "CorralLM"  version u16  length u16  then length bytes:
//!   node u32  incarnation u64  view fingerprint u64  cluster (u8 length, bytes)  lockspace (u8 length, bytes)
//! ```
//! Little-endian. The side that dialled speaks first. Whoever finds a mismatch says so in its log and
//! closes.

use std::fmt;

use base::{Incarnation, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Version of the handshake and of everything after it.
pub(crate) const VERSION: u16 = dlm_core::codec::VERSION;
const MAGIC: &[u8; 8] = b"CorralLM";
const LENGTH_MAX: usize = 4 + 8 + 8 + 2 * (1 + 64);

/// What one side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) fingerprint: u64,
    pub(crate) cluster: String,
    pub(crate) lockspace: String,
}

/// Why a handshake failed.
#[derive(Debug)]
pub(crate) enum HelloError {
    Io {
        error: std::io::Error,
    },
    /// The other side is no lock manager.
    Magic,
    Version {
        found: u16,
    },
    Malformed,
    /// The other side is one, of something else. Trying again will not help.
    Mismatch {
        what: String,
    },
}

impl HelloError {
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::Version { .. } | Self::Mismatch { .. })
    }
}

impl fmt::Display for HelloError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { error } => write!(f, "{error}"),
            Self::Magic => write!(f, "it is not a lock manager"),
            Self::Version { found } => write!(f, "it speaks protocol version {found}, this is version {VERSION}"),
            Self::Malformed => write!(f, "its greeting is malformed"),
            Self::Mismatch { what } => write!(f, "{what}"),
        }
    }
}

impl From<std::io::Error> for HelloError {
    fn from(error: std::io::Error) -> Self {
        Self::Io { error }
    }
}

impl Hello {
    /// Sends this greeting.
    pub(crate) async fn write(&self, stream: &mut (impl AsyncWriteExt + Unpin)) -> Result<(), HelloError> {
        Ok(stream.write_all(&self.encode()).await?)
    }

    /// Takes the other side's greeting in.
    pub(crate) async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<Hello, HelloError> {
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        if &head[..8] != MAGIC {
            return Err(HelloError::Magic);
        }
        let version = u16::from_le_bytes([head[8], head[9]]);
        if version != VERSION {
            return Err(HelloError::Version { found: version });
        }
        let length = usize::from(u16::from_le_bytes([head[10], head[11]]));
        if length > LENGTH_MAX {
            return Err(HelloError::Malformed);
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        Hello::decode(&body).ok_or(HelloError::Malformed)
    }

    /// Whether the two are members of one lockspace under one view.
    pub(crate) fn check(&self, other: &Hello) -> Result<(), HelloError> {
        let what = if self.cluster != other.cluster {
            format!("it belongs to the cluster \"{}\", this is \"{}\"", other.cluster, self.cluster)
        } else if self.lockspace != other.lockspace {
            format!("it has the lockspace \"{}\", this is \"{}\"", other.lockspace, self.lockspace)
        } else if self.fingerprint != other.fingerprint {
            format!("{} has another view file; it must be the same on every member", other.node)
        } else if self.node == other.node {
            format!("it says that it is {} too", self.node)
        } else {
            return Ok(());
        };
        Err(HelloError::Mismatch { what })
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(LENGTH_MAX);
        body.extend(self.node.0.to_le_bytes());
        body.extend(self.incarnation.0.to_le_bytes());
        body.extend(self.fingerprint.to_le_bytes());
        for text in [&self.cluster, &self.lockspace] {
            body.push(u8::try_from(text.len()).expect("invariant: names have at most 64 bytes"));
            body.extend(text.as_bytes());
        }
        let length = u16::try_from(body.len()).expect("invariant: LENGTH_MAX fits");
        [MAGIC.as_slice(), &VERSION.to_le_bytes(), &length.to_le_bytes(), &body].concat()
    }

    fn decode(body: &[u8]) -> Option<Hello> {
        let (node, rest) = body.split_first_chunk()?;
        let (incarnation, rest) = rest.split_first_chunk()?;
        let (fingerprint, rest) = rest.split_first_chunk()?;
        let (cluster, rest) = text(rest)?;
        let (lockspace, rest) = text(rest)?;
        rest.is_empty().then_some(Hello {
            node: NodeId(u32::from_le_bytes(*node)),
            incarnation: Incarnation(u64::from_le_bytes(*incarnation)),
            fingerprint: u64::from_le_bytes(*fingerprint),
            cluster,
            lockspace,
        })
    }
}

fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(text).ok()?.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            node: NodeId(1),
            incarnation: Incarnation(5),
            fingerprint: 6,
            cluster: "demo".to_owned(),
            lockspace: "fs0".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_greeting_comes_back_as_it_was_and_a_cut_one_is_refused() {
        let bytes = hello().encode();
        assert_eq!(Hello::read(&mut bytes.as_slice()).await.expect("a greeting"), hello());
        for length in 0..bytes.len() {
            assert!(Hello::read(&mut &bytes[..length]).await.is_err(), "{length}");
        }
        let error = Hello::read(&mut b"GET / HTTP/1.1\r\n".as_slice()).await.expect_err("no greeting");
        assert!(matches!(error, HelloError::Magic));
    }

    #[test]
    fn strangers_are_told_apart() {
        let check = |change: fn(&mut Hello), expected: &str| {
            let mut other = Hello { node: NodeId(2), ..hello() };
            change(&mut other);
            let error = hello().check(&other).expect_err(expected);
            assert!(error.is_permanent() && error.to_string().contains(expected), "{error}");
        };
        check(|other| other.cluster = "other".to_owned(), "cluster \"other\"");
        check(|other| other.lockspace = "fs1".to_owned(), "lockspace \"fs1\"");
        check(|other| other.fingerprint = 7, "another view file");
        check(|other| other.node = NodeId(1), "node 1 too");
        assert!(hello().check(&Hello { node: NodeId(2), ..hello() }).is_ok());
    }
}
