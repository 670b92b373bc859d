//! A log taken apart: every header and descriptor in it, in the order in which they were written.
//!
//! The newest header with correct checksums is the head. Reading starts behind it, where the oldest remains lie, and
//! ends with it; what lies from the head's tail on is live, the rest is history. Nothing in a log is trusted: a length
//! that is too long ends where the next header or descriptor begins.

use bytes::Bytes;
use gfs_format::log::{LogHeaderError, descriptor, flags};
use gfs_format::{LogDescriptor, LogHeader, MetaHeader, MetaType};
use zerocopy::FromBytes;

use super::locate::{Journal, Journals};
use crate::report::{Finding, Kind};
use crate::source::{CheckError, Source};

/// One journal's log.
#[derive(Clone, Debug)]
pub struct Log {
    /// Number of the journal.
    pub journal: u32,
    /// Blocks of the log.
    pub blocks: u32,
    /// The newest header.
    pub head: LogHeader,
    /// Headers and descriptors, the oldest first, the head last.
    pub items: Vec<Item>,
}

/// A header or a descriptor.
#[derive(Clone, Debug)]
pub struct Item {
    /// Block within the log, and on the disk.
    pub at: u32,
    pub address: u64,
    /// Lies from the tail on: a replay looks at it.
    pub is_live: bool,
    pub content: Content,
}

/// What it is.
#[derive(Clone, Debug)]
pub enum Content {
    Header {
        header: Box<LogHeader>,
        verdict: Result<(), LogHeaderError>,
    },
    Chunk(Chunk),
    /// Live, and neither a header nor a descriptor nor described by one.
    Stray(Option<MetaType>),
}

/// A descriptor and what it describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// `ld_type`: one of `log::descriptor`.
    pub kind: u32,
    /// Blocks, the descriptor's included.
    pub length: u32,
    /// Entries that it states.
    pub count: u32,
    /// Logged blocks, for metadata and journaled data.
    pub blocks: Vec<Logged>,
    /// Blocks whose earlier entries are void.
    pub revokes: Vec<u64>,
    /// What is wrong with it.
    pub fault: Option<String>,
}

/// A logged block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Where it belongs on the disk.
    pub block: u64,
    /// Where its content lies: block within the log, and on the disk.
    pub at: u32,
    pub address: u64,
    /// Journaled data that began with the magic, which the log replaces by a zero.
    pub is_escaped: bool,
    /// What it looks like; `None` for data.
    pub kind: Option<MetaType>,
}

impl Log {
    /// Reads a journal.
    pub async fn read(journals: &Journals, journal: &Journal) -> Result<Log, CheckError> {
        Log::read_from(&journals.source, journal).await
    }

    pub(crate) async fn read_from(source: &Source, journal: &Journal) -> Result<Log, CheckError> {
        let head = head_or_damaged(source, journal).await?;
        let blocks = journal.map.len() as u32;
        let mut reader = Reader { journal, head, blocks, items: Vec::new(), open: None };
        let mut done = 0;
        while done < blocks {
            let at = ((u64::from(head.block.get()) + 1 + u64::from(done)) % u64::from(blocks)) as u32;
            let bytes = journal.read_from(source, at as usize, (blocks - done) as usize).await?;
            for (index, block) in (0..).zip(bytes.chunks_exact(source.block.as_usize())) {
                reader.take(at + index, block);
                done += 1;
            }
        }
        reader.close();
        Ok(Log { journal: journal.index, blocks, head, items: reader.items })
    }

    /// Whether nothing needs replaying.
    pub fn is_clean(&self) -> bool {
        self.head.flags.get() & flags::UNMOUNT != 0
    }

    /// Whether the live part reaches over the end of the log.
    pub fn wraps(&self) -> bool {
        self.head.tail.get() > self.head.block.get()
    }
}

/// The headers of a log.
pub(crate) struct Headers {
    /// The newest with correct checksums.
    pub(crate) head: Option<LogHeader>,
    /// A header out of order: its block in the log, its sequence, and that of the one before it. Around the ring from
    /// the head, sequences only rise; otherwise the kernel may take another header for the newest.
    pub(crate) disorder: Option<(u32, u64, u64)>,
}

/// Looks at every block of a log for headers.
pub(crate) async fn find_headers(source: &Source, journal: &Journal) -> Result<Headers, CheckError> {
    let mut found = Headers { head: None, disorder: None };
    let (mut first, mut last, mut has_wrapped) = (None, None, false);
    let mut at = 0;
    while at < journal.map.len() {
        let bytes = journal.read_from(source, at, usize::MAX).await?;
        for block in bytes.chunks_exact(source.block.as_usize()) {
            if let Ok(header) = LogHeader::decode(block, at as u32) {
                let sequence = header.sequence.get();
                let is_newest = found.head.is_none_or(|head| head.sequence.get() < sequence);
                // Behind the newest come the oldest, which are older than what stands at the start.
                let falls = last.is_some_and(|last| sequence <= last);
                let is_wrong =
                    falls && has_wrapped || has_wrapped | falls && first.is_some_and(|first| sequence >= first);
                if is_wrong && found.disorder.is_none() {
                    found.disorder = Some((at as u32, sequence, last.unwrap_or_default()));
                }
                has_wrapped |= falls;
                first = first.or(Some(sequence));
                last = Some(sequence);
                if is_newest {
                    found.head = Some(header);
                }
            }
            at += 1;
        }
    }
    Ok(found)
}

async fn head_or_damaged(source: &Source, journal: &Journal) -> Result<LogHeader, CheckError> {
    find_headers(source, journal).await?.head.ok_or_else(|| {
        CheckError::Damaged(Box::new(Finding {
            kind: Kind::Journal,
            block: journal.inode,
            inode: None,
            expected: format!("a log header with correct checksums in journal {}", journal.index),
            found: "none".into(),
        }))
    })
}

