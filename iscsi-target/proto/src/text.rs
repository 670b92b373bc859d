//! `key=value` parameters of login and text PDUs (RFC 7143 §6.1).
//!
//! Reading is total: whatever the peer sends is either a list of pairs or an error that says at which byte.

use bytes::{Bytes, BytesMut};

use crate::error::ProtocolError;

/// Parameters that go on over several PDUs may be this long together, in bytes.
pub const TEXT_LIMIT: usize = 64 * 1024;
/// Longest key (RFC 7143 §6.1).
const KEY_MAX: usize = 63;

/// A list of parameters, in the order they were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    pairs: Vec<(String, String)>,
}

impl Parameters {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `key=value` pairs, each ended by a zero byte (the last one may lack it).
    pub fn parse(text: &[u8]) -> Result<Self, ProtocolError> {
        let mut pairs = Vec::new();
        let mut at_byte = 0;
        for piece in text.split(|byte| *byte == 0) {
            let start = at_byte;
            at_byte += piece.len() + 1;
            if piece.is_empty() {
                continue;
            }
            let bad = |what| ProtocolError::BadText { at_byte: start, what };
            let piece = str::from_utf8(piece).map_err(|_| bad("it is not UTF-8"))?;
            let (key, value) = piece.split_once('=').ok_or_else(|| bad("there is no '='"))?;
            if key.is_empty() || key.len() > KEY_MAX {
                return Err(bad("a key has 1 to 63 characters"));
            }
            pairs.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self { pairs })
    }

    /// Appends a pair.
    pub fn push(&mut self, key: &str, value: impl Into<String>) {
        self.pairs.push((key.to_owned(), value.into()));
    }

    /// Appends all pairs of another list.
    pub fn append(&mut self, more: Self) {
        self.pairs.extend(more.pairs);
    }

    /// The value of the first pair with this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// As the data segment of a PDU.
    pub fn encode(&self) -> Bytes {
        let mut text = BytesMut::new();
        for (key, value) in &self.pairs {
            for part in [key.as_bytes(), b"=", value.as_bytes(), b"\0"] {
                text.extend_from_slice(part);
            }
        }
        text.freeze()
    }
}

/// Gathers parameters that go on over several PDUs.
#[derive(Debug, Default)]
pub struct Collector {
    text: BytesMut,
}

impl Collector {
    /// Adds one PDU's data; refuses more than [`TEXT_LIMIT`] together.
    pub fn add(&mut self, data: &[u8]) -> Result<(), ProtocolError> {
        let length = self.text.len() + data.len();
        if length > TEXT_LIMIT {
            return Err(ProtocolError::OversizedText { length, limit: TEXT_LIMIT });
        }
        self.text.extend_from_slice(data);
        Ok(())
    }

    /// Everything gathered so far, as pairs; the collector is empty afterwards.
    pub fn finish(&mut self) -> Result<Parameters, ProtocolError> {
        Parameters::parse(&self.text.split())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_survive_the_wire() {
        let mut parameters = Parameters::new();
        parameters.push("TargetName", "iqn.2026-11.org.corral:disk0");
        parameters.push("Empty", "");
        assert_eq!(Parameters::parse(&parameters.encode()), Ok(parameters));
    }

    #[test]
    fn malformed_pairs_are_refused_with_their_place() {
        let refused = Parameters::parse(b"A=1\0nonsense\0").unwrap_err();
        assert_eq!(refused, ProtocolError::BadText { at_byte: 4, what: "there is no '='" });
        assert!(Parameters::parse(b"=x").is_err());
        assert!(Parameters::parse(&[0xff, b'=']).is_err());
    }
}
