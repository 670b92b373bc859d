//! Whether a thread has run since a certain moment, from `/proc/TID/schedstat`.

use std::fs;

/// How much a thread has run: nanoseconds on a processor and turns. Both stand still while it
/// sleeps or waits for a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunMark {
    thread: u32,
    nanos: u64,
    turns: u64,
}

impl RunMark {
    /// The mark of a thread now; `None` if it is gone or cannot be seen.
    pub fn of(thread: u32) -> Option<RunMark> {
        let text = fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?;
        let mut fields = text.split_whitespace().map(|field| field.parse().ok());
        let nanos = fields.next()??;
        let turns = fields.nth(1)??;
        Some(RunMark { thread, nanos, turns })
    }

    /// Whether the thread has run since, or is gone.
    pub fn has_run(&self) -> bool {
        RunMark::of(self.thread) != Some(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_sleeps_does_not_run() {
        let (tell, told) = std::sync::mpsc::channel();
        let (wake, woken) = std::sync::mpsc::channel::<()>();
        let sleeper = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw()).expect("somebody listens");
            let _ = woken.recv();
        });
        let thread = told.recv().expect("it starts").cast_unsigned();
        // It goes to sleep soon; from then on its mark stands still.
        let mark = loop {
            let mark = RunMark::of(thread).expect("it lives");
            std::thread::yield_now();
            let status = fs::read_to_string(format!("/proc/{thread}/status")).expect("it lives");
            if status.contains("State:\tS") && !mark.has_run() {
                break mark;
            }
        };
        assert!(!mark.has_run());
        drop(wake);
        sleeper.join().expect("no panic");
        assert!(mark.has_run());
    }
}
