//! A peer that speaks CHAP wrongly on purpose, request by request: it gets one answer, and in only with the secret.

mod pair;

use std::sync::Arc;

use base::Instant;
use iscsi_target_proto::chap::{CHALLENGE_LENGTH, ChapDemand, ChapIdentity, ChapPolicy, ChapSecret, ChapUser};
use iscsi_target_proto::initiator::{self, Credentials, InitiatorConfig, InitiatorSession};
use iscsi_target_proto::target::{self, Authentication, LoginDecision, Output, TargetConfig, TargetSession};
use iscsi_target_proto::text::Parameters;
use md5::{Digest as _, Md5};

use pair::{INITIATOR_NAME, Random, TARGET_NAME, drain};

const NOW: Instant = Instant::from_nanos(1);
const IDENTIFIER: u8 = 0x33;
const CHALLENGE: [u8; CHALLENGE_LENGTH] = [0xc4; CHALLENGE_LENGTH];
const SECRET: &str = "first secret 1";
const TARGET_SECRET: &str = "third secret 3";
/// Stay in the security stage, or ask to leave it.
const STAY: u8 = 0x00;
const GO_ON: u8 = 0x81;

/// A target that asks for CHAP, and what it answered last.
struct Gate {
    session: TargetSession,
    /// Flags, class, detail and parameters.
    answer: (u8, u8, u8, Parameters),
    closed: Option<target::CloseReason>,
    is_logged_in: bool,
}

impl Gate {
    fn new() -> Self {
        let answer = (0, 0xff, 0xff, Parameters::new());
        let session = TargetSession::new(TargetConfig::default(), NOW);
        Self { session, answer, closed: None, is_logged_in: false }
    }

