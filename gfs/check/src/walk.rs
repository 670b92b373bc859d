//! The walk over the inodes: claims every block, checks every header, and remembers who points at
//! whom so that link counts can be compared at the end.
//!
//! Nothing read from the disk is trusted: a pointer is followed only when its block can be claimed,
//! so damaged trees, loops and blocks shared by two owners end the walk instead of repeating it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use gfs_format::dinode::{DINODE_BYTES, flags};
use gfs_format::geometry::META_HEIGHT_MAX;
use gfs_format::{BlockState, Dinode, MetaHeader, MetaType};
use zerocopy::FromBytes;

use crate::groups::{Claim, Groups};
use crate::report::{Kind, Report};
use crate::source::{CheckError, Source};

/// File type bits of a mode.
pub(crate) const S_IFMT: u32 = 0o170_000;
pub(crate) const S_IFDIR: u32 = 0o040_000;
pub(crate) const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// Bytes of the largest content that is read as a whole: an index of two million groups.
const CONTENT_MAX: u64 = 1 << 28;

/// An inode that has been read.
pub(crate) struct Inode {
    pub(crate) address: u64,
    pub(crate) dinode: Dinode,
    /// The whole block.
    pub(crate) block: Bytes,
}

impl Inode {
    pub(crate) fn flag(&self, flag: u32) -> bool {
        self.dinode.flags.get() & flag != 0
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.dinode.mode.get() & S_IFMT == S_IFDIR
    }

    pub(crate) fn is_file(&self) -> bool {
        self.dinode.mode.get() & S_IFMT == S_IFREG
    }

    /// What follows the fixed part: stuffed content or pointers.
    pub(crate) fn body(&self) -> &[u8] {
        &self.block[DINODE_BYTES..]
    }
}

/// What is known of an inode from the entries that name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    /// Formal number of the dinode itself.
    pub(crate) formal: u64,
    /// `DT_*` of its mode.
    pub(crate) kind: u16,
    /// Link count that the dinode states.
    pub(crate) stated: u32,
    /// Entries that were found.
    pub(crate) counted: u32,
    /// Directories: the directory whose entry led here, and its formal number.
    pub(crate) parent: u64,
}

/// The state of a walk.
pub(crate) struct Walk<'a> {
    pub(crate) source: &'a Source,
    pub(crate) groups: Groups,
    pub(crate) report: &'a mut Report,
    pub(crate) inodes: BTreeMap<u64, Named>,
    /// Somebody wants to know whose certain blocks are.
    pub(crate) tracker: Option<Tracker>,
}

/// Remembers who claims certain blocks, and the names that lead there.
pub(crate) struct Tracker {
    /// Block to its owner, 0 as long as it has none.
    wanted: BTreeMap<u64, u64>,
    owners: BTreeSet<u64>,
    /// Inode to the directory and the name of one of its entries: all directories, and owners.
    names: BTreeMap<u64, (u64, Vec<u8>)>,
}

impl Tracker {
    pub(crate) fn new(blocks: &BTreeSet<u64>) -> Tracker {
        let wanted = blocks.iter().map(|block| (*block, 0)).collect();
        Tracker { wanted, owners: BTreeSet::new(), names: BTreeMap::new() }
    }

    fn claimed(&mut self, owner: u64, block: u64) {
        if let Some(known) = self.wanted.get_mut(&block) {
            *known = owner;
            self.owners.insert(owner);
        }
    }

    pub(crate) fn named(&mut self, inode: u64, is_directory: bool, parent: u64, name: &[u8]) {
        if is_directory || self.owners.contains(&inode) {
            self.names.entry(inode).or_insert_with(|| (parent, name.to_vec()));
        }
    }

    /// Block and owner.
    pub(crate) fn owned(&self) -> impl Iterator<Item = (u64, u64)> {
        self.wanted.iter().filter(|(_, owner)| **owner != 0).map(|(block, owner)| (*block, *owner))
    }

    pub(crate) fn name_of(&self, inode: u64) -> Option<(u64, &[u8])> {
        self.names.get(&inode).map(|(parent, name)| (*parent, &name[..]))
    }
}

