//! Commit, checkpoint, and what must be on the disk before a glock is given up.
//!
//! Order of a commit, each step finished before the next begins:
//! 1. the gate closes: no transaction is open; what is pending is taken as one;
//! 2. ordered data is written in place;
//! 3. descriptors, blocks and revokes are written to the log;
//! 4. the device is flushed;
//! 5. the header is written, forced;
//! 6. freed dinodes are wiped, and the blocks freed may be used again.
//!
//! Before another node may have a glock:
//! 1. its dirty data is written, and if anything of it is pending, a commit;
//! 2. its committed blocks are written in place, and the device is flushed;
//! 3. its blocks in the log are made harmless: the tail moves past them, or they are revoked.
//!    Otherwise a replay of this node's journal would undo what the other node did since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use block_core::Durability;
use bytes::Bytes;
use gfs_format::log::{descriptor, flags};
use gfs_format::{LogDescriptor, MetaHeader, MetaType};
use zerocopy::IntoBytes;

use super::header::{HeaderPlace, SpaceChange, header_block};
use super::log::{Committed, Log, Pending};
use crate::error::Result;
use crate::file::write_back;
use crate::glock::Glock;

/// With no more committed blocks than this, moving the tail is cheaper than revoking.
const CHECKPOINT_ALL_MAX: usize = 128;

impl Log {
    /// Makes everything changed so far durable.
    pub async fn flush(&self) -> Result<()> {
        let _operation = self.operation.lock().await;
        self.commit(flags::CAUSE_SYNC).await
    }

    /// Makes the inode's changes durable: its data, and its metadata unless `data_only` finds
    /// nothing that is needed to read the data back.
    pub async fn sync_inode(&self, inode: &Arc<Glock>) -> Result<()> {
        write_back(&self.device, self.ring.block_size(), inode).await?;
        if self.has_pending(inode) {
            let _operation = self.operation.lock().await;
            if self.has_pending(inode) {
                return self.commit(flags::CAUSE_SYNC).await;
            }
        }
        // A commit under way may have taken our changes but not be durable yet.
        let _operation = self.operation.lock().await;
        self.check_running()?;
        Ok(self.device.flush().await?)
    }

    /// What must be done before `glock` is given up by its exclusive holder.
    pub async fn sync_glock(&self, glock: &Arc<Glock>) -> Result<()> {
        if self.faults.skip_flush_on_demote {
            return Ok(());
        }
        if !self.faults.skip_data_on_demote {
            write_back(&self.device, self.ring.block_size(), glock).await?;
        }
        let _operation = self.operation.lock().await;
        self.check_running()?;
        if self.has_pending(glock) {
            self.commit(flags::CAUSE_DEMOTE).await?;
        }
        let tail = self.state().tail;
        let logged: Vec<u64> = {
            let mut logged = glock.logged.lock().expect("invariant: no panic under this lock");
            logged.retain(|_, position| *position >= tail);
            let mut blocks: Vec<u64> = logged.keys().copied().collect();
            blocks.sort_unstable();
            blocks
        };
        if logged.is_empty() {
            // Its metadata is in place and flushed, since the tail has moved past it. Data must be
            // too: a write that a broken connection repeats must not land after another node's.
            let is_unflushed = glock.data.lock().expect("invariant: no panic under this lock").take_unflushed();
            if is_unflushed {
                self.device.flush().await?;
            }
            return Ok(());
        }
        // Revokes take log space that nobody has reserved: not when it is getting short.
        let (used, blocks) = self.usage();
        if self.state().committed.len() <= CHECKPOINT_ALL_MAX || used > blocks / 2 {
            self.checkpoint(None).await?;
            return self.write_header(flags::CAUSE_DEMOTE).await;
        }
        self.checkpoint(Some(glock)).await?;
        {
            // A block that has moved to another glock of this node meanwhile is that one's affair:
            // a revoke would take its newer copy out of the log as well.
            let mut state = self.state();
            let revokes = logged
                .into_iter()
                .filter(|block| !state.pending.blocks.contains_key(block) && !state.committed.contains_key(block));
            let revokes: Vec<u64> = revokes.collect();
            state.pending.revokes.extend(revokes);
        }
        self.commit(flags::CAUSE_DEMOTE).await
    }

