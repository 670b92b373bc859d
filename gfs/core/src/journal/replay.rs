//! Reading a journal: its newest header, and the replay of what follows its tail.
//!
//! Two passes over the blocks from tail to head: the first collects revokes, the second writes
//! every logged block that no later revoke names. Replaying twice, or replaying again after being
//! cut off, gives the same result.

use std::collections::BTreeMap;
use std::sync::Arc;

use block_core::{BlockDevice, ByteLen, Durability};
use bytes::Bytes;
use gfs_format::log::{descriptor, flags};
use gfs_format::{LogDescriptor, LogHeader, MetaHeader, MetaType};
use zerocopy::FromBytes;

use super::header::{HeaderFacts, HeaderPlace, SpaceChange, header_block};
use super::ring::Ring;
use crate::error::{Error, Result};

/// Blocks read at once while a journal is searched.
const READ_BLOCKS: u64 = 256;

/// What a replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Blocks written in place.
    pub blocks: u64,
    /// Logged blocks that a revoke kept from being written.
    pub revoked: u64,
    /// The dead node's difference to the master statfs.
    pub space: SpaceChange,
}

/// Reads blocks `from` to `to` of the journal.
async fn read_ring(device: &Arc<dyn BlockDevice>, ring: &Ring, from: u64, to: u64) -> Result<Vec<Bytes>> {
    let size = ring.block_size();
    let mut out = Vec::new();
    let mut position = from;
    while position < to {
        let (address, contiguous) = ring.address(position);
        let count = contiguous.min(to - position).min(READ_BLOCKS);
        let bytes = device.read(ring.offset(address), ByteLen(count * size.bytes())).await?;
        out.extend((0..count).map(|i| {
            let start = usize::try_from(i).expect("invariant: bounded by READ_BLOCKS") * size.as_usize();
            bytes.slice(start..start + size.as_usize())
        }));
        position += count;
    }
    Ok(out)
}

/// The newest valid header of a journal.
pub async fn newest_header(device: &Arc<dyn BlockDevice>, ring: &Ring) -> Result<LogHeader> {
    let mut newest: Option<LogHeader> = None;
    let mut position = 0;
    while position < ring.blocks() {
        let to = ring.blocks().min(position + READ_BLOCKS);
        for (block, index) in read_ring(device, ring, position, to).await?.iter().zip(position..) {
            if let Ok(header) = LogHeader::decode(block, ring.index(index))
                && newest.is_none_or(|other| header.sequence > other.sequence)
            {
                newest = Some(header);
            }
        }
        position = to;
    }
    newest.ok_or_else(|| Error::Corrupt {
        block: ring.address(0).0,
        expected: "a log header somewhere in the journal".into(),
        found: "none with correct checksums".into(),
    })
}

/// Whether the header says that nothing needs replaying.
pub fn is_clean(header: &LogHeader) -> bool {
    header.flags.get() & flags::UNMOUNT != 0
}

/// Replays the journal behind `header` and marks it clean. Blocks beyond `device_blocks` are
/// refused.
pub async fn replay(
    device: &Arc<dyn BlockDevice>,
    ring: &Ring,
    header: &LogHeader,
    facts: &HeaderFacts,
    now: base::WallTime,
) -> Result<Replayed> {
    let device_blocks = device.geometry().size().0 / ring.block_size().bytes();
    let tail = u64::from(header.tail.get());
    let head = u64::from(header.block.get());
    if tail >= ring.blocks() || head >= ring.blocks() {
        return Err(corrupt(ring, head, "a tail within the journal", &format!("tail {tail}")));
    }
    let end = if head >= tail { head } else { head + ring.blocks() };
    let blocks = read_ring(device, ring, tail, end).await?;
    let chunks = find_chunks(ring, tail, &blocks)?;
    let revokes = collect_revokes(ring, tail, &blocks, &chunks)?;
    let mut done = Replayed::default();
    let mut writes: BTreeMap<u64, Bytes> = BTreeMap::new();
    for chunk in chunks.iter().filter(|chunk| chunk.kind != descriptor::REVOKE) {
        for (number, is_escaped, data) in chunk.content(&blocks) {
            if number == 0 || number >= device_blocks {
                return Err(corrupt(ring, tail + chunk.at as u64, "a block of the device", &number.to_string()));
            }
            if revokes.get(&number).is_some_and(|at| *at > chunk.at) {
                done.revoked += 1;
                continue;
            }
            writes.insert(number, if is_escaped { unescape(&data) } else { data });
        }
    }
    for (number, data) in writes {
        device.write(ring.offset(number), vec![data], Durability::Cached).await?;
        done.blocks += 1;
    }
    device.flush().await?;
    let position = end + 1;
    let place = HeaderPlace {
        position,
        tail: position,
        sequence: header.sequence.get() + 1,
        flags: flags::UNMOUNT | flags::RECOVERY,
    };
    let clean = header_block(ring, facts, &place, SpaceChange::default(), now);
    device.write(ring.offset(ring.address(position).0), vec![clean], Durability::Forced).await?;
    done.space = SpaceChange {
        total: header.local_total.get().cast_signed(),
        free: header.local_free.get().cast_signed(),
        dinodes: header.local_dinodes.get().cast_signed(),
    };
    Ok(done)
}

