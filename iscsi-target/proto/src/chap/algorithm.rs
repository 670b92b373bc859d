//! The digests that CHAP may use, by their numbers in IANA's registry "PPP Authentication Algorithms".

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A digest for CHAP responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Algorithm {
    /// What every implementation has (RFC 1994).
    Md5 = 5,
    Sha1 = 6,
    Sha256 = 7,
}

impl Algorithm {
    /// All of them, best first.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha1, Self::Md5];

    /// By the number in CHAP_A.
    pub fn from_number(number: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.number() == number)
    }

    /// The number in CHAP_A.
    pub fn number(self) -> &'static str {
        match self {
            Self::Md5 => "5",
            Self::Sha1 => "6",
            Self::Sha256 => "7",
        }
    }

    /// The response to a challenge: the digest over identifier, secret and challenge (RFC 1994 §4.1).
    pub(super) fn response(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        match self {
            Self::Md5 => digest(Md5::new(), identifier, secret, challenge),
            Self::Sha1 => digest(Sha1::new(), identifier, secret, challenge),
            Self::Sha256 => digest(Sha256::new(), identifier, secret, challenge),
        }
    }
}

fn digest(state: impl sha2::Digest, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
    state.chain_update([identifier]).chain_update(secret).chain_update(challenge).finalize().to_vec()
}

/// Whether two responses are the same, in a time that does not tell where they differ.
pub(super) fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each checked against `printf '\x27secret…' | md5sum` and its sisters, of GNU coreutils 9.1.
    #[test]
    fn responses_are_the_digests_that_other_tools_compute() {
        let response = |algorithm: Algorithm| {
            let bytes = algorithm.response(0x27, b"0123456789ab", &[0xa5; 16]);
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        assert_eq!(response(Algorithm::Md5), MD5);
        assert_eq!(response(Algorithm::Sha1), SHA1);
        assert_eq!(response(Algorithm::Sha256), SHA256);
    }

    const MD5: &str = "2574c14e87c0aefc8eb8a4773c25eeee";
    const SHA1: &str = "a65f59d0d47384559114b31dbf668ac8f5292aa4";
    const SHA256: &str = "8cfa803a1d3b911e2950ade60a71b4d5ebfc03d3fe78cdc85de93dd38b52f30b";
}
