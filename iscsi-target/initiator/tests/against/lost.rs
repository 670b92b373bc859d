//! Answers that are lost on the way: what must not be done twice is not, and everything else is.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use block_core::{
    BlockDevice, BlockError, ByteLen, ByteOffset, Compared, Durability, IscsiUrl, Persistence, ReservationChange,
    ReservationKey, ReservationKind, ReservationOutcome,
};
use bytes::Bytes;
use iscsi_target_initiator::{Initiator, IscsiDevice, Options};

use crate::server::{Kind, Server};
use crate::{block, options, runtime};

/// A way to a target that loses the next answer, and the connection with it, when it is told to.
struct Lossy {
    port: u16,
    loses_next: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
}

impl Lossy {
    fn before(server: &Server) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback works");
        let port = listener.local_addr().expect("it is bound").port();
        let (loses_next, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (losing, counted, target) = (loses_next.clone(), connections.clone(), server.url().port);
        // Ends with the test's process.
        thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(("127.0.0.1", target))) else { continue };
                counted.fetch_add(1, Ordering::SeqCst);
                let (up, down) = (both(&near, &far), both(&far, &near));
                let losing = losing.clone();
                thread::spawn(move || pass(up, None));
                thread::spawn(move || pass(down, Some(&losing)));
            }
        });
        Self { port, loses_next, connections }
    }

    async fn connect(&self, server: &Server) -> Arc<IscsiDevice> {
        let url = IscsiUrl { port: self.port, ..server.url() };
        Initiator::connect(&url, options()).await.unwrap_or_else(|error| panic!("cannot connect: {error}"))
    }

    /// The target does what comes next, and nobody hears of it.
    fn lose_next(&self) {
        self.loses_next.store(true, Ordering::SeqCst);
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn both(from: &TcpStream, to: &TcpStream) -> (TcpStream, TcpStream) {
    (from.try_clone().expect("a descriptor is left"), to.try_clone().expect("a descriptor is left"))
}

fn pass((mut from, mut to): (TcpStream, TcpStream), loses_next: Option<&AtomicBool>) {
    let mut bytes = vec![0; 65536];
    loop {
        let count = from.read(&mut bytes).unwrap_or(0);
        let is_lost = loses_next.is_some_and(|loses| loses.swap(false, Ordering::SeqCst));
        if count == 0 || is_lost || to.write_all(&bytes[..count]).is_err() {
            // Either end may be gone already.
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            return;
        }
    }
}

#[test]
fn a_compare_and_write_whose_answer_is_lost_is_in_doubt_and_was_done_once() {
    let Some(server) = Server::start(Kind::Corral) else { return };
    let way = Lossy::before(&server);
    runtime().block_on(async {
        let disk = way.connect(&server).await;
        let sector = |value: u8| Bytes::from(vec![value; 512]);
        way.lose_next();
        let answer = disk.compare_and_write(ByteOffset(0), sector(0), sector(1)).await;
        assert!(matches!(answer, Ok(Compared::Unknown { .. })), "{answer:?}");
        // Done twice, the second time would have found the first one's bytes and said that they differ.
        let read = disk.read(ByteOffset(0), ByteLen(512)).await.expect("the connection is made again");
        assert!(read == sector(1));
        let again = disk.compare_and_write(ByteOffset(0), sector(1), sector(2)).await;
        assert_eq!(again, Ok(Compared::Written));
        assert_eq!(way.connections(), 2);
        disk.close().await;
    });
}

#[test]
fn a_write_whose_answer_is_lost_is_done_again() {
    for kind in [Kind::Tgt, Kind::Corral] {
        let Some(server) = Server::start(kind) else { continue };
        let way = Lossy::before(&server);
        runtime().block_on(async {
            let disk = way.connect(&server).await;
            way.lose_next();
            let answer = disk.write(ByteOffset(4096), vec![block(5)], Durability::Cached).await;
            assert_eq!((answer, way.connections()), (Ok(()), 2), "{kind:?}");
            way.lose_next();
            let read = disk.read(ByteOffset(4096), ByteLen(4096)).await.expect("the connection is made again");
            assert!(read == block(5) && way.connections() == 3, "{kind:?}");
            disk.close().await;
        });
    }
}

#[test]
fn a_registration_whose_answer_is_lost_is_in_doubt_and_found_out_at_the_reconnection() {
    let Some(server) = Server::start(Kind::Corral) else { return };
    let way = Lossy::before(&server);
    runtime().block_on(async {
        let key = |number: u64| ReservationKey::new(number).expect("not zero");
        let register = |own: Option<u64>, new: Option<u64>| ReservationChange::Register {
            own: own.map(key),
            new: new.map(key),
            persistence: Persistence::SurvivesPowerLoss,
        };
        let disk = way.connect(&server).await;
        for (own, new) in [(None, Some(1)), (Some(1), Some(2)), (Some(2), None)] {
            way.lose_next();
            let answer = disk.change_reservation(register(own, new)).await.expect("it is answered");
            assert!(matches!(answer, ReservationOutcome::Unknown { .. }), "{answer:?}");
            // The target did it; the new connection sees that, and the device lives on.
            let keys = disk.reservation_keys().await.expect("the connection is made again").keys;
            assert_eq!(keys, new.map(key).into_iter().collect::<Vec<_>>());
            disk.write(ByteOffset(0), vec![block(1)], Durability::Cached).await.expect("nobody fenced it");
        }
        assert_eq!(way.connections(), 4);
        disk.close().await;
    });
}

#[test]
fn a_preemption_that_is_only_heard_of_by_a_unit_attention_ends_the_device() {
    let Some(server) = Server::start(Kind::Corral) else { return };
    runtime().block_on(async {
        for number in 0..2u64 {
            let key = |number: u64| ReservationKey::new(number).expect("not zero");
            let connect = async |name: &str| {
                let initiator_name = Some(format!("iqn.2026-11.org.corral:{name}{number}"));
                let options = Options { initiator_name, ..options() };
                Initiator::connect(&server.url(), options).await.expect("it connects")
            };
            let (victim, other) = (connect("victim").await, connect("other").await);
            let persistence = Persistence::Volatile;
            let (own, theirs) = (key(10 + number), key(20 + number));
            for (device, new) in [(&victim, own), (&other, theirs)] {
                let register = ReservationChange::Register { own: None, new: Some(new), persistence };
                assert_eq!(device.change_reservation(register).await, Ok(ReservationOutcome::Done));
            }
            // No reservation: nothing but the key tells the victim that it is shut out.
            let kind = ReservationKind::WriteExclusiveAll;
            let preempt = ReservationChange::Preempt { own: theirs, victim: own, kind };
            assert_eq!(other.change_reservation(preempt).await, Ok(ReservationOutcome::Done));
            let sector = |value: u8| Bytes::from(vec![value; 512]);
            if number == 0 {
                let answer = victim.write(ByteOffset(0), vec![block(1)], Durability::Cached).await;
                assert_eq!(answer, Err(BlockError::Fenced));
            } else {
                let answer = victim.compare_and_write(ByteOffset(0), sector(0), sector(1)).await;
                assert!(matches!(answer, Err(BlockError::Fenced) | Ok(Compared::Unknown { .. })), "{answer:?}");
                let answer = victim.compare_and_write(ByteOffset(0), sector(0), sector(1)).await;
                assert_eq!(answer, Err(BlockError::Fenced));
            }
            let read = other.read(ByteOffset(0), ByteLen(4096)).await.expect("the read works");
            assert!(read.iter().all(|byte| *byte == 0), "the fenced node's write landed");
            victim.close().await;
            other.close().await;
        }
    });
}

/// Each worker owns a block and writes ever higher numbers to it, while connections are cut in the middle of answers.
#[test]
fn connections_cut_under_load_lose_no_acknowledged_write_and_bring_back_no_older_one() {
    const WORKERS: u64 = 8;
    const ROUNDS: u64 = 400;
    const CUTS: u64 = 20;
    for kind in [Kind::Tgt, Kind::Corral] {
        let Some(server) = Server::start(kind) else { continue };
        let way = Arc::new(Lossy::before(&server));
        runtime().block_on(async {
            let disk = way.connect(&server).await;
            let workers: Vec<_> = (0..WORKERS)
                .map(|worker| {
                    let (disk, way) = (disk.clone(), way.clone());
                    tokio::spawn(async move {
                        let at = ByteOffset(worker * 4096);
                        for round in 1..=ROUNDS {
                            let salt = worker << 32 | round;
                            if worker == 0 && round % (ROUNDS / CUTS) == 0 {
                                way.lose_next();
                            }
                            disk.write(at, vec![block(salt)], Durability::Cached).await.expect("it comes through");
                            let read = disk.read(at, ByteLen(4096)).await.expect("it comes through");
                            assert!(read == block(salt), "worker {worker} reads something older in round {round}");
                        }
                    })
                })
                .collect();
            for worker in workers {
                worker.await.expect("the worker ends well");
            }
            disk.flush().await.expect("the flush works");
            assert_eq!(disk.status().reconnects, CUTS, "{kind:?}");
            disk.close().await;
        });
        let raw = server.disk();
        for worker in 0..WORKERS {
            let at = worker as usize * 4096;
            assert!(
                raw[at..at + 4096] == block(worker << 32 | ROUNDS),
                "{kind:?}: worker {worker}'s last write is gone"
            );
        }
    }
}
