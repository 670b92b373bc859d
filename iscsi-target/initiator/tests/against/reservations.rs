//! Persistent reservations as a node uses them: register, reserve, fence, be fenced.

use std::sync::Arc;
use std::time::Duration;

use block_core::{
    BlockDevice, BlockError, ByteLen, ByteOffset, Durability, Persistence, Reservation, ReservationChange,
    ReservationKey, ReservationKind, ReservationOutcome,
};
use iscsi_target_initiator::{ConnectionState, Initiator, IscsiDevice, Options};

use crate::server::{Kind, Server};
use crate::{KINDS, block, options, runtime};

const KIND: ReservationKind = ReservationKind::WriteExclusiveAll;

fn key(number: u64) -> ReservationKey {
    ReservationKey::new(number).expect("not zero")
}

async fn node(server: &Server, number: u32) -> Arc<IscsiDevice> {
    let name = Some(format!("iqn.2026-11.org.corral:node{number}"));
    Initiator::connect(&server.url(), Options { initiator_name: name, ..options() }).await.expect("it connects")
}

async fn change(device: &IscsiDevice, change: ReservationChange) -> ReservationOutcome {
    device.change_reservation(change).await.unwrap_or_else(|error| panic!("{change:?}: {error}"))
}

async fn register(device: &IscsiDevice, number: u64) {
    let persistence = Persistence::SurvivesPowerLoss;
    let register = ReservationChange::Register { own: None, new: Some(key(number)), persistence };
    assert_eq!(change(device, register).await, ReservationOutcome::Done);
}

#[test]
fn a_preempted_node_is_fenced_and_the_others_go_on() {
    let Some(server) = Server::start(Kind::Corral) else { return };
    runtime().block_on(async {
        let (survivor, victim) = (node(&server, 1).await, node(&server, 2).await);
        register(&survivor, 0x11).await;
        register(&victim, 0x22).await;
        assert_eq!(
            change(&survivor, ReservationChange::Reserve { own: key(0x11), kind: KIND }).await,
            ReservationOutcome::Done
        );
        let held = victim.reservation().await.expect("it tells");
        assert_eq!(held.reservation, Some(Reservation { holder: None, kind: KIND }));
        victim.write(ByteOffset(0), vec![block(1)], Durability::Cached).await.expect("it is registered");
        let stranger = node(&server, 3).await;
        let refused = stranger.write(ByteOffset(0), vec![block(2)], Durability::Cached).await;
        assert_eq!(refused, Err(BlockError::Fenced));

        let wrong = ReservationChange::Preempt { own: key(0x99), victim: key(0x22), kind: KIND };
        assert_eq!(change(&survivor, wrong).await, ReservationOutcome::Conflict);
        let fence = ReservationChange::PreemptAndAbort { own: key(0x11), victim: key(0x22), kind: KIND };
        assert_eq!(change(&survivor, fence).await, ReservationOutcome::Done);
        let refused = victim.write(ByteOffset(0), vec![block(3)], Durability::Cached).await;
        assert_eq!(refused, Err(BlockError::Fenced));
        let status = survivor.reservation_status().await.expect("it tells");
        let who: Vec<_> = status.registrations.iter().map(|one| (one.key, one.holds, one.who.clone())).collect();
        assert_eq!(who.len(), 1);
        assert!(who[0].2.starts_with("iqn.2026-11.org.corral:node1"), "{who:?}");
        assert_eq!((who[0].0, who[0].1), (key(0x11), Some(KIND)));
        let read = survivor.read(ByteOffset(0), ByteLen(4096)).await.expect("the read works");
        assert!(read == block(1));
        for device in [survivor, victim, stranger] {
            device.close().await;
        }
    });
}

#[test]
fn registrations_and_a_reservation_come_and_go() {
    for kind in KINDS {
        let Some(server) = Server::start(kind) else { continue };
        runtime().block_on(async {
            let device = node(&server, 1).await;
            let persistence = Persistence::Volatile;
            let register = |own, new| ReservationChange::Register { own, new, persistence };
            assert_eq!(change(&device, register(None, Some(key(1)))).await, ReservationOutcome::Done, "{kind:?}");
            assert_eq!(change(&device, register(None, Some(key(2)))).await, ReservationOutcome::Conflict, "{kind:?}");
            assert_eq!(change(&device, register(Some(key(1)), Some(key(2)))).await, ReservationOutcome::Done);
            assert_eq!(device.reservation_keys().await.expect("it tells").keys, [key(2)], "{kind:?}");
            let held = ReservationKind::WriteExclusiveRegistrants;
            let reserve = ReservationChange::Reserve { own: key(2), kind: held };
            assert_eq!(change(&device, reserve).await, ReservationOutcome::Done);
            let found = device.reservation().await.expect("it tells").reservation;
            assert_eq!(found, Some(Reservation { holder: Some(key(2)), kind: held }), "{kind:?}");
            let release = ReservationChange::Release { own: key(2), kind: held };
            assert_eq!(change(&device, release).await, ReservationOutcome::Done);
            assert_eq!(device.reservation().await.expect("it tells").reservation, None, "{kind:?}");
            assert_eq!(change(&device, ReservationChange::Clear { own: key(2) }).await, ReservationOutcome::Done);
            assert_eq!(device.reservation_keys().await.expect("it tells").keys, [], "{kind:?}");
            device.close().await;
        });
    }
}

/// A node that was away while it was fenced must not send its unanswered writes again, not
/// even where the reservation itself is gone by then.
#[test]
fn a_node_whose_key_vanished_while_it_was_away_writes_no_more() {
    let Some(mut server) = Server::start(Kind::Corral) else { return };
    runtime().block_on(async {
        let device = node(&server, 1).await;
        register(&device, 0x11).await;
        device.write(ByteOffset(0), vec![block(1)], Durability::Cached).await.expect("the write works");
        server.kill();
        // It is sent again on the next connection, if that may be.
        let late = device.write(ByteOffset(4096), vec![block(2)], Durability::Cached);
        server.forget_reservations();
        server.restart();
        let answer = tokio::time::timeout(Duration::from_secs(20), late).await.expect("it is answered");
        assert_eq!(answer, Err(BlockError::Fenced));
        assert_eq!(device.status().state, ConnectionState::Dead(BlockError::Fenced));
        assert_eq!(device.flush().await, Err(BlockError::Fenced));
        let other = node(&server, 2).await;
        let read = other.read(ByteOffset(4096), ByteLen(4096)).await.expect("the read works");
        assert!(read.iter().all(|byte| *byte == 0), "the late write landed");
        other.close().await;
        device.close().await;
    });
}

#[test]
fn a_node_whose_key_is_still_there_goes_on_after_a_restart() {
    let Some(mut server) = Server::start(Kind::Corral) else { return };
    runtime().block_on(async {
        let device = node(&server, 1).await;
        register(&device, 0x11).await;
        let reserve = ReservationChange::Reserve { own: key(0x11), kind: KIND };
        assert_eq!(change(&device, reserve).await, ReservationOutcome::Done);
        server.kill();
        let late = device.write(ByteOffset(4096), vec![block(2)], Durability::Cached);
        server.restart();
        let answer = tokio::time::timeout(Duration::from_secs(20), late).await.expect("it is answered");
        assert_eq!(answer, Ok(()));
        assert_eq!(device.reservation_keys().await.expect("it tells").keys, [key(0x11)]);
        device.close().await;
    });
}
