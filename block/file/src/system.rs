//! The system calls that neither the standard library nor nix offers safely. Beside `ring.rs` the
//! only file of this crate with `unsafe`; it decides nothing.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;

use bytes::BytesMut;

/// The kernel takes at most this many buffers in one call (UIO_MAXIOV).
pub const IOV_MAX: usize = 1024;

mod ioctls {
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), libc::c_int);
}

/// Reads once, into the room that `buffer` has left, at most `len` bytes; returns how many.
/// `flags` are `RWF_*`. `Ok(0)` is the end of the file.
pub fn read_at(file: &File, buffer: &mut BytesMut, len: usize, at: u64, flags: libc::c_int) -> io::Result<usize> {
    let room = buffer.spare_capacity_mut();
    let len = len.min(room.len());
    let part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: len };
    // SAFETY: `part` describes `len` bytes of `room`, which outlives the call; the kernel only writes them.
    let count = unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, position(at)?, flags) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    assert!(count <= len, "the kernel read more than it was asked for");
    // SAFETY: the kernel has initialised the first `count` bytes of the spare capacity.
    unsafe { buffer.set_len(buffer.len() + count) };
    Ok(count)
}

/// Writes once, at most [`IOV_MAX`] buffers; returns how many bytes. `flags` are `RWF_*`.
pub fn write_at(file: &File, parts: &[IoSlice<'_>], at: u64, flags: libc::c_int) -> io::Result<usize> {
    let count = parts.len().min(IOV_MAX) as libc::c_int;
    // SAFETY: IoSlice has the layout of iovec (its documentation promises so); the buffers are
    // borrowed for the call and the kernel only reads them.
    let count = unsafe { libc::pwritev2(file.as_raw_fd(), parts.as_ptr().cast(), count, position(at)?, flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Size of a block device in bytes, and its logical sector in bytes.
pub fn block_device_geometry(file: &File) -> io::Result<(u64, u32)> {
    let (mut size, mut sector) = (0u64, 0 as libc::c_int);
    // SAFETY: BLKGETSIZE64 writes one u64 to the address, which is that of a u64 of ours.
    unsafe { ioctls::blkgetsize64(file.as_raw_fd(), &raw mut size) }?;
    // SAFETY: BLKSSZGET writes one int to the address, which is that of an int of ours.
    unsafe { ioctls::blksszget(file.as_raw_fd(), &raw mut sector) }?;
    let sector = u32::try_from(sector).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok((size, sector))
}

/// Tells a block device that it need not keep these bytes.
pub fn discard(file: &File, at: u64, len: u64) -> io::Result<()> {
    let range = [at, len];
    // SAFETY: BLKDISCARD reads two u64 from the address, which is that of two u64 of ours.
    unsafe { ioctls::blkdiscard(file.as_raw_fd(), &raw const range) }?;
    Ok(())
}

/// What O_DIRECT needs: alignment in bytes of memory and of file offsets; zeroes if the file does
/// not support it, `None` if the kernel (before 6.1) does not say.
pub fn direct_alignment(file: &File) -> io::Result<Option<(u32, u32)>> {
    // SAFETY: statx is plain data, for which all zeroes is a valid value.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    let (empty, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: the path is a string with its NUL, and `status` outlives the call.
    let result = unsafe { libc::statx(file.as_raw_fd(), empty, flags, libc::STATX_DIOALIGN, &raw mut status) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let is_known = status.stx_mask & libc::STATX_DIOALIGN != 0;
    Ok(is_known.then_some((status.stx_dio_mem_align, status.stx_dio_offset_align)))
}

fn position(at: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}
