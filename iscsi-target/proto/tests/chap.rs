//! CHAP between the two machines, and against a peer that speaks it wrongly on purpose.

mod pair;

use std::sync::Arc;

use iscsi_target_proto::chap::{
    Algorithm, CHALLENGE_LENGTH, ChapDemand, ChapIdentity, ChapPolicy, ChapSecret, ChapUser, PolicyError,
};
use iscsi_target_proto::initiator::{self, CloseReason, Credentials, InitiatorConfig};
use iscsi_target_proto::pdu::LoginStatus;
use iscsi_target_proto::scsi::ScsiCommand;
use iscsi_target_proto::target::{self, Authentication, TargetConfig};

use pair::{INITIATOR_NAME, Pair, TARGET_NAME};

fn user(name: &str, secret: &str) -> ChapUser {
    ChapUser::new(name, ChapSecret::new(secret)).expect("a usable user")
}

/// Two may come in; the target is `gate`.
fn demand(seed: u8) -> Authentication {
    let incoming = vec![user("alice", "first secret 1"), user("bob", "second secret 2")];
    let policy = ChapPolicy::new(incoming, Some(user("gate", "third secret 3"))).expect("a usable policy");
    Authentication::Chap(ChapDemand::new(Arc::new(policy), [seed; CHALLENGE_LENGTH + 1]))
}

fn initiator(own: ChapUser, target: Option<ChapUser>, name: Option<&str>) -> InitiatorConfig {
    let identity = Arc::new(ChapIdentity::new(own, target).expect("two secrets"));
    let credentials = Credentials::Chap { identity, random: [0x5a; CHALLENGE_LENGTH + 1] };
    InitiatorConfig { credentials, ..InitiatorConfig::new(INITIATOR_NAME, name, 1) }
}

fn login(own: ChapUser, target: Option<ChapUser>) -> Pair {
    let mut pair = Pair::new(7, initiator(own, target, Some(TARGET_NAME)), TargetConfig::default());
    pair.authentication = demand(1);
    pair.settle();
    pair
}

fn is_logged_in(pair: &Pair) -> bool {
    pair.initiator_outputs.iter().any(|output| matches!(output, initiator::Output::LoggedIn { .. }))
}

/// What the target writes into its log, after checking that the initiator got the status of RFC 7143 §11.13.5.
fn refusal(pair: &Pair) -> &str {
    assert_eq!(
        pair.initiator_closed(),
        Some(&CloseReason::LoginRefused { status: LoginStatus::AUTHENTICATION_FAILURE, redirect: None })
    );
    match &pair.target_closed {
        Some(target::CloseReason::LoginRefused { status: LoginStatus::AUTHENTICATION_FAILURE, why }) => why,
        other => panic!("the target's end is {other:?}"),
    }
}

#[test]
fn each_user_gets_in_with_the_right_secret_and_then_commands_flow() {
    for (name, secret) in [("alice", "first secret 1"), ("bob", "second secret 2")] {
        let mut pair = login(user(name, secret), None);
        assert!(is_logged_in(&pair), "{name}: {:?}", pair.target_closed);
        pair.submit(1, ScsiCommand::test_unit_ready(0));
        pair.settle();
        assert!(pair.completion(1).is_good());
    }
}

#[test]
fn the_target_proves_itself_to_who_asks_for_it() {
    let pair = login(user("alice", "first secret 1"), Some(user("gate", "third secret 3")));
    assert!(is_logged_in(&pair), "{:?}", pair.initiator_closed());
    for impostor in [user("gate", "another secret"), user("other", "third secret 3")] {
        let pair = login(user("alice", "first secret 1"), Some(impostor));
        assert!(!is_logged_in(&pair));
        assert!(matches!(pair.initiator_closed(), Some(CloseReason::TargetUnproven { .. })));
    }
}

#[test]
fn a_wrong_secret_and_an_unknown_user_look_the_same_from_outside() {
    let answers = [user("alice", "second secret 2"), user("mallory", "first secret 1")].map(|own| {
        let mut pair = Pair::new(7, initiator(own, None, Some(TARGET_NAME)), TargetConfig::default());
        pair.authentication = demand(1);
        let (mut up, mut down) = (Vec::new(), Vec::new());
        pair.record(&mut up, &mut down);
        refusal(&pair);
        down
    });
    assert_eq!(answers[0], answers[1]);
    // The refusal is a header and nothing else.
    let refused = &answers[0][answers[0].len() - 48..];
    assert_eq!(refused[36..38], [2, 1]);
    assert_eq!(refused[4..8], [0; 4]);
}

