//! The system calls of a connection's thread that neither the standard library nor nix offers safely. The only file of
//! this crate with `unsafe`; it decides nothing.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use bytes::{BufMut, BytesMut};

/// Receives once, into the room that `buffer` has left; gives how many bytes came, and whether that was all the room.
/// `Ok((0, _))` is the end of the stream, if there was room.
pub fn receive(stream: &TcpStream, buffer: &mut BytesMut) -> io::Result<(usize, bool)> {
    let room = buffer.spare_capacity_mut();
    let room_len = room.len();
    // SAFETY: the pointer and the length describe `room`, which outlives the call; the kernel only writes it.
    let count = unsafe { libc::recv(stream.as_raw_fd(), room.as_mut_ptr().cast(), room_len, libc::MSG_DONTWAIT) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    assert!(count <= room_len, "the kernel received more than it was asked for");
    // SAFETY: the kernel has initialised the first `count` bytes of the spare capacity.
    unsafe { buffer.advance_mut(count) };
    Ok((count, count == room_len))
}

/// Keeps freed memory in the process, up to [`KEPT_MAX`] bytes: the buffers of large transfers come and go all the time,
/// and getting their pages from the kernel anew costs more than copying the data.
#[cfg(target_env = "gnu")]
pub fn keep_freed_memory() {
    for (what, bytes) in [(libc::M_MMAP_THRESHOLD, LARGEST_KEPT), (libc::M_TRIM_THRESHOLD, KEPT_MAX)] {
        // SAFETY: mallopt only changes numbers of the allocator; called before there is a second thread.
        unsafe { libc::mallopt(what, bytes) };
    }
}

#[cfg(not(target_env = "gnu"))]
pub fn keep_freed_memory() {}

/// The largest piece that glibc takes from its own heaps (its limit is half a heap of 64 MiB), in bytes.
const LARGEST_KEPT: libc::c_int = 20 * 1024 * 1024;
/// In bytes, for each of the allocator's heaps.
const KEPT_MAX: libc::c_int = 32 * 1024 * 1024;