    /// Ends the mount: everything in place, and a header that says that the log is clean.
    pub async fn close(&self) -> Result<()> {
        let _operation = self.operation.lock().await;
        self.commit(flags::CAUSE_SHUTDOWN).await?;
        self.checkpoint(None).await?;
        self.write_header(flags::UNMOUNT | flags::FLUSH_SHUTDOWN | flags::CAUSE_SHUTDOWN).await?;
        self.is_closed.store(true, Ordering::SeqCst);
        self.stop();
        Ok(())
    }

    /// The same for a mount that has written nothing but what its replay asked for.
    pub async fn close_if_used(&self) -> Result<()> {
        let is_used = {
            let state = self.state();
            !state.pending.is_empty() || !state.committed.is_empty()
        };
        if is_used { self.close().await } else { Ok(()) }
    }

    /// Commits, and writes in place if the log is long or `checkpoint_now` asks for it. For the
    /// background task.
    pub async fn tidy(&self, checkpoint_now: bool) -> Result<()> {
        let _operation = self.operation.lock().await;
        self.commit(0).await?;
        let (used, blocks) = self.usage();
        if used > blocks / 3 || checkpoint_now {
            self.checkpoint(None).await?;
            self.write_header(0).await?;
        }
        Ok(())
    }

    /// Steps 1 to 5. The caller holds `operation`.
    pub(super) async fn commit(&self, cause: u32) -> Result<()> {
        self.stop_on_error(self.try_commit(cause).await)
    }

    /// What could not be written is lost to the log: it must not go on as if it were there.
    fn stop_on_error(&self, result: Result<()>) -> Result<()> {
        if result.is_err() && !self.is_closed() {
            self.break_off();
        }
        result
    }

    async fn try_commit(&self, cause: u32) -> Result<()> {
        self.check_running()?;
        let (pending, space) = {
            let _closed = self.gate.write().await;
            // A transaction that was broken off has stopped the log just now.
            self.check_running()?;
            let mut state = self.state();
            (std::mem::take(&mut state.pending), state.space)
        };
        if pending.is_empty() {
            return Ok(());
        }
        for inode in pending.ordered.values() {
            write_back(&self.device, self.ring.block_size(), inode).await?;
        }
        let start = self.state().head;
        let blocks = self.log_blocks(&pending);
        let header_position = start + blocks.len() as u64;
        self.write_ring(start, blocks).await?;
        self.device.flush().await?;
        let tail = {
            let state = self.state();
            let oldest = state
                .committed
                .iter()
                .filter(|(block, _)| !pending.blocks.contains_key(block) && !pending.revokes.contains(block))
                .map(|(_, committed)| committed.position)
                .min();
            let own = if pending.blocks.is_empty() { header_position } else { start };
            oldest.map_or(own, |oldest| oldest.min(own))
        };
        self.put_header(header_position, tail, flags::FLUSH_NORMAL | cause, space).await?;
        self.wipe(&pending).await?;
        self.state().committed_space = space;
        self.apply_commit(pending, start);
        Ok(())
    }

    /// Overwrites dinodes that the commit has freed, before anybody else can get their blocks.
    async fn wipe(&self, pending: &Pending) -> Result<()> {
        let nothing = Bytes::from(vec![0; self.ring.block_size().as_usize()]);
        let writes = pending
            .dead
            .iter()
            .map(|block| self.device.write(self.ring.offset(*block), vec![nothing.clone()], Durability::Cached));
        for write in start_all(writes.collect()).await {
            write?;
        }
        Ok(())
    }

