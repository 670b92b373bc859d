//! Resource groups: what the index says, what the headers say, the bitmaps on the disk, and the
//! map of who claims what that the walk over the inodes fills in.

use gfs_format::bitmap::{self, BlockState};
use gfs_format::{MetaHeader, MetaType, ResourceGroup, ResourceIndexEntry};
use zerocopy::FromBytes;

use crate::report::{Kind, Report};
use crate::source::{CheckError, Source};

/// One resource group.
pub(crate) struct Group {
    pub(crate) address: u64,
    length: u64,
    data_start: u64,
    data_blocks: u64,
    /// As on the disk; empty when it could not be read.
    bitmap: Vec<u8>,
    /// What the walk found, in the bitmap's own form; empty as long as nothing is claimed.
    claims: Vec<u8>,
    header: Option<ResourceGroup>,
}

/// All of them, by rising address.
#[derive(Default)]
pub(crate) struct Groups {
    groups: Vec<Group>,
}

/// What came of a claim.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    Yours,
    /// Somebody has it already.
    Taken,
    /// No resource group has such a block.
    Outside,
}

impl Group {
    fn index_of(&self, block: u64) -> Option<usize> {
        let index = block.checked_sub(self.data_start)?;
        (index < self.data_blocks).then_some(index as usize)
    }

    fn end(&self) -> u64 {
        self.data_start + self.data_blocks
    }
}

impl Groups {
    /// Takes the content of the rindex file apart and reads every header and bitmap.
    pub(crate) async fn read(
        source: &Source,
        rindex: u64,
        content: &[u8],
        report: &mut Report,
    ) -> Result<Groups, CheckError> {
        let entry_bytes = size_of::<ResourceIndexEntry>();
        if content.is_empty() || !content.len().is_multiple_of(entry_bytes) {
            report.note(
                Kind::ResourceIndex,
                rindex,
                format_args!("a number of entries of {entry_bytes} bytes"),
                format_args!("{} bytes", content.len()),
            );
        }
        let mut groups: Vec<Group> = Vec::with_capacity(content.len() / entry_bytes);
        for (index, bytes) in content.chunks_exact(entry_bytes).enumerate() {
            let Ok(entry) = ResourceIndexEntry::ref_from_bytes(bytes) else { continue };
            let from = groups.last().map_or(0, Group::end);
            match checked(entry, source, from) {
                Ok(group) => groups.push(group),
                Err((expected, found)) => {
                    let what = format!("entry {index} with {expected}");
                    report.note(Kind::ResourceIndex, rindex, what, found);
                }
            }
        }
        for index in 0..groups.len() {
            let next = groups.get(index + 1).map(|group| group.address);
            groups[index].read_header(source, next, report).await?;
        }
        Ok(Groups { groups })
    }

    fn find(&mut self, block: u64) -> Option<(&mut Group, usize)> {
        let after = self.groups.partition_point(|group| group.address <= block);
        let group = self.groups.get_mut(after.checked_sub(1)?)?;
        let index = group.index_of(block)?;
        Some((group, index))
    }

    /// Says that `block` is in use as `state`.
    pub(crate) fn claim(&mut self, block: u64, state: BlockState) -> Claim {
        let Some((group, index)) = self.find(block) else { return Claim::Outside };
        if group.claims.is_empty() {
            group.claims = vec![0; group.data_blocks.div_ceil(4) as usize];
        }
        if bitmap::get(&group.claims, index) != BlockState::Free {
            return Claim::Taken;
        }
        bitmap::set(&mut group.claims, index, state);
        Claim::Yours
    }

    /// Whether some group has this block, as data or as its own.
    pub(crate) fn contains(&self, block: u64) -> bool {
        let after = self.groups.partition_point(|group| group.address <= block);
        after.checked_sub(1).and_then(|index| self.groups.get(index)).is_some_and(|group| block < group.end())
    }

    /// The group whose header or bitmap `block` is.
    pub(crate) fn group_of_header(&self, block: u64) -> Option<u64> {
        let after = self.groups.partition_point(|group| group.address <= block);
        let group = self.groups.get(after.checked_sub(1)?)?;
        (block < group.address + group.length).then_some(group.address)
    }

    /// Dinodes and unlinked dinodes on the disk that nobody has claimed, with their state.
    pub(crate) fn unclaimed_inodes(&self) -> Vec<(u64, BlockState)> {
        let mut found = Vec::new();
        for group in &self.groups {
            for (byte_index, byte) in group.bitmap.iter().enumerate() {
                // Unlinked and dinode are the two states with the high bit.
                if byte & 0b1010_1010 == 0 {
                    continue;
                }
                for index in byte_index * 4..(byte_index * 4 + 4).min(group.data_blocks as usize) {
                    let state = bitmap::get(&group.bitmap, index);
                    let claimed = !group.claims.is_empty() && bitmap::get(&group.claims, index) != BlockState::Free;
                    if !claimed && matches!(state, BlockState::Dinode | BlockState::Unlinked) {
                        found.push((group.data_start + index as u64, state));
                    }
                }
            }
        }
        found
    }

