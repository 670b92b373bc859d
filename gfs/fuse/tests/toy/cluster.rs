//! The toy's shared disk, and a lock manager of twenty lines for two nodes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::oneshot;

/// What a node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    #[default]
    None,
    Shared,
    Exclusive,
}

/// Told that somebody waits for `wanted`.
pub trait Member: Send + Sync {
    fn blocked(&self, number: u64, wanted: Mode);
}

#[derive(Default)]
pub struct Disk {
    pub files: HashMap<u64, Vec<u8>>,
    pub root: BTreeMap<Vec<u8>, u64>,
    pub last: u64,
}

#[derive(Default)]
struct Lock {
    held: [Mode; 2],
    queue: VecDeque<(usize, Mode, oneshot::Sender<()>)>,
}

#[derive(Default)]
pub struct Cluster {
    pub disk: Mutex<Disk>,
    locks: Mutex<HashMap<u64, Lock>>,
    members: Mutex<[Option<Weak<dyn Member>>; 2]>,
    pub violations: Mutex<Vec<String>>,
}

impl Cluster {
    pub fn join(&self, node: usize, member: Weak<dyn Member>) {
        self.members.lock().unwrap()[node] = Some(member);
    }

    pub async fn lock(&self, node: usize, number: u64, mode: Mode) {
        let (granted, receiver) = oneshot::channel();
        {
            let mut locks = self.locks.lock().unwrap();
            let lock = locks.entry(number).or_default();
            assert_eq!(lock.held[node], Mode::None, "raised from nothing only");
            lock.queue.push_back((node, mode, granted));
        }
        self.grant(number);
        receiver.await.unwrap();
    }

    pub fn lower(&self, node: usize, number: u64, mode: Mode) {
        self.locks.lock().unwrap().entry(number).or_default().held[node] = mode;
        self.grant(number);
    }

    /// The one thing that must never happen.
    pub fn check(&self, node: usize, number: u64, needed: Mode, what: &str) {
        let held = self.locks.lock().unwrap().get(&number).map_or(Mode::None, |lock| lock.held[node]);
        if held < needed {
            self.violations.lock().unwrap().push(format!("{what} of {number} at node {node} under {held:?}"));
        }
    }

    fn grant(&self, number: u64) {
        let blocked = {
            let mut locks = self.locks.lock().unwrap();
            let lock = locks.get_mut(&number).unwrap();
            loop {
                let Some((node, mode, _)) = lock.queue.front() else { break None };
                let (node, mode) = (*node, *mode);
                let other = lock.held[1 - node];
                if other == Mode::Exclusive || mode == Mode::Exclusive && other != Mode::None {
                    break Some((1 - node, mode));
                }
                if lock.held[node] != Mode::None {
                    // Queued before its own release was seen; cannot happen with one worker.
                    break None;
                }
                lock.held[node] = mode;
                let (_, _, granted) = lock.queue.pop_front().unwrap();
                let _ = granted.send(());
            }
        };
        if let Some((node, wanted)) = blocked {
            let member = self.members.lock().unwrap()[node].clone();
            if let Some(member) = member.and_then(|member| member.upgrade()) {
                member.blocked(number, wanted);
            }
        }
    }
}

pub type Shared = Arc<Cluster>;
