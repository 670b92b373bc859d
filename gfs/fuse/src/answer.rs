//! What an operation answers, in the kernel's terms, and what handing it out obliges us to.

use bytes::Bytes;
use nix::errno::Errno;
use zerocopy::IntoBytes;

use crate::asking::Asking;
use crate::nodes::Nodes;
use crate::reply::{Delivery, Reply};
use crate::wire;

/// An answer, complete but for the request's number.
#[derive(Debug)]
pub enum Answer {
    Error(Errno),
    Empty,
    Bytes(Bytes),
    Attributes(Box<wire::AttrOut>),
    /// For a cached read, which goes by the size.
    AttributesForRead(Box<wire::AttrOut>, Asking),
    /// A name; node 0 says that it is missing, and for how long that may be believed.
    Entry(Box<wire::EntryOut>),
    Opened(wire::OpenOut),
    Created(Box<wire::CreateOut>),
    Written(u32),
    Space(Box<wire::StatfsOut>),
    /// How long an attribute, or a list of them, is.
    XattrSize(u32),
    Ioctl(Vec<u8>),
    Offset(u64),
}

impl Answer {
    /// Sends the answer, or drops it if the request has been ended (`None`). A node that the
    /// kernel takes is counted. Gives the handle that the kernel never got: to be released.
    #[must_use = "a handle that the kernel did not get must be released"]
    pub fn deliver(self, reply: Option<Reply>, nodes: &Nodes) -> Option<u64> {
        let handle = match &self {
            Answer::Opened(open) => Some(open.fh),
            Answer::Created(created) => Some(created.open.fh),
            _ => None,
        };
        let Some(reply) = reply else { return handle };
        // Counted first: a FORGET may come before the write of the reply returns.
        let entry: Option<&wire::EntryOut> = match &self {
            Answer::Entry(entry) if entry.nodeid != 0 => Some(entry),
            Answer::Created(created) => Some(&created.entry),
            _ => None,
        };
        let node = entry.map(|entry| {
            let is_file = entry.attr.mode & libc::S_IFMT == libc::S_IFREG;
            nodes.count(entry.nodeid, entry.generation, is_file);
            entry.nodeid
        });
        match self.send(reply) {
            Delivery::Taken => None,
            Delivery::Refused => {
                if let Some(node) = node {
                    nodes.forget(node, 1);
                }
                handle
            }
        }
    }

    fn send(self, reply: Reply) -> Delivery {
        match self {
            Answer::Error(errno) => reply.error(errno),
            Answer::Empty => reply.empty(),
            Answer::Bytes(bytes) => reply.bytes(&bytes),
            Answer::AttributesForRead(attributes, asking) => asking.answer(|| reply.value(&*attributes)),
            Answer::Attributes(attributes) => reply.value(&*attributes),
            Answer::Entry(entry) => reply.value(&*entry),
            Answer::Opened(open) => reply.value(&open),
            Answer::Created(created) => reply.value(&*created),
            Answer::Written(size) => reply.value(&wire::WriteOut { size, padding: 0 }),
            Answer::Space(space) => reply.value(&*space),
            Answer::XattrSize(size) => reply.value(&wire::GetxattrOut { size, padding: 0 }),
            Answer::Ioctl(output) => reply.bytes(&[wire::IoctlOut::default().as_bytes(), &output].concat()),
            Answer::Offset(offset) => reply.value(&wire::LseekOut { offset }),
        }
    }
}

/// A lifetime that ends only when we say so, in seconds: the kernel counts in jiffies, signed.
pub const FOREVER: u64 = 1 << 31;
