//! Reading a journal: its newest header, and the replay of what follows its tail.
//!
//! Two passes over the log from tail to head: the first collects revokes and, for each block, the last entry that no
//! later revoke voids; the second writes those in place. Then the node's part of the totals is settled (`settle`) and
//! a clean header ends the log. Everything is checked in the first pass, before anything is written; memory is some
//! bytes for each entry, never the log. Replaying twice, or again after being cut off at any write, gives the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use block_core::{BlockDevice, ByteLen, Durability};
use bytes::Bytes;
use gfs_format::log::{descriptor, flags};
use gfs_format::{LogDescriptor, LogHeader, MetaHeader, MetaType};
use zerocopy::FromBytes;

use super::commit::start_all;
use super::header::{HeaderFacts, HeaderPlace, SpaceChange, header_block};
use super::ring::Ring;
use super::settle::{Settlement, settle};
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
    /// The dead node's difference to the totals, when the caller has to add it.
    pub space: SpaceChange,
}

/// Who adds the dead node's difference to the filesystem's totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Totals {
    /// The caller, in a transaction of its own: others are mounted and may have the totals in memory.
    Caller,
    /// The replay, in the inode at this block: nobody else has the filesystem. A crash adds it once.
    Replay { statfs: u64 },
}

/// Reads blocks from `from` on as they lie together, at most up to `to`; at least one.
async fn read_run(device: &Arc<dyn BlockDevice>, ring: &Ring, from: u64, to: u64) -> Result<Vec<Bytes>> {
    let size = ring.block_size();
    let (address, contiguous) = ring.address(from);
    let count = contiguous.min(to - from).min(READ_BLOCKS);
    let bytes = device.read(ring.offset(address), ByteLen(count * size.bytes())).await?;
    let block = |index: u64| {
        let start = usize::try_from(index).expect("invariant: bounded by READ_BLOCKS") * size.as_usize();
        bytes.slice(start..start + size.as_usize())
    };
    Ok((0..count).map(block).collect())
}