    fn apply_commit(&self, pending: Pending, start: u64) {
        let mut state = self.state();
        for block in &pending.revokes {
            state.committed.remove(block);
        }
        for (block, (data, glock)) in pending.blocks {
            glock.logged.lock().expect("invariant: no panic under this lock").insert(block, start);
            state.committed.insert(block, Committed { data, position: start, glock });
        }
        for (_, block) in &pending.freed {
            state.freeing.remove(block);
        }
    }

    /// Writes a header with nothing before it: the tail moves to the oldest block that is not in
    /// place. The caller holds `operation`.
    pub(super) async fn write_header(&self, cause: u32) -> Result<()> {
        self.stop_on_error(self.try_write_header(cause).await)
    }

    async fn try_write_header(&self, cause: u32) -> Result<()> {
        self.check_running()?;
        let (position, tail, space) = {
            let state = self.state();
            let oldest = state.committed.values().map(|committed| committed.position).min();
            (state.head, oldest.unwrap_or(state.head), state.committed_space)
        };
        self.put_header(position, tail, flags::FLUSH_NORMAL | cause, space).await
    }

    async fn put_header(&self, position: u64, tail: u64, flags: u32, space: SpaceChange) -> Result<()> {
        assert!(position + 1 - tail <= self.ring.blocks(), "invariant: the log never overruns its tail");
        let sequence = self.state().sequence;
        let place = HeaderPlace { position, tail, sequence, flags };
        let block = header_block(&self.ring, &self.facts, &place, space, self.host.wall_time());
        let offset = self.ring.offset(self.ring.address(position).0);
        self.device.write(offset, vec![block], Durability::Forced).await?;
        let mut state = self.state();
        state.sequence += 1;
        state.head = position + 1;
        state.tail = tail;
        Ok(())
    }

    /// Descriptors with what they describe, in log order.
    fn log_blocks(&self, pending: &Pending) -> Vec<Bytes> {
        let size = self.ring.block_size();
        let mut out = Vec::with_capacity(pending.blocks.len() + 8);
        let entries: Vec<_> = pending.blocks.iter().collect();
        let per_descriptor = usize::try_from(size.descriptor_blocks()).expect("invariant: fits a block");
        for chunk in entries.chunks(per_descriptor) {
            let mut block = descriptor_block(size.as_usize(), descriptor::METADATA, chunk.len() + 1, chunk.len());
            for (slot, (number, _)) in block[size_of::<LogDescriptor>()..].chunks_exact_mut(8).zip(chunk) {
                slot.copy_from_slice(&number.to_be_bytes());
            }
            out.push(Bytes::from(block));
            out.extend(chunk.iter().map(|(_, (data, _))| data.clone()));
        }
        out.extend(revoke_blocks(size, &pending.revokes.iter().copied().collect::<Vec<_>>()));
        out
    }

    async fn write_ring(&self, start: u64, blocks: Vec<Bytes>) -> Result<()> {
        let mut position = start;
        let mut rest = blocks;
        let mut writes = Vec::new();
        while !rest.is_empty() {
            let (address, contiguous) = self.ring.address(position);
            let count = rest.len().min(usize::try_from(contiguous).unwrap_or(usize::MAX)).min(WRITE_BLOCKS_MAX);
            let tail = rest.split_off(count);
            writes.push(self.device.write(self.ring.offset(address), rest, Durability::Cached));
            rest = tail;
            position += count as u64;
        }
        for write in start_all(writes).await {
            write?;
        }
        Ok(())
    }

    /// Writes committed blocks (all, or those of one glock) in place and flushes the device. The
    /// caller holds `operation`.
    pub(super) async fn checkpoint(&self, glock: Option<&Arc<Glock>>) -> Result<()> {
        self.stop_on_error(self.try_checkpoint(glock).await)
    }

