//! A shared mapping of a file, as words. The only unsafe code of these tests.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

pub struct Map {
    words: NonNull<AtomicU64>,
    len: usize,
}

impl Map {
    /// Maps the first `len` bytes, shared, for reading and writing.
    pub fn new(file: &File, len: usize) -> Map {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; no existing memory changes.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Map { words: NonNull::new(at.cast()).unwrap(), len }
    }

    /// The 8-byte word at `index`.
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!((index + 1) * 8 <= self.len);
        // SAFETY: in the mapping, which lives as long as self; pages are aligned, and any bytes
        // are a valid AtomicU64. Others change the memory, which atomics allow.
        unsafe { self.words.add(index).as_ref() }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length; no reference outlives self.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.len) };
    }
}
