//! Measures a file device: `measure FILE [MiB]`. Every row on the caller's thread where that is possible (inline), on the
//! pool only, and with O_DIRECT through io_uring and on the pool; the constants in `file.rs` come from this.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use block_core::{BlockDevice, ByteLen, ByteOffset, Durability, IoFuture};
use block_file::{FileDevice, OpenOptions};
use bytes::Bytes;

#[derive(Clone, Copy)]
enum Way {
    Read,
    Write,
    Forced,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: measure FILE [MiB]");
        std::process::exit(2);
    };
    let mebibytes: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(256);
    let ways = [("inline", true, false, false), ("pool", false, false, false), ("ring", false, true, true)];
    let ways = [&ways[..], &[("direct pool", false, true, false)]].concat();
    print!("{:28}", "");
    ways.iter().for_each(|(name, ..)| print!(" {name:>13}"));
    println!();
    for (name, way, size) in [
        ("read 4 KiB", Way::Read, 4096),
        ("read 64 KiB", Way::Read, 65536),
        ("read 256 KiB", Way::Read, 262144),
        ("read 1 MiB", Way::Read, 1 << 20),
        ("write 4 KiB", Way::Write, 4096),
        ("write 64 KiB", Way::Write, 65536),
        ("write 256 KiB", Way::Write, 262144),
        ("write 4 KiB FUA", Way::Forced, 4096),
    ] {
        for depth in [1, 32] {
            print!("{name:20} depth {depth:<2}");
            for (_, inline, direct, ring) in ways.iter().copied() {
                let options = OpenOptions { inline, direct, ring, threads_max: 32, ..OpenOptions::default() };
                print!(" {:>11.0}/s", rate(&path, mebibytes << 20, options, way, size, depth));
            }
            println!();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn rate(path: &str, file_size: u64, options: OpenOptions, way: Way, size: u64, depth: usize) -> f64 {
    let options = OpenOptions { create_size: Some(ByteLen(file_size)), ..options };
    let device = FileDevice::open(Path::new(path), options).unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(1);
    });
    let content = Bytes::from(vec![0x5A; 1 << 20]);
    let all = device.geometry().size().0 >> 20;
    let fill = (0..all).map(|at| device.write(ByteOffset(at << 20), vec![content.clone()], Durability::Cached));
    fill.for_each(|write| block_on(write).expect("the file takes its content"));

    let places = device.geometry().size().0 / size;
    let mut state = 88172645463325252u64;
    let mut start = || -> IoFuture<()> {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let at = ByteOffset(state % places * size);
        match way {
            Way::Read => {
                let read = device.read(at, ByteLen(size));
                Box::pin(async move { read.await.map(drop) })
            }
            Way::Write => device.write(at, vec![content.slice(..size as usize)], Durability::Cached),
            Way::Forced => device.write(at, vec![content.slice(..size as usize)], Durability::Forced),
        }
    };
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut in_flight: Vec<IoFuture<()>> = (0..depth).map(|_| start()).collect();
    let (begin, mut count) = (Instant::now(), 0u64);
    while begin.elapsed() < Duration::from_millis(700) {
        let before = count;
        for slot in &mut in_flight {
            if let Poll::Ready(result) = slot.as_mut().poll(&mut context) {
                result.expect("the file works");
                *slot = start();
                count += 1;
            }
        }
        if count == before {
            std::thread::park();
        }
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    in_flight.into_iter().for_each(|last| drop(block_on(last)));
    rate
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
