//! Zeroes, discards and compare-and-write against real targets.

use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset, Compared, Durability};
use bytes::Bytes;

use crate::server::{Kind, Server, Setup};
use crate::{KINDS, block, connect, options, runtime};

#[test]
fn zeroes_are_written_over_what_is_cached_and_over_what_is_flushed() {
    for kind in KINDS {
        let Some(server) = Server::start(kind) else { continue };
        runtime().block_on(async {
            let disk = connect(&server, options()).await;
            for i in 0..64 {
                disk.write(ByteOffset(i * 4096), vec![block(i)], Durability::Cached).await.expect("the write works");
            }
            disk.write_zeroes(ByteOffset(4096), ByteLen(16 * 4096)).await.expect("zeroes are written");
            disk.write(ByteOffset(2 * 4096), vec![block(99)], Durability::Cached).await.expect("the write works");
            let read = disk.read(ByteOffset(0), ByteLen(64 * 4096)).await.expect("the read works");
            for (i, found) in (0..64u64).zip(read.chunks(4096)) {
                let expected = match i {
                    2 => block(99),
                    1..=16 => Bytes::from(vec![0; 4096]),
                    _ => block(i),
                };
                assert!(found == expected, "{kind:?}: block {i} differs");
            }
            disk.close().await;
        });
    }
}

/// As with data: what the target had not flushed is taken back by its death.
#[test]
fn zeroes_that_a_dying_target_forgets_are_written_again() {
    for kind in KINDS {
        let Some(mut server) = Server::start(kind) else { continue };
        runtime().block_on(async {
            let disk = connect(&server, options()).await;
            for i in 0..32 {
                disk.write(ByteOffset(i * 4096), vec![block(i)], Durability::Cached).await.expect("the write works");
            }
            disk.flush().await.expect("the flush works");
            let flushed = server.disk();
            disk.write_zeroes(ByteOffset(0), ByteLen(16 * 4096)).await.expect("zeroes are written");
            disk.write(ByteOffset(4096), vec![block(99)], Durability::Cached).await.expect("the write works");
            disk.write_zeroes(ByteOffset(2 * 4096), ByteLen(512)).await.expect("zeroes are written");
            server.kill();
            server.replace_disk(&flushed);
            server.restart();
            let read = disk.read(ByteOffset(0), ByteLen(32 * 4096)).await.expect("the read works");
            for (i, found) in (0..32u64).zip(read.chunks(4096)) {
                let expected = match i {
                    1 => block(99),
                    0..=15 => Bytes::from(vec![0; 4096]),
                    _ => block(i),
                };
                assert!(found == expected, "{kind:?}: block {i} differs");
            }
            disk.close().await;
        });
    }
}

#[test]
fn a_discard_reaches_a_thin_unit_and_is_refused_by_another() {
    for kind in KINDS {
        let Some(server) = Server::start_with(kind, &Setup { is_thin: true, ..Setup::default() }) else { continue };
        runtime().block_on(async {
            let disk = connect(&server, options()).await;
            disk.write(ByteOffset(0), vec![block(1)], Durability::Forced).await.expect("the write works");
            disk.discard(ByteOffset(0), ByteLen(4096)).await.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            let read = disk.read(ByteOffset(0), ByteLen(4096)).await.expect("the read works");
            assert!(read == vec![0; 4096] || read == block(1), "{kind:?}");
            disk.close().await;
        });
    }
    let Some(server) = Server::start(Kind::Tgt) else { return };
    runtime().block_on(async {
        let disk = connect(&server, options()).await;
        let refused = disk.discard(ByteOffset(0), ByteLen(4096)).await;
        assert!(matches!(refused, Err(BlockError::Unsupported { .. })), "{refused:?}");
        disk.close().await;
    });
}

#[test]
fn of_two_that_compare_and_write_at_once_one_wins() {
    let Some(server) = Server::start(Kind::Corral) else { return };
    runtime().block_on(async {
        let (first, second) = (connect(&server, options()).await, connect(&server, options()).await);
        let sector = |value: u8| Bytes::from(vec![value; 512]);
        for round in 0..50u8 {
            let at = ByteOffset(512 * 9);
            let old = sector(round);
            let (mine, other) = tokio::join!(
                first.compare_and_write(at, old.clone(), sector(round + 1)),
                second.compare_and_write(at, old, sector(round + 1)),
            );
            let won = [&mine, &other].iter().filter(|one| ***one == Ok(Compared::Written)).count();
            let lost = [&mine, &other].iter().filter(|one| matches!(one, Ok(Compared::Differs { .. }))).count();
            assert_eq!((won, lost), (1, 1), "round {round}: {mine:?} {other:?}");
        }
        let read = first.read(ByteOffset(512 * 8), ByteLen(1024)).await.expect("the read works");
        assert!(read[..512] == [0; 512] && read[512..] == [50; 512]);
        // The place of the difference.
        let mut expected = vec![50; 512];
        expected[77] = 1;
        let found = first.compare_and_write(ByteOffset(512 * 9), expected.into(), sector(0)).await;
        assert_eq!(found, Ok(Compared::Differs { at: ByteOffset(512 * 9 + 77) }));
        let too_much = first.compare_and_write(ByteOffset(0), vec![0; 512 * 512].into(), vec![1; 512 * 512].into());
        assert!(matches!(too_much.await, Err(BlockError::Unsupported { .. })));
        first.close().await;
        second.close().await;
    });
}

#[test]
fn a_unit_that_cannot_compare_and_write_says_so() {
    let Some(server) = Server::start(Kind::Tgt) else { return };
    runtime().block_on(async {
        let disk = connect(&server, options()).await;
        let sector = || Bytes::from(vec![0; 512]);
        let refused = disk.compare_and_write(ByteOffset(0), sector(), sector()).await;
        assert!(matches!(refused, Err(BlockError::Unsupported { .. })), "{refused:?}");
        disk.close().await;
    });
}