    /// One login request in the security stage.
    fn request(&mut self, flags: u8, parameters: &[(&str, &str)]) -> &mut Self {
        let mut text = Parameters::new();
        parameters.iter().for_each(|(key, value)| text.push(key, *value));
        let data = text.encode();
        let mut bytes = vec![0; 48];
        (bytes[0], bytes[1]) = (0x43, flags);
        bytes[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        bytes.extend_from_slice(&data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.feed(&bytes);
        self
    }

    fn feed(&mut self, bytes: &[u8]) {
        let sent = self.exchange(bytes);
        if sent.len() >= 48 {
            let length = u32::from_be_bytes([0, sent[5], sent[6], sent[7]]) as usize;
            let text = Parameters::parse(&sent[48..48 + length]).expect("our own text is well formed");
            self.answer = (sent[1], sent[36], sent[37], text);
        }
    }

    /// Gives the target bytes and takes what goes back.
    fn exchange(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.session.receive_buffer().extend_from_slice(bytes);
        self.session.handle(target::Input::Received, NOW);
        while let Some(output) = self.session.poll_output() {
            let input = match output {
                Output::LoginStarted(_) => {
                    let users = [("alice", SECRET), ("bob", "second secret 2")];
                    let incoming = users.map(|(name, secret)| user(name, secret)).to_vec();
                    let policy = ChapPolicy::new(incoming, Some(user("gate", TARGET_SECRET))).expect("usable");
                    let mut random = [IDENTIFIER; CHALLENGE_LENGTH + 1];
                    random[1..].copy_from_slice(&CHALLENGE);
                    let authentication = Authentication::Chap(ChapDemand::new(Arc::new(policy), random));
                    target::Input::LoginDecided(LoginDecision::Accept { portal_group: 1, authentication })
                }
                Output::LoginEnding(_) => target::Input::Established(Ok(1)),
                Output::LoggedIn { .. } => {
                    self.is_logged_in = true;
                    continue;
                }
                Output::Closed(reason) => {
                    self.closed = Some(reason);
                    continue;
                }
                _ => continue,
            };
            self.session.handle(input, NOW);
        }
        let mut sent = Vec::new();
        drain(self.session.transmit(), &mut sent);
        sent
    }

    /// At the point where the target waits for the proof.
    fn challenged() -> Self {
        let mut gate = Self::new();
        gate.request(STAY, &NAMES).request(STAY, &[("CHAP_A", "5")]);
        assert_eq!(gate.value("CHAP_I"), Some("51"));
        gate
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.answer.3.get(key)
    }

    fn assert_refused(&self, what: &str) {
        assert_eq!((self.answer.1, self.answer.2), (2, 1), "{what}");
        assert!(self.answer.3.is_empty(), "{what}: the initiator learns {:?}", self.answer.3);
        assert!(matches!(self.closed, Some(target::CloseReason::LoginRefused { .. })), "{what}: {:?}", self.closed);
        assert!(!self.is_logged_in, "{what}");
    }
}

const NAMES: [(&str, &str); 4] = [
    ("InitiatorName", INITIATOR_NAME),
    ("SessionType", "Normal"),
    ("TargetName", TARGET_NAME),
    ("AuthMethod", "CHAP,None"),
];

fn user(name: &str, secret: &str) -> ChapUser {
    ChapUser::new(name, ChapSecret::new(secret)).expect("a usable user")
}

fn md5(identifier: u8, secret: &str, challenge: &[u8]) -> Vec<u8> {
    Md5::new().chain_update([identifier]).chain_update(secret).chain_update(challenge).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn right() -> String {
    hex(&md5(IDENTIFIER, SECRET, &CHALLENGE))
}

#[test]
fn the_right_response_gets_in_however_it_is_spelled() {
    let upper = right().to_uppercase();
    for response in [right(), upper.replace("0X", "0x"), upper] {
        let mut gate = Gate::challenged();
        gate.request(GO_ON, &[("CHAP_N", "alice"), ("CHAP_R", &response)]);
        assert_eq!((gate.answer.0, gate.answer.1), (0x81, 0), "{response}");
        assert!(gate.answer.3.is_empty());
    }
}

#[test]
fn a_challenge_of_1_to_1024_bytes_is_answered() {
    for length in [1, 2, 255, 1024] {
        let challenge: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let mut gate = Gate::challenged();
        let proof = [("CHAP_N", "alice"), ("CHAP_R", &right()), ("CHAP_I", "0xff"), ("CHAP_C", &hex(&challenge))];
        gate.request(GO_ON, &proof);
        assert_eq!(gate.value("CHAP_N"), Some("gate"), "{length} bytes");
        assert_eq!(gate.value("CHAP_R"), Some(hex(&md5(0xff, TARGET_SECRET, &challenge)).as_str()));
    }
}

#[test]
fn every_wrong_proof_gets_the_same_refusal() {
    let right = right();
    let short = &right[..right.len() - 2];
    let of_bob = hex(&md5(IDENTIFIER, "second secret 2", &CHALLENGE));
    let of_target = hex(&md5(IDENTIFIER, TARGET_SECRET, &CHALLENGE));
    let long = hex(&[0; 1025]);
    let reflected = hex(&CHALLENGE);
    let proofs: &[(&str, &[(&str, &str)])] = &[
        ("nothing", &[]),
        ("no response", &[("CHAP_N", "alice")]),
        ("no name", &[("CHAP_R", &right)]),
        ("another's secret", &[("CHAP_N", "alice"), ("CHAP_R", &of_bob)]),
        ("the target's own secret", &[("CHAP_N", "alice"), ("CHAP_R", &of_target)]),
        ("the target's own name", &[("CHAP_N", "gate"), ("CHAP_R", &of_target)]),
        ("an unknown name", &[("CHAP_N", "carol"), ("CHAP_R", &right)]),
        ("an empty name", &[("CHAP_N", ""), ("CHAP_R", &right)]),
        ("the name in capitals", &[("CHAP_N", "Alice"), ("CHAP_R", &right)]),
        ("a response that is cut", &[("CHAP_N", "alice"), ("CHAP_R", short)]),
        ("a response of half a byte", &[("CHAP_N", "alice"), ("CHAP_R", &right[..right.len() - 1])]),
        ("an empty response", &[("CHAP_N", "alice"), ("CHAP_R", "0x")]),
        ("a response without its prefix", &[("CHAP_N", "alice"), ("CHAP_R", &right[2..])]),
        ("an endless response", &[("CHAP_N", "alice"), ("CHAP_R", &long)]),
        ("a challenge alone", &[("CHAP_N", "alice"), ("CHAP_R", &right), ("CHAP_C", "0x01")]),
        ("an identifier alone", &[("CHAP_N", "alice"), ("CHAP_R", &right), ("CHAP_I", "1")]),
        ("an identifier of 256", &[("CHAP_N", "alice"), ("CHAP_R", &right), ("CHAP_I", "256"), ("CHAP_C", "0x01")]),
        ("an empty challenge", &[("CHAP_N", "alice"), ("CHAP_R", &right), ("CHAP_I", "1"), ("CHAP_C", "0x")]),
        ("an endless challenge", &[("CHAP_N", "alice"), ("CHAP_R", &right), ("CHAP_I", "1"), ("CHAP_C", &long)]),
        ("our own challenge", &[("CHAP_N", "alice"), ("CHAP_R", &right), ("CHAP_I", "51"), ("CHAP_C", &reflected)]),
        ("the choice again", &[("CHAP_A", "5")]),
    ];
    for (what, proof) in proofs {
        for flags in [STAY, GO_ON] {
            let mut gate = Gate::challenged();
            gate.request(flags, proof);
            gate.assert_refused(what);
        }
    }
}

#[test]
fn every_wrong_beginning_gets_the_same_refusal() {
    let names = |method: &'static str| [NAMES[0], NAMES[1], NAMES[2], ("AuthMethod", method)];
    for method in ["None", "KRB5", "chap", "CHAP2", ""] {
        let mut gate = Gate::new();
        gate.request(STAY, &names(method));
        gate.assert_refused(method);
    }
    let mut gate = Gate::new();
    gate.request(GO_ON, &NAMES[..3]);
    gate.assert_refused("no method and on to the next stage");
    for algorithm in ["", "4", "8,9", "05", "MD5", "5;7"] {
        let mut gate = Gate::new();
        gate.request(STAY, &NAMES).request(STAY, &[("CHAP_A", algorithm)]);
        gate.assert_refused(algorithm);
    }
    let mut gate = Gate::new();
    gate.request(STAY, &NAMES).request(STAY, &[("CHAP_N", "alice"), ("CHAP_R", &right())]);
    gate.assert_refused("a proof before the challenge");
    let mut gate = Gate::challenged();
    gate.request(STAY, &[("CHAP_N", "alice"), ("CHAP_R", &right())]).request(STAY, &[("AuthMethod", "None")]);
    gate.assert_refused("another beginning after the end");
}

#[test]
fn asking_for_the_next_stage_early_changes_nothing() {
    let mut gate = Gate::new();
    gate.request(GO_ON, &NAMES);
    assert_eq!((gate.answer.0, gate.value("AuthMethod")), (0, Some("CHAP")));
    gate.request(GO_ON, &[("CHAP_A", "5")]);
    assert_eq!((gate.answer.0, gate.value("CHAP_A")), (0, Some("5")));
    // And straight to the full feature phase, once it is proved.
    gate.request(0x83, &[("CHAP_N", "alice"), ("CHAP_R", &right())]);
    assert!(gate.is_logged_in);
}

/// Whoever does not know the secret does not get in, whatever happens to the bytes.
#[test]
fn no_mutation_of_a_wrong_proof_gets_in_on_either_side() {
    for seed in 0..4000 {
        let mut random = Random(seed);
        let secret = if seed % 2 == 0 { "a wrong secret 9" } else { SECRET };
        // With the right secret of ours it is the target that has a wrong one.
        let expected = if seed % 2 == 0 { TARGET_SECRET } else { "not the target's" };
        let identity = ChapIdentity::new(user("alice", secret), Some(user("gate", expected))).expect("two secrets");
        let random_bytes = [0x5a; CHALLENGE_LENGTH + 1];
        let credentials = Credentials::Chap { identity: Arc::new(identity), random: random_bytes };
        let config = InitiatorConfig { credentials, ..InitiatorConfig::new(INITIATOR_NAME, Some(TARGET_NAME), 1) };
        let mut own = InitiatorSession::new(config, NOW);
        let mut gate = Gate::new();
        let mut is_own_logged_in = false;
        for _ in 0..8 {
            let mut sent = Vec::new();
            drain(own.transmit(), &mut sent);
            mutate(&mut sent, &mut random);
            let mut answered = gate.exchange(&sent);
            mutate(&mut answered, &mut random);
            own.receive_buffer().extend_from_slice(&answered);
            own.handle(initiator::Input::Received, NOW);
            while let Some(output) = own.poll_output() {
                is_own_logged_in |= matches!(output, initiator::Output::LoggedIn { .. });
            }
        }
        assert!(!gate.is_logged_in || seed % 2 == 1, "seed {seed}: the target let somebody in");
        assert!(!is_own_logged_in, "seed {seed}: the initiator believes a stranger");
    }
}

/// Changes one byte, mostly of the text.
fn mutate(bytes: &mut [u8], random: &mut Random) {
    if bytes.is_empty() || random.below(3) != 0 {
        return;
    }
    let first = if random.below(4) == 0 || bytes.len() <= 48 { 0 } else { 48 };
    let at = first + random.below(bytes.len() - first);
    bytes[at] = match random.below(3) {
        0 => bytes[at] ^ 1 << random.below(8),
        1 => [0, b'=', b'0', b'x', b',', 0xff][random.below(6)],
        _ => random.next() as u8,
    };
}