/// Takes the blocks of a log one by one.
struct Reader<'a> {
    journal: &'a Journal,
    head: LogHeader,
    blocks: u32,
    items: Vec<Item>,
    /// The chunk that is being read, with the descriptor's entries.
    open: Option<Open>,
}

struct Open {
    at: u32,
    chunk: Chunk,
    /// The descriptor's block.
    bytes: Bytes,
    /// Blocks of it that have been taken.
    taken: u32,
}

impl Reader<'_> {
    /// Distance of a block from the tail, going forward.
    fn behind_tail(&self, at: u32) -> u64 {
        let blocks = u64::from(self.blocks);
        (u64::from(at) + blocks - u64::from(self.head.tail.get()) % blocks) % blocks
    }

    fn is_live(&self, at: u32) -> bool {
        self.behind_tail(at) <= self.behind_tail(self.head.block.get())
    }

    fn push(&mut self, at: u32, content: Content) {
        let address = self.journal.map[at as usize];
        self.items.push(Item { at, address, is_live: self.is_live(at), content });
    }

    fn take(&mut self, at: u32, block: &[u8]) {
        let kind = MetaHeader::kind_of(block);
        let is_live = self.is_live(at);
        match kind {
            Some(MetaType::LogHeader) => {
                self.close();
                let verdict = LogHeader::decode(block, at).map(|_| ());
                let Ok((header, _)) = LogHeader::read_from_prefix(block) else { return };
                self.push(at, Content::Header { header: Box::new(header), verdict });
            }
            Some(MetaType::LogDescriptor) => {
                self.close();
                self.begin(at, block);
            }
            _ => match &mut self.open {
                Some(open) => {
                    open.take(at, self.journal.map[at as usize], block, kind);
                    if open.taken >= open.chunk.length {
                        self.close();
                    }
                }
                None if is_live => self.push(at, Content::Stray(kind)),
                None => {}
            },
        }
    }

    fn begin(&mut self, at: u32, block: &[u8]) {
        let Ok((head, _)) = LogDescriptor::ref_from_prefix(block) else { return };
        let (kind, length, count) = (head.kind.get(), head.length.get(), head.count.get());
        let mut chunk = Chunk { kind, length, count, blocks: Vec::new(), revokes: Vec::new(), fault: None };
        let room = (block.len() - size_of::<LogDescriptor>()) / 8;
        let words = match kind {
            descriptor::METADATA => 1,
            descriptor::JOURNALED_DATA => 2,
            _ => 0,
        };
        if !matches!(kind, descriptor::METADATA | descriptor::JOURNALED_DATA | descriptor::REVOKE) {
            chunk.fault = Some(format!("a descriptor of the unknown type {kind}"));
        } else if length == 0 || length > self.blocks {
            chunk.fault = Some(format!("a length of {length} blocks"));
        } else if words > 0 && (count as usize > room / words || count >= length) {
            chunk.fault = Some(format!("{count} blocks in a length of {length}"));
        }
        let mut open = Open { at, chunk, bytes: Bytes::copy_from_slice(block), taken: 1 };
        if kind == descriptor::REVOKE {
            open.add_revokes(block, size_of::<LogDescriptor>());
        }
        let is_whole = length <= 1;
        self.open = Some(open);
        if is_whole {
            self.close();
        }
    }

    fn close(&mut self) {
        let Some(Open { at, mut chunk, taken, .. }) = self.open.take() else { return };
        if chunk.fault.is_none() && taken < chunk.length {
            chunk.fault = Some(format!("{taken} blocks of a length of {}", chunk.length));
        }
        if chunk.fault.is_none() && chunk.kind == descriptor::REVOKE && chunk.revokes.len() < chunk.count as usize {
            chunk.fault = Some(format!("{} revokes of {}", chunk.revokes.len(), chunk.count));
        }
        self.push(at, Content::Chunk(chunk));
    }
}

impl Open {
    fn take(&mut self, at: u32, address: u64, block: &[u8], kind: Option<MetaType>) {
        let index = self.taken as usize - 1;
        self.taken += 1;
        if self.chunk.kind == descriptor::REVOKE {
            if kind != Some(MetaType::LogBlock) && self.chunk.fault.is_none() {
                self.chunk.fault = Some(format!("no revokes in block {at} of the log"));
            }
            self.add_revokes(block, size_of::<MetaHeader>());
            return;
        }
        let words = if self.chunk.kind == descriptor::JOURNALED_DATA { 2 } else { 1 };
        if index >= self.chunk.count as usize {
            return;
        }
        let word = |n: usize| {
            let from = size_of::<LogDescriptor>() + (index * words + n) * 8;
            let bytes = self.bytes.get(from..from + 8)?;
            Some(u64::from_be_bytes(bytes.try_into().ok()?))
        };
        let has_magic = block.get(..4) == Some(&gfs_format::header::MAGIC.to_be_bytes()[..]);
        let Some(block) = word(0) else { return };
        let is_escaped = words == 2 && word(1).is_some_and(|escape| escape != 0);
        if self.chunk.kind == descriptor::METADATA && !has_magic && self.chunk.fault.is_none() {
            self.chunk.fault = Some(format!("no metadata in block {at} of the log"));
        }
        self.chunk.blocks.push(Logged { block, at, address, is_escaped, kind });
    }

    fn add_revokes(&mut self, block: &[u8], from: usize) {
        let left = (self.chunk.count as usize).saturating_sub(self.chunk.revokes.len());
        let slots = block[from..].chunks_exact(8).take(left);
        self.chunk.revokes.extend(slots.map(|slot| u64::from_be_bytes(slot.try_into().unwrap_or_default())));
    }
}
