//! Who masters a name: which member knows (the directory of the name), and what this member knows.
//!
//! A name's directory is the member of the view with the highest score for it (rendezvous hashing),
//! so a change of the view moves only the names whose directory came or went. The first that asks
//! becomes the master. An entry goes when its master says that nobody uses the name.

use std::collections::BTreeMap;

use base::NodeId;
use dlm_api::ResourceName;

/// The directory of `name` among `members`; `None` if there is none.
pub fn directory_of(name: &ResourceName, members: impl IntoIterator<Item = NodeId>) -> Option<NodeId> {
    let hash = name.as_bytes().iter().fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME));
    members.into_iter().max_by_key(|member| (mix(hash ^ mix(u64::from(member.0))), *member))
}

/// The entries of the names whose directory is here.
#[derive(Default)]
pub(crate) struct Directory {
    entries: BTreeMap<ResourceName, NodeId>,
}

impl Directory {
    pub(crate) fn entries(&self) -> &BTreeMap<ResourceName, NodeId> {
        &self.entries
    }

    /// The master of `name`: `asking` if it had none.
    pub(crate) fn lookup(&mut self, name: &ResourceName, asking: NodeId, forget: bool) -> NodeId {
        match self.entries.get(name) {
            Some(master) => *master,
            None if forget => asking,
            None => {
                self.entries.insert(name.clone(), asking);
                asking
            }
        }
    }

    /// `master` uses the name no more. Nothing changes if another is the master by now.
    pub(crate) fn remove(&mut self, name: &ResourceName, master: NodeId) {
        if self.entries.get(name) == Some(&master) {
            self.entries.remove(name);
        }
    }

    pub(crate) fn set(&mut self, name: ResourceName, master: NodeId) {
        self.entries.insert(name, master);
    }

    /// Takes out the entries whose directory among `members` is not `me`, with where they go.
    pub(crate) fn take_moved(
        &mut self,
        me: NodeId,
        members: &[NodeId],
    ) -> BTreeMap<NodeId, Vec<(ResourceName, NodeId)>> {
        let mut moved: BTreeMap<NodeId, Vec<_>> = BTreeMap::new();
        for (name, master) in std::mem::take(&mut self.entries) {
            match directory_of(&name, members.iter().copied()) {
                Some(home) if home != me => moved.entry(home).or_default().push((name, master)),
                Some(_) | None => {
                    self.entries.insert(name, master);
                }
            }
        }
        moved
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The finaliser of splitmix64: every input bit reaches every output bit.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> ResourceName {
        ResourceName::new(format!("       2{number:16x}").as_bytes()).expect("a name")
    }

    #[test]
    fn names_spread_evenly_and_only_a_lost_members_names_move() {
        let four: Vec<_> = (1..=4).map(NodeId).collect();
        let three = &four[..3];
        let mut counts = [0_u32; 5];
        for number in 0..8000 {
            let before = directory_of(&name(number), four.iter().copied()).expect("a member");
            let after = directory_of(&name(number), three.iter().copied()).expect("a member");
            counts[before.0 as usize] += 1;
            assert!(after == before || before == NodeId(4));
        }
        assert!(counts[1..].iter().all(|count| (1700..2300).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_first_that_asks_becomes_the_master_until_it_says_otherwise() {
        let mut directory = Directory::default();
        assert_eq!(directory.lookup(&name(1), NodeId(2), false), NodeId(2));
        assert_eq!(directory.lookup(&name(1), NodeId(3), false), NodeId(2));
        directory.remove(&name(1), NodeId(3));
        assert_eq!(directory.lookup(&name(1), NodeId(3), false), NodeId(2));
        directory.remove(&name(1), NodeId(2));
        assert_eq!(directory.lookup(&name(1), NodeId(3), false), NodeId(3));
    }
}
