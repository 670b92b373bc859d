//! The receiving end of a connection's stream: bytes in, whole PDUs out.
//!
//! The shell reads from its socket straight into [`Receiver::buffer`]; a PDU's data is a slice of that buffer, never a
//! copy. Memory is bounded: the buffer never grows beyond one PDU of the declared maximum plus [`READ_AHEAD`].

use bytes::{Buf, Bytes, BytesMut};
use zerocopy::FromBytes;

use super::digest::{self, Digest};
use crate::error::{ProtocolError, WireError};
use crate::pdu::{BasicHeader, HEADER_LEN, Pdu};

/// Longest data segment during login, in bytes (the default of MaxRecvDataSegmentLength).
pub const LOGIN_DATA_LIMIT: u32 = 8192;
/// How much room is made for bytes beyond the PDU that is being received.
const READ_AHEAD: usize = 64 * 1024;
/// Less room than this is worth a new buffer.
const ROOM_MIN: usize = 8 * 1024;
/// All additional header segments that RFC 7143 defines fit into this many bytes.
const ADDITIONAL_HEADER_LIMIT: u32 = 512;

/// Cuts the stream into PDUs.
#[derive(Debug)]
pub struct Receiver {
    buffer: BytesMut,
    header_digest: Digest,
    data_digest: Digest,
    data_limit: u32,
    /// Bytes of the stream that went into PDUs.
    consumed: u64,
}

impl Receiver {
    /// A receiver at the start of a connection: no digests, the data limit of the login phase.
    pub fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            header_digest: Digest::None,
            data_digest: Digest::None,
            data_limit: LOGIN_DATA_LIMIT,
            consumed: 0,
        }
    }

    /// What holds from the full feature phase on. `data_limit` is the MaxRecvDataSegmentLength that was declared, in
    /// bytes.
    pub fn enter_full_feature(&mut self, header_digest: Digest, data_digest: Digest, data_limit: u32) {
        self.header_digest = header_digest;
        self.data_digest = data_digest;
        self.data_limit = data_limit;
    }

    /// The buffer to append received bytes to, with room for the rest of the PDU that is being received.
    pub fn buffer(&mut self) -> &mut BytesMut {
        let missing = match self.frame() {
            Ok(Some(frame)) => frame.total().saturating_sub(self.buffer.len()),
            _ => HEADER_LEN,
        };
        let room = self.buffer.capacity() - self.buffer.len();
        // A new buffer is taken rather than a larger one, so that its size stays exact.
        if room < missing.max(ROOM_MIN) && !self.buffer.try_reclaim(missing.max(ROOM_MIN)) {
            let mut fresh = BytesMut::with_capacity(self.buffer.len() + missing + READ_AHEAD);
            fresh.extend_from_slice(&self.buffer);
            self.buffer = fresh;
        }
        &mut self.buffer
    }

    /// Bytes of the stream that went into PDUs.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// The next whole PDU; `None` if more bytes are needed.
    pub fn next_pdu(&mut self) -> Result<Option<Pdu>, WireError> {
        let at_byte = self.consumed;
        self.cut(at_byte).map_err(|cause| WireError { at_byte, cause })
    }

    fn cut(&mut self, at_byte: u64) -> Result<Option<Pdu>, ProtocolError> {
        let Some(frame) = self.frame()? else { return Ok(None) };
        if self.buffer.len() < frame.total() {
            return Ok(None);
        }
        let checked = HEADER_LEN + frame.additional;
        if self.header_digest == Digest::Crc32c {
            let computed = digest::append(0, &self.buffer[..checked]);
            let received = read_digest(&self.buffer[checked..]);
            if computed != received {
                return Err(ProtocolError::HeaderDigest { computed, received });
            }
        }
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&self.buffer[..HEADER_LEN]);
        self.buffer.advance(HEADER_LEN);
        let additional = match frame.additional {
            0 => Bytes::new(),
            length => Bytes::copy_from_slice(&self.buffer[..length]),
        };
        self.buffer.advance(frame.additional + frame.header_digest);
        let data = match frame.data {
            0 => Bytes::new(),
            length => {
                let padded = length.next_multiple_of(4);
                if self.data_digest == Digest::Crc32c {
                    let computed = digest::append(0, &self.buffer[..padded]);
                    let received = read_digest(&self.buffer[padded..]);
                    if computed != received {
                        return Err(ProtocolError::DataDigest { opcode: header[0], computed, received });
                    }
                }
                let data = self.buffer.split_to(length).freeze();
                self.buffer.advance(padded - length + frame.data_digest);
                data
            }
        };
        self.consumed += frame.total() as u64;
        Ok(Some(Pdu { header, additional, data, at_byte }))
    }

    /// Lengths of the PDU at the buffer's start, checked against the limits; `None` until its header is there.
    fn frame(&self) -> Result<Option<Frame>, ProtocolError> {
        let Ok((header, _)) = BasicHeader::ref_from_prefix(&self.buffer) else { return Ok(None) };
        let additional = u32::from(header.additional_header_words) * 4;
        let data = header.data_segment_length.get();
        if additional > ADDITIONAL_HEADER_LIMIT {
            return Err(ProtocolError::OversizedAdditionalHeader {
                opcode: header.opcode,
                length: additional,
                limit: ADDITIONAL_HEADER_LIMIT,
            });
        }
        if data > self.data_limit {
            return Err(ProtocolError::OversizedData { opcode: header.opcode, length: data, limit: self.data_limit });
        }
        Ok(Some(Frame {
            additional: additional as usize,
            header_digest: self.header_digest.len(),
            data: data as usize,
            data_digest: if data == 0 { 0 } else { self.data_digest.len() },
        }))
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

/// Lengths of the parts of a PDU on the wire, in bytes.
struct Frame {
    additional: usize,
    header_digest: usize,
    /// Without padding.
    data: usize,
    data_digest: usize,
}

impl Frame {
    fn total(&self) -> usize {
        HEADER_LEN + self.additional + self.header_digest + self.data.next_multiple_of(4) + self.data_digest
    }
}

fn read_digest(bytes: &[u8]) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[..4]);
    digest::from_wire(raw)
}
