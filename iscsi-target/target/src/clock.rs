//! The time of day, for people: nothing that the target does depends on it.

/// Seconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "this shell tells people when something was done; no result depends on it"
)]
pub fn seconds_since_1970() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
