//! Names of extended attributes: `user.x` for a caller, a kind and `x` on the disk.

use gfs_format::eattr::{NAME_MAX, kind};

use crate::error::{Error, Result};

/// Namespace of an extended attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum XattrSpace {
    User,
    /// Access control lists, and nothing else.
    System,
    Security,
    /// Only in format 1802.
    Trusted,
}

/// Name of an extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XattrName {
    pub space: XattrSpace,
    /// Without the namespace.
    pub name: Vec<u8>,
}

/// `posix_acl_access` and `posix_acl_default` in the system namespace.
pub(super) const ACL_ACCESS: &[u8] = b"posix_acl_access";
pub(super) const ACL_DEFAULT: &[u8] = b"posix_acl_default";
/// File capabilities, in the security namespace.
pub(super) const CAPABILITY: &[u8] = b"capability";

impl XattrSpace {
    const ALL: [XattrSpace; 4] = [XattrSpace::User, XattrSpace::System, XattrSpace::Security, XattrSpace::Trusted];

    /// What names of it begin with.
    pub fn prefix(self) -> &'static [u8] {
        match self {
            XattrSpace::User => b"user.",
            XattrSpace::System => b"system.",
            XattrSpace::Security => b"security.",
            XattrSpace::Trusted => b"trusted.",
        }
    }

    /// As records have it.
    pub(super) fn kind(self) -> u8 {
        match self {
            XattrSpace::User => kind::USER,
            XattrSpace::System => kind::SYSTEM,
            XattrSpace::Security => kind::SECURITY,
            XattrSpace::Trusted => kind::TRUSTED,
        }
    }

    pub(super) fn of_kind(kind: u8) -> Option<XattrSpace> {
        XattrSpace::ALL.into_iter().find(|space| space.kind() == kind)
    }
}

impl XattrName {
    /// From the name as a caller spells it: `NotSupported` for a namespace that GFS2 does not
    /// have, `Invalid` without a name in it.
    pub fn parse(spelt: &[u8]) -> Result<XattrName> {
        let found = XattrSpace::ALL.into_iter().find_map(|space| Some((space, spelt.strip_prefix(space.prefix())?)));
        let (space, name) = found.ok_or(Error::NotSupported { what: "the namespace of the extended attribute" })?;
        if name.is_empty() {
            return Err(Error::Invalid);
        }
        if name.len() > NAME_MAX {
            return Err(Error::XattrTooLarge);
        }
        Ok(XattrName { space, name: name.to_vec() })
    }

    /// As a caller spells it.
    pub fn spelt(&self) -> Vec<u8> {
        [self.space.prefix(), &self.name].concat()
    }

    pub(super) fn capability() -> XattrName {
        XattrName { space: XattrSpace::Security, name: CAPABILITY.to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_at_their_namespace() {
        let parsed = XattrName::parse(b"security.capability").expect("good");
        assert_eq!(parsed, XattrName::capability());
        assert_eq!(parsed.spelt(), b"security.capability");
        assert_eq!(XattrName::parse(b"user."), Err(Error::Invalid));
        assert!(matches!(XattrName::parse(b"os2.x"), Err(Error::NotSupported { .. })));
        assert_eq!(XattrName::parse(&[b"user.", &[b'n'; 256][..]].concat()), Err(Error::XattrTooLarge));
    }
}
