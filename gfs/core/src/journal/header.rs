//! Building log headers.

use base::WallTime;
use bytes::Bytes;
use gfs_format::{LogHeader, MetaHeader, MetaType};

use super::ring::Ring;

/// What every header of a mount says besides its place.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeaderFacts {
    pub journal_inode: u64,
    pub statfs_inode: u64,
    pub quota_inode: u64,
}

/// The node's difference to the master statfs that is not yet added there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceChange {
    pub total: i64,
    pub free: i64,
    pub dinodes: i64,
}

/// What one header says.
#[derive(Clone, Copy)]
pub struct HeaderPlace {
    pub position: u64,
    pub tail: u64,
    pub sequence: u64,
    pub flags: u32,
}

impl HeaderPlace {
    /// The header right behind this one, which says that nothing before it is needed.
    pub fn next(self) -> HeaderPlace {
        let position = self.position + 1;
        HeaderPlace { position, tail: position, sequence: self.sequence + 1, flags: self.flags }
    }
}

/// The block of a log header.
pub fn header_block(ring: &Ring, facts: &HeaderFacts, place: &HeaderPlace, space: SpaceChange, now: WallTime) -> Bytes {
    let mut block = vec![0; ring.block_size().as_usize()];
    LogHeader {
        header: MetaHeader::new(MetaType::LogHeader),
        sequence: place.sequence.into(),
        flags: place.flags.into(),
        tail: ring.index(place.tail).into(),
        block: ring.index(place.position).into(),
        hash: 0.into(),
        crc: 0.into(),
        nanos: now.nanos.into(),
        seconds: now.seconds.cast_unsigned().into(),
        address: ring.address(place.position).0.into(),
        journal_inode: facts.journal_inode.into(),
        statfs_inode: facts.statfs_inode.into(),
        quota_inode: facts.quota_inode.into(),
        local_total: space.total.cast_unsigned().into(),
        local_free: space.free.cast_unsigned().into(),
        local_dinodes: space.dinodes.cast_unsigned().into(),
    }
    .encode(&mut block);
    block.into()
}