impl Walk<'_> {
    /// Claims a block for `owner`; only then may it be followed.
    pub(crate) fn claim(&mut self, owner: u64, block: u64, state: BlockState) -> bool {
        match self.groups.claim(block, state) {
            Claim::Yours => {
                if let Some(tracker) = &mut self.tracker {
                    tracker.claimed(owner, block);
                }
                true
            }
            Claim::Taken => {
                let found = "one that has an owner already";
                self.report.note_of(Kind::SharedBlock, owner, block, "a block of its own", found);
                false
            }
            Claim::Outside => {
                self.report.note(Kind::Pointer, owner, "pointers into resource groups", format_args!("{block}"));
                false
            }
        }
    }

    /// Reads a block and checks its type; `None` with a finding if it is another.
    pub(crate) async fn typed(&mut self, owner: u64, block: u64, kind: MetaType) -> Result<Option<Bytes>, CheckError> {
        let bytes = self.source.read(block).await?;
        match MetaHeader::check(&bytes, kind) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) => {
                self.report.note_of(Kind::Header, owner, block, format_args!("a block of type {kind:?}"), error);
                Ok(None)
            }
        }
    }

    /// Reads and claims the inode at `address` and everything it owns except what a directory
    /// names. `None` when it cannot be an inode or has been seen.
    pub(crate) async fn inode(&mut self, address: u64, state: BlockState) -> Result<Option<Inode>, CheckError> {
        if !self.claim(address, address, state) {
            return Ok(None);
        }
        let Some(block) = self.typed(address, address, MetaType::Dinode).await? else { return Ok(None) };
        let Ok((dinode, _)) = Dinode::read_from_prefix(&block) else { return Ok(None) };
        let inode = Inode { address, dinode, block };
        if inode.dinode.number.address.get() != address {
            let found = inode.dinode.number.address.get();
            self.report.note(Kind::Dinode, address, "its own address in the inode", found);
        }
        self.inodes.entry(address).or_insert(Named {
            formal: inode.dinode.number.formal.get(),
            kind: (inode.dinode.mode.get() >> 12 & 0xf) as u16,
            stated: inode.dinode.link_count.get(),
            counted: 0,
            parent: 0,
        });
        let goal = inode.dinode.goal_meta.get();
        // The kernel looks for space in the group of this block, and gives up without one.
        if goal != 0 && !inode.flag(flags::SYSTEM) && !self.groups.contains(goal) {
            self.report.note(Kind::Dinode, address, "a goal for allocation in a resource group", goal);
        }
        let mut blocks = 1;
        if self.has_sane_shape(&inode) {
            if inode.is_directory() {
                self.report.counts.directories += 1;
            }
            blocks += self.tree(&inode).await?;
            if inode.flag(flags::EXHASH) && inode.is_directory() {
                blocks += self.leaves(&inode).await?;
            }
        }
        blocks += self.attributes(&inode).await?;
        if blocks != inode.dinode.blocks.get() {
            let found = inode.dinode.blocks.get();
            self.report.note(Kind::Dinode, address, format_args!("{blocks} blocks in the inode"), found);
        }
        Ok(Some(inode))
    }

    /// Size, height and depth fit each other and the format's limits.
    fn has_sane_shape(&mut self, inode: &Inode) -> bool {
        let (size, height) = (inode.dinode.size.get(), inode.dinode.height.get());
        if height > META_HEIGHT_MAX {
            self.report.note(Kind::Dinode, inode.address, format_args!("a height up to {META_HEIGHT_MAX}"), height);
            return false;
        }
        // A size beyond the tree's reach is legal: a file that was extended and has a hole there.
        if inode.is_directory() {
            return self.has_sane_directory(inode);
        }
        if inode.dinode.mode.get() & S_IFMT == S_IFLNK && (height != 0 || size == 0) {
            self.report.note(Kind::Dinode, inode.address, "a symbolic link with its target inside", size);
        }
        true
    }

    fn has_sane_directory(&mut self, inode: &Inode) -> bool {
        let (size, height, depth) = (inode.dinode.size.get(), inode.dinode.height.get(), inode.dinode.depth.get());
        let stuffed = self.source.block.stuffed_bytes();
        if !inode.flag(flags::EXHASH) {
            if height != 0 || size != stuffed || depth != 0 {
                let expected = format!("a directory of {stuffed} bytes at height 0 and depth 0");
                let found = format!("{size} bytes, height {height}, depth {depth}");
                self.report.note(Kind::Directory, inode.address, expected, found);
                return false;
            }
            return true;
        }
        let reach = self.source.block.journaled_tree_bytes(height);
        if depth > gfs_format::geometry::DIRECTORY_DEPTH_MAX || size != 8u64 << depth || size > reach {
            let expected = "a hash table of 8 bytes for each of 2^depth parts";
            self.report.note(
                Kind::Directory,
                inode.address,
                expected,
                format_args!("{size} bytes, height {height}, depth {depth}"),
            );
            return false;
        }
        true
    }

    /// Claims the pointer tree; gives the number of blocks in it.
    async fn tree(&mut self, inode: &Inode) -> Result<u64, CheckError> {
        let mut blocks = 0;
        let height = inode.dinode.height.get();
        if height == 0 {
            return Ok(0);
        }
        // Directories keep their hash table in blocks with a header.
        let headed = inode.is_directory();
        let mut pending: Vec<(u64, u16)> = pointers(inode.body()).rev().map(|pointer| (pointer, 1)).collect();
        while let Some((block, level)) = pending.pop() {
            if !self.claim(inode.address, block, BlockState::Used) {
                // Counted all the same: the inode counts it, whoever else does.
                blocks += 1;
                continue;
            }
            blocks += 1;
            if level == height {
                if headed {
                    self.typed(inode.address, block, MetaType::JournaledData).await?;
                }
                continue;
            }
            let Some(bytes) = self.typed(inode.address, block, MetaType::Indirect).await? else { continue };
            pending.extend(pointers(&bytes[size_of::<MetaHeader>()..]).rev().map(|pointer| (pointer, level + 1)));
        }
        Ok(blocks)
    }

    /// The content of a small file: a system file or a hash table. Holes read as zeroes; what
    /// cannot be read has been found by [`Walk::tree`] and ends the content.
    pub(crate) async fn content(&self, inode: &Inode) -> Result<Vec<u8>, CheckError> {
        content(self.source, inode).await
    }
}

