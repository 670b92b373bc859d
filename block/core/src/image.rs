//! The bytes of a disk in memory: sparse, and cheap to copy (chunks are shared until written).
//!
//! Memory and crash-simulating devices keep their content here; tests compare and keep snapshots.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::device::Geometry;
use crate::units::{ByteLen, ByteOffset};

/// Bytes per chunk. Small enough that a scattered workload does not fill memory, large enough that
/// the table of a 1 TiB disk (16 Mi entries) stays affordable.
const CHUNK: usize = 64 * 1024;

/// A disk's content. Bytes never written are zero.
#[derive(Clone)]
pub struct Image {
    geometry: Geometry,
    chunks: Vec<Option<Arc<[u8]>>>,
}

impl Image {
    /// All zeroes.
    pub fn new(geometry: Geometry) -> Image {
        let chunks = geometry.size().0.div_ceil(CHUNK as u64);
        let chunks = usize::try_from(chunks).expect("invariant: a disk in memory fits the address space");
        Image { geometry, chunks: vec![None; chunks] }
    }

    /// With the given bytes, filled up with zeroes to whole sectors.
    pub fn from_bytes(sector: u32, bytes: &[u8]) -> Image {
        let sectors = (bytes.len() as u64).div_ceil(u64::from(sector));
        let mut image = Image::new(Geometry { sector, sectors });
        image.put(0, bytes);
        image
    }

    /// Size and sector.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Copies bytes out. The caller has checked the range.
    pub fn read(&self, at: ByteOffset, len: ByteLen) -> Bytes {
        let len = len.as_usize().expect("invariant: the range was checked against a disk in memory");
        let mut out = BytesMut::with_capacity(len);
        let mut position = at.0 as usize;
        let end = position + len;
        while position < end {
            let start = position % CHUNK;
            let count = (CHUNK - start).min(end - position);
            match &self.chunks[position / CHUNK] {
                Some(chunk) => out.extend_from_slice(&chunk[start..start + count]),
                None => out.resize(out.len() + count, 0),
            }
            position += count;
        }
        out.freeze()
    }

    /// Copies bytes in. The caller has checked the range.
    pub fn write(&mut self, at: ByteOffset, bytes: &[u8]) {
        self.put(at.0 as usize, bytes);
    }

    /// Makes the range zero and gives whole chunks back. The caller has checked the range.
    pub fn zero(&mut self, at: ByteOffset, len: ByteLen) {
        let mut position = at.0 as usize;
        let end = position + len.0 as usize;
        while position < end {
            let start = position % CHUNK;
            let count = (CHUNK - start).min(end - position);
            let chunk = &mut self.chunks[position / CHUNK];
            if count == CHUNK {
                *chunk = None;
            } else if let Some(chunk) = chunk {
                Arc::make_mut(chunk)[start..start + count].fill(0);
            }
            position += count;
        }
    }

    /// The whole content; for tests and for writing it to a file.
    pub fn to_bytes(&self) -> Bytes {
        self.read(ByteOffset(0), self.geometry.size())
    }

    /// Appends `sectors` zero sectors.
    pub fn grow(&mut self, sectors: u64) {
        self.geometry.sectors += sectors;
        let chunks = self.geometry.size().0.div_ceil(CHUNK as u64);
        self.chunks.resize(usize::try_from(chunks).expect("invariant: a disk in memory fits the address space"), None);
    }

    fn put(&mut self, mut position: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let start = position % CHUNK;
            let count = (CHUNK - start).min(bytes.len());
            let (now, rest) = bytes.split_at(count);
            let chunk = self.chunks[position / CHUNK].get_or_insert_with(|| Arc::from(vec![0; CHUNK]));
            Arc::make_mut(chunk)[start..start + count].copy_from_slice(now);
            bytes = rest;
            position += count;
        }
    }
}

impl PartialEq for Image {
    fn eq(&self, other: &Image) -> bool {
        let zero = [0; CHUNK];
        self.geometry == other.geometry
            && self.chunks.iter().zip(&other.chunks).all(|(mine, theirs)| match (mine, theirs) {
                (None, None) => true,
                (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs) || mine == theirs,
                (Some(chunk), None) | (None, Some(chunk)) => chunk[..] == zero[..],
            })
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let used = self.chunks.iter().filter(|chunk| chunk.is_some()).count();
        write!(f, "Image({}, {} in use)", self.geometry.size(), ByteLen((used * CHUNK) as u64))
    }
}
