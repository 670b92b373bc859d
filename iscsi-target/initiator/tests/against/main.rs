//! The initiator against real targets: Debian's tgtd and our own corral-target, each on a private port.

mod login;
mod lost;
mod reservations;
mod server;
mod special;

use std::sync::Arc;
use std::time::Duration;

use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset, Durability, IscsiUrl};
use bytes::Bytes;
use iscsi_target_initiator::{ConnectError, ConnectionState, Initiator, IscsiDevice, Options};

use server::{Kind, Server, TARGET, free_port};

const KINDS: [Kind; 2] = [Kind::Tgt, Kind::Corral];

fn options() -> Options {
    Options {
        initiator_name: Some("iqn.2026-11.org.corral:tester".to_owned()),
        command_timeout: Duration::from_secs(10),
        ..Options::default()
    }
}

async fn connect(server: &Server, options: Options) -> Arc<IscsiDevice> {
    Initiator::connect(&server.url(), options).await.unwrap_or_else(|error| panic!("cannot connect: {error}"))
}

fn block(salt: u64) -> Bytes {
    let words = (0..512u64).flat_map(|word| (salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ word).to_le_bytes());
    words.collect::<Vec<u8>>().into()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

#[test]
fn what_is_written_is_read_and_lies_on_the_targets_disk() {
    for (kind, digests) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let Some(server) = Server::start(kind) else { continue };
        runtime().block_on(async {
            let disk = connect(&server, Options { header_digest: digests, data_digest: digests, ..options() }).await;
            assert_eq!(disk.geometry().size(), ByteLen(64 << 20));

            // 1000 small writes, all in flight together, forwards and backwards.
            let writes: Vec<_> = (0..1000u64)
                .map(|i| disk.write(ByteOffset((i * 7 % 1000) * 4096), vec![block(i * 7 % 1000)], Durability::Cached))
                .collect();
            for write in writes {
                write.await.expect("the write works");
            }
            let reads: Vec<_> = (0..1000u64).map(|i| disk.read(ByteOffset(i * 4096), ByteLen(4096))).collect();
            for (i, read) in reads.into_iter().enumerate() {
                assert!(read.await.expect("the read works") == block(i as u64), "{kind:?}: block {i} differs");
            }

            // A large one from many buffers of odd sizes, with FUA, at an odd place.
            let large: Bytes = (0..5 << 20).map(|i: u32| ((i >> 9) ^ (i % 253)) as u8).collect::<Vec<u8>>().into();
            let mut parts = Vec::new();
            let mut rest = large.clone();
            for sectors in (1..).map(|n| n % 700 + 1) {
                let now = (sectors * 512).min(rest.len());
                parts.push(rest.split_to(now));
                if rest.is_empty() {
                    break;
                }
            }
            let at = ByteOffset(20 * 1024 * 1024 + 512);
            disk.write(at, parts, Durability::Forced).await.expect("the large write works");
            let read = disk.read(at, ByteLen::of(&large)).await.expect("the large read works");
            assert!(read == large, "{kind:?}: the large range differs");
            disk.write_zeroes(ByteOffset(8192), ByteLen(8192)).await.expect("zeroes can be written");
            disk.flush().await.expect("the disk flushes");
            assert_eq!(disk.status().unflushed, ByteLen(0));

            let raw = server.disk();
            let expected = [block(0), block(1), Bytes::from(vec![0; 8192]), block(4)].concat();
            assert!(raw[..5 * 4096] == expected, "{kind:?}: the target's disk differs");
            assert!(raw[at.0 as usize..][..large.len()] == large, "{kind:?}: the target's disk differs");

            let beyond = disk.read(ByteOffset(64 << 20), ByteLen(512)).await;
            assert!(matches!(beyond, Err(BlockError::OutOfRange { .. })));
            disk.close().await;
        });
    }
}

/// On one thread, where a connection that keeps itself busy while the socket is full would never hear the target.
#[test]
fn large_writes_come_through_on_a_single_thread() {
    for kind in KINDS {
        let Some(server) = Server::start(kind) else { continue };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let disk = connect(&server, options()).await;
            let large = Bytes::from(vec![7; 8 << 20]);
            let writes: Vec<_> = (0..6u64)
                .map(|i| disk.write(ByteOffset(i * (8 << 20)), vec![large.clone()], Durability::Cached))
                .collect();
            for write in writes {
                write.await.expect("the write works");
            }
            assert_eq!(disk.status().reconnects, 0, "{kind:?}: a command was given up");
            disk.close().await;
        });
    }
}

