//! Measures an iSCSI unit through this initiator: `measure URL [SECONDS]`. It writes to the unit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use block_core::{BlockDevice, ByteLen, ByteOffset, Durability, IoFuture, IscsiUrl};
use bytes::Bytes;
use iscsi_target_initiator::{Initiator, Options};

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Read,
    Write,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("usage: measure URL [SECONDS]".to_owned());
    let url = url.and_then(|text| IscsiUrl::parse(&text).map_err(|error| error.to_string()));
    let url = url.unwrap_or_else(|error| fail(&error));
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(2.0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| fail(&error.to_string()));
    runtime.block_on(async {
        let disk = Initiator::connect(&url, Options::default()).await.unwrap_or_else(|error| fail(&error.to_string()));
        for (name, way, size, depth) in [
            ("4 KiB random read", Way::Read, 4096, 1),
            ("4 KiB random read", Way::Read, 4096, 32),
            ("4 KiB random write", Way::Write, 4096, 1),
            ("4 KiB random write", Way::Write, 4096, 32),
            ("1 MiB sequential read", Way::Read, 1 << 20, 8),
            ("1 MiB sequential write", Way::Write, 1 << 20, 8),
        ] {
            let disk: Arc<dyn BlockDevice> = disk.clone();
            // As a task: callers of the device run on the runtime's threads.
            let rate = tokio::spawn(measure(disk, way, size, depth, Duration::from_secs_f64(seconds)));
            let rate = rate.await.unwrap_or_else(|error| fail(&error.to_string()));
            let megabytes = rate * size as f64 / 1e6;
            println!("{name:24} depth {depth:<2} {rate:>10.0}/s {megabytes:>9.1} MB/s");
        }
        disk.close().await;
    });
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
async fn measure(disk: Arc<dyn BlockDevice>, way: Way, size: u64, depth: usize, time: Duration) -> f64 {
    let content = Bytes::from(vec![0x5A; size as usize]);
    let places = disk.geometry().size().0 / size;
    let (mut state, mut count) = (88172645463325252u64, 0u64);
    let mut start = || -> IoFuture<()> {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let place = if size > 65536 { count % places } else { state % places };
        count += 1;
        let at = ByteOffset(place * size);
        match way {
            Way::Read => {
                let read = disk.read(at, ByteLen(size));
                Box::pin(async move { read.await.map(drop) })
            }
            Way::Write => disk.write(at, vec![content.clone()], Durability::Cached),
        }
    };
    let mut in_flight: VecDeque<IoFuture<()>> = (0..depth).map(|_| start()).collect();
    let (begin, mut done) = (Instant::now(), 0u64);
    while begin.elapsed() < time {
        let Some(next) = in_flight.pop_front() else { break };
        next.await.unwrap_or_else(|error| fail(&error.to_string()));
        done += 1;
        in_flight.push_back(start());
    }
    let rate = done as f64 / begin.elapsed().as_secs_f64();
    for rest in in_flight {
        rest.await.unwrap_or_else(|error| fail(&error.to_string()));
    }
    rate
}

fn fail(what: &str) -> ! {
    eprintln!("measure: {what}");
    std::process::exit(1)
}
