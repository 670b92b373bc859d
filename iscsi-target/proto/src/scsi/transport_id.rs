//! TransportIDs: initiator ports as PERSISTENT RESERVE names them (SPC-4 §7.6.4.6).

use super::reservation::Nexus;

/// Who is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportId {
    /// One port, by name and ISID.
    Port(Nexus),
    /// An initiator with all its ports, by name only.
    Initiator(String),
}

/// Protocol iSCSI (5) with the form in the upper bits: name only, or name and ISID.
const OF_INITIATOR: u8 = 0x05;
const OF_PORT: u8 = 0x45;
const SEPARATOR: &str = ",i,0x";
/// Least length of the name with its padding, in bytes.
const NAME_LEN_MIN: usize = 20;
/// Longest iSCSI name, in bytes (RFC 7143 §4.2.7.1).
const INITIATOR_LEN_MAX: usize = 223;

impl TransportId {
    /// The form that READ FULL STATUS has.
    pub fn encode(nexus: &Nexus) -> Vec<u8> {
        let isid: String = nexus.isid.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut name = format!("{}{SEPARATOR}{isid}", nexus.initiator).into_bytes();
        name.resize((name.len() + 1).next_multiple_of(4).max(NAME_LEN_MIN), 0);
        [&[OF_PORT, 0][..], &(name.len() as u16).to_be_bytes(), &name].concat()
    }

    /// A list of them without anything between or behind; `None` if one is none.
    pub fn parse_list(mut data: &[u8]) -> Option<Vec<Self>> {
        let mut list = Vec::new();
        while !data.is_empty() {
            let (header, rest) = data.split_first_chunk::<4>()?;
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let name = rest.get(..length).filter(|_| length >= NAME_LEN_MIN && length.is_multiple_of(4))?;
            list.push(Self::parse(header[0], name)?);
            data = &rest[length..];
        }
        Some(list)
    }

    fn parse(form: u8, name: &[u8]) -> Option<Self> {
        let end = name.iter().position(|byte| *byte == 0)?;
        let name = std::str::from_utf8(&name[..end]).ok()?.to_lowercase();
        let is_name = |text: &str| {
            let is_plain = text.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != ',');
            is_plain && !text.is_empty() && text.len() <= INITIATOR_LEN_MAX
        };
        match form {
            OF_INITIATOR if is_name(&name) => Some(Self::Initiator(name)),
            OF_PORT => {
                let (initiator, isid) = name.split_once(SEPARATOR)?;
                if !is_name(initiator) || isid.len() != 12 || !isid.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return None;
                }
                let isid = u64::from_str_radix(isid, 16).ok()?.to_be_bytes();
                Some(Self::Port(Nexus { initiator: initiator.to_owned(), isid: isid[2..].try_into().ok()? }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(initiator: &str) -> Nexus {
        Nexus { initiator: initiator.to_owned(), isid: [0x80, 1, 2, 3, 0xab, 0xcd] }
    }

    #[test]
    fn what_is_written_is_read_and_names_may_differ_in_case() {
        let (short, long) = (port("iqn.a"), port("iqn.2026-11.org.corral:some-node.with.a.longer.name"));
        let both = [TransportId::encode(&short), TransportId::encode(&long)].concat();
        assert_eq!(both.len() % 4, 0);
        assert_eq!(
            TransportId::parse_list(&both),
            Some(vec![TransportId::Port(short.clone()), TransportId::Port(long)])
        );
        let shouted = TransportId::encode(&short).to_ascii_uppercase();
        assert_eq!(TransportId::parse_list(&shouted), Some(vec![TransportId::Port(short)]));
        assert_eq!(TransportId::parse_list(&[]), Some(Vec::new()));
    }

    #[test]
    fn a_name_alone_means_all_ports_of_the_initiator() {
        let mut data = vec![OF_INITIATOR, 0, 0, 20];
        data.extend_from_slice(b"iqn.2026-11.test:n1\0");
        assert_eq!(
            TransportId::parse_list(&data),
            Some(vec![TransportId::Initiator("iqn.2026-11.test:n1".to_owned())])
        );
    }

    #[test]
    fn other_protocols_and_wrong_lengths_are_refused() {
        let good = TransportId::encode(&port("iqn.2026-11.test:n1"));
        for length in 1..good.len() {
            assert_eq!(TransportId::parse_list(&good[..length]), None, "{length}");
        }
        for (at, value) in [(0, 0x46), (0, 0x85), (2, 1), (3, 16), (good.len() - 5, b'g')] {
            let mut wrong = good.clone();
            wrong[at] = value;
            assert_eq!(TransportId::parse_list(&wrong), None, "byte {at}");
        }
    }
}
