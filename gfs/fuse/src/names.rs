//! The names the kernel was given with a lifetime, by directory.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

/// Announced names. Bounded per directory: beyond `NAMES_MAX` they are not kept, and the
/// directory's names are dropped by advancing the epoch.
#[derive(Debug, Default)]
pub struct Names(Mutex<HashMap<u64, Announced>>);

/// What a directory's kernel cache may hold.
#[derive(Debug, PartialEq, Eq)]
pub enum Announced {
    These(HashSet<Box<[u8]>>),
    TooMany,
}

/// More names than this are dropped by advancing the epoch, which costs less than a call for each.
pub const NAMES_MAX: usize = 256;

impl Names {
    pub fn announce(&self, directory: u64, name: &[u8]) {
        let mut names = self.names();
        let announced = names.entry(directory).or_insert_with(|| Announced::These(HashSet::new()));
        if let Announced::These(these) = announced {
            if these.len() < NAMES_MAX {
                if !these.contains(name) {
                    these.insert(name.into());
                }
            } else if !these.contains(name) {
                *announced = Announced::TooMany;
            }
        }
    }

    /// Everything announced for `directory` since the last call.
    pub fn take(&self, directory: u64) -> Option<Announced> {
        self.names().remove(&directory)
    }

    fn names(&self) -> MutexGuard<'_, HashMap<u64, Announced>> {
        self.0.lock().expect("invariant: no panic under this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_up_to_a_bound() {
        let names = Names::default();
        for index in 0..NAMES_MAX {
            names.announce(1, index.to_string().as_bytes());
            names.announce(1, b"0");
        }
        assert!(matches!(names.take(1), Some(Announced::These(these)) if these.len() == NAMES_MAX));
        assert_eq!(names.take(1), None);
        for index in 0..=NAMES_MAX {
            names.announce(1, index.to_string().as_bytes());
        }
        assert_eq!(names.take(1), Some(Announced::TooMany));
    }
}
