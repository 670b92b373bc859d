//! A disk in memory. Every request takes effect when it is made, before its future is polled;
//! there is no cache to lose, so a flush has nothing to do.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::completion::lock;
use crate::device::{BlockDevice, BlockError, Compared, Durability, Geometry, IoFuture};
use crate::image::Image;
use crate::units::{ByteLen, ByteOffset};

/// A disk in memory.
#[derive(Debug)]
pub struct MemoryDevice {
    image: Mutex<Image>,
}

impl MemoryDevice {
    /// A zeroed disk of `size` with sectors of 512 bytes. `size` is rounded up to whole sectors.
    pub fn new(size: ByteLen) -> Arc<MemoryDevice> {
        MemoryDevice::from_image(Image::new(Geometry { sector: 512, sectors: size.0.div_ceil(512) }))
    }

    /// A disk with this content.
    pub fn from_image(image: Image) -> Arc<MemoryDevice> {
        Arc::new(MemoryDevice { image: Mutex::new(image) })
    }

    /// The content as it is now.
    pub fn snapshot(&self) -> Image {
        lock(&self.image).clone()
    }

    /// Appends zero sectors.
    pub fn grow(&self, sectors: u64) {
        lock(&self.image).grow(sectors);
    }

    fn change(&self, at: ByteOffset, len: ByteLen, change: impl FnOnce(&mut Image)) -> IoFuture<()> {
        let mut image = lock(&self.image);
        let result = image.geometry().check(at, len);
        if result.is_ok() {
            change(&mut image);
        }
        ready(result)
    }
}

impl BlockDevice for MemoryDevice {
    fn geometry(&self) -> Geometry {
        lock(&self.image).geometry()
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        let image = lock(&self.image);
        ready(image.geometry().check(at, len).map(|()| image.read(at, len)))
    }

    fn write(&self, at: ByteOffset, data: Vec<Bytes>, _durability: Durability) -> IoFuture<()> {
        self.change(at, total(&data), |image| put_all(image, at, &data))
    }

    fn flush(&self) -> IoFuture<()> {
        ready(Ok(()))
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.change(at, len, |image| image.zero(at, len))
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.change(at, len, |image| image.zero(at, len))
    }

    fn compare_and_write(&self, at: ByteOffset, expected: Bytes, new: Bytes) -> IoFuture<Compared> {
        let mut image = lock(&self.image);
        let found = compare(&image, at, &expected, &new);
        if found == Ok(Compared::Written) {
            image.write(at, &new);
        }
        ready(found)
    }
}

/// What a compare-and-write of this image finds; the image is left as it is.
pub(crate) fn compare(image: &Image, at: ByteOffset, expected: &Bytes, new: &Bytes) -> Result<Compared, BlockError> {
    let len = ByteLen::of(expected);
    image.geometry().check(at, len)?;
    if len != ByteLen::of(new) {
        return Err(BlockError::Misaligned { at, len: ByteLen::of(new), sector: image.geometry().sector });
    }
    let found = image.read(at, len);
    Ok(match found.iter().zip(expected).position(|(found, expected)| found != expected) {
        None => Compared::Written,
        Some(byte) => Compared::Differs { at: at + ByteLen(byte as u64) },
    })
}

/// An answer that is there already.
pub(crate) fn ready<T: Send + 'static>(result: Result<T, BlockError>) -> IoFuture<T> {
    Box::pin(std::future::ready(result))
}

/// Length of all buffers together.
pub(crate) fn total(data: &[Bytes]) -> ByteLen {
    ByteLen(data.iter().map(|part| part.len() as u64).sum())
}

/// Writes the buffers one after the other.
pub(crate) fn put_all(image: &mut Image, mut at: ByteOffset, data: &[Bytes]) {
    for part in data {
        image.write(at, part);
        at = at + ByteLen::of(part);
    }
}
