//! Every block of the new filesystem: which are in use, and what is in them. Pure.
//!
//! Blocks are given out in rising order, so the blocks in use of a group are always a prefix of
//! it; what is big (journals, quota change files) is described and made when it is written.
//! Nothing here reads a clock or a random source: [`Options`] has the time and the UUID.

use gfs_format::dinode::{PAYLOAD_DIRECTORY, PAYLOAD_QUOTA, PAYLOAD_RESOURCE_INDEX, flags};
use gfs_format::log::flags as log_flags;
use gfs_format::small_files::{Quota, StatfsChange};
use gfs_format::superblock::MULTIHOST_FORMAT;
use gfs_format::{
    BlockSize, BlockState, Dinode, InodeNumberPair, LogHeader, MetaHeader, MetaType, ResourceGroup, ResourceIndexEntry,
    Superblock, bitmap,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::directory::{self, Entry, KIND_DIRECTORY, KIND_FILE, Shape};
use crate::error::MkfsError;
use crate::geometry::{Geometry, Group};
use crate::options::Options;
use crate::tree::TreeShape;

const DIRECTORY_MODE: u32 = 0o040_755;
const PRIVATE_DIRECTORY_MODE: u32 = 0o040_700;
const FILE_MODE: u32 = 0o100_600;

/// A block and its content.
pub type BlockContent = (u64, Vec<u8>);

/// Which blocks of a group are in use: the first `used`, of them `dinodes` (offsets, rising).
#[derive(Clone, Debug, Default)]
struct Use {
    used: u32,
    dinodes: Vec<u32>,
}

/// Consecutive blocks of a quota change file: empty, with a header each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaChangeRun {
    pub start: u64,
    pub count: u64,
}

/// Everything that is to be written.
pub struct Plan {
    pub geometry: Geometry,
    /// Blocks with content of their own, rising.
    pub blocks: Vec<BlockContent>,
    pub quota_changes: Vec<QuotaChangeRun>,
    pub superblock: Superblock,
    /// Formal inode number and dinode block of each journal.
    journals: Vec<InodeNumberPair>,
    uses: Vec<Use>,
    seconds: u64,
    sequence_seed: u64,
}

/// What a dinode says beyond its number and times.
struct Inode {
    mode: u32,
    links: u32,
    size: u64,
    blocks: u64,
    goal_meta: u64,
    goal_data: u64,
    flags: u32,
    payload: u32,
    height: u16,
    depth: u16,
    entries: u32,
}

struct Builder<'a> {
    geometry: &'a Geometry,
    seconds: u64,
    uses: Vec<Use>,
    /// The first group that may have free blocks.
    cursor: usize,
    blocks: Vec<BlockContent>,
    quota_changes: Vec<QuotaChangeRun>,
    formal: u64,
}

impl Plan {
    /// Plans a filesystem on a device of `device_bytes`.
    pub fn new(device_bytes: u64, options: &Options) -> Result<Plan, MkfsError> {
        options.check()?;
        let geometry = Geometry::new(device_bytes, options)?;
        let mut builder = Builder::new(&geometry, options.seconds);
        let journals = builder.place_journals()?;
        let (master, root) = builder.place_files(&journals, options)?;
        let Builder { uses, mut blocks, quota_changes, .. } = builder;
        blocks.sort_by_key(|(address, _)| *address);
        let superblock = superblock(geometry.block, options, master, root);
        let sequence_seed = u64::from(gfs_format::directory::name_hash(&options.uuid));
        Ok(Plan {
            geometry,
            blocks,
            quota_changes,
            superblock,
            journals,
            uses,
            seconds: options.seconds,
            sequence_seed,
        })
    }

    /// Number of journals.
    pub fn journal_count(&self) -> usize {
        self.journals.len()
    }

    /// The dinode and the pointer blocks of journal `index`, which lie one behind the other, and
    /// the first block of the log itself, which follows them.
    pub fn journal_tree(&self, index: usize) -> (Vec<BlockContent>, u64) {
        let block = self.geometry.block;
        let number = self.journals[index];
        let dinode = number.address.get();
        let shape = TreeShape::of_file(block, self.geometry.journal_blocks());
        let first = dinode + 1 + shape.pointer_blocks();
        let pointers: Vec<u64> = (dinode + 1..first).collect();
        let data: Vec<u64> = (first..first + shape.data_blocks).collect();
        let (top, mut blocks) = shape.build(block, &pointers, &data);
        let inode = Inode {
            mode: FILE_MODE,
            links: 1,
            size: shape.data_blocks * block.bytes(),
            blocks: shape.blocks(),
            goal_meta: first - 1,
            goal_data: first + shape.data_blocks - 1,
            flags: flags::SYSTEM,
            payload: 0,
            height: shape.height(),
            depth: 0,
            entries: 0,
        };
        blocks.push((dinode, dinode_block(block, number, self.seconds, inode, &pointer_bytes(&top))));
        blocks.sort_by_key(|(address, _)| *address);
        (blocks, first)
    }

