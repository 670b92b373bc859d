//! Frames and messages as bytes, and back: total on any input.
//!
//! A frame, little-endian throughout:
//! ```text
//!   length u32   of what follows it       checksum u32  crc32c of what follows it
//!   version u16  reserved u16 (0)         sender u32   sender's incarnation u64
//!   receiver's incarnation u64            acknowledged u64: every message below has arrived
//!   first u64: number of the first message         count u16
//!   count times: length u32, view u64, kind u8, fields
//! ```
//! An unknown version, kind, mode or flag, a bad length or checksum, bytes too many or too few: an
//! error that says so, and the connection ends. Only `Frame::decode` and `frame_length` meet foreign
//! bytes.

use std::fmt;

use base::{Incarnation, NodeId, ViewId};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use dlm_api::queues::{Entry, Queues, Request};
use dlm_api::{Flags, LockId, Mode, ResourceName, ValueBlock};

use crate::message::{About, Holder, Life, Message, Refusal};

/// Version of frames and messages.
pub const VERSION: u16 = 1;
/// Longest frame in bytes, its length field included. Frames are closed at 64 KiB; one that carries
/// the state of a resource with very many locks (150,000) may be as long as this.
pub const FRAME_LENGTH_MAX: usize = 8 << 20;
/// Most messages in a frame.
pub const FRAME_MESSAGES_MAX: usize = 4096;

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodecError {
    /// Longer or shorter than any frame.
    Length { length: u64 },
    /// The bytes do not have the checksum they carry.
    Checksum { expected: u32, found: u32 },
    /// Another version of the protocol.
    Version { found: u16 },
    /// The bytes end within this field.
    Truncated { field: &'static str },
    /// This field has no such value.
    Field { field: &'static str, value: u64 },
    /// Bytes are left over at the end.
    Trailing { count: usize },
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { length } => write!(f, "a frame cannot have {length} bytes"),
            Self::Checksum { expected, found } => {
                write!(f, "a frame's checksum is {found:#010x}, not {expected:#010x}")
            }
            Self::Version { found } => write!(f, "protocol version {found}, but this is version {VERSION}"),
            Self::Truncated { field } => write!(f, "a frame ends within its {field}"),
            Self::Field { field, value } => write!(f, "a frame's {field} cannot be {value}"),
            Self::Trailing { count } => write!(f, "{count} bytes too many at the end of a message or frame"),
        }
    }
}

impl std::error::Error for CodecError {}

/// A frame's header and its messages, each with the view it was sent in.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub sender: NodeId,
    pub sender_incarnation: Incarnation,
    pub receiver_incarnation: Incarnation,
    /// Every message of the receiver with a lower number has arrived at the sender.
    pub acknowledged: u64,
    /// Number of the first message; the others follow.
    pub first: u64,
    pub messages: Vec<(ViewId, Message)>,
}

/// Length in bytes, its length field included, of the frame that begins `bytes`; `None` if more
/// bytes are needed to know.
pub fn frame_length(bytes: &[u8]) -> Result<Option<usize>, CodecError> {
    let Some(mut head) = bytes.get(..4) else { return Ok(None) };
    let rest = head.get_u32_le();
    let length = rest as usize + 4;
    if (HEADER_LENGTH..=FRAME_LENGTH_MAX).contains(&length) {
        Ok(Some(length))
    } else {
        Err(CodecError::Length { length: u64::from(rest) })
    }
}

impl Frame {
    /// The bytes of a frame around messages that `encode_message` made.
    pub fn encode_around(&self, messages: &[Bytes]) -> Bytes {
        let body: usize = messages.iter().map(Bytes::len).sum();
        let mut out = BytesMut::with_capacity(HEADER_LENGTH + body);
        out.put_u64_le(0);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.put_u32_le(self.sender.0);
        out.put_u64_le(self.sender_incarnation.0);
        out.put_u64_le(self.receiver_incarnation.0);
        out.put_u64_le(self.acknowledged);
        out.put_u64_le(self.first);
        out.put_u16_le(u16::try_from(messages.len()).expect("invariant: FRAME_MESSAGES_MAX fits"));
        for message in messages {
            out.put_slice(message);
        }
        let length = u32::try_from(out.len() - 4).expect("invariant: FRAME_LENGTH_MAX fits");
        let checksum = crc32c::crc32c(&out[8..]);
        out[0..4].copy_from_slice(&length.to_le_bytes());
        out[4..8].copy_from_slice(&checksum.to_le_bytes());
        out.freeze()
    }

    /// The bytes of this frame.
    pub fn encode(&self) -> Bytes {
        let messages: Vec<Bytes> = self.messages.iter().map(|(view, message)| encode_message(*view, message)).collect();
        self.encode_around(&messages)
    }

