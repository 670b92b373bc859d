//! Bytes that nobody should send: the machines answer, refuse or close; they never panic and never hoard memory.

mod pair;

use base::Instant;
use bytes::Buf;
use iscsi_target_proto::initiator::{self, InitiatorConfig, InitiatorSession};
use iscsi_target_proto::pdu::LoginStatus;
use iscsi_target_proto::scsi::ScsiCommand;
use iscsi_target_proto::target::{
    self, Authentication, LoginDecision, Output, TargetConfig, TargetSession, TaskResult,
};
use iscsi_target_proto::text::Parameters;

use pair::{BLOCK, INITIATOR_NAME, Pair, Random, TARGET_NAME, drain};

const NOW: Instant = Instant::from_nanos(1);
/// One PDU of the declared maximum, and what is read ahead.
const RECEIVE_MAX: usize = 256 * 1024 + 2 * 64 * 1024;

/// A target whose shell says yes to everything and finishes every command at once. Gives what it answered.
fn feed_target(session: &mut TargetSession, bytes: &[u8]) -> (Vec<u8>, Option<target::CloseReason>) {
    let mut sent = Vec::new();
    let mut closed = None;
    for piece in bytes.chunks(4096) {
        if !session.wants_input() {
            break;
        }
        let buffer = session.receive_buffer();
        buffer.extend_from_slice(piece);
        assert!(buffer.capacity() <= RECEIVE_MAX, "the receive buffer has {} bytes", buffer.capacity());
        session.handle(target::Input::Received, NOW);
        while let Some(output) = session.poll_output() {
            let input = match output {
                Output::LoginStarted(_) => {
                    let authentication = Authentication::None;
                    target::Input::LoginDecided(LoginDecision::Accept { portal_group: 1, authentication })
                }
                Output::LoginEnding(_) => target::Input::Established(Ok(1)),
                Output::Command(command) => match command.expected % 3 {
                    0 => target::Input::WantData { task: command.task, length: command.expected },
                    _ => target::Input::Finished { task: command.task, result: TaskResult::data(vec![0; 1000]) },
                },
                Output::DataReady { task, .. } | Output::Aborted { task } => {
                    target::Input::Finished { task, result: TaskResult::good(0) }
                }
                Output::TaskManagement { task, .. } => target::Input::TaskManagementDone {
                    task,
                    response: iscsi_target_proto::pdu::TaskManagementResponse::Complete,
                },
                Output::SendTargets { task, .. } => target::Input::Targets { task, targets: Vec::new() },
                Output::LoggedIn { .. } => continue,
                Output::Closed(reason) => {
                    closed = Some(reason);
                    continue;
                }
            };
            session.handle(input, NOW);
        }
        drain(session.transmit(), &mut sent);
    }
    (sent, closed)
}

/// Everything an initiator sends in a session with writes, reads, an abort and a logout; and what the target sends.
fn transcript(seed: u64) -> (Vec<u8>, Vec<u8>) {
    let mut pair = Pair::normal(seed);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for token in 0..6 {
        let data = pair.random.bytes(512 * (1 + token as usize * 150));
        pair.submit(token, ScsiCommand::write_16(0, token * 1000, vec![data], BLOCK, false).expect("whole blocks"));
        pair.submit(100 + token, ScsiCommand::read_16(0, token * 7, 40, BLOCK).expect("small"));
    }
    pair.input(initiator::Input::Ping { token: initiator::CommandToken(50) });
    pair.input(initiator::Input::Logout);
    pair.record(&mut up, &mut down);
    assert_eq!(pair.completions.len(), 12);
    (up, down)
}

#[test]
fn random_bytes_close_the_session() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let count = random.below(20_000) + 48;
        let bytes = random.bytes(count);
        let mut session = TargetSession::new(TargetConfig::default(), NOW);
        feed_target(&mut session, &bytes);
        let config = InitiatorConfig::new(INITIATOR_NAME, Some(TARGET_NAME), 1);
        feed_initiator(&mut InitiatorSession::new(config, NOW), &bytes);
    }
}

fn feed_initiator(session: &mut InitiatorSession, bytes: &[u8]) {
    for token in 0..6 {
        let data = vec![0; 512 * (1 + token as usize * 150)].into();
        let command = ScsiCommand::write_16(0, token * 1000, vec![data], BLOCK, false).expect("whole blocks");
        session.handle(initiator::Input::Command { token: initiator::CommandToken(token), command }, NOW);
        let command = ScsiCommand::read_16(0, token * 7, 40, BLOCK).expect("small");
        session.handle(initiator::Input::Command { token: initiator::CommandToken(100 + token), command }, NOW);
    }
    session.handle(initiator::Input::Ping { token: initiator::CommandToken(50) }, NOW);
    session.handle(initiator::Input::Logout, NOW);
    let limit = 1024 * 1024 + 2 * 64 * 1024;
    for piece in bytes.chunks(4096) {
        let buffer = session.receive_buffer();
        buffer.extend_from_slice(piece);
        assert!(buffer.capacity() <= limit, "the receive buffer has {} bytes", buffer.capacity());
        session.handle(initiator::Input::Received, NOW);
        while let Some(output) = session.poll_output() {
            if matches!(output, initiator::Output::Closed(_)) {
                return;
            }
        }
        // A peer that never reads: what waits is bounded by what was handed in.
        assert!(session.transmit().remaining() < 4 * 1024 * 1024);
    }
}

