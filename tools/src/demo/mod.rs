//! The cluster on one machine: what `./quickstart` starts and `corral down` ends.
//!
//! Map: `layout` (folders, names, addresses), `network` (namespaces and the switch), `session` (starting things so that a
//! Ctrl-C leaves nothing half started), `story` (telling the steps, and the watchdog), `start` (the steps), `tree` and
//! `together` (the work that is shown), `down`.
//!
//! Everything made is below the run folder or in a namespace whose name is derived from it, so cleaning up
//! needs no record: whatever lives in those namespaces and below that folder is ours, and nothing else is touched.

pub mod down;
pub mod layout;
pub mod network;
mod session;
mod start;
mod story;
mod together;
mod tree;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use layout::Layout;
use session::Session;
use story::Story;

use crate::output;

/// What ends the story.
enum Event {
    /// A signal asks to stop; its name and the exit code that tells of it.
    Stop(&'static str, u8),
    Finished(Result<(), String>),
}

/// Starts the cluster, shows it at work and leaves it running. On Ctrl-C, an error or a step without progress it
/// cleans up what it started.
pub fn quickstart() -> ExitCode {
    let layout = match Layout::here().and_then(|l| l.prepare().map(|()| l)) {
        Ok(layout) => layout,
        Err(message) => return failed(&message),
    };
    let _lock = match layout.lock() {
        Ok(lock) => lock,
        Err(message) => return failed(&message),
    };
    let session = Arc::new(Session::new(layout.clone()));
    let story = Arc::new(Story::new());
    let (tell, told) = mpsc::channel();
    watch_signals(tell.clone());
    {
        let (session, story) = (Arc::clone(&session), Arc::clone(&story));
        thread::spawn(move || {
            let told = thread::spawn(move || start::run(&session, &story)).join();
            let _ = tell.send(Event::Finished(told.unwrap_or_else(|_| Err("a bug: the story panicked".into()))));
        });
    }
    let (message, code) = loop {
        match told.recv_timeout(Duration::from_secs(1)) {
            Ok(Event::Finished(Ok(()))) => return ExitCode::SUCCESS,
            Ok(Event::Finished(Err(message))) => break (message, 1),
            Ok(Event::Stop(signal, code)) => break (format!("stopped by {signal}"), code),
            Err(RecvTimeoutError::Timeout) => {
                if let Err(message) = story.check_progress() {
                    break (message, 1);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break ("the story ended without a word".into(), 1),
        }
    };
    story.stop(&message);
    session.cancel();
    story.note("cleaning up what was started");
    let report = down::run(&layout, &|line| story.note(line));
    if !report.is_empty_handed() {
        eprintln!("corral quickstart: not everything is gone: {}", report.left.join(", "));
    }
    eprintln!("corral quickstart: {message}; logs are in {}/*/log", layout.run.display());
    // Not `return`: a thread that hangs in a filesystem call must not keep this process.
    std::process::exit(i32::from(code))
}

/// Ends the cluster of the nearest run folder.
pub fn down(purge: bool) -> ExitCode {
    let Some(layout) = Layout::near() else {
        output::print("nothing to end: no run folder of quickstart here (CORRAL_RUN names one)\n");
        return ExitCode::SUCCESS;
    };
    let report = down::run(&layout, &|line| output::print(&format!("{line}\n")));
    let mut code = ExitCode::SUCCESS;
    if !report.is_empty_handed() {
        eprintln!("corral down: still there: {}", report.left.join(", "));
        return ExitCode::FAILURE;
    }
    if !report.forced.is_empty() {
        eprintln!("corral down: had to be forced: {}", report.forced.join(", "));
        code = ExitCode::FAILURE;
    }
    if purge {
        if let Err(e) = layout.purge() {
            return failed(&e);
        }
        output::print(&format!("everything is down, {} is deleted\n", layout.run.display()));
    } else {
        output::print(&format!("everything is down; {} stays (--purge deletes it)\n", layout.disk().display()));
    }
    code
}

fn failed(message: &str) -> ExitCode {
    eprintln!("corral: {message}");
    ExitCode::FAILURE
}

/// Reports SIGINT, SIGTERM and SIGHUP. Handlers, not a blocked mask: a mask would be inherited by every child.
fn watch_signals(tell: mpsc::Sender<Event>) {
    use tokio::signal::unix::{SignalKind, signal};
    thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
        runtime.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else { return };
            // Every further signal is swallowed while the cleaning goes on: it is bounded.
            loop {
                let event = tokio::select! {
                    _ = interrupt.recv() => Event::Stop("Ctrl-C", 130),
                    _ = terminate.recv() => Event::Stop("SIGTERM", 143),
                    _ = hangup.recv() => Event::Stop("SIGHUP", 129),
                };
                let _ = tell.send(event);
            }
        });
    });
}