    /// Fills `into` with block `block` of the log of journal `index`, whose log starts at `first`.
    /// Every block of a new log is a header of a clean log, in one rising sequence that starts at
    /// an arbitrary number, so that what an earlier filesystem left can never look newer.
    pub fn log_block(&self, index: usize, first: u64, block: u32, into: &mut [u8]) {
        let length = self.geometry.journal_blocks();
        // Any start will do; journals differ so that a header cannot be taken for another's.
        let start = (self.sequence_seed + index as u64 * 7919) % length;
        clean_log_block(self.journals[index].address.get(), start, length, block, first + u64::from(block), into);
    }

    /// Header and bitmaps of group `index`.
    pub fn group_blocks(&self, index: usize) -> Vec<u8> {
        let block = self.geometry.block;
        let group = &self.geometry.groups[index];
        let in_use = &self.uses[index];
        let mut header = ResourceGroup {
            header: MetaHeader::new(MetaType::ResourceGroup),
            flags: 0.into(),
            free: (group.data_blocks - in_use.used).into(),
            dinodes: (in_use.dinodes.len() as u32).into(),
            skip: self.geometry.groups.get(index + 1).map_or(0, |next| (next.address - group.address) as u32).into(),
            inode_generation: 0.into(),
            data_start: group.data_start.into(),
            data_blocks: group.data_blocks.into(),
            bitmap_bytes: group.bitmap_bytes().into(),
            crc: 0.into(),
            reserved: [0; 60],
        };
        header.seal();
        let map = bitmap_of(group, in_use);
        let mut bytes = Vec::with_capacity(group.length as usize * block.as_usize());
        bytes.extend_from_slice(header.as_bytes());
        let (in_header, rest) = map.split_at(map.len().min(block.group_header_bitmap_bytes() as usize));
        bytes.extend_from_slice(in_header);
        bytes.resize(block.as_usize(), 0);
        for part in rest.chunks(block.group_bitmap_bytes() as usize) {
            bytes.extend_from_slice(MetaHeader::new(MetaType::ResourceGroupBitmap).as_bytes());
            bytes.extend_from_slice(part);
            bytes.resize(bytes.len().next_multiple_of(block.as_usize()), 0);
        }
        // A header may be one bitmap block longer than needed, where the span was tight.
        while bytes.len() < group.length as usize * block.as_usize() {
            bytes.extend_from_slice(MetaHeader::new(MetaType::ResourceGroupBitmap).as_bytes());
            bytes.resize(bytes.len().next_multiple_of(block.as_usize()), 0);
        }
        bytes
    }

    /// A block of a quota change file with nothing in it.
    pub fn quota_change_block(&self) -> Vec<u8> {
        let mut bytes = MetaHeader::new(MetaType::QuotaChange).as_bytes().to_vec();
        bytes.resize(self.geometry.block.as_usize(), 0);
        bytes
    }
}

/// Fills `into` with block `block` of a new log of `length` blocks: the header of a clean log, one of a rising sequence
/// that begins with `start`. It lies at `address` and belongs to the journal whose dinode is `inode`.
pub(crate) fn clean_log_block(inode: u64, start: u64, length: u64, block: u32, address: u64, into: &mut [u8]) {
    let header = LogHeader {
        header: MetaHeader::new(MetaType::LogHeader),
        sequence: ((start + u64::from(block)) % length).into(),
        flags: (log_flags::UNMOUNT | log_flags::USERSPACE).into(),
        tail: 0.into(),
        block: block.into(),
        address: address.into(),
        journal_inode: inode.into(),
        ..LogHeader::new_zeroed()
    };
    header.encode(into);
}

