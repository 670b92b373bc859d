//! Open handles: what each may do, and which nodes have one that can write.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

/// What a handle was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// The kernel's node id.
    pub node: u64,
    /// Inode number, which for the root is another.
    pub number: u64,
    /// Formal inode number at the open: the handle keeps naming that inode.
    pub generation: u64,
    pub can_write: bool,
    /// O_APPEND: the kernel's offsets are ignored.
    pub is_append: bool,
}

/// The handles of a mount. Numbers are not used again.
#[derive(Debug, Default)]
pub struct Handles(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    last: u64,
    open: HashMap<u64, Handle>,
    writers: HashMap<u64, u32>,
}

impl Handles {
    /// Adds a handle and gives its number. One that can write is counted from here on.
    pub fn add(&self, handle: Handle) -> u64 {
        let mut table = self.table();
        if handle.can_write {
            *table.writers.entry(handle.node).or_default() += 1;
        }
        table.last += 1;
        let number = table.last;
        table.open.insert(number, handle);
        number
    }

    pub fn get(&self, number: u64) -> Option<Handle> {
        self.table().open.get(&number).copied()
    }

    /// Removes a handle. The kernel releases one only after the last mapping made from it.
    pub fn remove(&self, number: u64) -> Option<Handle> {
        let mut table = self.table();
        let handle = table.open.remove(&number)?;
        if handle.can_write
            && let Some(count) = table.writers.get_mut(&handle.node)
        {
            *count -= 1;
            if *count == 0 {
                table.writers.remove(&handle.node);
            }
        }
        Some(handle)
    }

    /// Whether a handle that can write exists for `node`.
    pub fn has_writers(&self, node: u64) -> bool {
        self.table().writers.contains_key(&node)
    }

    /// Takes all that are left, at unmount or after an abort.
    pub fn drain(&self) -> Vec<Handle> {
        let mut table = self.table();
        table.writers.clear();
        table.open.drain().map(|(_, handle)| handle).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("invariant: no panic under this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_writers_until_the_last_writable_handle_is_gone() {
        let handles = Handles::default();
        let handle = |can_write| Handle { node: 9, number: 9, generation: 1, can_write, is_append: false };
        let reader = handles.add(handle(false));
        assert!(!handles.has_writers(9));
        let writers = [handles.add(handle(true)), handles.add(handle(true))];
        assert!(handles.remove(writers[0]).is_some());
        assert!(handles.has_writers(9));
        assert!(handles.remove(writers[1]).is_some());
        assert!(!handles.has_writers(9));
        assert_eq!(handles.remove(writers[1]), None);
        assert!(handles.get(reader).is_some());
    }
}