#[test]
fn mutated_sessions_never_panic() {
    let (up, down) = transcript(1);
    for seed in 0..2000 {
        let mut random = Random(seed);
        let mut bytes = if seed % 2 == 0 { up.clone() } else { down.clone() };
        for _ in 0..random.below(6) + 1 {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = random.next() as u8,
                2 => bytes.truncate(at + 1),
                _ => {
                    let end = (at + random.below(200)).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        if seed % 2 == 0 {
            feed_target(&mut TargetSession::new(TargetConfig::default(), NOW), &bytes);
        } else {
            let config = InitiatorConfig::new(INITIATOR_NAME, Some(TARGET_NAME), 1);
            feed_initiator(&mut InitiatorSession::new(config, NOW), &bytes);
        }
    }
}

#[test]
fn mutated_headers_never_panic() {
    // Headers are a small part of the bytes, so they get mutations of their own: the first 60 KiB hold most of them.
    let (up, down) = transcript(2);
    for seed in 0..3000 {
        let mut random = Random(seed ^ 0xabcd);
        let source = if seed % 2 == 0 { &up } else { &down };
        let mut bytes = source[..source.len().min(60_000)].to_vec();
        let headers = headers_of(&bytes);
        for _ in 0..random.below(3) + 1 {
            let at = headers[random.below(headers.len())] + random.below(48);
            bytes[at] = random.next() as u8;
        }
        if seed % 2 == 0 {
            feed_target(&mut TargetSession::new(TargetConfig::default(), NOW), &bytes);
        } else {
            let config = InitiatorConfig::new(INITIATOR_NAME, Some(TARGET_NAME), 1);
            feed_initiator(&mut InitiatorSession::new(config, NOW), &bytes);
        }
    }
}

/// Where the whole PDUs begin (without digests).
fn headers_of(bytes: &[u8]) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut at = 0;
    while at + 48 <= bytes.len() {
        starts.push(at);
        let length = u32::from_be_bytes([0, bytes[at + 5], bytes[at + 6], bytes[at + 7]]) as usize;
        at += 48 + usize::from(bytes[at + 4]) * 4 + length.next_multiple_of(4);
    }
    starts
}

/// A login request with these parameters, asking to go straight to the full feature phase.
fn login(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut text = Parameters::new();
    for (key, value) in parameters {
        text.push(key, *value);
    }
    let data = text.encode();
    let mut out = vec![0; 48];
    out[0] = 0x43;
    out[1] = 0x80 | 1 << 2 | 3;
    out[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&data);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn refused_with(bytes: &[u8]) -> LoginStatus {
    let mut session = TargetSession::new(TargetConfig::default(), NOW);
    let (sent, closed) = feed_target(&mut session, bytes);
    assert!(matches!(closed, Some(target::CloseReason::LoginRefused { .. })), "closed: {closed:?}");
    LoginStatus { class: sent[36], detail: sent[37] }
}

#[test]
fn bad_logins_get_the_status_that_the_rfc_gives() {
    let name = ("InitiatorName", INITIATOR_NAME);
    let target = ("TargetName", TARGET_NAME);
    assert_eq!(refused_with(&login(&[target])), LoginStatus::MISSING_PARAMETER);
    assert_eq!(refused_with(&login(&[name])), LoginStatus::MISSING_PARAMETER);
    assert_eq!(refused_with(&login(&[name, ("SessionType", "Odd")])), LoginStatus::SESSION_TYPE_UNSUPPORTED);
    assert_eq!(refused_with(&login(&[name, target, ("AuthMethod", "KRB5")])), LoginStatus::AUTHENTICATION_FAILURE);
    assert_eq!(refused_with(&login(&[name, target, ("MaxRecvDataSegmentLength", "1")])), LoginStatus::INITIATOR_ERROR);
    let mut version = login(&[name, target]);
    version[3] = 1;
    assert_eq!(refused_with(&version), LoginStatus::UNSUPPORTED_VERSION);
    let mut stage = login(&[name, target]);
    stage[1] = 0x80 | 2 << 2 | 3;
    assert_eq!(refused_with(&stage), LoginStatus::INVALID_DURING_LOGIN);
    let mut backwards = login(&[name, target]);
    backwards[1] = 0x80 | 1 << 2;
    assert_eq!(refused_with(&backwards), LoginStatus::INVALID_DURING_LOGIN);
}

#[test]
fn an_oversized_segment_is_refused_before_its_data_comes() {
    let mut session = TargetSession::new(TargetConfig::default(), NOW);
    let mut bytes = login(&[]);
    bytes[5] = 0xff;
    let (_, closed) = feed_target(&mut session, &bytes[..48]);
    let Some(target::CloseReason::PeerMisbehaved(error)) = closed else { panic!("closed: {closed:?}") };
    assert_eq!(
        error.to_string(),
        "PDU at byte 0 of the stream: a PDU of opcode 0x43 announces 16711680 bytes of data, the limit is 8192"
    );
}

#[test]
fn parameters_without_end_are_refused() {
    let mut session = TargetSession::new(TargetConfig::default(), NOW);
    let mut bytes = Vec::new();
    for _ in 0..40 {
        let mut part = login(&[("X-filler", &"a".repeat(8000))]);
        part[1] = 0x40 | 1 << 2;
        bytes.extend_from_slice(&part);
    }
    let (_, closed) = feed_target(&mut session, &bytes);
    assert!(matches!(closed, Some(target::CloseReason::LoginRefused { .. })), "closed: {closed:?}");
}
