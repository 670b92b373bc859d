//! The static view: who may be a member of a lockspace, and where. Read from a TOML file, the same on
//! every node:
//! ```toml
//! cluster = "demo"
//! allow_plaintext = true      # needed for private addresses; loopback never needs it
//! lost_after_ms = 10000       # optional
//!
//! [[member]]
//! id = 1
//! address = "10.77.0.1:21064"
//! ```
//! Connections are neither encrypted nor authenticated yet, so only loopback addresses are taken,
//! and private ones (RFC 1918, for network namespaces on one machine) if the file says so.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::NodeId;
use serde::Deserialize;

/// Most members of a view.
pub const MEMBER_COUNT_MAX: usize = 64;

/// Who may be a member, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub cluster: String,
    /// Generation of the file; members with different ones refuse each other.
    pub generation: u64,
    pub allow_plaintext: bool,
    /// A member that is silent this long is lost.
    pub lost_after: Duration,
    /// In the order of their ids.
    pub members: Vec<MemberAddress>,
}

/// One member and where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberAddress {
    pub id: NodeId,
    pub address: SocketAddr,
}

/// What is wrong with a view.
#[derive(Debug)]
pub enum ViewError {
    Read {
        path: PathBuf,
        error: std::io::Error,
    },
    Syntax {
        path: PathBuf,
        error: Box<toml::de::Error>,
    },
    NoMembers,
    TooManyMembers {
        count: usize,
    },
    IdZero,
    IdTwice {
        id: NodeId,
    },
    AddressTwice {
        address: SocketAddr,
    },
    PortZero {
        id: NodeId,
    },
    ClusterName {
        name: String,
    },
    LostAfter {
        millis: u64,
    },
    /// The address needs TLS, or `allow_plaintext`.
    AddressNotPrivate {
        id: NodeId,
        address: SocketAddr,
        would_help: bool,
    },
}

impl fmt::Display for ViewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, error } => write!(f, "cannot read the view file {}: {error}", path.display()),
            Self::Syntax { path, error } => write!(f, "the view file {} is wrong: {error}", path.display()),
            Self::NoMembers => write!(f, "the view has no members"),
            Self::TooManyMembers { count } => {
                write!(f, "the view has {count} members, more than {MEMBER_COUNT_MAX}")
            }
            Self::IdZero => write!(f, "a member of the view has id 0; ids begin at 1"),
            Self::IdTwice { id } => write!(f, "the view has {id} twice"),
            Self::AddressTwice { address } => write!(f, "the view has the address {address} twice"),
            Self::PortZero { id } => write!(f, "the address of {id} has no port"),
            Self::ClusterName { name } => {
                write!(f, "\"{}\" cannot name a cluster: 1 to 64 bytes are needed", name.escape_default())
            }
            Self::LostAfter { millis } => {
                write!(f, "lost_after_ms = {millis} is out of range: 100 to 3600000 milliseconds")
            }
            Self::AddressNotPrivate { id, address, would_help: true } => write!(
                f,
                "the address {address} of {id} is not a loopback address; connections are not encrypted yet, \
                 so a private network needs `allow_plaintext = true` in the view file"
            ),
            Self::AddressNotPrivate { id, address, would_help: false } => write!(
                f,
                "the address {address} of {id} is neither a loopback nor a private (RFC 1918) address; \
                 connections are not encrypted yet, so it is refused"
            ),
        }
    }
}

impl std::error::Error for ViewError {}