    /// The frame that `bytes` are, all of them.
    pub fn decode(bytes: &[u8]) -> Result<Frame, CodecError> {
        let length = frame_length(bytes)?;
        if length != Some(bytes.len()) {
            return Err(CodecError::Length { length: bytes.len() as u64 });
        }
        let mut input = Reader { rest: &bytes[4..] };
        let found = input.u32("checksum")?;
        let expected = crc32c::crc32c(input.rest);
        if expected != found {
            return Err(CodecError::Checksum { expected, found });
        }
        let version = input.u16("version")?;
        if version != VERSION {
            return Err(CodecError::Version { found: version });
        }
        let reserved = input.u16("reserved field")?;
        if reserved != 0 {
            return Err(CodecError::Field { field: "reserved field", value: u64::from(reserved) });
        }
        let mut frame = Frame {
            sender: NodeId(input.u32("sender")?),
            sender_incarnation: Incarnation(input.u64("sender's incarnation")?),
            receiver_incarnation: Incarnation(input.u64("receiver's incarnation")?),
            acknowledged: input.u64("acknowledged number")?,
            first: input.u64("first number")?,
            messages: Vec::new(),
        };
        let count = usize::from(input.u16("count")?);
        if count > FRAME_MESSAGES_MAX {
            return Err(CodecError::Field { field: "count", value: count as u64 });
        }
        for _ in 0..count {
            let length = input.u32("message length")? as usize;
            let mut message = Reader { rest: input.take(length, "message")? };
            frame.messages.push(message.message()?);
            if !message.rest.is_empty() {
                return Err(CodecError::Trailing { count: message.rest.len() });
            }
        }
        if !input.rest.is_empty() {
            return Err(CodecError::Trailing { count: input.rest.len() });
        }
        Ok(frame)
    }
}

/// One message with its length, as it lies in a frame.
pub fn encode_message(view: ViewId, message: &Message) -> Bytes {
    let mut out = BytesMut::with_capacity(96);
    out.put_u32_le(0);
    out.put_u64_le(view.0);
    put_message(&mut out, message);
    let length = u32::try_from(out.len() - 4).expect("invariant: a message fits a frame");
    out[0..4].copy_from_slice(&length.to_le_bytes());
    out.freeze()
}

fn put_message(out: &mut BytesMut, message: &Message) {
    match message {
        Message::Request { about, mode, flags } => {
            out.put_u8(kind::REQUEST);
            put_about(out, about);
            out.put_u8(*mode as u8);
            out.put_u32_le(flags.0);
        }
        Message::Convert { about, mode, flags, value } => {
            out.put_u8(kind::CONVERT);
            put_about(out, about);
            out.put_u8(*mode as u8);
            out.put_u32_le(flags.0);
            put_value(out, value.as_ref());
        }
        Message::Unlock { about, value } => {
            out.put_u8(kind::UNLOCK);
            put_about(out, about);
            put_value(out, value.as_ref());
        }
        Message::Cancel { about } => put_kind_about(out, kind::CANCEL, about),
        Message::Granted { about, mode, value, is_value_valid } => {
            out.put_u8(kind::GRANTED);
            put_about(out, about);
            out.put_u8(*mode as u8);
            put_value(out, value.as_ref());
            out.put_u8(u8::from(*is_value_valid));
        }
        Message::Refused { about, refusal } => {
            out.put_u8(kind::REFUSED);
            put_about(out, about);
            out.put_u8(match refusal {
                Refusal::WouldBlock => 1,
                Refusal::Cancelled => 2,
                Refusal::Deadlock => 3,
                Refusal::Confused => 4,
                Refusal::MemberLost => 5,
            });
        }
        Message::Unlocked { about } => put_kind_about(out, kind::UNLOCKED, about),
        Message::Blocking { lock, mode } => {
            out.put_u8(kind::BLOCKING);
            out.put_u64_le(lock.0);
            out.put_u8(*mode as u8);
        }
        Message::NotMaster { about } => put_kind_about(out, kind::NOT_MASTER, about),
        Message::Lookup { name } => put_kind_name(out, kind::LOOKUP, name),
        Message::MasterIs { name, master } => put_kind_name_node(out, kind::MASTER_IS, name, *master),
        Message::Remove { name } => put_kind_name(out, kind::REMOVE, name),
        Message::Removed { name } => put_kind_name(out, kind::REMOVED, name),
        Message::Transfer { name, queues } => {
            put_kind_name(out, kind::TRANSFER, name);
            put_queues(out, queues);
        }
        Message::Transferred { name } => put_kind_name(out, kind::TRANSFERRED, name),
        Message::Redirect { name, master } => put_kind_name_node(out, kind::REDIRECT, name, *master),
        Message::Redirected { name } => put_kind_name(out, kind::REDIRECTED, name),
        Message::Moved { name, master } => put_kind_name_node(out, kind::MOVED, name, *master),
        Message::Entries { view, entries } => {
            out.put_u8(kind::ENTRIES);
            out.put_u64_le(view.0);
            put_count(out, entries.len());
            for (name, master) in entries {
                put_name(out, name);
                out.put_u32_le(master.0);
            }
        }
        Message::EntriesDone { view } => put_kind_view(out, kind::ENTRIES_DONE, *view),
        Message::EntriesTaken { view } => put_kind_view(out, kind::ENTRIES_TAKEN, *view),
        Message::Join => out.put_u8(kind::JOIN),
        Message::Leave => out.put_u8(kind::LEAVE),
        Message::Prepare { view, members, previous } => {
            put_kind_view(out, kind::PREPARE, *view);
            put_lives(out, members);
            put_count(out, previous.len());
            for node in previous {
                out.put_u32_le(node.0);
            }
        }
        Message::Ready { view } => put_kind_view(out, kind::READY, *view),
        Message::Commit { view } => put_kind_view(out, kind::COMMIT, *view),
        Message::Abandon { view } => put_kind_view(out, kind::ABANDON, *view),
        Message::ViewIs { view, members } => {
            put_kind_view(out, kind::VIEW_IS, *view);
            put_lives(out, members);
        }
    }
}

