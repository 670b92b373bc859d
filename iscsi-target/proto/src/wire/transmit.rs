//! The sending end of a connection's stream: PDUs in, a chain of byte slices out.
//!
//! Headers and small data are gathered in one buffer; large data is passed on as it is. The queue is a
//! [`bytes::Buf`], so that a shell hands it to a vectored write and advances it by what was taken. Its length is
//! bounded by the tasks that a session allows at once.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use zerocopy::{FromBytes, IntoBytes};

use super::digest::{self, Digest};
use crate::pdu::{BasicHeader, Header, U24};

/// Data up to this length is copied next to its header rather than sent as a slice of its own.
const COPY_MAX: usize = 512;
/// Room for headers that is allocated at once.
const GATHER_RESERVE: usize = 16 * 1024;

/// What is waiting to be written to the connection.
#[derive(Debug, Default)]
pub struct TransmitQueue {
    chunks: VecDeque<Bytes>,
    /// Headers and small data behind the last chunk.
    gathered: BytesMut,
    length: usize,
    header_digest: Digest,
    data_digest: Digest,
}

impl TransmitQueue {
    /// An empty queue without digests.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn set_digests(&mut self, header_digest: Digest, data_digest: Digest) {
        self.header_digest = header_digest;
        self.data_digest = data_digest;
    }

    /// Appends a PDU. The header's data length is filled in from `data`, which must fit 24 bits.
    pub(crate) fn push<H: Header>(&mut self, header: &H, data: &[Bytes]) {
        let data_length: usize = data.iter().map(Bytes::len).sum();
        let mut raw = BasicHeader::read_from_bytes(header.as_bytes())
            .expect("invariant: every header is 48 bytes, checked while compiling");
        raw.data_segment_length = u32::try_from(data_length)
            .ok()
            .and_then(U24::new)
            .expect("invariant: senders split data by MaxRecvDataSegmentLength, which has 24 bits");
        self.gather(raw.as_bytes());
        if self.header_digest == Digest::Crc32c {
            self.gather(&digest::to_wire(digest::append(0, raw.as_bytes())));
        }
        if data_length == 0 {
            return;
        }
        for chunk in data {
            self.append(chunk);
        }
        let padding = &[0; 3][..data_length.next_multiple_of(4) - data_length];
        self.gather(padding);
        if self.data_digest == Digest::Crc32c {
            let checksum = data.iter().fold(0, |sum, chunk| digest::append(sum, chunk));
            self.gather(&digest::to_wire(digest::append(checksum, padding)));
        }
    }

    fn append(&mut self, chunk: &Bytes) {
        if chunk.len() <= COPY_MAX {
            return self.gather(chunk);
        }
        if !self.gathered.is_empty() {
            self.chunks.push_back(self.gathered.split().freeze());
        }
        self.length += chunk.len();
        self.chunks.push_back(chunk.clone());
    }

    fn gather(&mut self, bytes: &[u8]) {
        if self.gathered.capacity() - self.gathered.len() < bytes.len() {
            self.gathered.reserve(GATHER_RESERVE);
        }
        self.length += bytes.len();
        self.gathered.put_slice(bytes);
    }
}

impl Buf for TransmitQueue {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&self.gathered, |front| front)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = (!self.gathered.is_empty()).then_some(&self.gathered[..]);
        let all = self.chunks.iter().map(|chunk| &chunk[..]).chain(tail);
        slices.iter_mut().zip(all).map(|(slice, chunk)| *slice = IoSlice::new(chunk)).count()
    }

    fn advance(&mut self, mut count: usize) {
        self.length = self.length.checked_sub(count).expect("invariant: no more is written than waits");
        while let Some(front) = self.chunks.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.chunks.pop_front();
        }
        self.gathered.advance(count);
    }
}
