//! The totals after a replay: the dead node's difference is added to the filesystem's totals, and its own file of
//! differences is made zero.
//!
//! Adding is not idempotent, so it goes through the log like any other change: the two inodes as a transaction whose
//! header says that nothing is left to add, then they are written in place. A crash before that header finds the old
//! totals and the difference, a crash after it the new ones and none. The caller has put everything else in place and
//! moved the tail, so there is room.

use std::sync::Arc;

use base::WallTime;
use block_core::{BlockDevice, ByteLen, Durability};
use bytes::Bytes;
use gfs_format::dinode::DINODE_BYTES;
use gfs_format::log::descriptor;
use gfs_format::small_files::StatfsChange;
use gfs_format::{Dinode, LogDescriptor, LogHeader, MetaHeader, MetaType};
use zerocopy::{FromBytes, IntoBytes};

use super::header::{HeaderPlace, SpaceChange};
use super::replay::{JournalParts, Scan, header_space, put_header, unescape};
use super::ring::Ring;
use crate::error::{Error, Result};

/// The blocks to write.
pub(super) struct Settlement {
    blocks: Vec<(u64, Bytes)>,
}

impl Settlement {
    /// Reads the two inodes as they will be after the replay; `None` if there is nothing to settle.
    pub(super) async fn prepare(
        device: &Arc<dyn BlockDevice>,
        parts: &JournalParts<'_>,
        scan: &Scan,
        statfs: u64,
        header: &LogHeader,
    ) -> Result<Option<Settlement>> {
        let JournalParts { ring, facts } = *parts;
        // The first version of log headers has no difference in it: the node's file has it, and keeps it.
        if header.crc.get() == 0 {
            return Ok(None);
        }
        let space = header_space(header);
        let mut blocks = Vec::new();
        if space != SpaceChange::default() {
            let mut block = Totals::read(device, ring, scan, statfs).await?;
            let now = block.get();
            let add = |total: u64, change: i64| total.wrapping_add_signed(change).into();
            block.set(StatfsChange {
                total: add(now.total.get(), space.total),
                free: add(now.free.get(), space.free),
                dinodes: add(now.dinodes.get(), space.dinodes),
            });
            blocks.push((statfs, block.0.into()));
        }
        if facts.statfs_inode != 0 {
            let mut block = Totals::read(device, ring, scan, facts.statfs_inode).await?;
            if block.get() != StatfsChange::default() {
                block.set(StatfsChange::default());
                blocks.push((facts.statfs_inode, block.0.into()));
            }
        }
        Ok((!blocks.is_empty()).then_some(Settlement { blocks }))
    }
}

/// The block of an inode with three counters inside.
struct Totals(Vec<u8>);

impl Totals {
    async fn read(device: &Arc<dyn BlockDevice>, ring: &Ring, scan: &Scan, address: u64) -> Result<Totals> {
        let corrupt = |found: String| Error::Corrupt {
            block: address,
            expected: "an inode with three counters inside".into(),
            found,
        };
        let size = ring.block_size().bytes();
        let blocks = device.geometry().size().0 / size;
        if address >= blocks {
            return Err(corrupt(format!("a device of {blocks} blocks")));
        }
        let logged = scan.entries.get(&address);
        let from = logged.map_or(address, |entry| ring.address(entry.position).0);
        let bytes = device.read(ring.offset(from), ByteLen(size)).await?;
        let bytes = if logged.is_some_and(|entry| entry.is_escaped) { unescape(&bytes) } else { bytes };
        MetaHeader::check(&bytes, MetaType::Dinode).map_err(|error| corrupt(error.to_string()))?;
        let (dinode, _) = Dinode::ref_from_prefix(&bytes).map_err(|_| corrupt("a short block".into()))?;
        let (height, own) = (dinode.height.get(), dinode.number.address.get());
        if height != 0 || own != address || dinode.size.get() < size_of::<StatfsChange>() as u64 {
            return Err(corrupt(format!("inode {own} of height {height} with {} bytes", dinode.size.get())));
        }
        Ok(Totals(bytes.to_vec()))
    }

    fn get(&self) -> StatfsChange {
        StatfsChange::read_from_prefix(&self.0[DINODE_BYTES..]).map_or_else(|_| StatfsChange::default(), |(now, _)| now)
    }

    fn set(&mut self, counters: StatfsChange) {
        self.0[DINODE_BYTES..DINODE_BYTES + size_of::<StatfsChange>()].copy_from_slice(counters.as_bytes());
    }
}

/// Logs the settlement from `place` on and writes it in place; gives the place of the next header.
pub(super) async fn settle(
    device: &Arc<dyn BlockDevice>,
    parts: &JournalParts<'_>,
    settlement: &Settlement,
    place: HeaderPlace,
    now: WallTime,
) -> Result<HeaderPlace> {
    let ring = parts.ring;
    let start = place.position;
    let contents = settlement.blocks.iter().map(|(_, data)| data.clone());
    let logged = std::iter::once(descriptor_block(ring, &settlement.blocks)).chain(contents);
    let mut position = start;
    for block in logged {
        device.write(ring.offset(ring.address(position).0), vec![block], Durability::Cached).await?;
        position += 1;
    }
    device.flush().await?;
    let commit = HeaderPlace { position, tail: start, ..place };
    put_header(device, parts, &commit, SpaceChange::default(), now).await?;
    for (block, data) in &settlement.blocks {
        device.write(ring.offset(*block), vec![data.clone()], Durability::Cached).await?;
    }
    device.flush().await?;
    Ok(commit.next())
}

fn descriptor_block(ring: &Ring, blocks: &[(u64, Bytes)]) -> Bytes {
    let mut bytes = vec![0; ring.block_size().as_usize()];
    let count = u32::try_from(blocks.len()).expect("invariant: two blocks at most");
    let head = LogDescriptor {
        header: MetaHeader::new(MetaType::LogDescriptor),
        kind: descriptor::METADATA.into(),
        length: (count + 1).into(),
        count: count.into(),
        reserved0: 0.into(),
        reserved1: [0; 32],
    };
    bytes[..size_of::<LogDescriptor>()].copy_from_slice(head.as_bytes());
    for (slot, (block, _)) in bytes[size_of::<LogDescriptor>()..].chunks_exact_mut(8).zip(blocks) {
        slot.copy_from_slice(&block.to_be_bytes());
    }
    bytes.into()
}