fn put_kind_about(out: &mut BytesMut, kind: u8, about: &About) {
    out.put_u8(kind);
    put_about(out, about);
}

fn put_kind_name(out: &mut BytesMut, kind: u8, name: &ResourceName) {
    out.put_u8(kind);
    put_name(out, name);
}

fn put_kind_name_node(out: &mut BytesMut, kind: u8, name: &ResourceName, node: NodeId) {
    put_kind_name(out, kind, name);
    out.put_u32_le(node.0);
}

fn put_kind_view(out: &mut BytesMut, kind: u8, view: ViewId) {
    out.put_u8(kind);
    out.put_u64_le(view.0);
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("invariant: a message fits a frame"));
}

fn put_name(out: &mut BytesMut, name: &ResourceName) {
    out.put_u8(u8::try_from(name.as_bytes().len()).expect("invariant: a name has at most 64 bytes"));
    out.put_slice(name.as_bytes());
}

fn put_about(out: &mut BytesMut, about: &About) {
    put_name(out, &about.name);
    out.put_u64_le(about.lock.0);
    out.put_u64_le(about.sequence);
}

fn put_value(out: &mut BytesMut, value: Option<&ValueBlock>) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        out.put_slice(&value.0);
    }
}

fn put_lives(out: &mut BytesMut, lives: &[Life]) {
    put_count(out, lives.len());
    for life in lives {
        out.put_u32_le(life.node.0);
        out.put_u64_le(life.incarnation.0);
    }
}

fn put_queues(out: &mut BytesMut, queues: &Queues<Holder>) {
    out.put_slice(&queues.value.0);
    out.put_u64_le(queues.value_sequence);
    out.put_u8(u8::from(queues.is_value_valid));
    put_entries(out, queues.granted.len(), queues.granted.iter());
    put_entries(out, queues.converting.len(), queues.converting.iter());
    put_entries(out, queues.waiting.len(), queues.waiting.iter());
}

fn put_entries<'a>(out: &mut BytesMut, count: usize, entries: impl Iterator<Item = &'a Entry<Holder>>) {
    put_count(out, count);
    for entry in entries {
        out.put_u32_le(entry.key.node.0);
        out.put_u64_le(entry.key.lock.0);
        out.put_u64_le(entry.sequence);
        out.put_u8(entry.granted.map_or(NO_MODE, |mode| mode as u8));
        out.put_u8(entry.told);
        out.put_u8(u8::from(entry.request.is_some()));
        if let Some(request) = &entry.request {
            out.put_u8(request.mode as u8);
            out.put_u32_le(request.flags.0);
            put_value(out, request.value.as_ref());
        }
    }
}

