//! Cached reads that ask for a file's size, and why they hold up dropping its attributes.
//!
//! The kernel throws away attributes whose reply it has not processed yet when they are dropped,
//! and a cached read that asked for them goes on with the size of before: measured, it misses what
//! another node had added long ago. So once an answer to such a read has been made (announced,
//! under the lock that justifies it), the attributes stay until the read's thread has run with it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;

use crate::nodes::Nodes;
use crate::scheduled::RunMark;

thread_local! {
    /// The read whose operation this thread is polling.
    static POLLED: Cell<Option<Polled>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct Polled {
    node: u64,
    is_announced: bool,
}

/// A read that asks for the size of `node` and is not answered yet.
#[derive(Debug)]
pub struct Asking {
    nodes: Arc<Nodes>,
    node: u64,
    /// Thread id of the caller.
    thread: u32,
    is_announced: bool,
}

impl Asking {
    pub fn new(nodes: Arc<Nodes>, node: u64, thread: u32) -> Asking {
        Asking { nodes, node, thread, is_announced: false }
    }

    /// Runs the operation that answers it.
    pub async fn run<T>(&mut self, operation: impl Future<Output = T>) -> T {
        let mut operation = pin!(operation);
        poll_fn(|context| {
            let outer = POLLED.replace(Some(Polled { node: self.node, is_announced: self.is_announced }));
            let polled = operation.as_mut().poll(context);
            self.is_announced = POLLED.replace(outer).is_some_and(|polled| polled.is_announced);
            polled
        })
        .await
    }

    /// Sends the answer.
    pub fn answer<T>(self, send: impl FnOnce() -> T) -> T {
        let before = RunMark::of(self.thread);
        let sent = send();
        if self.is_announced
            && let Some(before) = before
        {
            // Run in between: it may have been on its way to sleep, or have had the answer.
            let is_certain = !before.has_run();
            self.nodes.has_answered(self.node, before, is_certain);
        }
        sent
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if self.is_announced {
            self.nodes.asked(self.node);
        }
    }
}

/// Whether an announcement of attributes of `node` is the first for the read that this thread is
/// polling.
pub fn is_first_announcement(node: u64) -> bool {
    match POLLED.get() {
        Some(polled) if polled.node == node && !polled.is_announced => {
            POLLED.set(Some(Polled { node, is_announced: true }));
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::Drop as Dropping;

    #[test]
    fn attributes_wait_for_the_read_that_asked_for_them_and_for_no_other() {
        const NODE: u64 = 7;
        let nodes = Arc::new(Nodes::default());
        let poll = |asking: &mut Asking, operation: &mut dyn FnMut()| {
            let mut future = Box::pin(asking.run(async { operation() }));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(future.as_mut().poll(&mut context).is_ready());
        };
        let mut asking = Asking::new(nodes.clone(), NODE, nix::unistd::gettid().as_raw().cast_unsigned());
        poll(&mut asking, &mut || {});
        nodes.count(NODE, 1, false);
        nodes.announce_attributes(NODE);
        assert_eq!(nodes.take_attributes(NODE), Dropping::Now, "announced by somebody else");
        poll(&mut asking, &mut || {
            nodes.announce_attributes(NODE);
            nodes.announce_attributes(NODE);
        });
        assert_eq!(nodes.take_attributes(NODE), Dropping::Wait);
        asking.answer(|| ());
        // This thread is the reader, and it is running.
        while nodes.take_attributes(NODE) == Dropping::Wait {
            std::thread::yield_now();
        }
        assert_eq!(nodes.take_attributes(NODE), Dropping::Nothing);
    }
}
