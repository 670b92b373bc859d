//! iSCSI (RFC 7143) and the part of SCSI it carries, for both sides, sans-IO.
//!
//! [`TargetSession`](target::TargetSession) and [`InitiatorSession`](initiator::InitiatorSession) are state machines:
//! `handle(input, now)` takes bytes, time and decisions, `poll_output` and `transmit` give events and bytes back,
//! `next_deadline` says when to call again. Nothing here knows sockets, clocks, threads, randomness or block devices.
//!
//! Whatever a peer sends, the answer is an event, a refusal or a [`error::WireError`] that names what was wrong and
//! where; never a panic, and never more memory than the limits that were declared.

pub mod chap;
pub mod error;
pub mod initiator;
pub mod negotiate;
pub mod pdu;
pub mod scsi;
pub mod serial;
pub mod target;
pub mod text;
pub mod wire;
