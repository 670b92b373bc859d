//! A glock as the real one uses the gate, in little.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gfs_core::glock::gate::{Admission, Gate, NextPass, RequestClass};
use gfs_fuse::kernel_caches::MountCaches;
use tokio::sync::{Notify, oneshot};

use super::cluster::{Mode, Shared};

pub struct Glock {
    pub number: u64,
    node: usize,
    cluster: Shared,
    caches: Arc<MountCaches>,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    held: Mode,
    gate: Gate,
    shared: u32,
    is_exclusive: bool,
    writers: u32,
    first_writers: Vec<oneshot::Sender<()>>,
    wanted: Mode,
    demote: Option<Mode>,
    is_working: bool,
    /// Longest drain of pages, in passes.
    passes: u32,
}

pub struct Guard {
    glock: Arc<Glock>,
    mode: Mode,
}

enum Step {
    Lower(Mode),
    DrainForWriter,
    Raise(Mode),
    Rest,
}

impl Glock {
    pub fn new(number: u64, node: usize, cluster: Shared, caches: Arc<MountCaches>) -> Arc<Glock> {
        Arc::new(Glock { number, node, cluster, caches, inner: Mutex::default(), changed: Notify::new() })
    }

    pub async fn hold(self: &Arc<Self>, mode: Mode, class: RequestClass) -> Guard {
        let is_fill = matches!(class, RequestClass::Drains { pages: Some(_) });
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut inner = self.inner.lock().unwrap();
                let needed = if is_fill && inner.writers > 0 { Mode::Exclusive } else { mode };
                let is_free = !inner.is_exclusive && (needed != Mode::Exclusive || inner.shared == 0);
                if inner.held >= needed && is_free && inner.gate.admit(&class) == Admission::Serve {
                    match needed {
                        Mode::Exclusive => inner.is_exclusive = true,
                        _ => inner.shared += 1,
                    }
                    return Guard { glock: self.clone(), mode: needed };
                }
                if inner.held < needed {
                    inner.wanted = inner.wanted.max(needed);
                    self.work(&mut inner);
                }
            }
            changed.await;
        }
    }

    pub fn may_cache(&self) -> bool {
        self.inner.lock().unwrap().gate.may_cache()
    }

    pub fn passes(&self) -> u32 {
        self.inner.lock().unwrap().passes
    }

    /// Counts a writable handle; before the first, the kernel's pages go.
    pub async fn add_writer(self: &Arc<Self>) {
        let receiver = {
            let mut inner = self.inner.lock().unwrap();
            if inner.writers > 0 {
                inner.writers += 1;
                return;
            }
            let (sender, receiver) = oneshot::channel();
            inner.first_writers.push(sender);
            self.work(&mut inner);
            receiver
        };
        receiver.await.unwrap();
    }

    pub fn remove_writer(&self) {
        self.inner.lock().unwrap().writers -= 1;
    }

    pub fn blocked(self: &Arc<Self>, wanted: Mode) {
        let mut inner = self.inner.lock().unwrap();
        let target = if wanted == Mode::Shared { Mode::Shared } else { Mode::None };
        inner.demote = Some(inner.demote.map_or(target, |other| other.min(target)));
        self.work(&mut inner);
    }

    fn work(self: &Arc<Self>, inner: &mut Inner) {
        if !inner.is_working {
            inner.is_working = true;
            let this = self.clone();
            tokio::spawn(async move { this.run().await });
        }
    }

    async fn run(self: Arc<Self>) {
        loop {
            let step = {
                let mut inner = self.inner.lock().unwrap();
                match inner.demote.take() {
                    Some(target) if inner.held > target => Step::Lower(target),
                    _ if !inner.first_writers.is_empty() => Step::DrainForWriter,
                    _ if inner.wanted > inner.held => Step::Raise(inner.wanted),
                    _ => {
                        inner.is_working = false;
                        inner.wanted = Mode::None;
                        Step::Rest
                    }
                }
            };
            match step {
                Step::Lower(target) => self.lower(target).await,
                Step::DrainForWriter => {
                    self.inner.lock().unwrap().gate.begin_drain();
                    self.drain_pages(true).await;
                    let mut inner = self.inner.lock().unwrap();
                    for waiting in std::mem::take(&mut inner.first_writers) {
                        inner.writers += 1;
                        let _ = waiting.send(());
                    }
                    inner.gate.reopen();
                }
                Step::Raise(mode) => {
                    if self.inner.lock().unwrap().held != Mode::None {
                        self.lower(Mode::None).await;
                    }
                    self.cluster.lock(self.node, self.number, mode).await;
                    {
                        let mut inner = self.inner.lock().unwrap();
                        inner.held = mode;
                        inner.wanted = Mode::None;
                    }
                    self.changed.notify_waiters();
                    // Who waited gets a turn before a demotion that came meanwhile.
                    tokio::time::sleep(Duration::from_micros(300)).await;
                }
                Step::Rest => {
                    self.changed.notify_waiters();
                    return;
                }
            }
            self.changed.notify_waiters();
        }
    }

    async fn lower(&self, target: Mode) {
        let may_have_pages = {
            let mut inner = self.inner.lock().unwrap();
            inner.gate.begin_drain();
            inner.held == Mode::Exclusive || inner.writers == 0
        };
        self.caches.clone().drop_names(self.number).await;
        self.drain_pages(may_have_pages).await;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let inner = self.inner.lock().unwrap();
                if inner.shared == 0 && !inner.is_exclusive {
                    break;
                }
            }
            changed.await;
        }
        if target == Mode::None {
            self.caches.clone().drop_attributes(self.number).await;
        }
        {
            let mut inner = self.inner.lock().unwrap();
            inner.held = target;
            inner.gate.reopen();
        }
        self.cluster.lower(self.node, self.number, target);
    }

    async fn drain_pages(&self, may_have_pages: bool) {
        let mut except: Vec<Range<u64>> = Vec::new();
        let mut passes = 0;
        loop {
            let has_pages = may_have_pages && self.inner.lock().unwrap().gate.has_filled_pages();
            if has_pages {
                passes += 1;
                let mut pass = std::pin::pin!(self.caches.clone().drop_pages(self.number, std::mem::take(&mut except)));
                while tokio::time::timeout(Duration::from_millis(3), &mut pass).await.is_err() {
                    if self.inner.lock().unwrap().gate.relent() {
                        self.changed.notify_waiters();
                    }
                }
            }
            let mut inner = self.inner.lock().unwrap();
            inner.passes = inner.passes.max(passes);
            match inner.gate.end_pass() {
                NextPass::Closed => return,
                NextPass::Again { except: ranges } => except = ranges,
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut inner = self.glock.inner.lock().unwrap();
        match self.mode {
            Mode::Exclusive => inner.is_exclusive = false,
            _ => inner.shared -= 1,
        }
        drop(inner);
        self.glock.changed.notify_waiters();
    }
}
