//! Who may use a target: initiators by name and by address.
//!
//! As in tgt: no list allows everybody; with both lists an initiator has to be in both. Applied in the login and in
//! SendTargets, so nobody is told of what it may not use.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Longest iSCSI name, in bytes (RFC 7143 §4.2.7.2).
const NAME_MAX: usize = 223;

/// Who may use a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// In lower case. Empty: everybody.
    pub names: Vec<String>,
    /// Empty: from everywhere.
    pub addresses: Vec<AddressRange>,
}

impl Access {
    pub fn allows(&self, initiator: &str, address: IpAddr) -> bool {
        let by_name = self.names.is_empty() || self.names.iter().any(|name| name.eq_ignore_ascii_case(initiator));
        let by_address = self.addresses.is_empty() || self.addresses.iter().any(|range| range.contains(address));
        by_name && by_address
    }
}

/// An address with the number of its leading bits that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    address: IpAddr,
    prefix: u8,
}

impl AddressRange {
    /// Whether an address is in it. IPv4 in IPv6's clothes (a portal that listens on `::`) is IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && leading(address, self.prefix) == leading(self.address, self.prefix)
    }
}

/// The address as a number whose first bit is the address's, with all but `prefix` bits cleared.
fn leading(address: IpAddr, prefix: u8) -> u128 {
    let bits = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    match prefix {
        0 => 0,
        prefix => bits & (u128::MAX << (128 - u32::from(prefix))),
    }
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is not an address (10.0.0.7, fd00::7) or a range (10.0.0.0/24)");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address = address.parse::<IpAddr>().map_err(|_| bad())?.to_canonical();
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= bits).ok_or_else(bad)?,
        };
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        match self.prefix == bits {
            true => write!(f, "{}", self.address),
            false => write!(f, "{}/{}", self.address, self.prefix),
        }
    }
}

/// What is counted together where addresses are limited: one IPv4 address, or the /64 that one machine can choose its
/// IPv6 addresses from.
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

/// An initiator's iSCSI name, in lower case. Initiators' names are taken as they come, apart from their type and length.
pub fn check_initiator_name(text: &str) -> Result<String, String> {
    let name = text.to_ascii_lowercase();
    let has_type = ["iqn.", "eui.", "naa."].iter().any(|kind| name.starts_with(kind) && name.len() > kind.len());
    if !has_type || name.len() > NAME_MAX || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!(
            "'{text}' is not an iSCSI name: it begins with iqn., eui. or naa. and has up to 223 bytes"
        ));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().expect("a valid range")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("a valid address")
    }

    #[test]
    fn ranges_are_matched_by_their_leading_bits() {
        assert!(range("10.0.0.0/8").contains(address("10.255.0.1")));
        assert!(!range("10.0.0.0/8").contains(address("11.0.0.1")));
        assert!(range("10.0.0.7").contains(address("::ffff:10.0.0.7")));
        assert!(!range("10.0.0.7").contains(address("10.0.0.6")));
        assert!(range("0.0.0.0/0").contains(address("1.2.3.4")));
        assert!(!range("0.0.0.0/0").contains(address("fd00::1")));
        assert!(range("fd00::/16").contains(address("fd00:1::1")));
        assert!(range("10.0.0.9/31").contains(address("10.0.0.8")));
        for wrong in ["", "10.0.0.0/33", "10.0.0", "10.0.0.0/", "fd00::/129", "a/8", "10.0.0.0/-1"] {
            assert!(wrong.parse::<AddressRange>().is_err(), "{wrong} was taken");
        }
    }

    #[test]
    fn an_initiator_must_be_in_every_list_that_there_is() {
        let mut access = Access::default();
        assert!(access.allows("iqn.a:b", address("10.0.0.1")));
        access.names.push("iqn.a:b".to_owned());
        assert!(access.allows("IQN.a:B", address("10.0.0.1")));
        assert!(!access.allows("iqn.a:c", address("10.0.0.1")));
        access.addresses.push(range("10.0.0.0/24"));
        assert!(access.allows("iqn.a:b", address("10.0.0.1")));
        assert!(!access.allows("iqn.a:b", address("10.0.1.1")));
        assert!(!access.allows("iqn.a:c", address("10.0.0.1")));
    }

    #[test]
    fn an_ipv6_machine_is_counted_by_its_network() {
        assert_eq!(neighbourhood(address("fd00::1:2:3:4")), neighbourhood(address("fd00::9")));
        assert_ne!(neighbourhood(address("10.0.0.1")), neighbourhood(address("10.0.0.2")));
    }
}
