//! The monotonic clock, as the session and the timers take it.

use std::sync::OnceLock;

use base::Instant;

/// Time since the first call.
pub fn now() -> Instant {
    let since = tokio::time::Instant::now().saturating_duration_since(origin());
    Instant::default() + since
}

/// Completes at `deadline`.
pub fn sleep_until(deadline: Instant) -> tokio::time::Sleep {
    tokio::time::sleep_until(to_tokio(deadline))
}

/// The same moment on tokio's clock.
pub fn to_tokio(deadline: Instant) -> tokio::time::Instant {
    origin() + deadline.saturating_since(Instant::default())
}

fn origin() -> tokio::time::Instant {
    static ORIGIN: OnceLock<tokio::time::Instant> = OnceLock::new();
    *ORIGIN.get_or_init(tokio::time::Instant::now)
}
