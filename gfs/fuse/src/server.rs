//! Runs operations: polled once on the thread that read the request, so that a cached one is
//! answered there; one that must wait becomes a task, and its reply can be ended meanwhile.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle as Runtime;
use tokio::sync::Notify;

use crate::answer::Answer;
use crate::interrupt::{Ends, Interrupts};
use crate::nodes::Nodes;
use crate::reply::Reply;

/// Answers requests with the result of futures.
pub struct Server {
    runtime: Runtime,
    interrupts: Arc<Interrupts>,
    nodes: Arc<Nodes>,
    release: Box<dyn Fn(u64) + Send + Sync>,
    /// Operations that have become tasks and have not ended.
    waiting: AtomicUsize,
    ended: Notify,
}

impl Server {
    /// `release` takes back handles that the kernel never got; it must not wait.
    pub fn new(
        runtime: Runtime,
        interrupts: Arc<Interrupts>,
        nodes: Arc<Nodes>,
        release: Box<dyn Fn(u64) + Send + Sync>,
    ) -> Arc<Server> {
        Arc::new(Server { runtime, interrupts, nodes, release, waiting: AtomicUsize::new(0), ended: Notify::new() })
    }

    /// Runs `operation` for the caller `pid` and answers with its result. The operation always
    /// runs to its end, also when its caller has died.
    pub fn run<F>(self: &Arc<Self>, reply: Reply, pid: u32, ends: Ends, operation: F)
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        // Timers and tasks of the first poll belong to the runtime.
        let _entered = self.runtime.enter();
        let mut operation = Box::pin(operation);
        match operation.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => self.deliver(answer, Some(reply)),
            Poll::Pending => {
                let parked = self.interrupts.park(reply, pid, ends);
                let this = self.clone();
                self.waiting.fetch_add(1, Ordering::SeqCst);
                self.runtime.spawn(async move {
                    let mut operation = pin!(operation);
                    let answer = operation.as_mut().await;
                    this.deliver(answer, parked.claim());
                    this.waiting.fetch_sub(1, Ordering::SeqCst);
                    this.ended.notify_waiters();
                });
            }
        }
    }

    /// Completes when no operation waits. For when no more requests come.
    pub async fn idle(&self) {
        loop {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.waiting.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }

    fn deliver(&self, answer: Answer, reply: Option<Reply>) {
        if let Some(handle) = answer.deliver(reply, &self.nodes) {
            (self.release)(handle);
        }
    }
}
