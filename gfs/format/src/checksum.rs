//! Checksums that are not plain CRC-32.

/// CRC-32C as the kernel keeps it in log headers: seeded with all ones, not inverted at the end.
pub fn log_crc(bytes: &[u8]) -> u32 {
    !crc32c::crc32c(bytes)
}
