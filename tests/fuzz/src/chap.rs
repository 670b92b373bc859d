//! CHAP with one side that does not know the other's secret, and a cable that changes bytes. Nobody panics, and whoever is to be
//! convinced is not.

use std::sync::Arc;

use base::Instant;
use bytes::Buf;
use iscsi_target_proto::chap::{CHALLENGE_LENGTH, ChapDemand, ChapIdentity, ChapPolicy, ChapSecret, ChapUser};
use iscsi_target_proto::initiator::{self, Credentials, InitiatorConfig, InitiatorSession};
use iscsi_target_proto::target::{self, Authentication, LoginDecision, TargetConfig, TargetSession};

use crate::random::Random;

/// How often bytes move before a round ends.
const TURNS: usize = 8;

/// One login that must not succeed.
pub fn round(random: &mut Random) {
    let now = Instant::from_nanos(1);
    // Who is the impostor: the initiator, or the target (mutual CHAP).
    let is_initiator_wrong = random.below(2) == 0;
    let secret = if is_initiator_wrong { "not the right one" } else { "the initiator's" };
    let expected = if is_initiator_wrong { "the target's" } else { "nobody's" };
    let identity = ChapIdentity::new(user("alice", secret), Some(user("gate", expected))).expect("two secrets");
    let credentials = Credentials::Chap { identity: Arc::new(identity), random: bytes(random) };
    let name = (random.below(4) > 0).then_some("iqn.2026-11.org.corral:fuzz");
    let config = InitiatorConfig { credentials, ..InitiatorConfig::new("iqn.2026-11.org.corral:i", name, 1) };
    let mut own = InitiatorSession::new(config, now);
    let mut peer = TargetSession::new(TargetConfig::default(), now);
    let policy = ChapPolicy::new(vec![user("alice", "the initiator's")], Some(user("gate", "the target's")));
    let demand = ChapDemand::new(Arc::new(policy.expect("a usable policy")), bytes(random));
    let (mut is_target_convinced, mut is_initiator_convinced) = (false, false);
    for _ in 0..TURNS {
        let sent = cable(own.transmit(), random);
        peer.receive_buffer().extend_from_slice(&sent);
        peer.handle(target::Input::Received, now);
        while let Some(output) = peer.poll_output() {
            let input = match output {
                target::Output::LoginStarted(_) => target::Input::LoginDecided(LoginDecision::Accept {
                    portal_group: 1,
                    authentication: Authentication::Chap(demand.clone()),
                }),
                target::Output::LoginEnding(_) => target::Input::Established(Ok(1)),
                target::Output::LoggedIn { .. } => {
                    is_target_convinced = true;
                    continue;
                }
                _ => continue,
            };
            peer.handle(input, now);
        }
        let answered = cable(peer.transmit(), random);
        own.receive_buffer().extend_from_slice(&answered);
        own.handle(initiator::Input::Received, now);
        while let Some(output) = own.poll_output() {
            is_initiator_convinced |= matches!(output, initiator::Output::LoggedIn { .. });
        }
    }
    assert!(!is_initiator_convinced, "the initiator goes on with a target that proved nothing");
    assert!(!(is_initiator_wrong && is_target_convinced), "the target let somebody in who proved nothing");
}

fn user(name: &str, secret: &str) -> ChapUser {
    ChapUser::new(name, ChapSecret::new(secret)).expect("a usable user")
}

fn bytes(random: &mut Random) -> [u8; CHALLENGE_LENGTH + 1] {
    std::array::from_fn(|_| random.bits() as u8)
}

fn cable(from: &mut impl Buf, random: &mut Random) -> Vec<u8> {
    let mut bytes = from.copy_to_bytes(from.remaining()).to_vec();
    if !bytes.is_empty() && random.below(3) == 0 {
        random.mutate(&mut bytes);
    }
    bytes
}
