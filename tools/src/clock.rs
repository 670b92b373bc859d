//! The only clock of the command line: how long a wait has lasted and how long a step took.

use std::time::{Duration, Instant};

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "a program may read the clock; nothing below one does")]
pub fn now() -> Instant {
    Instant::now()
}

/// The time of day, for what is written on a disk.
#[expect(clippy::disallowed_methods, reason = "a program may read the clock; nothing below one does")]
pub fn wall() -> base::WallTime {
    // A clock before 1970 has nothing sensible to say but the epoch.
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or_else(
        |_| base::WallTime::default(),
        |since| base::WallTime { seconds: since.as_secs().cast_signed(), nanos: since.subsec_nanos() },
    )
}

/// Asks `done` every 20 ms until it answers yes or `bound` has passed; whether it did.
pub fn wait_until(bound: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = now() + bound;
    loop {
        if done() {
            return true;
        }
        if now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `1.2 s`, `340 ms`, `2 min 5 s`.
pub fn human(time: Duration) -> String {
    let ms = time.as_millis();
    match ms {
        0..=999 => format!("{ms} ms"),
        1_000..=59_999 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_people_say_them() {
        assert_eq!(human(Duration::from_millis(340)), "340 ms");
        assert_eq!(human(Duration::from_millis(1_290)), "1.2 s");
        assert_eq!(human(Duration::from_secs(125)), "2 min 5 s");
    }
}
