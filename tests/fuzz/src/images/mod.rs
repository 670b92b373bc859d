//! Damaged filesystems: images of the kernel's, changed where their structures are, for the check, the journal tool
//! and the engine to read.
//!
//! Map: `base` (an image and where its structures are), `mutate` (what is done to it, by the field tables), `judge`
//! (what then has to answer: no panic, no hang, bounded memory, an error that names its block), `compare` (our verdict
//! beside that of `fsck.gfs2`).

pub mod base;
pub mod compare;
pub mod judge;
pub mod mutate;
pub mod program;
