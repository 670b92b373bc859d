//! Random bytes of the operating system: a session's identifier and CHAP's challenges.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use iscsi_target_proto::chap::{CHALLENGE_LENGTH, ChapIdentity};
use iscsi_target_proto::initiator::Credentials;

use crate::error::ConnectError;

/// So many random bytes.
pub fn bytes<const COUNT: usize>() -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A session identifier: random type, so that every process has its own (RFC 7143 §11.12.5).
pub fn session_id() -> io::Result<[u8; 6]> {
    const RANDOM_TYPE: u8 = 0x80;
    let mut id = bytes()?;
    id[0] = RANDOM_TYPE;
    Ok(id)
}

/// What one session logs in with.
pub fn credentials(identity: Option<&Arc<ChapIdentity>>) -> Result<Credentials, ConnectError> {
    let Some(identity) = identity.cloned() else { return Ok(Credentials::None) };
    let random = bytes::<{ CHALLENGE_LENGTH + 1 }>().map_err(ConnectError::Random)?;
    Ok(Credentials::Chap { identity, random })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_are_of_the_random_type_and_differ() {
        let ids = [session_id().expect("urandom"), session_id().expect("urandom")];
        assert!(ids[0] != ids[1] && ids.iter().all(|id| id[0] == 0x80));
    }
}
