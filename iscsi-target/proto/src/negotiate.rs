//! Operational parameters: what each side is willing to do and what both agree on (RFC 7143 §13).
//!
//! One table of rules serves both sides: the target answers offers, the initiator checks answers. Starting from the
//! RFC's defaults, [`Negotiated`] always holds a combination that is allowed.

use std::fmt;

use crate::error::ProtocolError;
use crate::pdu::U24;
use crate::text::Parameters;
use crate::wire::Digest;

/// Whether a digest is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DigestPolicy {
    /// Never.
    Never,
    /// Only if the peer insists.
    #[default]
    Allowed,
    /// If the peer can.
    Preferred,
    /// Always; without it there is no session.
    Required,
}

impl DigestPolicy {
    /// The list an initiator offers, best first.
    fn offer(self) -> &'static str {
        match self {
            Self::Never => "None",
            Self::Allowed => "None,CRC32C",
            Self::Preferred => "CRC32C,None",
            Self::Required => "CRC32C",
        }
    }

    fn allows(self, digest: Digest) -> bool {
        match digest {
            Digest::None => self != Self::Required,
            Digest::Crc32c => self != Self::Never,
        }
    }
}

/// What this side is willing to do. Lengths are in bytes.
#[derive(Clone, Debug)]
pub struct Willing {
    pub header_digest: DigestPolicy,
    pub data_digest: DigestPolicy,
    /// Whether writes must wait for the first request for data.
    pub initial_r2t: bool,
    /// Whether data may follow a write command in the same PDU.
    pub immediate_data: bool,
    /// Longest data segment this side takes.
    pub max_recv_data_segment_length: u32,
    /// Most data for one request for data, or one sequence of Data-In.
    pub max_burst_length: u32,
    /// Most data that a write sends unasked.
    pub first_burst_length: u32,
    pub max_outstanding_r2t: u32,
}

impl Default for Willing {
    fn default() -> Self {
        Self {
            header_digest: DigestPolicy::Allowed,
            data_digest: DigestPolicy::Allowed,
            initial_r2t: false,
            immediate_data: true,
            max_recv_data_segment_length: 256 * 1024,
            max_burst_length: 1024 * 1024,
            first_burst_length: 256 * 1024,
            max_outstanding_r2t: 4,
        }
    }
}

/// What both sides agreed on. Lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub header_digest: Digest,
    pub data_digest: Digest,
    pub initial_r2t: bool,
    pub immediate_data: bool,
    /// Longest data segment the other side takes.
    pub peer_max_data_segment: u32,
    pub max_burst_length: u32,
    pub first_burst_length: u32,
    pub max_outstanding_r2t: u32,
    /// Seconds.
    pub default_time_to_wait: u32,
    /// Seconds.
    pub default_time_to_retain: u32,
}

impl Default for Negotiated {
    /// What holds where nothing is negotiated (RFC 7143 §13).
    fn default() -> Self {
        Self {
            header_digest: Digest::None,
            data_digest: Digest::None,
            initial_r2t: true,
            immediate_data: true,
            peer_max_data_segment: 8192,
            max_burst_length: 262_144,
            first_burst_length: 65_536,
            max_outstanding_r2t: 1,
            default_time_to_wait: 2,
            default_time_to_retain: 20,
        }
    }
}

/// Value a responder gives for a key it does not know.
pub const NOT_UNDERSTOOD: &str = "NotUnderstood";
/// Value a responder gives for an offer it cannot take.
pub const REJECT: &str = "Reject";
/// Value a responder gives for a key that has no meaning here.
pub const IRRELEVANT: &str = "Irrelevant";