/// The newest valid header of a journal.
pub async fn newest_header(device: &Arc<dyn BlockDevice>, ring: &Ring) -> Result<LogHeader> {
    let mut newest: Option<LogHeader> = None;
    let mut position = 0;
    while position < ring.blocks() {
        for block in read_run(device, ring, position, ring.blocks()).await? {
            if let Ok(header) = LogHeader::decode(&block, ring.index(position))
                && newest.is_none_or(|other| header.sequence > other.sequence)
            {
                newest = Some(header);
            }
            position += 1;
        }
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

/// A journal to recover.
#[derive(Clone, Copy)]
pub struct JournalParts<'a> {
    pub ring: &'a Ring,
    pub facts: &'a HeaderFacts,
}

/// Replays those of `journals` that are dirty and marks them clean; what was done for each, `None` for a clean one.
/// A log that makes no sense, or that names blocks beyond the device, is refused before anything of it is written.
pub async fn recover(
    device: &Arc<dyn BlockDevice>,
    journals: &[JournalParts<'_>],
    totals: Totals,
    now: base::WallTime,
) -> Result<Vec<Option<Replayed>>> {
    let mut done = Vec::new();
    let mut places = Vec::new();
    // The totals may lie in one journal while another has a difference to them, so all blocks come first.
    for parts in journals {
        let header = newest_header(device, parts.ring).await?;
        if is_clean(&header) {
            done.push(None);
            places.push(None);
            continue;
        }
        let (replayed, end) = replay_blocks(device, parts, &header, totals).await?;
        let mut place = HeaderPlace {
            position: end + 1,
            tail: end + 1,
            sequence: header.sequence.get() + 1,
            flags: flags::RECOVERY,
        };
        if totals != Totals::Caller {
            // Everything is in place: a replay after a crash must not put older totals over those settled below.
            put_header(device, parts, &place, replayed.space, now).await?;
            place = place.next();
        }
        done.push(Some(replayed));
        places.push(Some((place, header)));
    }
    for ((parts, place), done) in journals.iter().zip(places).zip(&mut done) {
        let (Some((mut place, header)), Some(done)) = (place, done) else { continue };
        if let Totals::Replay { statfs } = totals {
            let settlement = Settlement::prepare(device, parts, &Scan::default(), statfs, &header).await?;
            if let Some(settlement) = settlement {
                place = settle(device, parts, &settlement, place, now).await?;
            }
            done.space = SpaceChange::default();
        }
        place.flags = flags::UNMOUNT | flags::RECOVERY;
        put_header(device, parts, &place, SpaceChange::default(), now).await?;
    }
    Ok(done)
}

/// Checks a log, writes its blocks in place and flushes them; also gives the position of its head.
async fn replay_blocks(
    device: &Arc<dyn BlockDevice>,
    parts: &JournalParts<'_>,
    header: &LogHeader,
    totals: Totals,
) -> Result<(Replayed, u64)> {
    let ring = parts.ring;
    let tail = u64::from(header.tail.get());
    let head = u64::from(header.block.get());
    if tail >= ring.blocks() || head >= ring.blocks() {
        return Err(corrupt(ring, head, "a tail within the journal", &format!("tail {tail}")));
    }
    if header.sequence.get() > u64::MAX - HEADERS_MAX {
        let found = header.sequence.get().to_string();
        return Err(corrupt(ring, head, "a sequence that has a successor", &found));
    }
    let end = if head >= tail { head } else { head + ring.blocks() };
    let scan = Scan::read(device, ring, tail, end).await?;
    if let Totals::Replay { statfs } = totals {
        // Only whether it can be done: the totals may still change.
        Settlement::prepare(device, parts, &scan, statfs, header).await?;
    }
    scan.write_in_place(device, ring, tail, end).await?;
    device.flush().await?;
    let space = header_space(header);
    Ok((Replayed { blocks: scan.entries.len() as u64, revoked: scan.revoked, space }, end))
}

/// Headers that a recovery writes at most.
const HEADERS_MAX: u64 = 3;

/// The node's difference to the totals, as its newest header has it.
pub(super) fn header_space(header: &LogHeader) -> SpaceChange {
    SpaceChange {
        total: header.local_total.get().cast_signed(),
        free: header.local_free.get().cast_signed(),
        dinodes: header.local_dinodes.get().cast_signed(),
    }
}

/// Writes a header, forced.
pub(super) async fn put_header(
    device: &Arc<dyn BlockDevice>,
    parts: &JournalParts<'_>,
    place: &HeaderPlace,
    space: SpaceChange,
    now: base::WallTime,
) -> Result<()> {
    let block = header_block(parts.ring, parts.facts, place, space, now);
    let at = parts.ring.offset(parts.ring.address(place.position).0);
    Ok(device.write(at, vec![block], Durability::Forced).await?)
}

pub(super) fn corrupt(ring: &Ring, position: u64, expected: &str, found: &str) -> Error {
    Error::Corrupt { block: ring.address(position).0, expected: expected.into(), found: found.into() }
}

/// A journaled data block that began with the magic is logged with its first word zero.
pub(super) fn unescape(data: &[u8]) -> Bytes {
    let mut block = data.to_vec();
    block[..4].copy_from_slice(&gfs_format::header::MAGIC.to_be_bytes());
    block.into()
}

/// A logged block that has to be written.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// Position of its content in the log.
    pub(super) position: u64,
    pub(super) is_escaped: bool,
}

/// What the log says, after the first pass.
#[derive(Default)]
pub(super) struct Scan {
    /// By block, the last entry.
    pub(super) entries: BTreeMap<u64, Entry>,
    revoked: u64,
}

/// The chunk that the first pass is in.
struct Chunk {
    position: u64,
    kind: u32,
    /// Blocks, the descriptor's included, and how many have been seen.
    length: u64,
    seen: u64,
    /// Entries stated, and revokes seen.
    count: u64,
    revokes: u64,
    descriptor: Bytes,
}

impl Scan {
    async fn read(device: &Arc<dyn BlockDevice>, ring: &Ring, tail: u64, end: u64) -> Result<Scan> {
        let mut pass = FirstPass {
            ring,
            end,
            device_blocks: device.geometry().size().0 / ring.block_size().bytes(),
            chunk: None,
            logged: BTreeMap::new(),
            revoked: 0,
        };
        let mut position = tail;
        while position < end {
            for block in read_run(device, ring, position, end).await? {
                pass.take(position, block)?;
                position += 1;
            }
        }
        let FirstPass { logged, revoked, .. } = pass;
        Ok(Scan { entries: logged, revoked })
    }

    /// The second pass.
    async fn write_in_place(&self, device: &Arc<dyn BlockDevice>, ring: &Ring, tail: u64, end: u64) -> Result<()> {
        let blocks: BTreeMap<u64, u64> = self.entries.iter().map(|(block, entry)| (entry.position, *block)).collect();
        let mut position = tail;
        while position < end {
            let run = read_run(device, ring, position, end).await?;
            let mut contents: BTreeMap<u64, Bytes> = BTreeMap::new();
            for data in run {
                if let Some(block) = blocks.get(&position) {
                    let is_escaped = self.entries.get(block).is_some_and(|entry| entry.is_escaped);
                    contents.insert(*block, if is_escaped { unescape(&data) } else { data });
                }
                position += 1;
            }
            // Blocks that lie together are one write.
            let mut writes: Vec<(u64, Vec<Bytes>)> = Vec::new();
            for (block, data) in contents {
                match writes.last_mut() {
                    Some((first, run)) if *first + run.len() as u64 == block => run.push(data),
                    _ => writes.push((block, vec![data])),
                }
            }
            let writes = writes.into_iter().map(|(b, run)| device.write(ring.offset(b), run, Durability::Cached));
            for written in start_all(writes.collect()).await {
                written?;
            }
        }
        Ok(())
    }
}

/// Takes the blocks from tail to head one by one.
struct FirstPass<'a> {
    ring: &'a Ring,
    end: u64,
    device_blocks: u64,
    chunk: Option<Chunk>,
    logged: BTreeMap<u64, Entry>,
    revoked: u64,
}