    async fn try_checkpoint(&self, glock: Option<&Arc<Glock>>) -> Result<()> {
        self.check_running()?;
        let chosen: BTreeMap<u64, Bytes> = {
            let state = self.state();
            let is_chosen = |committed: &Committed| glock.is_none_or(|glock| Arc::ptr_eq(glock, &committed.glock));
            state.committed.iter().filter(|(_, c)| is_chosen(c)).map(|(block, c)| (*block, c.data.clone())).collect()
        };
        let mut writes = Vec::new();
        let mut run: Vec<Bytes> = Vec::new();
        let mut run_start = 0;
        for (block, data) in &chosen {
            if !run.is_empty() && (run_start + run.len() as u64 != *block || run.len() == WRITE_BLOCKS_MAX) {
                let full = std::mem::take(&mut run);
                writes.push(self.device.write(self.ring.offset(run_start), full, Durability::Cached));
            }
            if run.is_empty() {
                run_start = *block;
            }
            run.push(data.clone());
        }
        if !run.is_empty() {
            writes.push(self.device.write(self.ring.offset(run_start), run, Durability::Cached));
        }
        for write in start_all(writes).await {
            write?;
        }
        self.device.flush().await?;
        let mut state = self.state();
        for block in chosen.keys() {
            state.committed.remove(block);
        }
        Ok(())
    }
}

/// Blocks in one device write.
const WRITE_BLOCKS_MAX: usize = 256;

fn descriptor_block(size: usize, kind: u32, length: usize, count: usize) -> Vec<u8> {
    let mut block = vec![0; size];
    let head = LogDescriptor {
        header: MetaHeader::new(MetaType::LogDescriptor),
        kind: kind.into(),
        length: u32::try_from(length).expect("invariant: bounded by the journal").into(),
        count: u32::try_from(count).expect("invariant: bounded by the journal").into(),
        reserved0: 0.into(),
        reserved1: [0; 32],
    };
    block[..size_of::<LogDescriptor>()].copy_from_slice(head.as_bytes());
    block
}

/// A revoke descriptor with its continuation blocks.
fn revoke_blocks(size: gfs_format::BlockSize, revokes: &[u64]) -> Vec<Bytes> {
    if revokes.is_empty() {
        return Vec::new();
    }
    let first = revokes.len().min(usize::try_from(size.descriptor_revokes()).expect("invariant: fits a block"));
    let (first, rest) = revokes.split_at(first);
    let per_block = usize::try_from(size.continuation_revokes()).expect("invariant: fits a block");
    let length = 1 + rest.len().div_ceil(per_block);
    let mut out = Vec::with_capacity(length);
    let mut fill = |mut block: Vec<u8>, from: usize, numbers: &[u64]| {
        for (slot, number) in block[from..].chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_be_bytes());
        }
        out.push(Bytes::from(block));
    };
    fill(
        descriptor_block(size.as_usize(), descriptor::REVOKE, length, revokes.len()),
        size_of::<LogDescriptor>(),
        first,
    );
    for chunk in rest.chunks(per_block) {
        let mut block = vec![0; size.as_usize()];
        block[..size_of::<MetaHeader>()].copy_from_slice(MetaHeader::new(MetaType::LogBlock).as_bytes());
        fill(block, size_of::<MetaHeader>(), chunk);
    }
    out
}

/// Runs device requests side by side and waits for all of them.
pub(crate) async fn start_all<T>(futures: Vec<base::BoxFuture<'static, T>>) -> Vec<T> {
    let mut slots: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    std::future::poll_fn(move |context| {
        let mut is_done = true;
        for (future, result) in &mut slots {
            if let Some(running) = future {
                match running.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => {
                        *result = Some(value);
                        *future = None;
                    }
                    std::task::Poll::Pending => is_done = false,
                }
            }
        }
        if is_done {
            let results = slots.drain(..).map(|(_, result)| result.expect("invariant: every future ended"));
            std::task::Poll::Ready(results.collect())
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}