/// See [`Walk::content`]; needs no walk, for the files that come before it.
pub(crate) async fn content(source: &Source, inode: &Inode) -> Result<Vec<u8>, CheckError> {
    let size = inode.dinode.size.get().min(CONTENT_MAX) as usize;
    let height = inode.dinode.height.get();
    if height == 0 {
        return Ok(inode.body()[..size.min(inode.body().len())].to_vec());
    }
    let skip = if inode.is_directory() { size_of::<MetaHeader>() } else { 0 };
    let per_block = source.block.as_usize() - skip;
    let wanted = size.div_ceil(per_block);
    let mut content = Vec::new();
    for block in data_blocks(source, inode, wanted).await? {
        if block != 0 && block < source.blocks {
            content.extend_from_slice(&source.read(block).await?[skip..]);
        } else {
            content.resize(content.len() + per_block, 0);
        }
    }
    content.truncate(size);
    Ok(content)
}

/// The first `wanted` data blocks of a file in their order, 0 for holes.
pub(crate) async fn data_blocks(source: &Source, inode: &Inode, wanted: usize) -> Result<Vec<u64>, CheckError> {
    let mut level: Vec<u64> = all_pointers(inode.body()).collect();
    for below in 1..inode.dinode.height.get().min(META_HEIGHT_MAX) {
        // Pointers of this level that are needed to reach `wanted` blocks.
        let span = (source.block.indirect_pointers() as u128).pow(u32::from(inode.dinode.height.get() - below));
        let needed = (wanted as u128).div_ceil(span) as usize;
        let mut next = Vec::new();
        for pointer in level.into_iter().take(needed) {
            let usable = pointer != 0 && pointer < source.blocks;
            let bytes = if usable { Some(source.read(pointer).await?) } else { None };
            match bytes.filter(|bytes| MetaHeader::check(bytes, MetaType::Indirect).is_ok()) {
                Some(bytes) => next.extend(all_pointers(&bytes[size_of::<MetaHeader>()..])),
                None => next.resize(next.len() + source.block.indirect_pointers() as usize, 0),
            }
        }
        level = next;
    }
    level.truncate(wanted);
    Ok(level)
}

/// The pointers in `bytes` that are not 0.
fn pointers(bytes: &[u8]) -> impl DoubleEndedIterator<Item = u64> {
    all_pointers(bytes).filter(|pointer| *pointer != 0)
}

/// All of them.
pub(crate) fn all_pointers(bytes: &[u8]) -> impl DoubleEndedIterator<Item = u64> {
    bytes.chunks_exact(8).map(|pointer| u64::from_be_bytes(pointer.try_into().unwrap_or_default()))
}

/// Reads an inode without claiming anything; `None` when there is none at `address`.
pub(crate) async fn peek(source: &Source, address: u64) -> Result<Option<Inode>, CheckError> {
    if address == 0 || address >= source.blocks {
        return Ok(None);
    }
    let block = source.read(address).await?;
    if MetaHeader::check(&block, MetaType::Dinode).is_err() {
        return Ok(None);
    }
    let Ok((dinode, _)) = Dinode::read_from_prefix(&block) else { return Ok(None) };
    Ok((dinode.height.get() <= META_HEIGHT_MAX).then_some(Inode { address, dinode, block }))
}
