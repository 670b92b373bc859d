//! New files and directories in a draft, and system files and directories with new content: the whole content goes to
//! new blocks, and of the old file only its inode changes.

use gfs_check::inspect::{Inode, Role};
use gfs_format::dinode::{DINODE_BYTES, PAYLOAD_DIRECTORY, flags};
use gfs_format::{Dinode, InodeNumberPair, MetaHeader, MetaType};
use zerocopy::{FromZeros, IntoBytes};

use super::draft::{Draft, Fresh};
use super::error::ChangeError;
use crate::directory::{self, Entry, Shape};
use crate::tree::TreeShape;

const FILE_MODE: u32 = 0o100_600;

/// A small file.
pub(super) struct NewFile {
    pub(super) content: Vec<u8>,
    pub(super) flags: u32,
}

impl Draft {
    /// A system file with its content in the inode.
    pub(super) fn small_file(&mut self, file: NewFile) -> Result<InodeNumberPair, ChangeError> {
        let address = self.take_blocks(1)?[0];
        let number = self.number(address)?;
        let dinode = Dinode {
            size: (file.content.len() as u64).into(),
            blocks: 1.into(),
            goal_meta: address.into(),
            goal_data: address.into(),
            flags: file.flags.into(),
            ..self.dinode(number)
        };
        self.fresh_dinode(&dinode, &file.content);
        Ok(number)
    }

    /// A journal: every block the header of a clean log.
    pub(super) fn journal(&mut self, bytes: u64) -> Result<InodeNumberPair, ChangeError> {
        let length = bytes / self.block_size().bytes();
        let (number, runs) = self.large_file(bytes)?;
        let mut index = 0;
        for (start, count) in runs {
            self.fresh.push(Fresh::Log { start, count, index, length, inode: number.address.get() });
            index += count;
        }
        Ok(number)
    }

    /// A quota change file with nothing in it.
    pub(super) fn quota_change_file(&mut self, bytes: u64) -> Result<InodeNumberPair, ChangeError> {
        let (number, runs) = self.large_file(bytes)?;
        self.fresh.extend(runs.into_iter().map(|(start, count)| Fresh::QuotaChanges { start, count }));
        Ok(number)
    }

    /// Inode and pointers of a file; the runs of its data are the caller's to fill.
    fn large_file(&mut self, bytes: u64) -> Result<(InodeNumberPair, Vec<(u64, u64)>), ChangeError> {
        let size = self.block_size();
        let shape = TreeShape::of_file(size, bytes / size.bytes());
        let mut blocks = self.take_blocks(shape.blocks())?;
        let data = blocks.split_off(1 + shape.pointer_blocks() as usize);
        let (address, pointers) = (blocks[0], &blocks[1..]);
        let number = self.number(address)?;
        let (top, written) = shape.build(size, pointers, &data);
        self.fresh.extend(written.into_iter().map(|(address, bytes)| Fresh::Bytes(address, bytes)));
        let last = data.last().copied().unwrap_or(address);
        let dinode = Dinode {
            size: bytes.into(),
            blocks: shape.blocks().into(),
            goal_meta: pointers.last().copied().unwrap_or(address).into(),
            goal_data: last.into(),
            flags: flags::SYSTEM.into(),
            height: shape.height().into(),
            ..self.dinode(number)
        };
        self.fresh_dinode(&dinode, &pointer_bytes(&top));
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for block in data {
            match runs.last_mut() {
                Some((start, count)) if *start + *count == block => *count += 1,
                _ => runs.push((block, 1)),
            }
        }
        Ok((number, runs))
    }

    /// A directory with these entries instead of its own.
    pub(super) async fn rebuild_directory(&mut self, old: Inode, entries: &[Entry]) -> Result<(), ChangeError> {
        let size = self.block_size();
        let kept = self.give_back(&old).await?;
        let mut dinode = old.dinode;
        dinode.entries = (entries.len() as u32).into();
        dinode.height = 0.into();
        let shape = Shape::choose(size, entries).map_err(|_| ChangeError::Full)?;
        let Shape::Hashed { depth, leaves } = shape else {
            dinode.flags = (dinode.flags.get() & !flags::EXHASH).into();
            dinode.payload_format = PAYLOAD_DIRECTORY.into();
            dinode.depth = 0.into();
            dinode.size = size.stuffed_bytes().into();
            dinode.blocks = (1 + kept).into();
            let body = directory::records(entries, size.stuffed_bytes() as usize);
            self.changed_dinode(dinode, &body);
            return Ok(());
        };
        let mut addresses = Vec::new();
        for ((leaf_depth, entries), address) in leaves.iter().zip(self.take_blocks(leaves.len() as u64)?) {
            let bytes = directory::leaf(size, old.address, *leaf_depth, self.seconds, entries);
            self.fresh.push(Fresh::Bytes(address, bytes));
            addresses.push((*leaf_depth, address));
        }
        let table = directory::table(depth, &addresses);
        dinode.flags = (dinode.flags.get() | flags::EXHASH).into();
        dinode.payload_format = 0.into();
        dinode.depth = depth.into();
        dinode.size = (table.len() as u64).into();
        dinode.blocks = (1 + kept + leaves.len() as u64).into();
        if table.len() as u64 <= size.stuffed_bytes() {
            self.changed_dinode(dinode, &table);
            return Ok(());
        }
        let (shape, top) = self.tree(&table, size_of::<MetaHeader>())?;
        dinode.height = shape.height().into();
        dinode.blocks = (dinode.blocks.get() + shape.blocks() - 1).into();
        self.changed_dinode(dinode, &pointer_bytes(&top));
        Ok(())
    }

