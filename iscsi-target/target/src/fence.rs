//! Who is shut out: initiators by name or by address, until they are let in again, across restarts.
//!
//! A change is on the disk before it counts, and before anybody is told of it (a fence answers after its state
//! is durable). The file has its own format version and is replaced as a whole. Called by `server` at every login and
//! by the admin commands.

use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::access::{AddressRange, check_initiator_name};
use crate::kept::{seal, unseal};
use crate::reservations::write_whole;

/// Format of the file that this program writes and understands.
const FORMAT: &str = "corral-fences-1";
/// More fences than this are not kept.
const FENCES_MAX: usize = 4096;

/// Whom a fence is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// An iSCSI name, in lower case: names differ in more than case (RFC 7143 §4.2.7.1).
    Name(String),
    Address(AddressRange),
}

impl Whom {
    pub fn is_meant(&self, initiator: Option<&str>, address: IpAddr) -> bool {
        match self {
            Self::Name(name) => initiator.is_some_and(|initiator| initiator.eq_ignore_ascii_case(name)),
            Self::Address(range) => range.contains(address),
        }
    }
}

impl FromStr for Whom {
    type Err = String;

    /// Iscsi names begin with their type, so no address looks like one.
    fn from_str(text: &str) -> Result<Self, String> {
        match check_initiator_name(text) {
            Ok(name) => Ok(Self::Name(name)),
            Err(_) => match text.parse() {
                Ok(range) => Ok(Self::Address(range)),
                Err(_) => Err(format!(
                    "'{text}' is neither an iSCSI name (iqn.…, eui.…, naa.…) nor an address or range (10.0.0.7, 10.0.0.0/24)"
                )),
            },
        }
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Address(range) => write!(f, "{range}"),
        }
    }
}

/// One fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    pub whom: Whom,
    /// Seconds since 1970, for people only.
    pub since: u64,
}

/// All fences of this target.
pub struct Fences {
    table: Mutex<Vec<Fence>>,
    /// One change at a time; the slow part is done without the table's lock.
    changing: Mutex<()>,
    file: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptFence {
    initiator: String,
    since: u64,
}

impl Fences {
    /// Reads the fences that were kept in `file`, if there is one. One that cannot be read stops the program: nobody
    /// who was shut out may come in because of a damaged file.
    pub fn open(file: PathBuf) -> Result<Self, String> {
        let tell = |what: String| {
            format!("fences {}: {what}; to start without it, move it away and fence anew", file.display())
        };
        let table = match std::fs::read(&file) {
            Ok(content) => decode(&content).map_err(tell)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(tell(error.to_string())),
        };
        Ok(Self { table: Mutex::new(table), changing: Mutex::default(), file })
    }

    /// Whether this initiator may not come in.
    pub fn bars(&self, initiator: &str, address: IpAddr) -> bool {
        self.table().iter().any(|fence| fence.whom.is_meant(Some(initiator), address))
    }

    pub fn all(&self) -> Vec<Fence> {
        self.table().clone()
    }

    /// Shuts somebody out; false if that was so already. Waits for the disk.
    pub fn add(&self, whom: &Whom, since: u64) -> Result<bool, String> {
        self.change(|table| {
            if table.iter().any(|fence| fence.whom == *whom) {
                return Ok(false);
            }
            if table.len() >= FENCES_MAX {
                return Err(format!("there are {FENCES_MAX} fences already"));
            }
            table.push(Fence { whom: whom.clone(), since });
            Ok(true)
        })
    }

    /// Lets somebody in again; false if nobody was shut out. Waits for the disk.
    pub fn remove(&self, whom: &Whom) -> Result<bool, String> {
        self.change(|table| {
            let count = table.len();
            table.retain(|fence| fence.whom != *whom);
            Ok(table.len() != count)
        })
    }

    fn change(&self, work: impl FnOnce(&mut Vec<Fence>) -> Result<bool, String>) -> Result<bool, String> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.all();
        let has_changed = work(&mut table)?;
        if has_changed {
            write_whole(&self.file, encode(&table).as_bytes())
                .map_err(|error| format!("fences {}: {error}; nothing was changed", self.file.display()))?;
            *self.table() = table;
        }
        Ok(has_changed)
    }

    fn table(&self) -> MutexGuard<'_, Vec<Fence>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(table: &[Fence]) -> String {
    let kept = table.iter().map(|fence| KeptFence { initiator: fence.whom.to_string(), since: fence.since });
    seal(FORMAT, &kept.collect::<Vec<_>>())
}

fn decode(content: &[u8]) -> Result<Vec<Fence>, String> {
    let kept: Vec<KeptFence> = unseal(FORMAT, content)?;
    kept.into_iter().map(|kept| Ok(Fence { whom: kept.initiator.parse()?, since: kept.since })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    #[test]
    fn fences_are_about_a_name_in_any_case_or_an_address() {
        let name: Whom = "iqn.2026-11.Test:A".parse().expect("a name");
        assert!(name.is_meant(Some("IQN.2026-11.test:a"), PEER));
        assert!(!name.is_meant(Some("iqn.2026-11.test:ab"), PEER));
        assert!(!name.is_meant(None, PEER));
        let range: Whom = "10.0.0.0/29".parse().expect("a range");
        assert!(range.is_meant(None, PEER));
        assert!("node1".parse::<Whom>().is_err());
        assert!("".parse::<Whom>().is_err());
    }

    #[test]
    fn a_fence_survives_its_file_and_nonsense_is_refused() {
        let whom: Whom = "iqn.2026-11.test:a".parse().expect("a name");
        let table = vec![Fence { whom, since: 7 }, Fence { whom: "10.0.0.7".parse().expect("an address"), since: 8 }];
        assert_eq!(decode(encode(&table).as_bytes()), Ok(table));
        let somebody = seal(FORMAT, &[KeptFence { initiator: "somebody".to_owned(), since: 1 }]);
        assert!(decode(somebody.as_bytes()).is_err());
        assert!(decode(b"").is_err());
    }

    #[test]
    fn what_cannot_be_kept_does_not_count() {
        let whom: Whom = "iqn.2026-11.test:a".parse().expect("a name");
        let fences = Fences::open("/nonexistent/fences.json".into()).expect("no file is no fence");
        assert!(fences.add(&whom, 1).is_err());
        assert!(!fences.bars("iqn.2026-11.test:a", PEER));
    }
}