#[test]
fn who_offers_nothing_or_skips_the_stage_is_refused() {
    let mut pair = Pair::normal(3);
    pair.authentication = demand(1);
    pair.settle();
    assert!(refusal(&pair).contains("can do 'None'"));

    // The operational stage at once.
    let mut pair = Pair::normal(3);
    pair.authentication = demand(1);
    pair.tamper(|bytes| bytes[1] = 0x87);
    pair.settle();
    assert!(matches!(
        &pair.target_closed,
        Some(target::CloseReason::LoginRefused { status: LoginStatus::AUTHENTICATION_FAILURE, .. })
    ));
    assert!(!is_logged_in(&pair));
}

#[test]
fn who_can_do_chap_gets_in_where_none_is_asked_for_unless_the_target_is_to_prove_itself() {
    let config = initiator(user("alice", "first secret 1"), None, Some(TARGET_NAME));
    let mut pair = Pair::new(1, config, TargetConfig::default());
    pair.settle();
    assert!(is_logged_in(&pair));

    let config = initiator(user("alice", "first secret 1"), Some(user("gate", "third secret 3")), Some(TARGET_NAME));
    let mut pair = Pair::new(1, config, TargetConfig::default());
    pair.settle();
    assert!(!is_logged_in(&pair));
}

#[test]
fn discovery_has_its_own_users() {
    let visitor = || initiator(user("visitor", "discovery secret"), None, None);
    let policy = ChapPolicy::new(vec![user("visitor", "discovery secret")], None).expect("a usable policy");
    let demanded = Authentication::Chap(ChapDemand::new(Arc::new(policy), [9; CHALLENGE_LENGTH + 1]));
    let mut pair = Pair::new(1, visitor(), TargetConfig::default());
    (pair.authentication, pair.discovery_authentication) = (demand(1), demanded.clone());
    pair.input(initiator::Input::SendTargets);
    pair.settle();
    assert!(pair.initiator_outputs.iter().any(|output| matches!(output, initiator::Output::Targets { .. })));

    let mut pair = Pair::new(1, initiator(user("alice", "first secret 1"), None, None), TargetConfig::default());
    pair.discovery_authentication = demanded;
    pair.settle();
    refusal(&pair);
}

#[test]
fn one_secret_for_both_directions_is_refused_before_it_is_used() {
    let same = || PolicyError::SameSecret { name: "alice".to_owned() };
    let alice = || user("alice", "a shared secret");
    assert_eq!(ChapPolicy::new(vec![alice()], Some(user("gate", "a shared secret"))), Err(same()));
    assert_eq!(ChapIdentity::new(alice(), Some(user("gate", "a shared secret"))), Err(same()));
    assert_eq!(ChapPolicy::new(vec![], None), Err(PolicyError::NoIncomingUser));
    assert!(matches!(ChapPolicy::new(vec![alice(), alice()], None), Err(PolicyError::DuplicateUser { .. })));
    assert!(ChapUser::new("", ChapSecret::new("x")).is_err());
    assert!(ChapUser::new("x", ChapSecret::new("")).is_err());
    assert!(ChapUser::new("x", ChapSecret::new([b'x'; 256])).is_err());
}

#[test]
fn a_secret_is_in_no_debug_text() {
    let text = format!("{:?} {:?}", demand(1), initiator(user("alice", "first secret 1"), None, None));
    assert!(!text.contains("first secret 1") && !text.contains("second secret 2") && text.contains("alice"));
}

#[test]
fn between_ourselves_the_best_digest_is_chosen() {
    let mut pair = Pair::new(7, initiator(user("bob", "second secret 2"), None, Some(TARGET_NAME)), Default::default());
    pair.authentication = demand(1);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    pair.record(&mut up, &mut down);
    let chosen = format!("CHAP_A={}\0", Algorithm::Sha256.number());
    assert!(down.windows(chosen.len()).any(|window| window == chosen.as_bytes()));
    assert!(is_logged_in(&pair));
}
