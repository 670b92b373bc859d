//! The log in memory: the transaction that is being filled, and what has been committed but is
//! not yet in place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use base::Host;
use block_core::BlockDevice;
use bytes::Bytes;
use tokio::sync::{RwLock, RwLockReadGuard};

use super::header::{HeaderFacts, SpaceChange};
use super::ring::Ring;
use crate::error::{Error, Result};
use crate::glock::{Glock, GlockKey};

/// Deliberate mistakes, for the simulator to prove that its checkers see them. All off in use.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Give an exclusive glock up without writing its changes.
    pub skip_flush_on_demote: bool,
    /// Give a glock up without writing its dirty file data.
    pub skip_data_on_demote: bool,
    /// Answer an append from the size that was known before the glock was taken.
    pub stale_append: bool,
    /// Change an inode's extended attributes from what they were before the glock was taken.
    pub stale_xattrs: bool,
}

/// A change that all its blocks make together. One that is dropped after its first block and
/// before `end` was broken off half-way: then the log stops, since a part of a change must never
/// reach the disk.
pub struct Transaction<'a> {
    log: &'a Log,
    reserved: u64,
    has_changed: bool,
    _gate: RwLockReadGuard<'a, ()>,
}

/// A block in the log, to be written in place.
pub(super) struct Committed {
    pub data: Bytes,
    /// Start of the commit that holds it.
    pub position: u64,
    pub glock: Arc<Glock>,
}

/// What transactions have changed since the last commit.
#[derive(Default)]
pub(super) struct Pending {
    pub blocks: BTreeMap<u64, (Bytes, Arc<Glock>)>,
    pub revokes: BTreeSet<u64>,
    /// Inodes whose dirty data must be in place before the commit.
    pub ordered: BTreeMap<GlockKey, Arc<Glock>>,
    /// Glocks under which something changed.
    pub glocks: BTreeSet<GlockKey>,
    /// Blocks freed, by resource group: not to be used again before the commit.
    pub freed: Vec<(GlockKey, u64)>,
    /// Freed dinodes. What lies in place may still say that they are linked, so they are wiped
    /// after the commit: whoever remembers the inode must not take it for a live one.
    pub dead: BTreeSet<u64>,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.revokes.is_empty() && self.ordered.is_empty() && self.freed.is_empty()
    }
}

pub(super) struct LogState {
    /// Absolute position of the next block to write.
    pub head: u64,
    /// Oldest position that the newest header on the disk still needs.
    pub tail: u64,
    /// Sequence number of the next header.
    pub sequence: u64,
    pub pending: Pending,
    /// Blocks that open transactions may still add.
    pub reserved: u64,
    /// Committed, not in place: by block.
    pub committed: BTreeMap<u64, Committed>,
    /// Freed blocks of the commit under way, still not to be used.
    pub freeing: BTreeSet<u64>,
    pub space: SpaceChange,
    /// `space` as of the newest commit: what the allocations on the disk amount to.
    pub committed_space: SpaceChange,
}

/// The mount's journal.
pub struct Log {
    pub(super) device: Arc<dyn BlockDevice>,
    pub(super) host: Arc<dyn Host>,
    pub(super) ring: Ring,
    pub(super) facts: HeaderFacts,
    pub(super) state: Mutex<LogState>,
    /// Transactions hold it for reading; a commit closes it for a moment.
    pub(super) gate: RwLock<()>,
    /// One log operation at a time.
    pub(super) operation: tokio::sync::Mutex<()>,
    pub(super) is_stopped: AtomicBool,
    pub(super) is_broken: AtomicBool,
    /// Ended in order: everything is in place.
    pub(super) is_closed: AtomicBool,
    pub(super) faults: Faults,
}

/// What a log is made of.
pub struct LogParts {
    pub device: Arc<dyn BlockDevice>,
    pub host: Arc<dyn Host>,
    pub ring: Ring,
    pub facts: HeaderFacts,
    /// Journal block and sequence of the newest header.
    pub newest_block: u32,
    pub newest_sequence: u64,
    pub faults: Faults,
}

/// Headers, descriptors and rounding that come on top of reserved blocks.
const OVERHEAD_BLOCKS: u64 = 24;

