//! What the two machines do with each other.

mod pair;

use std::time::Duration;

use bytes::Bytes;
use iscsi_target_proto::error::ProtocolError;
use iscsi_target_proto::initiator::{self, CloseReason, CommandToken, InitiatorConfig, Input, Output};
use iscsi_target_proto::negotiate::{DigestPolicy, Willing};
use iscsi_target_proto::pdu::{LoginStatus, Residual, TaskManagementResponse};
use iscsi_target_proto::scsi::{AdditionalSense, Capacity, Cdb, DataPhase, ScsiCommand, Status};
use iscsi_target_proto::target::{self, PortalTarget, TargetConfig};

use pair::{BLOCK, INITIATOR_NAME, Pair, Random, TARGET_NAME};

fn initiator(willing: Willing) -> InitiatorConfig {
    InitiatorConfig { willing, ..InitiatorConfig::new(INITIATOR_NAME, Some(TARGET_NAME), 1) }
}

fn write(lba: u64, data: Bytes) -> ScsiCommand {
    ScsiCommand::write_16(0, lba, vec![data], BLOCK, false).expect("whole blocks")
}

fn read(lba: u64, blocks: u32) -> ScsiCommand {
    ScsiCommand::read_16(0, lba, blocks, BLOCK).expect("below 4 GiB")
}

/// Willing in every way that changes how data travels.
fn random_willing(random: &mut Random) -> Willing {
    let policies = [DigestPolicy::Never, DigestPolicy::Allowed, DigestPolicy::Preferred];
    let length = |random: &mut Random| 512 << random.below(10);
    Willing {
        header_digest: policies[random.below(3)],
        data_digest: policies[random.below(3)],
        initial_r2t: random.below(2) == 0,
        immediate_data: random.below(2) == 0,
        max_recv_data_segment_length: length(random),
        max_burst_length: length(random),
        first_burst_length: length(random),
        max_outstanding_r2t: random.below(4) as u32 + 1,
    }
}

#[test]
fn what_was_written_is_read_whatever_was_negotiated() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let own = initiator(random_willing(&mut random));
        let target = TargetConfig {
            willing: random_willing(&mut random),
            queue_depth: random.below(20) as u32 + 1,
            solicited_data_max: 1 << random.below(24),
            ..TargetConfig::default()
        };
        let mut pair = Pair::new(seed, own, target);
        let mut expected = pair.disk.clone();
        let mut lba = 0;
        for token in 0..40 {
            let blocks = random.below(300) + 1;
            let data = random.bytes(blocks * BLOCK as usize);
            expected[lba * 512..][..data.len()].copy_from_slice(&data);
            let cut = random.below(data.len());
            let buffers = vec![data.slice(..cut), data.slice(cut..)];
            pair.submit(token, ScsiCommand::write_16(0, lba as u64, buffers, BLOCK, false).expect("whole blocks"));
            lba += blocks;
        }
        pair.settle();
        assert!(pair.disk == expected, "seed {seed}: the disk differs");
        for token in 0..40 {
            assert!(pair.completion(token).is_good(), "seed {seed}");
        }
        for token in 0..20 {
            pair.submit(token, read(token * 100, 321));
        }
        pair.settle();
        for token in 0..20 {
            let completion = pair.completion(token);
            assert!(completion.data == expected[token as usize * 51200..][..321 * 512], "seed {seed}");
            assert_eq!(completion.residual, Residual::Exact);
        }
    }
}

#[test]
fn more_than_a_hundred_commands_are_in_flight_and_none_is_beyond_the_window() {
    let mut pair = Pair::normal(1);
    pair.hold = true;
    for token in 0..500 {
        pair.submit(token, read(token, 1));
    }
    pair.settle();
    assert_eq!(pair.most_pending, 128);
    pair.hold = false;
    pair.settle();
    assert_eq!(pair.completions.len(), 500);
    assert_eq!(pair.most_pending, 128);
    assert_eq!(pair.initiator.unanswered(), 0);
}