/// Takes fields off the front of foreign bytes.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CodecError::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, CodecError> {
        self.take(1, field).map(|mut bytes| bytes.get_u8())
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, CodecError> {
        self.take(2, field).map(|mut bytes| bytes.get_u16_le())
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, CodecError> {
        self.take(4, field).map(|mut bytes| bytes.get_u32_le())
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, CodecError> {
        self.take(8, field).map(|mut bytes| bytes.get_u64_le())
    }

    fn bool(&mut self, field: &'static str) -> Result<bool, CodecError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(CodecError::Field { field, value: u64::from(value) }),
        }
    }

    /// A count of items that take at least `item_length` bytes each; bounded by what is there.
    fn count(&mut self, item_length: usize, field: &'static str) -> Result<usize, CodecError> {
        let count = self.u32(field)? as usize;
        if count > self.rest.len() / item_length {
            return Err(CodecError::Field { field, value: count as u64 });
        }
        Ok(count)
    }

    fn node(&mut self) -> Result<NodeId, CodecError> {
        self.u32("node").map(NodeId)
    }

    fn view(&mut self) -> Result<ViewId, CodecError> {
        self.u64("view").map(ViewId)
    }

    fn mode(&mut self) -> Result<Mode, CodecError> {
        let number = self.u8("mode")?;
        Mode::from_number(number).ok_or(CodecError::Field { field: "mode", value: u64::from(number) })
    }

    fn flags(&mut self) -> Result<Flags, CodecError> {
        let bits = self.u32("flags")?;
        let known = Flags::NOQUEUE | Flags::VALBLK | Flags::QUECVT | Flags::NOQUEUEBAST;
        if known.contains(Flags(bits)) {
            Ok(Flags(bits))
        } else {
            Err(CodecError::Field { field: "flags", value: u64::from(bits) })
        }
    }

    fn name(&mut self) -> Result<ResourceName, CodecError> {
        let length = self.u8("name length")?;
        let bytes = self.take(usize::from(length), "name")?;
        ResourceName::new(bytes).ok_or(CodecError::Field { field: "name length", value: u64::from(length) })
    }

    fn about(&mut self) -> Result<About, CodecError> {
        Ok(About { name: self.name()?, lock: LockId(self.u64("lock")?), sequence: self.u64("sequence")? })
    }

    fn value_bytes(&mut self) -> Result<ValueBlock, CodecError> {
        let bytes = self.take(32, "value block")?;
        Ok(ValueBlock(bytes.try_into().map_err(|_| CodecError::Truncated { field: "value block" })?))
    }

    fn value(&mut self) -> Result<Option<ValueBlock>, CodecError> {
        if self.bool("value mark")? { self.value_bytes().map(Some) } else { Ok(None) }
    }

    fn lives(&mut self) -> Result<Vec<Life>, CodecError> {
        let count = self.count(12, "count of members")?;
        (0..count)
            .map(|_| Ok(Life { node: self.node()?, incarnation: Incarnation(self.u64("incarnation")?) }))
            .collect()
    }

    fn queues(&mut self) -> Result<Queues<Holder>, CodecError> {
        let value = self.value_bytes()?;
        let value_sequence = self.u64("value sequence")?;
        let is_value_valid = self.bool("value validity")?;
        let granted = self.entries(true, false)?;
        let converting = self.entries(true, true)?.into();
        let waiting = self.entries(false, true)?.into();
        Ok(Queues { granted, converting, waiting, value, value_sequence, is_value_valid })
    }

    fn entries(&mut self, has_mode: bool, has_request: bool) -> Result<Vec<Entry<Holder>>, CodecError> {
        let count = self.count(23, "count of locks")?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let key = Holder { node: self.node()?, lock: LockId(self.u64("lock")?) };
            let sequence = self.u64("sequence")?;
            let number = self.u8("granted mode")?;
            let granted = Mode::from_number(number);
            if granted.is_some() != has_mode || (granted.is_none() && number != NO_MODE) {
                return Err(CodecError::Field { field: "granted mode", value: u64::from(number) });
            }
            let told = self.u8("told modes")?;
            let is_queued = self.bool("request mark")?;
            if is_queued != has_request {
                return Err(CodecError::Field { field: "request mark", value: u64::from(is_queued) });
            }
            let request = if is_queued {
                Some(Request { mode: self.mode()?, flags: self.flags()?, value: self.value()? })
            } else {
                None
            };
            entries.push(Entry { key, sequence, granted, request, told });
        }
        Ok(entries)
    }

    fn message(&mut self) -> Result<(ViewId, Message), CodecError> {
        let view = self.view()?;
        let kind = self.u8("kind")?;
        let message = match kind {
            kind::REQUEST => Message::Request { about: self.about()?, mode: self.mode()?, flags: self.flags()? },
            kind::CONVERT => Message::Convert {
                about: self.about()?,
                mode: self.mode()?,
                flags: self.flags()?,
                value: self.value()?,
            },
            kind::UNLOCK => Message::Unlock { about: self.about()?, value: self.value()? },
            kind::CANCEL => Message::Cancel { about: self.about()? },
            kind::GRANTED => Message::Granted {
                about: self.about()?,
                mode: self.mode()?,
                value: self.value()?,
                is_value_valid: self.bool("value validity")?,
            },
            kind::REFUSED => Message::Refused {
                about: self.about()?,
                refusal: match self.u8("refusal")? {
                    1 => Refusal::WouldBlock,
                    2 => Refusal::Cancelled,
                    3 => Refusal::Deadlock,
                    4 => Refusal::Confused,
                    5 => Refusal::MemberLost,
                    value => return Err(CodecError::Field { field: "refusal", value: u64::from(value) }),
                },
            },
            kind::UNLOCKED => Message::Unlocked { about: self.about()? },
            kind::BLOCKING => Message::Blocking { lock: LockId(self.u64("lock")?), mode: self.mode()? },
            kind::NOT_MASTER => Message::NotMaster { about: self.about()? },
            kind::LOOKUP => Message::Lookup { name: self.name()? },
            kind::MASTER_IS => Message::MasterIs { name: self.name()?, master: self.node()? },
            kind::REMOVE => Message::Remove { name: self.name()? },
            kind::REMOVED => Message::Removed { name: self.name()? },
            kind::TRANSFER => Message::Transfer { name: self.name()?, queues: Box::new(self.queues()?) },
            kind::TRANSFERRED => Message::Transferred { name: self.name()? },
            kind::REDIRECT => Message::Redirect { name: self.name()?, master: self.node()? },
            kind::REDIRECTED => Message::Redirected { name: self.name()? },
            kind::MOVED => Message::Moved { name: self.name()?, master: self.node()? },
            kind::ENTRIES => {
                let view = self.view()?;
                let count = self.count(6, "count of entries")?;
                let entries = (0..count).map(|_| Ok((self.name()?, self.node()?))).collect::<Result<_, _>>()?;
                Message::Entries { view, entries }
            }
            kind::ENTRIES_DONE => Message::EntriesDone { view: self.view()? },
            kind::ENTRIES_TAKEN => Message::EntriesTaken { view: self.view()? },
            kind::JOIN => Message::Join,
            kind::LEAVE => Message::Leave,
            kind::PREPARE => {
                let (view, members) = (self.view()?, self.lives()?);
                let count = self.count(4, "count of members")?;
                let previous = (0..count).map(|_| self.node()).collect::<Result<_, _>>()?;
                Message::Prepare { view, members, previous }
            }
            kind::READY => Message::Ready { view: self.view()? },
            kind::COMMIT => Message::Commit { view: self.view()? },
            kind::ABANDON => Message::Abandon { view: self.view()? },
            kind::VIEW_IS => Message::ViewIs { view: self.view()?, members: self.lives()? },
            value => return Err(CodecError::Field { field: "kind", value: u64::from(value) }),
        };
        Ok((view, message))
    }
}

