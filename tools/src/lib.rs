//! The command line `corral`: one program that is called by several names.
//!
//! Map: `cli` (names and options), `sibling` (the programs installed beside this one), `mount` and
//! `links` (thin commands), `mounts` and `process` (what runs on this machine, read from /proc, and
//! how it is ended; `record` is what a mount says of itself), `status` (what is shown of it), `output` (text and JSON), `demo` (the cluster that
//! `./quickstart` starts on one machine and `corral down` ends).
//!
//! `fs` and `faces` show what `gfs/check` reads of a disk. Nothing here knows a lock or a FUSE request: those live in the
//! programs it starts.

pub mod cli;
pub mod clock;
pub mod demo;
pub mod device;
pub mod faces;
pub mod fs;
pub mod fsck;
pub mod iscsi;
pub mod journal;
pub mod links;
pub mod mount;
pub mod mounts;
pub mod output;
pub mod process;
pub mod record;
pub mod recovery;
pub mod sibling;
pub mod status;
pub mod target;
pub mod users;
