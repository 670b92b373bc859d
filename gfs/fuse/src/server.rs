//! Runs operations: polled once on the thread that read the request, so that a cached one is
//! answered there; one that must wait becomes a task, and its reply can be ended meanwhile.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle as Runtime;

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
}

impl Server {
    /// `release` takes back handles that the kernel never got; it must not wait.
    pub fn new(
        runtime: Runtime,
        interrupts: Arc<Interrupts>,
        nodes: Arc<Nodes>,
        release: impl Fn(u64) + Send + Sync + 'static,
    ) -> Arc<Server> {
        Arc::new(Server { runtime, interrupts, nodes, release: Box::new(release) })
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
                self.runtime.spawn(async move {
                    let mut operation = pin!(operation);
                    let answer = operation.as_mut().await;
                    this.deliver(answer, parked.claim());
                });
            }
        }
    }

    /// Runs something nobody waits for.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    fn deliver(&self, answer: Answer, reply: Option<Reply>) {
        if let Some(handle) = answer.deliver(reply, &self.nodes) {
            (self.release)(handle);
        }
    }
}