impl FirstPass<'_> {
    fn take(&mut self, position: u64, block: Bytes) -> Result<()> {
        let Some(chunk) = self.chunk.take() else { return self.begin(position, block) };
        self.inside(chunk, position, &block)
    }

    /// A block that no chunk describes: a header, or a descriptor.
    fn begin(&mut self, position: u64, block: Bytes) -> Result<()> {
        let refuse = |expected: &str, found: &str| Err(corrupt(self.ring, position, expected, found));
        match MetaHeader::kind_of(&block) {
            Some(MetaType::LogHeader) => match LogHeader::decode(&block, self.ring.index(position)) {
                Ok(_) => Ok(()),
                Err(error) => refuse("a log header with correct checksums", &error.to_string()),
            },
            Some(MetaType::LogDescriptor) => {
                let Ok((head, rest)) = LogDescriptor::ref_from_prefix(&block) else {
                    return refuse("a whole log descriptor", "a short block");
                };
                let (kind, length) = (head.kind.get(), u64::from(head.length.get()));
                let (count, room) = (u64::from(head.count.get()), rest.len() as u64);
                let words = match kind {
                    descriptor::METADATA => 1,
                    descriptor::JOURNALED_DATA => 2,
                    descriptor::REVOKE => 0,
                    other => return refuse("a known descriptor", &format!("type {other}")),
                };
                let fits = length >= 1 && length <= self.end - position;
                if !fits || words > 0 && (count + 1 > length || count * words * 8 > room) {
                    let found = format!("length {length} with {count} entries");
                    return refuse("a descriptor within the log", &found);
                }
                let mut chunk = Chunk { position, kind, length, seen: 1, count, revokes: 0, descriptor: block.clone() };
                if kind == descriptor::REVOKE {
                    self.add_revokes(&mut chunk, &block[size_of::<LogDescriptor>()..]);
                }
                self.keep(chunk)
            }
            other => refuse("a log header or descriptor", &format!("{other:?}")),
        }
    }

    /// The next block of a chunk.
    fn inside(&mut self, mut chunk: Chunk, position: u64, block: &Bytes) -> Result<()> {
        let index = chunk.seen - 1;
        chunk.seen += 1;
        let refuse = |expected: &str, found: &str| Err(corrupt(self.ring, position, expected, found));
        match chunk.kind {
            descriptor::REVOKE => {
                if let Err(error) = MetaHeader::check(block, MetaType::LogBlock) {
                    return refuse("more revokes", &error.to_string());
                }
                self.add_revokes(&mut chunk, &block[size_of::<MetaHeader>()..]);
            }
            kind if index < chunk.count => {
                let words = if kind == descriptor::JOURNALED_DATA { 2 } else { 1 };
                let word = |n: u64| {
                    let at = size_of::<LogDescriptor>() + ((index * words + n) * 8) as usize;
                    let bytes = &chunk.descriptor[at..at + 8];
                    u64::from_be_bytes(bytes.try_into().expect("invariant: 8 bytes"))
                };
                if kind == descriptor::METADATA && block[..4] != gfs_format::header::MAGIC.to_be_bytes() {
                    return refuse("metadata in the log", "a block without the magic number");
                }
                let number = word(0);
                let first = gfs_format::superblock::SUPERBLOCK_OFFSET / self.ring.block_size().bytes();
                if number < first || number >= self.device_blocks {
                    return Err(corrupt(self.ring, chunk.position, "a block of the device", &number.to_string()));
                }
                self.logged.insert(number, Entry { position, is_escaped: words == 2 && word(1) != 0 });
            }
            _ => {}
        }
        self.keep(chunk)
    }

    /// Goes on with a chunk, or ends it.
    fn keep(&mut self, chunk: Chunk) -> Result<()> {
        if chunk.seen < chunk.length {
            self.chunk = Some(chunk);
        } else if chunk.kind == descriptor::REVOKE && chunk.revokes < chunk.count {
            let found = format!("{} revokes in {} blocks", chunk.count, chunk.length);
            return Err(corrupt(self.ring, chunk.position, "room for every revoke", &found));
        }
        Ok(())
    }

    /// Takes revokes in: an entry that came before one is void, a later one is not.
    fn add_revokes(&mut self, chunk: &mut Chunk, slots: &[u8]) {
        for slot in slots.chunks_exact(8).take((chunk.count - chunk.revokes) as usize) {
            let number = u64::from_be_bytes(slot.try_into().expect("invariant: 8 bytes"));
            chunk.revokes += 1;
            if self.logged.remove(&number).is_some() {
                self.revoked += 1;
            }
        }
    }
}