#[test]
fn sense_reaches_the_initiator() {
    let mut pair = Pair::normal(2);
    let unknown = ScsiCommand { lun: 0, cdb: Cdb([0xff; 16]), data: DataPhase::In { length: 100 } };
    pair.submit(1, unknown);
    pair.submit(2, ScsiCommand::read_capacity_16(0));
    pair.settle();
    let refused = pair.completion(1);
    assert_eq!(refused.status, Status::CheckCondition);
    assert_eq!(refused.sense.map(|s| s.additional), Some(AdditionalSense::INVALID_COMMAND_OPERATION_CODE));
    assert_eq!(refused.residual, Residual::Underflow(100));
    let capacity = Capacity::parse_long(&pair.completion(2).data).expect("capacity data");
    assert_eq!(capacity.blocks, pair.disk.len() as u64 / 512);
}

#[test]
fn an_abort_is_answered_only_when_the_task_has_ended() {
    let mut pair = Pair::normal(3);
    pair.hold = true;
    pair.submit(1, read(0, 1));
    pair.submit(2, read(1, 1));
    pair.settle();
    pair.input(Input::Abort { token: CommandToken(1) });
    pair.settle();
    assert_eq!(pair.aborted.len(), 1);
    let managed = |pair: &Pair| pair.initiator_outputs.iter().any(|o| matches!(o, Output::TaskManaged { .. }));
    assert!(!managed(&pair), "answered while the task was under way");
    pair.hold = false;
    pair.settle();
    let answer = Output::TaskManaged { token: CommandToken(1), response: TaskManagementResponse::Complete };
    assert!(pair.initiator_outputs.contains(&answer));
    assert!(!pair.completions.contains_key(&1));
    assert!(pair.completion(2).is_good());
    pair.input(Input::Abort { token: CommandToken(1) });
    pair.settle();
    let answer = Output::TaskManaged { token: CommandToken(1), response: TaskManagementResponse::NoSuchTask };
    assert!(pair.initiator_outputs.contains(&answer));
}

#[test]
fn a_reset_ends_the_tasks_of_its_unit_even_those_that_wait_for_data() {
    let target = TargetConfig { solicited_data_max: 1024 * 1024, ..TargetConfig::default() };
    let mut pair = Pair::new(4, initiator(Willing::default()), target);
    pair.hold = true;
    for token in 0..10 {
        pair.submit(token, write(token * 1000, Bytes::from(vec![1; 1000 * 512])));
        pair.submit(100 + token, read(token, 1));
    }
    pair.settle();
    pair.input(Input::ResetLun { token: CommandToken(99), lun: 0 });
    pair.hold = false;
    pair.settle();
    let answer = Output::TaskManaged { token: CommandToken(99), response: TaskManagementResponse::Complete };
    assert!(pair.initiator_outputs.contains(&answer));
    assert_eq!(pair.initiator.unanswered(), 0);
    pair.submit(200, read(0, 1));
    pair.settle();
    assert!(pair.completion(200).is_good());
}

#[test]
fn a_logout_waits_for_what_was_handed_in_before() {
    let mut pair = Pair::normal(5);
    for token in 0..200 {
        pair.submit(token, read(token, 3));
    }
    pair.input(Input::Logout);
    pair.settle();
    assert_eq!(pair.completions.len(), 200);
    assert_eq!(pair.initiator_closed(), Some(&CloseReason::LoggedOut));
    assert_eq!(pair.target_closed, Some(target::CloseReason::LoggedOut));
}

#[test]
fn a_list_of_targets_that_needs_many_pdus_arrives_whole() {
    let own = InitiatorConfig {
        target_name: None,
        ..initiator(Willing { max_recv_data_segment_length: 512, ..Willing::default() })
    };
    let mut pair = Pair::new(6, own, TargetConfig::default());
    pair.targets = (0..200)
        .map(|n| PortalTarget {
            name: format!("iqn.2026-11.org.corral:disk{n}"),
            addresses: vec![format!("10.0.0.{n}:3260,1"), "[fe80::1]:3260,1".to_owned()],
        })
        .collect();
    pair.input(Input::SendTargets);
    pair.settle();
    let found = pair.initiator_outputs.iter().find_map(|output| match output {
        Output::Targets { targets } => Some(targets.clone()),
        _ => None,
    });
    let found = found.unwrap_or_else(|| panic!("{:?} {:?}", pair.initiator_outputs, pair.target_closed));
    assert_eq!(found.len(), 200);
    assert!(found.iter().zip(&pair.targets).all(|(a, b)| a.name == b.name && a.addresses == b.addresses));
}