impl View {
    /// Reads and validates a view file.
    pub fn from_file(path: impl AsRef<Path>) -> Result<View, ViewError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| ViewError::Read { path: path.to_owned(), error })?;
        let file: File = toml::from_str(&text)
            .map_err(|error| ViewError::Syntax { path: path.to_owned(), error: Box::new(error) })?;
        if !(100..=3_600_000).contains(&file.lost_after_ms) {
            return Err(ViewError::LostAfter { millis: file.lost_after_ms });
        }
        View {
            cluster: file.cluster,
            generation: file.generation,
            allow_plaintext: file.allow_plaintext,
            lost_after: Duration::from_millis(file.lost_after_ms),
            members: file.member.iter().map(|it| MemberAddress { id: NodeId(it.id), address: it.address }).collect(),
        }
        .validated()
    }

    /// A view of these members on loopback addresses, for tests and one machine.
    pub fn on_loopback(cluster: &str, members: Vec<MemberAddress>) -> Result<View, ViewError> {
        View {
            cluster: cluster.to_owned(),
            generation: 1,
            allow_plaintext: false,
            lost_after: LOST_AFTER_DEFAULT,
            members,
        }
        .validated()
    }

    /// Where a member listens.
    pub fn address_of(&self, id: NodeId) -> Option<SocketAddr> {
        self.members.iter().find(|member| member.id == id).map(|member| member.address)
    }

    /// A number that two members compare: the same if their views are.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut text = format!("{} {}", self.cluster, self.generation);
        for member in &self.members {
            text.push_str(&format!(" {}={}", member.id.0, member.address));
        }
        text.bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }

    fn validated(mut self) -> Result<View, ViewError> {
        self.members.sort_by_key(|member| member.id);
        if self.cluster.is_empty() || self.cluster.len() > 64 {
            return Err(ViewError::ClusterName { name: self.cluster });
        }
        if self.members.is_empty() {
            return Err(ViewError::NoMembers);
        }
        if self.members.len() > MEMBER_COUNT_MAX {
            return Err(ViewError::TooManyMembers { count: self.members.len() });
        }
        let mut addresses = BTreeSet::new();
        for (index, MemberAddress { id, address }) in self.members.iter().copied().enumerate() {
            if id.0 == 0 {
                return Err(ViewError::IdZero);
            }
            if index > 0 && self.members[index - 1].id == id {
                return Err(ViewError::IdTwice { id });
            }
            if address.port() == 0 {
                return Err(ViewError::PortZero { id });
            }
            if !addresses.insert(address) {
                return Err(ViewError::AddressTwice { address });
            }
            let is_loopback = address.ip().is_loopback();
            let is_private = match address.ip() {
                IpAddr::V4(ip) => ip.is_private(),
                IpAddr::V6(_) => false,
            };
            let is_allowed = is_loopback || (is_private && self.allow_plaintext);
            if !is_allowed {
                return Err(ViewError::AddressNotPrivate { id, address, would_help: is_private });
            }
        }
        Ok(self)
    }
}

const LOST_AFTER_DEFAULT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: String,
    #[serde(default = "one")]
    generation: u64,
    #[serde(default)]
    allow_plaintext: bool,
    #[serde(default = "lost_after_default")]
    lost_after_ms: u64,
    #[serde(default)]
    member: Vec<FileMember>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileMember {
    id: u32,
    address: SocketAddr,
}

fn one() -> u64 {
    1
}

fn lost_after_default() -> u64 {
    10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(members: &[(u32, &str)], allow_plaintext: bool, expected: &str) {
        let members = members
            .iter()
            .map(|(id, address)| MemberAddress { id: NodeId(*id), address: address.parse().expect("an address") })
            .collect();
        let view = View {
            cluster: "demo".to_owned(),
            generation: 1,
            allow_plaintext,
            lost_after: LOST_AFTER_DEFAULT,
            members,
        };
        match view.validated() {
            Ok(view) => assert_eq!(format!("{} members", view.members.len()), expected),
            Err(error) => assert!(error.to_string().contains(expected), "{error}"),
        }
    }

    #[test]
    fn only_loopback_addresses_are_taken_and_private_ones_if_the_file_says_so() {
        check(&[(2, "127.0.0.1:7001"), (1, "[::1]:7001")], false, "2 members");
        check(&[(1, "10.77.0.1:7001"), (2, "192.168.1.2:7001")], true, "2 members");
        check(&[(1, "10.77.0.1:7001")], false, "allow_plaintext");
        check(&[(1, "8.8.8.8:7001")], true, "refused");
        check(&[(1, "0.0.0.0:7001")], true, "refused");
        check(&[(1, "[fd00::1]:7001")], true, "refused");
    }

    #[test]
    fn a_view_that_contradicts_itself_is_refused() {
        check(&[], false, "no members");
        check(&[(0, "127.0.0.1:1")], false, "id 0");
        check(&[(1, "127.0.0.1:1"), (1, "127.0.0.1:2")], false, "node 1 twice");
        check(&[(1, "127.0.0.1:1"), (2, "127.0.0.1:1")], false, "127.0.0.1:1 twice");
        check(&[(1, "127.0.0.1:0")], false, "no port");
    }

    #[test]
    fn a_view_file_is_read_and_an_unknown_key_is_named() {
        let text = "cluster = \"demo\"\nallow_plaintext = true\n[[member]]\nid = 1\naddress = \"10.0.0.1:21064\"\n";
        let file: File = toml::from_str(text).expect("a right file");
        assert_eq!((file.member.len(), file.lost_after_ms, file.generation), (1, 10_000, 1));
        let error = toml::from_str::<File>("cluster = \"demo\"\nclutser = 1\n").err().expect("an error");
        assert!(error.to_string().contains("clutser"), "{error}");
    }
}
