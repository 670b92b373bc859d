//! The host port in a real process: tokio and the kernel's clocks.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base::{BoxFuture, Host, Instant, WallTime};
use tokio::runtime::Handle;

pub struct ProcessHost {
    runtime: Handle,
    origin: std::time::Instant,
}

impl ProcessHost {
    #[expect(clippy::disallowed_methods, reason = "this is where the clock comes from")]
    pub fn new(runtime: Handle) -> ProcessHost {
        ProcessHost { runtime, origin: std::time::Instant::now() }
    }
}

impl Host for ProcessHost {
    fn now(&self) -> Instant {
        let nanos = self.origin.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "this is where the clock comes from")]
    fn wall_time(&self) -> WallTime {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => WallTime { seconds: since.as_secs().cast_signed(), nanos: since.subsec_nanos() },
            // A clock before 1970: nothing sensible to say but the epoch.
            Err(_) => WallTime::default(),
        }
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let wait: Duration = deadline.saturating_since(self.now());
        let _entered = self.runtime.enter();
        Box::pin(tokio::time::sleep(wait))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.runtime.spawn(task);
    }

    fn random(&self) -> u64 {
        // Each RandomState has keys of its own from the system.
        RandomState::new().build_hasher().finish()
    }
}