#[test]
fn a_target_killed_again_and_again_under_load_loses_no_acknowledged_write() {
    for kind in KINDS {
        let Some(mut server) = Server::start(kind) else { continue };
        let runtime = runtime();
        let disk = runtime.block_on(connect(&server, options()));
        // Each worker owns a range and goes round in it: every block holds the last number that was acknowledged.
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let workers: Vec<_> = (0..16u64)
            .map(|worker| {
                let (disk, stop) = (disk.clone(), stop.clone());
                runtime.spawn(async move {
                    let mut last = vec![0u64; 16];
                    for round in 1u64.. {
                        let slot = round % 16;
                        let at = ByteOffset((worker * 16 + slot) * 4096);
                        let salt = worker << 32 | round;
                        disk.write(at, vec![block(salt)], Durability::Cached).await.expect("the write comes through");
                        last[slot as usize] = salt;
                        if round % 50 == 0 {
                            disk.flush().await.expect("the flush comes through");
                        }
                        let read = disk.read(at, ByteLen(4096)).await.expect("the read comes through");
                        assert!(read == block(salt), "worker {worker} reads something older in round {round}");
                        if stop.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                    }
                    last
                })
            })
            .collect();
        for pause in [120, 40, 200, 5, 90, 60] {
            std::thread::sleep(Duration::from_millis(pause));
            let before = disk.status().reconnects;
            server.kill();
            server.restart();
            while disk.status().reconnects == before || disk.status().state != ConnectionState::Ready {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        runtime.block_on(async {
            let mut count = 0;
            for (worker, handle) in workers.into_iter().enumerate() {
                let last = handle.await.expect("the worker ends well");
                count += last.iter().filter(|salt| **salt != 0).count();
                for (slot, salt) in last.into_iter().enumerate().filter(|(_, salt)| *salt != 0) {
                    let at = ByteOffset((worker * 16 + slot) as u64 * 4096);
                    let read = disk.read(at, ByteLen(4096)).await.expect("the read works");
                    assert!(read == block(salt), "{kind:?}: worker {worker} slot {slot} lost its last write");
                }
            }
            let status = disk.status();
            assert!(status.reconnects >= 6 && count > 0, "{kind:?}: nothing happened: {status:?}");
            disk.close().await;
        });
    }
}

/// The target's death is made worse: what it had not flushed is wiped from its disk.
#[test]
fn acknowledged_writes_survive_a_target_that_loses_its_cache() {
    for kind in KINDS {
        let Some(mut server) = Server::start(kind) else { continue };
        runtime().block_on(async {
            let disk = connect(&server, options()).await;
            let write =
                |at: u64, salt: u64, durability| disk.write(ByteOffset(at * 4096), vec![block(salt)], durability);
            write(0, 1, Durability::Cached).await.expect("the write works");
            disk.flush().await.expect("the flush works");
            for at in 1..200 {
                write(at, at, Durability::Cached).await.expect("the write works");
            }
            // Newer than the cached one below it, and durable: it must not be covered by the older one.
            write(7, 777, Durability::Forced).await.expect("the write works");
            write(8, 888, Durability::Cached).await.expect("the write works");
            assert_eq!(disk.status().unflushed, ByteLen(198 * 4096));

            server.kill();
            let mut raw = server.disk();
            assert!(raw[7 * 4096..8 * 4096] == block(777));
            raw.fill(0);
            raw[7 * 4096..8 * 4096].copy_from_slice(&block(777));
            server.replace_disk(&raw);
            server.restart();
            for at in 1..200 {
                let expected =
                    [(7, 777), (8, 888)].into_iter().find(|(place, _)| *place == at).map_or(at, |pair| pair.1);
                let read = disk.read(ByteOffset(at * 4096), ByteLen(4096)).await.expect("the read works");
                assert!(read == block(expected), "{kind:?}: block {at} was lost");
            }
            // What was flushed is the target's own affair.
            let read = disk.read(ByteOffset(0), ByteLen(4096)).await.expect("the read works");
            assert!(read.iter().all(|byte| *byte == 0), "{kind:?}: a flushed write was sent again");
            disk.flush().await.expect("the flush works");
            assert_eq!(disk.status().unflushed, ByteLen(0));
            disk.close().await;
        });
    }
}

#[test]
fn much_unflushed_data_is_flushed_by_the_initiator_itself() {
    for kind in KINDS {
        let Some(server) = Server::start(kind) else { continue };
        runtime().block_on(async {
            let disk = connect(&server, Options { unflushed_max: ByteLen(64 << 10), ..options() }).await;
            let writes: Vec<_> =
                (0..1000u64).map(|i| disk.write(ByteOffset(i * 4096), vec![block(i)], Durability::Cached)).collect();
            for write in writes {
                write.await.expect("the write works");
            }
            let unflushed = disk.status().unflushed;
            assert!(unflushed <= ByteLen(64 << 10), "{kind:?}: {unflushed} are kept");
            disk.close().await;
        });
    }
}

#[test]
fn requests_end_in_an_error_when_the_runtime_goes() {
    for kind in KINDS {
        let Some(mut server) = Server::start(kind) else { continue };
        let connection = runtime();
        let options = Options { runtime: Some(connection.handle().clone()), ..options() };
        // From another runtime than the connection's, which then waits for a dead target.
        let other = runtime();
        let disk = other.block_on(connect(&server, options));
        server.kill();
        let read = disk.read(ByteOffset(0), ByteLen(4096));
        connection.shutdown_background();
        let read = other.block_on(read);
        assert!(matches!(read, Err(BlockError::Unavailable { .. })), "{read:?}");
    }
}

#[test]
fn a_target_that_stays_away_ends_in_a_clear_error() {
    for kind in KINDS {
        let Some(mut server) = Server::start(kind) else { continue };
        runtime().block_on(async {
            let disk = connect(&server, Options { recovery_limit: Duration::from_millis(300), ..options() }).await;
            disk.write(ByteOffset(0), vec![block(1)], Durability::Cached).await.expect("the write works");
            server.kill();
            let read = disk.read(ByteOffset(0), ByteLen(4096)).await;
            assert!(
                matches!(&read, Err(BlockError::Unavailable { what }) if what.contains("cannot connect")),
                "{read:?}"
            );
            let later = disk.flush().await;
            assert!(matches!(later, Err(BlockError::Unavailable { .. })), "{later:?}");
            disk.close().await;
        });
    }
}

#[test]
fn what_is_wrong_with_a_connection_is_said_in_words() {
    for kind in KINDS {
        let Some(server) = Server::start(kind) else { continue };
        runtime().block_on(async {
            let refusal = async |url: IscsiUrl, options: Options| match Initiator::connect(&url, options).await {
                Ok(_) => panic!("{url} was opened"),
                Err(error) => error,
            };
            let nobody = IscsiUrl { port: free_port(), ..server.url() };
            let error = refusal(nobody, options()).await;
            assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
            let error = refusal(IscsiUrl { target: format!("{TARGET}x"), ..server.url() }, options()).await;
            assert!(error.to_string().contains("target not found"), "{kind:?}: {error}");
            let error = refusal(IscsiUrl { lun: 9, ..server.url() }, options()).await;
            assert!(error.to_string().contains("has no logical unit 9"), "{kind:?}: {error}");
            let error = refusal(server.url(), Options { initiator_name: Some("me".to_owned()), ..options() }).await;
            assert!(matches!(error, ConnectError::Name(_)), "{error:?}");
            let error = refusal(IscsiUrl { user: Some("joe".to_owned()), ..server.url() }, options()).await;
            assert!(error.to_string().contains("no secret for CHAP user 'joe'"), "{error}");
        });
    }
}

#[test]
fn a_port_where_nobody_speaks_iscsi_is_not_waited_for_forever() {
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback works");
        let port = listener.local_addr().expect("it is bound").port();
        let url = IscsiUrl::parse(&format!("iscsi://127.0.0.1:{port}/{TARGET}/0")).expect("it is a URL");
        let options = Options { connect_timeout: Duration::from_millis(200), ..options() };
        let error = Initiator::connect(&url, options).await.map(drop).expect_err("nobody answers");
        assert!(error.to_string().contains("did not end in time"), "{error}");
    });
}
