//! What the kernel knows of our inodes: how often each was handed out, and as which generation.
//!
//! The kernel's node id is the inode's block number, but for the root, which it calls 1. A lookup
//! is counted before its reply is sent, because FORGET may overtake what follows the reply.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard};

use crate::wire::ROOT_ID;

/// Lookup counts, by node id.
#[derive(Debug, Default)]
pub struct Nodes(Mutex<HashMap<u64, Node>>);

#[derive(Debug)]
struct Node {
    generation: u64,
    lookups: u64,
}

impl Nodes {
    /// Counts a reply that hands `node` out. A node that comes with another generation replaces
    /// its predecessor: the kernel gives the old one up.
    pub fn count(&self, node: u64, generation: u64) {
        let mut nodes = self.nodes();
        let known = nodes.entry(node).or_insert(Node { generation, lookups: 0 });
        known.generation = generation;
        known.lookups = known.lookups.saturating_add(1);
    }

    /// Takes `lookups` back; true if the kernel no longer has the node.
    pub fn forget(&self, node: u64, lookups: u64) -> bool {
        match self.nodes().entry(node) {
            Entry::Occupied(mut known) if known.get().lookups > lookups => {
                known.get_mut().lookups -= lookups;
                false
            }
            Entry::Occupied(known) => {
                known.remove();
                true
            }
            Entry::Vacant(_) => false,
        }
    }

    /// The generation under which the kernel knows `node`.
    pub fn generation(&self, node: u64) -> Option<u64> {
        self.nodes().get(&node).map(|known| known.generation)
    }

    /// Whether the kernel may have `node`.
    pub fn is_known(&self, node: u64) -> bool {
        node == ROOT_ID || self.nodes().contains_key(&node)
    }

    /// Number of nodes the kernel may have.
    pub fn len(&self) -> usize {
        self.nodes().len()
    }

    /// Whether the kernel has none but the root.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<u64, Node>> {
        self.0.lock().expect("invariant: no panic under this lock")
    }
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
}