impl Negotiated {
    /// The target's side: takes one offered key and gives the value to answer with; `None` if the key is a
    /// declaration that is not answered.
    pub fn answer(&mut self, willing: &Willing, key: &str, value: &str) -> Result<Option<String>, ProtocolError> {
        let answer = match key {
            "HeaderDigest" => choose_digest(willing.header_digest, value, &mut self.header_digest),
            "DataDigest" => choose_digest(willing.data_digest, value, &mut self.data_digest),
            "InitialR2T" => choose_bool(value, &mut self.initial_r2t, |offer| offer || willing.initial_r2t),
            "ImmediateData" => choose_bool(value, &mut self.immediate_data, |offer| offer && willing.immediate_data),
            "MaxBurstLength" => {
                let answer = choose_number(value, BURST, &mut self.max_burst_length, willing.max_burst_length);
                self.first_burst_length = self.first_burst_length.min(self.max_burst_length);
                answer
            }
            "FirstBurstLength" => {
                let most = willing.first_burst_length.min(self.max_burst_length);
                choose_number(value, BURST, &mut self.first_burst_length, most)
            }
            "MaxOutstandingR2T" => {
                choose_number(value, (1, 65_535), &mut self.max_outstanding_r2t, willing.max_outstanding_r2t)
            }
            "MaxRecvDataSegmentLength" => {
                self.peer_max_data_segment = declared(key, value)?;
                return Ok(None);
            }
            "DefaultTime2Wait" => {
                let mut own = 0;
                let answer = choose_number(value, (0, 3600), &mut own, u32::MAX);
                self.default_time_to_wait = own;
                answer
            }
            // Nothing of a session is retained after its connection is gone.
            "DefaultTime2Retain" => choose_number(value, (0, 3600), &mut self.default_time_to_retain, 0),
            "MaxConnections" => choose_number(value, (1, 65_535), &mut 0, 1),
            "ErrorRecoveryLevel" => choose_number(value, (0, 2), &mut 0, 0),
            "DataPDUInOrder" | "DataSequenceInOrder" => choose_bool(value, &mut false, |_| true),
            "TaskReporting" => {
                Some(if value.split(',').any(|v| v == "RFC3720") { "RFC3720" } else { REJECT }.to_owned())
            }
            "iSCSIProtocolLevel" => choose_number(value, (0, 31), &mut 0, 1),
            // Obsolete, but not to be answered NotUnderstood (RFC 7143 §13.25).
            "IFMarker" | "OFMarker" => Some("No".to_owned()),
            "IFMarkInt" | "OFMarkInt" => Some(REJECT.to_owned()),
            _ => Some(NOT_UNDERSTOOD.to_owned()),
        };
        Ok(Some(answer.unwrap_or_else(|| REJECT.to_owned())))
    }

    /// The initiator's side: checks and takes one key that the target answered or declared.
    pub fn accept(&mut self, willing: &Willing, key: &str, value: &str) -> Result<(), ProtocolError> {
        let bad = || ProtocolError::BadValue { key: key.to_owned(), value: value.to_owned() };
        let refused = value == REJECT || value == NOT_UNDERSTOOD || value == IRRELEVANT;
        match key {
            "HeaderDigest" | "DataDigest" => {
                let (policy, slot) = match key {
                    "HeaderDigest" => (willing.header_digest, &mut self.header_digest),
                    _ => (willing.data_digest, &mut self.data_digest),
                };
                *slot = digest_named(value).unwrap_or_default();
                if !policy.allows(*slot) {
                    return Err(bad());
                }
            }
            "InitialR2T" if !refused => self.initial_r2t = bool_named(value).ok_or_else(bad)? || willing.initial_r2t,
            "ImmediateData" if !refused => {
                self.immediate_data = bool_named(value).ok_or_else(bad)? && willing.immediate_data;
            }
            "MaxRecvDataSegmentLength" => self.peer_max_data_segment = declared(key, value)?,
            "MaxBurstLength" if !refused => {
                let answered = number(value, BURST).ok_or_else(bad)?;
                self.max_burst_length = answered.min(willing.max_burst_length);
            }
            "FirstBurstLength" if !refused => {
                let answered = number(value, BURST).ok_or_else(bad)?;
                self.first_burst_length = answered.min(willing.first_burst_length);
            }
            "MaxOutstandingR2T" if !refused => {
                self.max_outstanding_r2t = number(value, (1, 65_535)).ok_or_else(bad)?.min(willing.max_outstanding_r2t);
            }
            "DefaultTime2Wait" if !refused => self.default_time_to_wait = number(value, (0, 3600)).ok_or_else(bad)?,
            "DefaultTime2Retain" if !refused => {
                self.default_time_to_retain = number(value, (0, 3600)).ok_or_else(bad)?;
            }
            "ErrorRecoveryLevel" if !refused && value != "0" => return Err(bad()),
            "MaxConnections" if !refused && value != "1" => return Err(bad()),
            // Answers to keys without a choice, and declarations that are only for people.
            _ => {}
        }
        self.first_burst_length = self.first_burst_length.min(self.max_burst_length);
        Ok(())
    }
}

/// Everything an initiator offers in the operational stage. In a discovery session most keys have no meaning.
pub fn offers(willing: &Willing, is_discovery: bool) -> Parameters {
    let mut offers = Parameters::new();
    let yes_no = |value: bool| if value { "Yes" } else { "No" };
    offers.push("HeaderDigest", willing.header_digest.offer());
    offers.push("DataDigest", willing.data_digest.offer());
    offers.push("MaxRecvDataSegmentLength", willing.max_recv_data_segment_length.to_string());
    if is_discovery {
        return offers;
    }
    offers.push("InitialR2T", yes_no(willing.initial_r2t));
    offers.push("ImmediateData", yes_no(willing.immediate_data));
    offers.push("MaxBurstLength", willing.max_burst_length.to_string());
    offers.push("FirstBurstLength", willing.first_burst_length.min(willing.max_burst_length).to_string());
    offers.push("MaxOutstandingR2T", willing.max_outstanding_r2t.to_string());
    offers.push("MaxConnections", "1");
    offers.push("DefaultTime2Wait", "0");
    offers.push("DefaultTime2Retain", "0");
    offers.push("DataPDUInOrder", "Yes");
    offers.push("DataSequenceInOrder", "Yes");
    offers.push("ErrorRecoveryLevel", "0");
    offers
}

