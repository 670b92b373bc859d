//! From stream bytes to PDUs and back: framing, padding and CRC32C digests (RFC 7143 §11.1, §13.1).

mod digest;
mod receive;
mod transmit;

pub use digest::Digest;
pub use receive::{LOGIN_DATA_LIMIT, Receiver};
pub use transmit::TransmitQueue;