    /// Compares each bitmap with the claims, and each header with its bitmap.
    pub(crate) fn reconcile(&self, report: &mut Report) {
        for group in &self.groups {
            group.reconcile(report);
        }
    }
}

/// A group as its index entry describes it, or what is wrong with the entry.
fn checked(entry: &ResourceIndexEntry, source: &Source, from: u64) -> Result<Group, (String, String)> {
    let (address, length) = (entry.address.get(), u64::from(entry.length.get()));
    let (data_start, data_blocks) = (entry.data_start.get(), u64::from(entry.data_blocks.get()));
    if address < from.max(1) || address >= source.blocks {
        return Err((format!("an address from {from} to {}", source.blocks), format!("{address}")));
    }
    if address.checked_add(length) != Some(data_start) {
        let found = format!("{data_start} behind {length} blocks at {address}");
        return Err(("its first block right behind its header".into(), found));
    }
    if data_blocks == 0 || data_start.checked_add(data_blocks).is_none_or(|end| end > source.blocks) {
        let found = format!("{data_blocks} from block {data_start}");
        return Err((format!("blocks up to {} at most", source.blocks), found));
    }
    let room = source.block.group_header_bitmap_bytes() + length.saturating_sub(1) * source.block.group_bitmap_bytes();
    let bytes = u64::from(entry.bitmap_bytes.get());
    if length == 0 || bytes > room || bytes * 4 < data_blocks {
        let expected = format!("{} to {room} bytes of bitmap", data_blocks.div_ceil(4));
        return Err((expected, format!("{bytes}")));
    }
    Ok(Group { address, length, data_start, data_blocks, bitmap: Vec::new(), claims: Vec::new(), header: None })
}

impl Group {
    async fn read_header(&mut self, source: &Source, next: Option<u64>, report: &mut Report) -> Result<(), CheckError> {
        let size = source.block.as_usize();
        let bytes = source.read_run(self.address, self.length).await?;
        let mut map = Vec::with_capacity(self.data_blocks.div_ceil(4) as usize);
        for (index, block) in bytes.chunks_exact(size).enumerate() {
            let (kind, skip) = match index {
                0 => (MetaType::ResourceGroup, size_of::<ResourceGroup>()),
                _ => (MetaType::ResourceGroupBitmap, size_of::<MetaHeader>()),
            };
            if let Err(error) = MetaHeader::check(block, kind) {
                let at = self.address + index as u64;
                report.note(Kind::ResourceGroup, at, format_args!("a block of type {kind:?}"), error);
                return Ok(());
            }
            map.extend_from_slice(&block[skip..]);
        }
        map.truncate(self.data_blocks.div_ceil(4) as usize);
        self.bitmap = map;
        let Ok((header, _)) = ResourceGroup::read_from_prefix(&bytes) else { return Ok(()) };
        self.check_header(&header, next, report);
        self.header = Some(header);
        Ok(())
    }

    fn check_header(&self, header: &ResourceGroup, next: Option<u64>, report: &mut Report) {
        let at = self.address;
        let mut field = |what: &str, expected: u64, found: u64| {
            if expected != found {
                report.note(Kind::ResourceGroup, at, format_args!("{what} {expected}"), found);
            }
        };
        // Filesystems from before these fields existed have zeroes there.
        if header.data_start.get() != 0 {
            field("first block", self.data_start, header.data_start.get());
            field("number of blocks", self.data_blocks, u64::from(header.data_blocks.get()));
            let skip = next.map_or(0, |next| next - at);
            if header.skip.get() != 0 {
                field("distance to the next group", skip, u64::from(header.skip.get()));
            }
        }
        if !header.is_sealed() {
            let mut sealed = *header;
            sealed.seal();
            let expected = format!("checksum 0x{:08x}", sealed.crc.get());
            report.note(Kind::ResourceGroup, at, expected, format_args!("0x{:08x}", header.crc.get()));
        }
    }

    fn reconcile(&self, report: &mut Report) {
        let Some(header) = &self.header else { return };
        let mut counts = [0u64; 4];
        for index in 0..self.data_blocks as usize {
            let on_disk = bitmap::get(&self.bitmap, index);
            let claimed = match self.claims.is_empty() {
                true => BlockState::Free,
                false => bitmap::get(&self.claims, index),
            };
            counts[on_disk as usize] += 1;
            if on_disk != claimed {
                let block = self.data_start + index as u64;
                report.note(
                    Kind::Bitmap,
                    block,
                    format_args!("{claimed:?}"),
                    format_args!("{on_disk:?} in the bitmap"),
                );
            }
        }
        let dinodes = counts[BlockState::Dinode as usize] + counts[BlockState::Unlinked as usize];
        let free = counts[BlockState::Free as usize];
        report.counts.blocks += self.data_blocks;
        report.counts.free += free;
        report.counts.dinodes += counts[BlockState::Dinode as usize];
        report.counts.unlinked += counts[BlockState::Unlinked as usize];
        for (what, expected, found) in
            [("free blocks", free, header.free.get()), ("inodes", dinodes, header.dinodes.get())]
        {
            if expected != u64::from(found) {
                report.note(Kind::ResourceGroup, self.address, format_args!("{expected} {what}"), found);
            }
        }
    }
}
