//! SCSI as both sides see it: command blocks, status, sense and parameter data (SPC-4, SBC-3, SAM-5).
//!
//! Pure encoding and decoding; executing commands is the target program's work.

mod capacity;
mod cdb;
mod command;
mod copy;
mod inquiry;
mod log;
mod luns;
mod mode;
mod opcodes;
mod operation;
mod provisioning;
mod reservation;
mod sense;
mod status;
mod transport_id;

pub use capacity::Capacity;
pub use cdb::{Cdb, CdbError};
pub use command::{Completion, DataPhase, ScsiCommand};
pub use copy::{
    Amount, COPY_LIST_MAX, CopyList, SEGMENT_BYTES_MAX, Segment, copy_aborted, copy_parameters, copy_status, parse_copy,
};
pub use inquiry::{COMPARE_BLOCKS_MAX, InquiryIdentity, InquiryLabels, StandardInquiry, UnitProfile, inquiry_page};
pub use log::log_page;
pub use luns::{encode_luns, parse_luns};
pub use mode::{ModeChange, ModeProfile, mode_select, mode_sense};
pub use opcodes::{OpcodeQuery, report_opcodes, report_tmfs};
pub use operation::{ByteCheck, Operation, PageControl, ReserveInAction, ReserveOutAction};
pub use provisioning::{LbaExtent, encode_lba_status, parse_unmap};
pub use reservation::{Access, Held, Nexus, Outcome, Refusal, Registrant, Reservations, ReserveKind, ReserveOutList};
pub use sense::{AdditionalSense, Sense, SenseKey};
pub use status::Status;
pub use transport_id::TransportId;
