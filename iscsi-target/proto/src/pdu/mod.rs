//! Protocol data units: one struct per header, exactly as it lies on the wire (RFC 7143 §11).
//!
//! Every header is 48 bytes, unaligned, big-endian. The structs are the layout; nothing else repeats an offset.

mod command;
mod control;
mod data;
mod header;
mod login;
mod text;

pub use command::{
    CommandFlags, ScsiCommandHeader, ScsiResponseHeader, TaskFunction, TaskManagementRequestHeader,
    TaskManagementResponse, TaskManagementResponseHeader,
};
pub use control::{
    AsyncMessageHeader, LogoutReason, LogoutRequestHeader, LogoutResponseHeader, NopInHeader, NopOutHeader,
    RejectHeader, RejectReason,
};
pub use data::{DataInHeader, DataOutHeader, ReadyToTransferHeader};
pub use header::{
    BasicHeader, FINAL, HEADER_LEN, Header, IMMEDIATE, LunField, OPCODE_MASK, Opcode, Pdu, RESERVED_TAG, Residual, U24,
};
pub use login::{LoginRequestHeader, LoginResponseHeader, LoginStage, LoginStatus};
pub use text::{CONTINUE, TextRequestHeader, TextResponseHeader};
