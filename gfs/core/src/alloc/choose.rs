//! Which resource group an allocation takes. Groups whose glock this node holds come first, so
//! that nodes settle in groups of their own; another node's is asked for last.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::group::{Group, GroupEdit};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::{GlockKey, RequestClass, State};

/// The groups of a filesystem, by address.
pub struct GroupIndex {
    groups: Vec<Arc<Group>>,
    /// Where this node starts to look.
    home: usize,
}

impl GroupIndex {
    /// `slot` of `slots` spreads the nodes over the groups.
    pub fn new(mut groups: Vec<Arc<Group>>, slot: usize, slots: usize) -> GroupIndex {
        groups.sort_by_key(|group| group.address);
        let home = groups.len() * slot / slots.max(1);
        GroupIndex { groups, home }
    }

    pub fn groups(&self) -> &[Arc<Group>] {
        &self.groups
    }

    /// Number of the group that describes `block`.
    pub fn position(&self, block: u64) -> Option<usize> {
        let after = self.groups.partition_point(|group| group.data_start <= block);
        let index = after.checked_sub(1)?;
        self.groups[index].contains(block).then_some(index)
    }
}

impl Fs {
    /// A group with at least `needed` usable blocks, near `goal` where that costs nothing. The
    /// caller holds its inodes already: groups come after them.
    pub(crate) async fn choose_group(&self, goal: u64, needed: u64) -> Result<GroupEdit> {
        for attempt in 0..2 {
            if let Some(edit) = self.find_group(goal, needed).await? {
                return Ok(edit);
            }
            // Space may be there and only wait for a commit.
            if attempt == 0 && self.log.blocks_being_freed(0, u64::MAX) > 0 {
                self.log.flush().await?;
            } else {
                break;
            }
        }
        Err(Error::NoSpace)
    }

    async fn find_group(&self, goal: u64, needed: u64) -> Result<Option<GroupEdit>> {
        let index = &self.groups;
        let count = index.groups.len();
        let may_fit = |group: &Group| group.free_hint.load(Ordering::Relaxed) >= needed;
        let goal = index.position(goal);
        let rotated = (0..count).map(|i| (index.home + i) % count);
        let held = goal.into_iter().chain(rotated.clone()).filter(|i| self.holds_group(&index.groups[*i]));
        for i in held {
            if may_fit(&index.groups[i]) {
                let edit = self.lock_group(&index.groups[i]).await?;
                if edit.usable(&self.log) >= needed {
                    return Ok(Some(edit));
                }
            }
        }
        for i in rotated.clone() {
            let group = &index.groups[i];
            if self.holds_group(group) || !may_fit(group) {
                continue;
            }
            let glock = self.glocks.get(GlockKey::resource_group(group.address));
            match glock.try_exclusive().await {
                Ok(guard) => {
                    let edit = self.open_group(group, guard).await?;
                    if edit.usable(&self.log) >= needed {
                        return Ok(Some(edit));
                    }
                }
                Err(Error::Lock(dlm_api::LockError::WouldBlock)) => {}
                Err(error) => return Err(error),
            }
        }
        // The hints may be old: ask everybody, in order.
        for i in rotated {
            let edit = self.lock_group(&index.groups[i]).await?;
            if edit.usable(&self.log) >= needed {
                return Ok(Some(edit));
            }
        }
        Ok(None)
    }

    fn holds_group(&self, group: &Group) -> bool {
        let glock = self.glocks.find(GlockKey::resource_group(group.address));
        glock.is_some_and(|glock| glock.held() == State::Exclusive)
    }

    /// Locks one group for changes.
    pub(crate) async fn lock_group(&self, group: &Arc<Group>) -> Result<GroupEdit> {
        let glock = self.glocks.get(GlockKey::resource_group(group.address));
        let guard = glock.exclusive(RequestClass::Ordinary).await?;
        self.open_group(group, guard).await
    }

    /// Holds one group for reading: nothing in it may be changed.
    pub(crate) async fn look_at_group(&self, group: &Arc<Group>) -> Result<GroupEdit> {
        let glock = self.glocks.get(GlockKey::resource_group(group.address));
        let guard = glock.shared(RequestClass::Ordinary).await?;
        self.open_group(group, guard).await
    }

    /// Locks every group that holds one of `blocks`, in order of address.
    pub(crate) async fn lock_groups_of(&self, blocks: impl Iterator<Item = u64>) -> Result<Vec<GroupEdit>> {
        let mut wanted = Vec::new();
        for block in blocks {
            wanted.push(self.groups.position(block).ok_or_else(|| Error::Corrupt {
                block,
                expected: "a block of a resource group".into(),
                found: "none that describes it".into(),
            })?);
        }
        wanted.sort_unstable();
        wanted.dedup();
        let mut edits = Vec::with_capacity(wanted.len());
        for index in wanted {
            edits.push(self.lock_group(&self.groups.groups[index]).await?);
        }
        Ok(edits)
    }

    async fn open_group(&self, group: &Arc<Group>, guard: crate::glock::Guard) -> Result<GroupEdit> {
        let blocks = self.read_group_blocks(guard.glock(), group).await?;
        GroupEdit::new(group.clone(), guard, blocks, self.block_size())
    }
}