    /// The resource index with all groups of the draft.
    pub(super) async fn rewrite_index(&mut self) -> Result<(), ChangeError> {
        let old = self.system_file("rindex").await?;
        let kept = self.give_back(&old).await?;
        let content: Vec<u8> = self.groups.iter().flat_map(|group| group.entry.as_bytes().to_vec()).collect();
        let mut dinode = old.dinode;
        dinode.size = (content.len() as u64).into();
        dinode.height = 0.into();
        dinode.blocks = (1 + kept).into();
        if content.len() as u64 <= self.block_size().stuffed_bytes() {
            self.changed_dinode(dinode, &content);
            return Ok(());
        }
        let (shape, top) = self.tree(&content, 0)?;
        dinode.height = shape.height().into();
        dinode.blocks = (shape.blocks() + kept).into();
        self.changed_dinode(dinode, &pointer_bytes(&top));
        Ok(())
    }

    /// Content in new blocks, each behind `skip` bytes of header if there are any; gives the inode's pointers.
    fn tree(&mut self, content: &[u8], skip: usize) -> Result<(TreeShape, Vec<u64>), ChangeError> {
        let size = self.block_size();
        let per_block = size.as_usize() - skip;
        let shape = TreeShape::of_file(size, content.len().div_ceil(per_block) as u64);
        let pointers = self.take_blocks(shape.pointer_blocks())?;
        let data = self.take_blocks(shape.data_blocks)?;
        let (top, written) = shape.build(size, &pointers, &data);
        self.fresh.extend(written.into_iter().map(|(address, bytes)| Fresh::Bytes(address, bytes)));
        for (address, part) in data.iter().zip(content.chunks(per_block)) {
            let header = MetaHeader::new(MetaType::JournaledData);
            let mut bytes = if skip == 0 { Vec::new() } else { header.as_bytes().to_vec() };
            bytes.extend_from_slice(part);
            bytes.resize(size.as_usize(), 0);
            self.fresh.push(Fresh::Bytes(*address, bytes));
        }
        Ok((shape, top))
    }

    /// Frees what an inode has but itself and its attributes; gives the number of blocks of those.
    async fn give_back(&mut self, inode: &Inode) -> Result<u64, ChangeError> {
        let mut kept = 0;
        for (block, role) in self.volume.blocks_of(inode).await? {
            match role {
                Role::Dinode => {}
                Role::Indirect { .. } | Role::Data | Role::HashTable | Role::Leaf => self.free(block),
                Role::AttributeIndirect | Role::Attributes | Role::AttributeValue => kept += 1,
            }
        }
        Ok(kept)
    }

    /// A new inode of the system's.
    fn dinode(&self, number: InodeNumberPair) -> Dinode {
        Dinode {
            header: MetaHeader::new(MetaType::Dinode),
            number,
            mode: FILE_MODE.into(),
            link_count: 1.into(),
            atime: self.seconds.into(),
            mtime: self.seconds.into(),
            ctime: self.seconds.into(),
            generation: number.formal,
            ..Dinode::new_zeroed()
        }
    }

    fn fresh_dinode(&mut self, dinode: &Dinode, body: &[u8]) {
        let bytes = self.with_body(dinode, body);
        self.fresh.push(Fresh::Bytes(dinode.number.address.get(), bytes));
    }

    fn changed_dinode(&mut self, mut dinode: Dinode, body: &[u8]) {
        // Times never go back.
        let now = self.seconds.max(dinode.ctime.get());
        (dinode.mtime, dinode.ctime) = (now.into(), now.into());
        let bytes = self.with_body(&dinode, body);
        self.changed.insert(dinode.number.address.get(), bytes);
    }

    fn with_body(&self, dinode: &Dinode, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.block_size().as_usize());
        bytes.extend_from_slice(dinode.as_bytes());
        debug_assert!(DINODE_BYTES + body.len() <= self.block_size().as_usize());
        bytes.extend_from_slice(body);
        bytes.resize(self.block_size().as_usize(), 0);
        bytes
    }
}

fn pointer_bytes(pointers: &[u64]) -> Vec<u8> {
    pointers.iter().flat_map(|pointer| pointer.to_be_bytes()).collect()
}
