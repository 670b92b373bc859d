//! Buffers for O_DIRECT: the kernel wants memory that begins at a multiple of an alignment.

use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Enough for every device so far (a page).
pub const ALIGNMENT: usize = 4096;

/// An empty buffer with room for `len` bytes whose room begins aligned.
pub fn aligned_buffer(len: usize) -> BytesMut {
    let mut buffer = BytesMut::with_capacity(len + ALIGNMENT);
    let skip = buffer.as_ptr().align_offset(ALIGNMENT);
    buffer.resize(skip, 0);
    buffer.advance(skip);
    buffer
}

/// Whether all buffers begin aligned and are whole multiples of `sector`.
pub fn is_aligned(parts: &[Bytes], sector: u32) -> bool {
    parts
        .iter()
        .all(|part| part.as_ptr().align_offset(ALIGNMENT) == 0 && (part.len() as u64).is_multiple_of(u64::from(sector)))
}

/// All buffers copied into an aligned one.
pub fn gather(parts: &[Bytes]) -> Bytes {
    let mut buffer = aligned_buffer(parts.iter().map(Bytes::len).sum());
    for part in parts {
        buffer.extend_from_slice(part);
    }
    buffer.freeze()
}

/// The buffers as the kernel takes them, without empty ones.
pub fn slices(parts: &[Bytes]) -> Vec<IoSlice<'_>> {
    parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect()
}
