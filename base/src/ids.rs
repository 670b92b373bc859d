//! Identities that could be swapped if they were plain integers.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty), $label:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($label, "{}"), self.0)
            }
        }
    };
}

id! {
    /// A member of the cluster; 0 is never used.
    NodeId(u32), "node "
}
id! {
    /// One life of a member: a restart is a new incarnation.
    Incarnation(u64), "incarnation "
}
id! {
    /// Generation of a lockspace's membership.
    ViewId(u64), "view "
}
id! {
    /// Number of a journal, from 0.
    JournalId(u32), "journal "
}