impl Log {
    pub fn new(parts: LogParts) -> Log {
        let head = parts.ring.blocks() + u64::from(parts.newest_block) + 1;
        Log {
            device: parts.device,
            host: parts.host,
            ring: parts.ring,
            facts: parts.facts,
            state: Mutex::new(LogState {
                head,
                tail: head,
                sequence: parts.newest_sequence + 1,
                pending: Pending::default(),
                reserved: 0,
                committed: BTreeMap::new(),
                freeing: BTreeSet::new(),
                space: SpaceChange::default(),
                committed_space: SpaceChange::default(),
            }),
            gate: RwLock::new(()),
            operation: tokio::sync::Mutex::new(()),
            is_stopped: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            faults: parts.faults,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().expect("invariant: no panic under this lock")
    }

    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Stops the log because of an error: what it holds is not on the disk and will not be.
    pub(super) fn break_off(&self) {
        self.is_broken.store(true, Ordering::SeqCst);
        self.stop();
    }

    /// Whether an error has stopped the log.
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::SeqCst)
    }

    /// Stops the log for good: nothing is written any more.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
    }

    /// Whether the log has ended in order, with everything in place.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    pub(super) fn check_running(&self) -> Result<()> {
        if self.is_stopped.load(Ordering::SeqCst) { Err(Error::Withdrawn) } else { Ok(()) }
    }

    /// Most blocks that one transaction may reserve.
    pub fn transaction_blocks_max(&self) -> u64 {
        (self.ring.blocks() / 4).saturating_sub(OVERHEAD_BLOCKS)
    }

    /// Starts a transaction that changes at most `blocks` blocks (revokes count as a block for
    /// every few hundred). Waits for space; all glocks must be held already, since the space may
    /// depend on commits but never on glocks.
    pub async fn begin(&self, blocks: u64) -> Result<Transaction<'_>> {
        if blocks > self.transaction_blocks_max() {
            return Err(Error::NoSpace);
        }
        loop {
            self.check_running()?;
            {
                let mut state = self.state();
                if self.has_room(&state, blocks) {
                    state.reserved += blocks;
                    break;
                }
            }
            self.make_room(blocks).await?;
        }
        // From here the reservation is owned by the transaction.
        let gate = self.gate.read().await;
        Ok(Transaction { log: self, reserved: blocks, has_changed: false, _gate: gate })
    }

    fn has_room(&self, state: &LogState, blocks: u64) -> bool {
        let pending = state.pending.blocks.len() as u64 + state.pending.revokes.len() as u64 / 64;
        let wanted = pending + state.reserved + blocks + OVERHEAD_BLOCKS;
        let used = state.head - state.tail;
        wanted <= self.ring.blocks() / 4 && used + 2 * wanted <= self.ring.blocks()
    }

    async fn make_room(&self, blocks: u64) -> Result<()> {
        let _operation = self.operation.lock().await;
        if self.has_room(&self.state(), blocks) {
            return Ok(());
        }
        self.commit(0).await?;
        let used = {
            let state = self.state();
            state.head - state.tail
        };
        if used > self.ring.blocks() / 3 {
            self.checkpoint(None).await?;
            self.write_header(0).await?;
        }
        Ok(())
    }

    /// Whether changes made under `glock` wait for a commit.
    pub fn has_pending(&self, glock: &Glock) -> bool {
        let state = self.state();
        state.pending.glocks.contains(&glock.key()) || state.pending.ordered.contains_key(&glock.key())
    }

    /// Blocks freed in a commit that is not durable yet.
    pub fn is_being_freed(&self, block: u64) -> bool {
        let state = self.state();
        state.freeing.contains(&block)
    }

    /// How many blocks from `from` to `to` wait for the commit that frees them.
    pub fn blocks_being_freed(&self, from: u64, to: u64) -> u64 {
        self.state().freeing.range(from..to).count() as u64
    }

    /// The node's statfs difference.
    pub fn space_change(&self) -> SpaceChange {
        self.state().space
    }

    /// Log blocks in use, and the ring's size.
    pub fn usage(&self) -> (u64, u64) {
        let state = self.state();
        (state.head - state.tail, self.ring.blocks())
    }
}

impl Transaction<'_> {
    /// Changes a metadata block: in the cache of `glock` at once, on the disk with the commit.
    pub fn put(&mut self, glock: &Arc<Glock>, block: u64, data: Bytes) {
        debug_assert_eq!(data.len(), self.log.ring.block_size().as_usize());
        glock.blocks.lock().expect("invariant: no panic under this lock").insert(block, data.clone());
        self.has_changed = true;
        let mut state = self.log.state();
        // A block that is in use again must not be wiped by the revoke of its former life.
        state.pending.revokes.remove(&block);
        state.pending.blocks.insert(block, (data, glock.clone()));
        state.pending.glocks.insert(glock.key());
    }

    /// Says that a metadata block is no more: no copy of it in the log may be replayed.
    pub fn revoke(&mut self, glock: &Arc<Glock>, block: u64) {
        glock.blocks.lock().expect("invariant: no panic under this lock").remove(&block);
        glock.logged.lock().expect("invariant: no panic under this lock").remove(&block);
        self.has_changed = true;
        let mut state = self.log.state();
        state.pending.blocks.remove(&block);
        state.pending.revokes.insert(block);
        state.pending.glocks.insert(glock.key());
    }

    /// Says that the inode at `block` is no more. Until another takes its place, whoever looks
    /// there finds no inode.
    pub fn bury(&mut self, glock: &Arc<Glock>, block: u64) {
        self.revoke(glock, block);
        let nothing = Bytes::from(vec![0; self.log.ring.block_size().as_usize()]);
        glock.blocks.lock().expect("invariant: no panic under this lock").insert(block, nothing);
        self.log.state().pending.dead.insert(block);
    }

    /// Says that dirty data of the inode must be in place before the commit.
    pub fn order_data(&mut self, inode: &Arc<Glock>) {
        let mut state = self.log.state();
        state.pending.ordered.insert(inode.key(), inode.clone());
        state.pending.glocks.insert(inode.key());
    }

    /// Notes a freed block of a resource group.
    pub fn note_freed(&mut self, group: &Arc<Glock>, block: u64) {
        let mut state = self.log.state();
        state.pending.freed.push((group.key(), block));
        state.freeing.insert(block);
        state.space.free += 1;
    }

    /// Counts an allocation in the statfs difference.
    pub fn note_allocated(&mut self, blocks: u64) {
        self.log.state().space.free -= blocks.cast_signed();
    }

    /// Counts inodes made (or freed, negative) in the statfs difference.
    pub fn note_dinodes(&mut self, change: i64) {
        self.log.state().space.dinodes += change;
    }

    /// The difference has been added to the master.
    pub fn clear_space_change(&mut self, added: SpaceChange) {
        let mut state = self.log.state();
        state.space.total -= added.total;
        state.space.free -= added.free;
        state.space.dinodes -= added.dinodes;
    }
}

impl Transaction<'_> {
    /// The change is whole.
    pub fn end(mut self) {
        self.has_changed = false;
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // Before the gate opens for a commit.
        if self.has_changed {
            self.log.break_off();
        }
        self.log.state().reserved -= self.reserved;
    }
}
