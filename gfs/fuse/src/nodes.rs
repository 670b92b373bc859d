//! What the kernel knows of our inodes: how often each was handed out, as which generation, and
//! whether it may have attributes of it.
//!
//! The kernel's node id is the inode's block number, but for the root, which it calls 1. A lookup
//! is counted before its reply is sent, because FORGET may overtake what follows the reply.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::asking;
use crate::scheduled::RunMark;
use crate::wire::ROOT_ID;

/// The nodes of a mount, by node id.
#[derive(Debug, Default)]
pub struct Nodes(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    known: HashMap<u64, Node>,
    /// Nodes whose attributes may have been given out.
    attributes: HashMap<u64, Given>,
}

/// Attributes that the kernel may have.
#[derive(Debug, Default)]
struct Given {
    /// Reads whose answer has been made and not been sent.
    announced: u32,
    /// Threads whose reads have been sent an answer.
    readers: Vec<Reader>,
    /// When they were last given out, to whomever.
    given: Option<Instant>,
}

#[derive(Debug)]
struct Reader {
    mark: RunMark,
    answered: Instant,
    /// The thread had not run when the answer was sent.
    is_certain: bool,
}

/// Whether the attributes of a node can be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// The kernel can have none.
    Nothing,
    /// A read that goes by the size is on its way to its answer: look again soon.
    Wait,
    Now,
}

/// How long a thread that was answered gets to run.
const ANSWERED_MAX: Duration = Duration::from_millis(100);
/// The same where it cannot be seen whether it has run since.
const UNCERTAIN_MAX: Duration = Duration::from_millis(10);
/// How long a thread that was given attributes for something else gets to run. It is not looked
/// at, since that costs as much as the reply; a read that asks while they are dropped goes by
/// what such a thread has made of them.
const GIVEN_MIN: Duration = Duration::from_millis(2);

#[derive(Debug)]
struct Node {
    generation: u64,
    lookups: u64,
    is_file: bool,
}

impl Nodes {
    /// Counts a reply that hands `node` out. A node that comes with another generation replaces
    /// its predecessor: the kernel gives the old one up.
    pub fn count(&self, node: u64, generation: u64, is_file: bool) {
        let mut tables = self.tables();
        let known = tables.known.entry(node).or_insert(Node { generation, lookups: 0, is_file });
        known.generation = generation;
        known.is_file = is_file;
        known.lookups = known.lookups.saturating_add(1);
    }

    /// Takes `lookups` back; true if the kernel no longer has the node.
    pub fn forget(&self, node: u64, lookups: u64) -> bool {
        let mut tables = self.tables();
        match tables.known.entry(node) {
            Entry::Occupied(mut known) if known.get().lookups > lookups => {
                known.get_mut().lookups -= lookups;
                false
            }
            Entry::Occupied(known) => {
                known.remove();
                tables.attributes.remove(&node);
                true
            }
            Entry::Vacant(_) => false,
        }
    }

    /// The generation under which the kernel knows `node`.
    pub fn generation(&self, node: u64) -> Option<u64> {
        self.tables().known.get(&node).map(|known| known.generation)
    }

    /// Whether the kernel may have `node`.
    pub fn is_known(&self, node: u64) -> bool {
        node == ROOT_ID || self.tables().known.contains_key(&node)
    }

    /// Attributes of `node` are about to be given out. Called while the lock that justifies them
    /// is held.
    pub fn announce_attributes(&self, node: u64) {
        let is_for_read = asking::is_first_announcement(node);
        let mut tables = self.tables();
        // Only a regular file's size is gone by.
        let is_file = node != ROOT_ID && tables.known.get(&node).is_none_or(|known| known.is_file);
        let given = tables.attributes.entry(node).or_default();
        given.announced += u32::from(is_for_read);
        given.given = is_file.then(now);
    }

    /// A read whose answer was announced has been sent it.
    pub fn has_answered(&self, node: u64, mark: RunMark, is_certain: bool) {
        if let Some(given) = self.tables().attributes.get_mut(&node) {
            given.readers.push(Reader { mark, answered: now(), is_certain });
        }
    }

    /// A read whose answer was announced is over.
    pub fn asked(&self, node: u64) {
        if let Some(given) = self.tables().attributes.get_mut(&node) {
            given.announced = given.announced.saturating_sub(1);
        }
    }

    /// Whether the attributes of `node` can be dropped; with `Now`, they are about to be.
    pub fn take_attributes(&self, node: u64) -> Drop {
        let mut tables = self.tables();
        let Some(given) = tables.attributes.get_mut(&node) else { return Drop::Nothing };
        given.readers.retain(|reader| !reader.is_over());
        let is_young = given.given.is_some_and(|given| now().saturating_duration_since(given) < GIVEN_MIN);
        if given.announced > 0 || !given.readers.is_empty() || is_young {
            return Drop::Wait;
        }
        tables.attributes.remove(&node);
        Drop::Now
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().expect("invariant: no panic under this lock")
    }
}

impl Reader {
    fn is_over(&self) -> bool {
        let age = now().saturating_duration_since(self.answered);
        if self.is_certain { self.mark.has_run() || age > ANSWERED_MAX } else { age > UNCERTAIN_MAX }
    }
}

#[expect(clippy::disallowed_methods, reason = "a shell: how long the kernel has had an answer")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_known_until_every_lookup_is_forgotten() {
        let nodes = Nodes::default();
        nodes.count(7, 3, true);
        nodes.count(7, 3, true);
        assert!(!nodes.forget(7, 1));
        assert_eq!(nodes.generation(7), Some(3));
        assert!(nodes.forget(7, 1));
        assert!(!nodes.is_known(7) && nodes.is_known(ROOT_ID));
        assert!(!nodes.forget(7, u64::MAX), "a forget too many is harmless");
    }

    #[test]
    fn attributes_are_dropped_once_for_each_time_they_are_given() {
        let nodes = Nodes::default();
        nodes.count(7, 3, false);
        assert_eq!(nodes.take_attributes(7), Drop::Nothing);
        nodes.announce_attributes(7);
        assert_eq!(nodes.take_attributes(7), Drop::Now);
        assert_eq!(nodes.take_attributes(7), Drop::Nothing);
    }
}
