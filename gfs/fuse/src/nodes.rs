//! What the kernel knows of our inodes: how often each was handed out, as which generation, and
//! whether it may have attributes of it.
//!
//! The kernel's node id is the inode's block number, but for the root, which it calls 1. A lookup
//! is counted before its reply is sent, because FORGET may overtake what follows the reply.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::wire::ROOT_ID;

/// The nodes of a mount, by node id.
#[derive(Debug, Default)]
pub struct Nodes(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    known: HashMap<u64, Node>,
    /// Nodes whose attributes may have been given out with a lifetime, and when a read that goes
    /// by their size was last answered.
    attributes: HashMap<u64, Option<Instant>>,
    /// Reads that have asked for the size and are not answered yet.
    asking: HashMap<u64, u32>,
}

#[derive(Debug)]
struct Node {
    generation: u64,
    lookups: u64,
}

impl Nodes {
    /// Counts a reply that hands `node` out. A node that comes with another generation replaces
    /// its predecessor: the kernel gives the old one up.
    pub fn count(&self, node: u64, generation: u64) {
        let mut tables = self.tables();
        let known = tables.known.entry(node).or_insert(Node { generation, lookups: 0 });
        known.generation = generation;
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

    /// A read asks for attributes, to know the size. Each is followed by one `asked`.
    pub fn ask(&self, node: u64) {
        *self.tables().asking.entry(node).or_default() += 1;
    }

    /// A read that asked has been answered.
    pub fn asked(&self, node: u64) {
        if let Entry::Occupied(mut asking) = self.tables().asking.entry(node) {
            *asking.get_mut() -= 1;
            if *asking.get() == 0 {
                asking.remove();
            }
        }
    }

    /// Attributes of `node` are about to be given out. Called while the lock that justifies them
    /// is held.
    pub fn announce_attributes(&self, node: u64) {
        let mut tables = self.tables();
        let is_for_read = tables.asking.contains_key(&node);
        let answered = tables.attributes.entry(node).or_default();
        if is_for_read {
            *answered = Some(now());
        }
    }

    /// How long a read that goes by the size of `node` has had its answer. `None` if the kernel
    /// can have no attributes of it.
    pub fn attributes_age(&self, node: u64) -> Option<Duration> {
        let answered = *self.tables().attributes.get(&node)?;
        Some(answered.map_or(Duration::MAX, |answered| now().saturating_duration_since(answered)))
    }

    /// The attributes of `node` are about to be dropped.
    pub fn take_attributes(&self, node: u64) {
        self.tables().attributes.remove(&node);
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().expect("invariant: no panic under this lock")
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
        nodes.count(7, 3);
        nodes.count(7, 3);
        assert!(!nodes.forget(7, 1));
        assert_eq!(nodes.generation(7), Some(3));
        assert!(nodes.forget(7, 1));
        assert!(!nodes.is_known(7) && nodes.is_known(ROOT_ID));
        assert!(!nodes.forget(7, u64::MAX), "a forget too many is harmless");
    }

    #[test]
    fn only_an_answer_to_a_read_has_an_age() {
        let nodes = Nodes::default();
        assert_eq!(nodes.attributes_age(7), None);
        nodes.announce_attributes(7);
        assert_eq!(nodes.attributes_age(7), Some(Duration::MAX));
        nodes.ask(7);
        nodes.announce_attributes(7);
        nodes.asked(7);
        assert!(nodes.attributes_age(7) < Some(Duration::MAX));
        nodes.take_attributes(7);
        assert_eq!(nodes.attributes_age(7), None);
    }
}
