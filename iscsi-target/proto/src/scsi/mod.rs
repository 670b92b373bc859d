//! SCSI as both sides see it: command blocks, status, sense and parameter data (SPC-4, SBC-3, SAM-5).
//!
//! Pure encoding and decoding; executing commands is the target program's work.

mod capacity;
mod cdb;
mod command;
mod inquiry;
mod luns;
mod mode;
mod sense;
mod status;

pub use capacity::Capacity;
pub use cdb::{Cdb, CdbError, Operation, PageControl};
pub use command::{Completion, DataPhase, ScsiCommand};
pub use inquiry::{InquiryIdentity, StandardInquiry, UnitProfile, inquiry_page};
pub use luns::{encode_luns, parse_luns};
pub use mode::{ModeProfile, mode_sense};
pub use sense::{AdditionalSense, Sense, SenseKey};
pub use status::Status;
