//! POSIX access control lists: what the bytes of `system.posix_acl_*` say, which are the same on
//! the disk and in the system calls (`linux/posix_acl_xattr.h`, little-endian).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    tag: U16,
    permissions: U16,
    /// User or group; `NOBODY` where the tag says who.
    id: U32,
}

const _: () = assert!(size_of::<Entry>() == 8);

mod tag {
    pub const OWNER: u16 = 0x01;
    pub const USER: u16 = 0x02;
    pub const OWNING_GROUP: u16 = 0x04;
    pub const GROUP: u16 = 0x08;
    pub const MASK: u16 = 0x10;
    pub const OTHER: u16 = 0x20;
}

const VERSION: u32 = 2;
const VERSION_BYTES: usize = size_of::<U32>();
/// No id.
const NOBODY: u32 = u32::MAX;

/// A valid list: owner, users, owning group, groups, mask if there are users or groups, others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

/// What is left of a list when its permissions are expressed by a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ModeOfAcl {
    /// Permission bits (0777).
    pub mode: u32,
    /// The mode says everything: there is no need for the list.
    pub is_all: bool,
}

impl Acl {
    /// Reads a list. An empty one is `None`.
    pub fn parse(bytes: &[u8]) -> Result<Option<Acl>> {
        let (version, rest) = U32::read_from_prefix(bytes).map_err(|_| Error::Invalid)?;
        if version.get() != VERSION {
            return Err(Error::NotSupported { what: "the version of the access control list" });
        }
        let entries = <[Entry]>::ref_from_bytes(rest).map_err(|_| Error::Invalid)?;
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = Acl(entries.to_vec());
        if acl.is_valid() { Ok(Some(acl)) } else { Err(Error::Invalid) }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(VERSION_BYTES + self.0.len() * size_of::<Entry>());
        bytes.extend_from_slice(U32::new(VERSION).as_bytes());
        bytes.extend_from_slice(self.0.as_bytes());
        bytes
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn is_valid(&self) -> bool {
        // The tags are in order, and those without an id come once.
        let mut needs_mask = false;
        let mut last = 0;
        for entry in &self.0 {
            let tag = entry.tag.get();
            let is_named = matches!(tag, tag::USER | tag::GROUP);
            let is_known = is_named || matches!(tag, tag::OWNER | tag::OWNING_GROUP | tag::MASK | tag::OTHER);
            let is_ordered = tag > last || tag == last && is_named;
            let has_id = !is_named || entry.id.get() != NOBODY;
            if !is_known || !is_ordered || !has_id || entry.permissions.get() > 7 {
                return false;
            }
            needs_mask |= is_named;
            last = tag;
        }
        let has = |wanted| self.0.iter().any(|entry| entry.tag.get() == wanted);
        has(tag::OWNER) && has(tag::OWNING_GROUP) && has(tag::OTHER) && (!needs_mask || has(tag::MASK))
    }

    /// The mode that shows an inode with this list: the mask stands for the group.
    pub fn mode(&self) -> ModeOfAcl {
        let (mut mode, mut is_all) = (0, true);
        let mut mask = None;
        for entry in &self.0 {
            let permissions = u32::from(entry.permissions.get());
            match entry.tag.get() {
                tag::OWNER => mode |= permissions << 6,
                tag::OWNING_GROUP => mode |= permissions << 3,
                tag::OTHER => mode |= permissions,
                tag::MASK => mask = Some(permissions),
                _ => is_all = false,
            }
        }
        if let Some(mask) = mask {
            mode = mode & !0o070 | mask << 3;
            is_all = false;
        }
        ModeOfAcl { mode, is_all }
    }

    /// The list after a chmod.
    pub fn set_mode(&mut self, mode: u32) {
        self.map(|_, class| bits(mode, class));
    }

    /// The list of a new inode made with `mode`, from its directory's default list; and the mode
    /// it ends up with.
    pub fn inherit(mut self, mode: u32) -> (Acl, ModeOfAcl) {
        self.map(|permissions, class| permissions & bits(mode, class));
        let left = self.mode();
        (self, left)
    }

    /// Changes the entries that the mode shows: of the owner, of the mask or without one of the
    /// owning group, of the others. `change` gets the permissions and the class's shift.
    fn map(&mut self, change: impl Fn(u16, u32) -> u16) {
        let has_mask = self.0.iter().any(|entry| entry.tag.get() == tag::MASK);
        for entry in &mut self.0 {
            let class = match entry.tag.get() {
                tag::OWNER => 6,
                tag::OWNING_GROUP if !has_mask => 3,
                tag::MASK => 3,
                tag::OTHER => 0,
                _ => continue,
            };
            entry.permissions = change(entry.permissions.get(), class).into();
        }
    }
}

/// The three bits of a class of a mode.
fn bits(mode: u32, shift: u32) -> u16 {
    (mode >> shift & 7) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    fn parse(entries: &[(u16, u16, u32)]) -> Acl {
        Acl::parse(&acl(entries)).expect("valid").expect("not empty")
    }

    const WITH_USER: [(u16, u16, u32); 5] =
        [(1, 7, NOBODY), (2, 6, 1000), (4, 5, NOBODY), (16, 7, NOBODY), (32, 4, NOBODY)];

    #[test]
    fn a_list_survives_reading_and_writing() {
        assert_eq!(parse(&WITH_USER).to_bytes(), acl(&WITH_USER));
        assert_eq!(Acl::parse(&acl(&[])), Ok(None));
    }

    #[test]
    fn what_is_out_of_order_incomplete_or_unknown_is_refused() {
        let without = |tag| WITH_USER.into_iter().filter(|entry| entry.0 != tag).collect::<Vec<_>>();
        for missing in [1, 4, 16, 32] {
            assert_eq!(Acl::parse(&acl(&without(missing))), Err(Error::Invalid), "without {missing}");
        }
        let mut twice = WITH_USER.to_vec();
        twice.push((32, 4, NOBODY));
        assert_eq!(Acl::parse(&acl(&twice)), Err(Error::Invalid));
        let mut swapped = WITH_USER.to_vec();
        swapped.swap(0, 1);
        assert_eq!(Acl::parse(&acl(&swapped)), Err(Error::Invalid));
        for bad in [(2, 8, 1000), (2, 7, NOBODY), (64, 1, 1)] {
            let mut entries = WITH_USER.to_vec();
            entries[1] = bad;
            assert_eq!(Acl::parse(&acl(&entries)), Err(Error::Invalid), "{bad:?}");
        }
        assert_eq!(Acl::parse(&acl(&WITH_USER)[..20]), Err(Error::Invalid));
        assert_eq!(Acl::parse(b"\x02"), Err(Error::Invalid));
    }

    #[test]
    fn the_mask_is_what_the_mode_shows_of_the_group() {
        assert_eq!(parse(&WITH_USER).mode(), ModeOfAcl { mode: 0o774, is_all: false });
        let plain = parse(&[(1, 6, NOBODY), (4, 4, NOBODY), (32, 0, NOBODY)]);
        assert_eq!(plain.mode(), ModeOfAcl { mode: 0o640, is_all: true });
    }

    #[test]
    fn a_chmod_changes_the_mask_and_leaves_the_group() {
        let mut list = parse(&WITH_USER);
        list.set_mode(0o640);
        let expected = parse(&[(1, 6, NOBODY), (2, 6, 1000), (4, 5, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)]);
        assert_eq!(list, expected);
    }

    #[test]
    fn an_inherited_list_grants_no_more_than_was_asked_for() {
        let (list, left) = parse(&WITH_USER).inherit(0o666);
        assert_eq!(left, ModeOfAcl { mode: 0o664, is_all: false });
        assert_eq!(list, parse(&[(1, 6, NOBODY), (2, 6, 1000), (4, 5, NOBODY), (16, 6, NOBODY), (32, 4, NOBODY)]));
        let (_, left) = parse(&[(1, 7, NOBODY), (4, 5, NOBODY), (32, 5, NOBODY)]).inherit(0o644);
        assert_eq!(left, ModeOfAcl { mode: 0o644, is_all: true });
    }
}