fn corrupt(ring: &Ring, position: u64, expected: &str, found: &str) -> Error {
    Error::Corrupt { block: ring.address(position).0, expected: expected.into(), found: found.into() }
}

/// A journaled data block that began with the magic is logged with its first word zero.
fn unescape(data: &Bytes) -> Bytes {
    let mut block = data.to_vec();
    block[..4].copy_from_slice(&gfs_format::header::MAGIC.to_be_bytes());
    block.into()
}

/// A descriptor and the blocks it describes, by index from the tail.
struct Chunk {
    at: usize,
    kind: u32,
    length: usize,
    count: usize,
}

impl Chunk {
    /// Block number, escape flag and content of each logged block.
    fn content<'a>(&'a self, blocks: &'a [Bytes]) -> impl Iterator<Item = (u64, bool, Bytes)> + 'a {
        let words = if self.kind == descriptor::JOURNALED_DATA { 2 } else { 1 };
        let numbers = &blocks[self.at][size_of::<LogDescriptor>()..];
        (0..self.count).map(move |i| {
            let word = |w: usize| {
                let at = (i * words + w) * 8;
                u64::from_be_bytes(numbers[at..at + 8].try_into().expect("invariant: 8 bytes"))
            };
            (word(0), words == 2 && word(1) != 0, blocks[self.at + 1 + i].clone())
        })
    }
}

fn find_chunks(ring: &Ring, tail: u64, blocks: &[Bytes]) -> Result<Vec<Chunk>> {
    let mut chunks = Vec::new();
    let mut at = 0;
    while at < blocks.len() {
        match MetaHeader::kind_of(&blocks[at]) {
            Some(MetaType::LogHeader) => at += 1,
            Some(MetaType::LogDescriptor) => {
                let (head, rest) = LogDescriptor::ref_from_prefix(&blocks[at])
                    .map_err(|_| corrupt(ring, tail + at as u64, "a whole log descriptor", "a short block"))?;
                let (kind, length, count) = (head.kind.get(), head.length.get() as usize, head.count.get() as usize);
                let words = match kind {
                    descriptor::METADATA => 1,
                    descriptor::JOURNALED_DATA => 2,
                    descriptor::REVOKE => 0,
                    other => {
                        let found = format!("type {other}");
                        return Err(corrupt(ring, tail + at as u64, "a known descriptor", &found));
                    }
                };
                let fits = length >= 1 && at + length <= blocks.len();
                if !fits || words > 0 && (count + 1 > length || count * words * 8 > rest.len()) {
                    let found = format!("length {length} with {count} entries");
                    return Err(corrupt(ring, tail + at as u64, "a descriptor within the log", &found));
                }
                chunks.push(Chunk { at, kind, length, count });
                at += length;
            }
            other => {
                return Err(corrupt(ring, tail + at as u64, "a log header or descriptor", &format!("{other:?}")));
            }
        }
    }
    Ok(chunks)
}

/// The last place of each revoke.
fn collect_revokes(ring: &Ring, tail: u64, blocks: &[Bytes], chunks: &[Chunk]) -> Result<BTreeMap<u64, usize>> {
    let mut revokes = BTreeMap::new();
    for chunk in chunks.iter().filter(|chunk| chunk.kind == descriptor::REVOKE) {
        let mut left = chunk.count;
        for index in 0..chunk.length {
            let from = if index == 0 { size_of::<LogDescriptor>() } else { size_of::<MetaHeader>() };
            for slot in blocks[chunk.at + index][from..].chunks_exact(8).take(left) {
                let number = u64::from_be_bytes(slot.try_into().expect("invariant: 8 bytes"));
                revokes.insert(number, chunk.at);
            }
            left = left.saturating_sub((ring.block_size().as_usize() - from) / 8);
        }
        if left > 0 {
            let found = format!("{} revokes in {} blocks", chunk.count, chunk.length);
            return Err(corrupt(ring, tail + chunk.at as u64, "room for every revoke", &found));
        }
    }
    Ok(revokes)
}
