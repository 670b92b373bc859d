//! Hostile bytes for every decoder and for the two iSCSI machines: a seeded mutation smoke test that needs no special compiler.
//!
//! It is not guided by coverage; it finds what a careless length or offset does. One seed and one round are one input, so a
//! failure is repeated by its line. Map: `random` (the generator), `targets` (one function a decoder), `wire` (two iSCSI
//! sessions with a hostile cable between them), `images` (damaged filesystems), `scsi` (commands for the target's
//! units).

pub mod chap;
pub mod images;
pub mod random;
pub mod scsi;
pub mod targets;
pub mod wire;