const HEADER_LENGTH: usize = 50;
const NO_MODE: u8 = 0xff;

mod kind {
    pub(super) const REQUEST: u8 = 1;
    pub(super) const CONVERT: u8 = 2;
    pub(super) const UNLOCK: u8 = 3;
    pub(super) const CANCEL: u8 = 4;
    pub(super) const GRANTED: u8 = 16;
    pub(super) const REFUSED: u8 = 17;
    pub(super) const UNLOCKED: u8 = 18;
    pub(super) const BLOCKING: u8 = 19;
    pub(super) const NOT_MASTER: u8 = 20;
    pub(super) const LOOKUP: u8 = 32;
    pub(super) const MASTER_IS: u8 = 33;
    pub(super) const REMOVE: u8 = 34;
    pub(super) const REMOVED: u8 = 35;
    pub(super) const TRANSFER: u8 = 48;
    pub(super) const TRANSFERRED: u8 = 49;
    pub(super) const REDIRECT: u8 = 50;
    pub(super) const REDIRECTED: u8 = 51;
    pub(super) const MOVED: u8 = 52;
    pub(super) const ENTRIES: u8 = 53;
    pub(super) const ENTRIES_DONE: u8 = 54;
    pub(super) const ENTRIES_TAKEN: u8 = 55;
    pub(super) const JOIN: u8 = 64;
    pub(super) const LEAVE: u8 = 65;
    pub(super) const PREPARE: u8 = 66;
    pub(super) const READY: u8 = 67;
    pub(super) const COMMIT: u8 = 68;
    pub(super) const ABANDON: u8 = 69;
    pub(super) const VIEW_IS: u8 = 70;
}

#[cfg(test)]
mod tests;