#[test]
fn an_unknown_target_is_refused_with_its_status() {
    let own = InitiatorConfig::new(INITIATOR_NAME, Some("iqn.2026-11.org.corral:other"), 1);
    let mut pair = Pair::new(7, own, TargetConfig::default());
    pair.settle();
    let refused = CloseReason::LoginRefused { status: LoginStatus::NOT_FOUND, redirect: None };
    assert_eq!(pair.initiator_closed(), Some(&refused));
}

#[test]
fn a_digest_that_one_side_demands_and_the_other_refuses_ends_the_login() {
    let own = initiator(Willing { header_digest: DigestPolicy::Required, ..Willing::default() });
    let willing = Willing { header_digest: DigestPolicy::Never, ..Willing::default() };
    let mut pair = Pair::new(8, own, TargetConfig { willing, ..TargetConfig::default() });
    pair.settle();
    assert!(matches!(pair.initiator_closed(), Some(CloseReason::PeerMisbehaved(_))));
}

#[test]
fn a_flipped_bit_is_found_by_the_digest_and_named() {
    let digests =
        Willing { header_digest: DigestPolicy::Required, data_digest: DigestPolicy::Required, ..Willing::default() };
    for bit in [3, 60 * 8, 400 * 8] {
        let mut pair = Pair::new(9, initiator(digests.clone()), TargetConfig::default());
        pair.settle();
        pair.submit(1, write(0, Bytes::from(vec![7; 512])));
        pair.tamper(|bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        pair.settle();
        let found = match &pair.target_closed {
            Some(target::CloseReason::PeerMisbehaved(error)) => error.cause.clone(),
            other => panic!("closed for {other:?}"),
        };
        let is_digest = matches!(found, ProtocolError::HeaderDigest { .. } | ProtocolError::DataDigest { .. });
        assert!(is_digest, "bit {bit}: {found}");
        assert!(pair.disk.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn both_sides_ask_for_a_sign_of_life_and_give_up_without_one() {
    let mut pair = Pair::normal(10);
    pair.settle();
    for _ in 0..10 {
        pair.advance(Duration::from_secs(16));
        pair.settle();
    }
    assert_eq!(pair.initiator_closed(), None);
    assert_eq!(pair.target_closed, None);
    // Nothing is delivered any more.
    for _ in 0..3 {
        pair.advance(Duration::from_secs(16));
    }
    while let Some(output) = pair.initiator.poll_output() {
        pair.initiator_outputs.push(output);
    }
    assert_eq!(pair.initiator_closed(), Some(&CloseReason::PeerSilent));
    let closed = std::iter::from_fn(|| pair.target.poll_output()).last();
    assert_eq!(closed, Some(target::Output::Closed(target::CloseReason::PeerSilent)));
}

#[test]
fn a_login_that_does_not_end_is_dropped() {
    let mut pair = Pair::normal(11);
    pair.advance(Duration::from_secs(20));
    pair.settle();
    assert_eq!(pair.initiator_closed(), Some(&CloseReason::LoginTimedOut));
    assert_eq!(pair.target_closed, Some(target::CloseReason::LoginTimedOut));
    assert_eq!(pair.target.next_deadline(), None);
}

#[test]
fn a_ping_is_answered() {
    let mut pair = Pair::normal(12);
    pair.input(initiator::Input::Ping { token: CommandToken(5) });
    pair.settle();
    assert!(pair.initiator_outputs.contains(&Output::Pong { token: CommandToken(5) }));
}