impl<'a> Builder<'a> {
    fn new(geometry: &'a Geometry, seconds: u64) -> Builder<'a> {
        let uses = vec![Use::default(); geometry.groups.len()];
        Builder { geometry, seconds, uses, cursor: 0, blocks: Vec::new(), quota_changes: Vec::new(), formal: 1 }
    }

    /// Each journal fills the front of its own group.
    fn place_journals(&mut self) -> Result<Vec<InodeNumberPair>, MkfsError> {
        let shape = TreeShape::of_file(self.geometry.block, self.geometry.journal_blocks());
        let used = u32::try_from(shape.blocks()).map_err(|_| MkfsError::DoesNotFit)?;
        let geometry = self.geometry;
        let groups = &geometry.groups[..geometry.journals as usize];
        for in_use in &mut self.uses[..groups.len()] {
            *in_use = Use { used, dinodes: vec![0] };
        }
        Ok(groups.iter().map(|group| self.number(group.data_start)).collect())
    }

    /// The system directories and files and the root; gives the numbers of master and root.
    fn place_files(
        &mut self,
        journals: &[InodeNumberPair],
        options: &Options,
    ) -> Result<(InodeNumberPair, InodeNumberPair), MkfsError> {
        let master = self.dinode()?;
        let jindex = self.dinode()?;
        let per_node = self.dinode()?;
        let mut entries = dots(jindex, master);
        for (index, journal) in journals.iter().enumerate() {
            entries.push(Entry::new(format!("journal{index}"), *journal, KIND_FILE));
        }
        self.directory(jindex, PRIVATE_DIRECTORY_MODE, flags::SYSTEM, entries)?;

        let mut entries = dots(per_node, master);
        for index in 0..journals.len() {
            let inum_range = self.small_file(vec![0; 16], 0)?;
            let statfs_change = self.small_file(vec![0; 24], 0)?;
            let quota_change = self.quota_change_file(options.quota_change_mb)?;
            entries.push(Entry::new(format!("inum_range{index}"), inum_range, KIND_FILE));
            entries.push(Entry::new(format!("statfs_change{index}"), statfs_change, KIND_FILE));
            entries.push(Entry::new(format!("quota_change{index}"), quota_change, KIND_FILE));
        }
        self.directory(per_node, PRIVATE_DIRECTORY_MODE, flags::SYSTEM, entries)?;

        let inum = self.dinode()?;
        let statfs = self.dinode()?;
        let rindex = self.small_file(resource_index(&self.geometry.groups), PAYLOAD_RESOURCE_INDEX)?;
        let quota = self.small_file(first_quotas(), PAYLOAD_QUOTA)?;
        let root = self.dinode()?;
        self.directory(root, DIRECTORY_MODE, 0, dots(root, root))?;
        let mut entries = dots(master, master);
        entries.push(Entry::new("jindex", jindex, KIND_DIRECTORY));
        entries.push(Entry::new("per_node", per_node, KIND_DIRECTORY));
        for (name, number) in [("inum", inum), ("statfs", statfs), ("rindex", rindex), ("quota", quota)] {
            entries.push(Entry::new(name, number, KIND_FILE));
        }
        self.directory(master, DIRECTORY_MODE, flags::SYSTEM, entries)?;

        // Last, because they count what all the others took.
        self.stuffed(inum, self.formal.to_be_bytes().to_vec(), 0);
        let totals = self.totals();
        self.stuffed(statfs, totals.as_bytes().to_vec(), 0);
        Ok((master, root))
    }

    fn totals(&self) -> StatfsChange {
        let total: u64 = self.geometry.groups.iter().map(|group| u64::from(group.data_blocks)).sum();
        let used: u64 = self.uses.iter().map(|in_use| u64::from(in_use.used)).sum();
        let dinodes: u64 = self.uses.iter().map(|in_use| in_use.dinodes.len() as u64).sum();
        StatfsChange { total: total.into(), free: (total - used).into(), dinodes: dinodes.into() }
    }

    fn number(&mut self, address: u64) -> InodeNumberPair {
        self.formal += 1;
        InodeNumberPair { formal: (self.formal - 1).into(), address: address.into() }
    }

    /// The next free block; a dinode if so said.
    fn block(&mut self, dinode: bool) -> Result<u64, MkfsError> {
        while let Some(group) = self.geometry.groups.get(self.cursor) {
            let in_use = &mut self.uses[self.cursor];
            if in_use.used < group.data_blocks {
                if dinode {
                    in_use.dinodes.push(in_use.used);
                }
                in_use.used += 1;
                return Ok(group.data_start + u64::from(in_use.used - 1));
            }
            self.cursor += 1;
        }
        Err(MkfsError::DoesNotFit)
    }

    fn data_blocks(&mut self, count: u64) -> Result<Vec<u64>, MkfsError> {
        (0..count).map(|_| self.block(false)).collect()
    }

    fn dinode(&mut self) -> Result<InodeNumberPair, MkfsError> {
        let address = self.block(true)?;
        Ok(self.number(address))
    }

    fn put(&mut self, number: InodeNumberPair, inode: Inode, body: &[u8]) {
        let bytes = dinode_block(self.geometry.block, number, self.seconds, inode, body);
        self.blocks.push((number.address.get(), bytes));
    }

    /// A system file with its content in the dinode.
    fn stuffed(&mut self, number: InodeNumberPair, content: Vec<u8>, payload: u32) {
        let at = number.address.get();
        let inode = Inode {
            mode: FILE_MODE,
            links: 1,
            size: content.len() as u64,
            blocks: 1,
            goal_meta: at,
            goal_data: at,
            flags: flags::SYSTEM | flags::JDATA,
            payload,
            height: 0,
            depth: 0,
            entries: 0,
        };
        self.put(number, inode, &content);
    }

    /// A system file: in the dinode if it fits, else in blocks.
    fn small_file(&mut self, content: Vec<u8>, payload: u32) -> Result<InodeNumberPair, MkfsError> {
        let block = self.geometry.block;
        let number = self.dinode()?;
        if content.len() as u64 <= block.stuffed_bytes() {
            self.stuffed(number, content, payload);
            return Ok(number);
        }
        let size = content.len() as u64;
        let (shape, data, top) = self.tree(size.div_ceil(block.bytes()))?;
        for (address, part) in data.iter().zip(content.chunks(block.as_usize())) {
            let mut bytes = part.to_vec();
            bytes.resize(block.as_usize(), 0);
            self.blocks.push((*address, bytes));
        }
        let last = data.last().copied().unwrap_or(number.address.get());
        let inode = Inode {
            mode: FILE_MODE,
            links: 1,
            size,
            blocks: shape.blocks(),
            goal_meta: last,
            goal_data: number.address.get(),
            flags: flags::SYSTEM | flags::JDATA,
            payload,
            height: shape.height(),
            depth: 0,
            entries: 0,
        };
        self.put(number, inode, &pointer_bytes(&top));
        Ok(number)
    }

    /// Pointer blocks and data blocks for a file; gives the shape, the data blocks and the
    /// dinode's pointers.
    fn tree(&mut self, data_blocks: u64) -> Result<(TreeShape, Vec<u64>, Vec<u64>), MkfsError> {
        let shape = TreeShape::of_file(self.geometry.block, data_blocks);
        let pointers = self.data_blocks(shape.pointer_blocks())?;
        let data = self.data_blocks(data_blocks)?;
        let (top, blocks) = shape.build(self.geometry.block, &pointers, &data);
        self.blocks.extend(blocks);
        Ok((shape, data, top))
    }

    fn quota_change_file(&mut self, mb: u32) -> Result<InodeNumberPair, MkfsError> {
        let size = u64::from(mb) << 20;
        let number = self.dinode()?;
        let (shape, data, top) = self.tree(size / self.geometry.block.bytes())?;
        for address in &data {
            match self.quota_changes.last_mut() {
                Some(run) if run.start + run.count == *address => run.count += 1,
                _ => self.quota_changes.push(QuotaChangeRun { start: *address, count: 1 }),
            }
        }
        let inode = Inode {
            mode: FILE_MODE,
            links: 1,
            size,
            blocks: shape.blocks(),
            goal_meta: data.last().copied().unwrap_or(number.address.get()),
            goal_data: number.address.get(),
            flags: flags::SYSTEM,
            payload: 0,
            height: shape.height(),
            depth: 0,
            entries: 0,
        };
        self.put(number, inode, &pointer_bytes(&top));
        Ok(number)
    }

    /// Writes a directory whose dinode has been taken.
    fn directory(
        &mut self,
        number: InodeNumberPair,
        mode: u32,
        system: u32,
        entries: Vec<Entry>,
    ) -> Result<(), MkfsError> {
        let block = self.geometry.block;
        let at = number.address.get();
        let subdirectories = entries.iter().filter(|entry| entry.kind == KIND_DIRECTORY).count() as u32;
        let mut inode = Inode {
            mode,
            // Each subdirectory's `..`, and for `.` and the name in the parent as many as there are dots.
            links: subdirectories,
            size: block.stuffed_bytes(),
            blocks: 1,
            goal_meta: at,
            goal_data: at,
            flags: flags::JDATA | system,
            payload: PAYLOAD_DIRECTORY,
            height: 0,
            depth: 0,
            entries: entries.len() as u32,
        };
        let Shape::Hashed { depth, leaves } = Shape::choose(block, &entries)? else {
            self.put(number, inode, &directory::records(&entries, block.stuffed_bytes() as usize));
            return Ok(());
        };
        let mut addresses = Vec::new();
        for (leaf_depth, entries) in &leaves {
            let address = self.block(false)?;
            self.blocks.push((address, directory::leaf(block, at, *leaf_depth, self.seconds, entries)));
            addresses.push((*leaf_depth, address));
        }
        let table = directory::table(depth, &addresses);
        inode.size = table.len() as u64;
        inode.blocks += leaves.len() as u64;
        inode.flags |= flags::EXHASH;
        inode.payload = 0;
        inode.depth = depth;
        inode.goal_meta = addresses.last().map_or(at, |(_, address)| *address);
        if table.len() as u64 <= block.stuffed_bytes() {
            self.put(number, inode, &table);
            return Ok(());
        }
        let (shape, data, top) = self.tree((table.len() as u64).div_ceil(block.journaled_bytes()))?;
        for (address, part) in data.iter().zip(table.chunks(block.journaled_bytes() as usize)) {
            let mut bytes = MetaHeader::new(MetaType::JournaledData).as_bytes().to_vec();
            bytes.extend_from_slice(part);
            bytes.resize(block.as_usize(), 0);
            self.blocks.push((*address, bytes));
        }
        inode.blocks += shape.blocks() - 1;
        inode.height = shape.height();
        self.put(number, inode, &pointer_bytes(&top));
        Ok(())
    }
}

fn dots(own: InodeNumberPair, parent: InodeNumberPair) -> Vec<Entry> {
    vec![Entry::new(".", own, KIND_DIRECTORY), Entry::new("..", parent, KIND_DIRECTORY)]
}

fn pointer_bytes(pointers: &[u64]) -> Vec<u8> {
    pointers.iter().flat_map(|pointer| pointer.to_be_bytes()).collect()
}

fn resource_index(groups: &[Group]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(groups.len() * size_of::<ResourceIndexEntry>());
    for group in groups {
        let entry = ResourceIndexEntry {
            address: group.address.into(),
            length: group.length.into(),
            reserved0: [0; 4],
            data_start: group.data_start.into(),
            data_blocks: group.data_blocks.into(),
            bitmap_bytes: group.bitmap_bytes().into(),
            reserved1: [0; 64],
        };
        bytes.extend_from_slice(entry.as_bytes());
    }
    bytes
}

/// The quota file has the first user's and the first group's entry: both own the root directory.
fn first_quotas() -> Vec<u8> {
    let root = Quota { limit: 0.into(), warn: 0.into(), value: 1.into(), reserved: [0; 64] };
    [root.as_bytes(), root.as_bytes()].concat()
}

fn bitmap_of(group: &Group, in_use: &Use) -> Vec<u8> {
    let mut map = vec![0u8; group.bitmap_bytes() as usize];
    let whole = in_use.used as usize / 4;
    map[..whole].fill(0b0101_0101);
    for index in whole * 4..in_use.used as usize {
        bitmap::set(&mut map, index, BlockState::Used);
    }
    for index in &in_use.dinodes {
        bitmap::set(&mut map, *index as usize, BlockState::Dinode);
    }
    map
}

fn dinode_block(block: BlockSize, number: InodeNumberPair, seconds: u64, inode: Inode, body: &[u8]) -> Vec<u8> {
    let dinode = Dinode {
        header: MetaHeader::new(MetaType::Dinode),
        number,
        mode: inode.mode.into(),
        link_count: inode.links.into(),
        size: inode.size.into(),
        blocks: inode.blocks.into(),
        atime: seconds.into(),
        mtime: seconds.into(),
        ctime: seconds.into(),
        goal_meta: inode.goal_meta.into(),
        goal_data: inode.goal_data.into(),
        flags: inode.flags.into(),
        payload_format: inode.payload.into(),
        height: inode.height.into(),
        depth: inode.depth.into(),
        entries: inode.entries.into(),
        ..Dinode::new_zeroed()
    };
    let mut bytes = Vec::with_capacity(block.as_usize());
    bytes.extend_from_slice(dinode.as_bytes());
    bytes.extend_from_slice(body);
    bytes.resize(block.as_usize(), 0);
    bytes
}

fn superblock(block: BlockSize, options: &Options, master: InodeNumberPair, root: InodeNumberPair) -> Superblock {
    Superblock {
        header: MetaHeader::new(MetaType::Superblock),
        fs_format: options.format.into(),
        multihost_format: MULTIHOST_FORMAT.into(),
        block_size: (block.bytes() as u32).into(),
        block_size_shift: block.shift().into(),
        master_directory: master,
        root_directory: root,
        lock_protocol: padded(options.protocol.name()),
        lock_table: padded(&options.table),
        uuid: options.uuid,
        ..Superblock::new_zeroed()
    }
}

/// NUL-padded; the options' check has seen to the length.
fn padded(text: &str) -> [u8; 64] {
    let mut bytes = [0; 64];
    let len = text.len().min(bytes.len() - 1);
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    bytes
}
