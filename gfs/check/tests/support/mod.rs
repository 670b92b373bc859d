//! An image file as a device in memory, and a way to run a future that never waits.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use block_core::{ByteOffset, Geometry, Image, MemoryDevice};

/// Reads an image; what is zero takes no memory.
pub fn load(path: &Path) -> io::Result<Arc<MemoryDevice>> {
    let mut file = File::open(path)?;
    let sectors = file.metadata()?.len() / 512;
    let mut image = Image::new(Geometry { sector: 512, sectors });
    let mut at = 0;
    let mut piece = vec![0; 1 << 16];
    while at < sectors * 512 {
        let len = piece.len().min((sectors * 512 - at) as usize);
        file.read_exact(&mut piece[..len])?;
        if piece[..len].iter().any(|byte| *byte != 0) {
            image.write(ByteOffset(at), &piece[..len]);
        }
        at += len as u64;
    }
    Ok(MemoryDevice::from_image(image))
}

/// Runs `future`; a device in memory answers at once.
pub fn run<F: Future + Send>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