/// Smallest and largest value of a number.
type Range = (u32, u32);
const BURST: Range = (512, U24::MAX);

fn digest_named(name: &str) -> Option<Digest> {
    match name {
        "None" => Some(Digest::None),
        "CRC32C" => Some(Digest::Crc32c),
        _ => None,
    }
}

fn bool_named(name: &str) -> Option<bool> {
    match name {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

fn number(text: &str, (least, most): Range) -> Option<u32> {
    let value = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok()?,
        None => text.parse().ok()?,
    };
    (least..=most).contains(&value).then_some(value)
}

fn declared(key: &str, value: &str) -> Result<u32, ProtocolError> {
    number(value, BURST).ok_or_else(|| ProtocolError::BadValue { key: key.to_owned(), value: value.to_owned() })
}

fn choose_digest(policy: DigestPolicy, offer: &str, slot: &mut Digest) -> Option<String> {
    let (name, digest) = offer
        .split(',')
        .filter_map(|name| Some((name, digest_named(name)?)))
        .find(|(_, digest)| policy.allows(*digest))?;
    *slot = digest;
    Some(name.to_owned())
}

fn choose_bool(offer: &str, slot: &mut bool, decide: impl Fn(bool) -> bool) -> Option<String> {
    *slot = decide(bool_named(offer)?);
    Some(if *slot { "Yes" } else { "No" }.to_owned())
}

fn choose_number(offer: &str, range: Range, slot: &mut u32, most: u32) -> Option<String> {
    *slot = number(offer, range)?.min(most);
    Some(slot.to_string())
}

impl fmt::Display for Negotiated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "digests {:?}/{:?}, initial R2T {}, immediate data {}, burst {} first {}, peer takes {} a PDU",
            self.header_digest,
            self.data_digest,
            self.initial_r2t,
            self.immediate_data,
            self.max_burst_length,
            self.first_burst_length,
            self.peer_max_data_segment
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(negotiated: &mut Negotiated, key: &str, value: &str) -> String {
        negotiated.answer(&Willing::default(), key, value).expect("the offer is well-formed").expect("it is answered")
    }

    #[test]
    fn what_one_side_offers_and_the_other_answers_is_the_same_on_both() {
        let initiator =
            Willing { header_digest: DigestPolicy::Required, max_burst_length: 65_536, ..Willing::default() };
        let target = Willing { initial_r2t: true, ..Willing::default() };
        let (mut theirs, mut ours) = (Negotiated::default(), Negotiated::default());
        for (key, value) in offers(&initiator, false).iter() {
            let answered = theirs.answer(&target, key, value).expect("offers are well-formed");
            if let Some(value) = answered {
                ours.accept(&initiator, key, &value).expect("answers fit the offers");
            }
        }
        assert_eq!(ours.header_digest, Digest::Crc32c);
        assert_eq!(ours.data_digest, Digest::None);
        assert!(ours.initial_r2t);
        assert_eq!(ours.first_burst_length, 65_536);
        ours.peer_max_data_segment = theirs.peer_max_data_segment;
        assert_eq!(ours, theirs);
    }

    #[test]
    fn illegal_offers_are_rejected_and_unknown_keys_not_understood() {
        let mut negotiated = Negotiated::default();
        assert_eq!(answer(&mut negotiated, "HeaderDigest", "MD5"), REJECT);
        assert_eq!(answer(&mut negotiated, "MaxBurstLength", "100"), REJECT);
        assert_eq!(answer(&mut negotiated, "InitialR2T", "maybe"), REJECT);
        assert_eq!(answer(&mut negotiated, "X-org.example", "1"), NOT_UNDERSTOOD);
        assert_eq!(answer(&mut negotiated, "OFMarkInt", "1~2"), REJECT);
        assert_eq!(answer(&mut negotiated, "ErrorRecoveryLevel", "2"), "0");
        assert_eq!(negotiated, Negotiated::default());
        assert!(negotiated.answer(&Willing::default(), "MaxRecvDataSegmentLength", "100").is_err());
    }

    #[test]
    fn a_digest_that_was_required_and_refused_ends_the_login() {
        let willing = Willing { data_digest: DigestPolicy::Required, ..Willing::default() };
        assert!(Negotiated::default().accept(&willing, "DataDigest", "None").is_err());
        assert!(Negotiated::default().accept(&willing, "DataDigest", REJECT).is_err());
        assert!(Negotiated::default().accept(&willing, "MaxConnections", "4").is_err());
    }
}
