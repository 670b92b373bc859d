//! The commands a unit knows, as one table: what REPORT SUPPORTED OPERATION CODES tells, and the codes that the rest
//! of this folder names (SPC-4 §6.35, SBC-3 §5).

pub const TEST_UNIT_READY: u8 = 0x00;
pub const REQUEST_SENSE: u8 = 0x03;
pub const READ_6: u8 = 0x08;
pub const WRITE_6: u8 = 0x0a;
pub const INQUIRY: u8 = 0x12;
pub const MODE_SELECT_6: u8 = 0x15;
pub const RESERVE_6: u8 = 0x16;
pub const RELEASE_6: u8 = 0x17;
pub const MODE_SENSE_6: u8 = 0x1a;
pub const START_STOP_UNIT: u8 = 0x1b;
pub const PREVENT_ALLOW: u8 = 0x1e;
pub const READ_CAPACITY_10: u8 = 0x25;
pub const READ_10: u8 = 0x28;
pub const WRITE_10: u8 = 0x2a;
pub const WRITE_VERIFY_10: u8 = 0x2e;
pub const VERIFY_10: u8 = 0x2f;
pub const PREFETCH_10: u8 = 0x34;
pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
pub const WRITE_SAME_10: u8 = 0x41;
pub const UNMAP: u8 = 0x42;
pub const LOG_SENSE: u8 = 0x4d;
pub const MODE_SELECT_10: u8 = 0x55;
pub const MODE_SENSE_10: u8 = 0x5a;
pub const PERSISTENT_RESERVE_IN: u8 = 0x5e;
pub const PERSISTENT_RESERVE_OUT: u8 = 0x5f;
pub const EXTENDED_COPY: u8 = 0x83;
pub const RECEIVE_COPY_RESULTS: u8 = 0x84;
pub const READ_16: u8 = 0x88;
pub const COMPARE_AND_WRITE: u8 = 0x89;
pub const WRITE_16: u8 = 0x8a;
pub const OR_WRITE_16: u8 = 0x8b;
pub const WRITE_VERIFY_16: u8 = 0x8e;
pub const VERIFY_16: u8 = 0x8f;
pub const PREFETCH_16: u8 = 0x90;
pub const SYNCHRONIZE_CACHE_16: u8 = 0x91;
pub const WRITE_SAME_16: u8 = 0x93;
pub const WRITE_ATOMIC_16: u8 = 0x9c;
pub const SERVICE_ACTION_IN_16: u8 = 0x9e;
pub const REPORT_LUNS: u8 = 0xa0;
pub const MAINTENANCE_IN: u8 = 0xa3;
pub const READ_12: u8 = 0xa8;
pub const WRITE_12: u8 = 0xaa;
pub const WRITE_VERIFY_12: u8 = 0xae;
pub const VERIFY_12: u8 = 0xaf;

/// Service actions of [`SERVICE_ACTION_IN_16`].
pub const READ_CAPACITY_16: u8 = 0x10;
pub const GET_LBA_STATUS: u8 = 0x12;
/// Service actions of [`MAINTENANCE_IN`].
pub const REPORT_OPCODES: u8 = 0x0c;
pub const REPORT_TMFS: u8 = 0x0d;

/// A command as REPORT SUPPORTED OPERATION CODES describes it.
struct Known {
    opcode: u8,
    service_action: Option<u8>,
    /// Which bits of the command block are looked at; its length is that of the block. The first byte is the opcode.
    usage: &'static [u8],
}

const fn known(opcode: u8, service_action: Option<u8>, usage: &'static [u8]) -> Known {
    Known { opcode, service_action, usage }
}

const ALL: u8 = 0xff;

/// Every command that [`super::Cdb::parse`] takes.
const COMMANDS: &[Known] = &[
    known(TEST_UNIT_READY, None, &[0x00, 0, 0, 0, 0, 0]),
    known(REQUEST_SENSE, None, &[0x03, 0x01, 0, 0, ALL, 0]),
    known(READ_6, None, &[0x08, 0x1f, ALL, ALL, ALL, 0]),
    known(WRITE_6, None, &[0x0a, 0x1f, ALL, ALL, ALL, 0]),
    known(INQUIRY, None, &[0x12, 0x01, ALL, ALL, ALL, 0]),
    known(MODE_SELECT_6, None, &[0x15, 0x11, 0, 0, ALL, 0]),
    known(RESERVE_6, None, &[0x16, 0, 0, 0, 0, 0]),
    known(RELEASE_6, None, &[0x17, 0, 0, 0, 0, 0]),
    known(MODE_SENSE_6, None, &[0x1a, 0x08, ALL, ALL, ALL, 0]),
    known(START_STOP_UNIT, None, &[0x1b, 0x01, 0, 0, 0xf7, 0]),
    known(PREVENT_ALLOW, None, &[0x1e, 0, 0, 0, 0x03, 0]),
    known(READ_CAPACITY_10, None, &[0x25, 0, ALL, ALL, ALL, ALL, 0, 0, 0, 0]),
    known(READ_10, None, &[0x28, 0xf8, ALL, ALL, ALL, ALL, 0, ALL, ALL, 0]),
    known(WRITE_10, None, &[0x2a, 0xf8, ALL, ALL, ALL, ALL, 0, ALL, ALL, 0]),
    known(WRITE_VERIFY_10, None, &[0x2e, 0xf6, ALL, ALL, ALL, ALL, 0, ALL, ALL, 0]),
    known(VERIFY_10, None, &[0x2f, 0xf6, ALL, ALL, ALL, ALL, 0, ALL, ALL, 0]),
    known(PREFETCH_10, None, &[0x34, 0x02, ALL, ALL, ALL, ALL, 0, ALL, ALL, 0]),
    known(SYNCHRONIZE_CACHE_10, None, &[0x35, 0x02, ALL, ALL, ALL, ALL, 0, ALL, ALL, 0]),
    known(WRITE_SAME_10, None, &[0x41, 0xf8, ALL, ALL, ALL, ALL, 0, ALL, ALL, 0]),
    known(UNMAP, None, &[0x42, 0x01, 0, 0, 0, 0, 0, ALL, ALL, 0]),
    known(LOG_SENSE, None, &[0x4d, 0x01, ALL, ALL, 0, 0, 0, ALL, ALL, 0]),
    known(MODE_SELECT_10, None, &[0x55, 0x11, 0, 0, 0, 0, 0, ALL, ALL, 0]),
    known(MODE_SENSE_10, None, &[0x5a, 0x08, ALL, ALL, 0, 0, 0, ALL, ALL, 0]),
    known(PERSISTENT_RESERVE_IN, Some(0), &[0x5e, 0x1f, 0, 0, 0, 0, 0, ALL, ALL, 0]),
    known(PERSISTENT_RESERVE_IN, Some(1), &[0x5e, 0x1f, 0, 0, 0, 0, 0, ALL, ALL, 0]),
    known(PERSISTENT_RESERVE_IN, Some(2), &[0x5e, 0x1f, 0, 0, 0, 0, 0, ALL, ALL, 0]),
    known(PERSISTENT_RESERVE_IN, Some(3), &[0x5e, 0x1f, 0, 0, 0, 0, 0, ALL, ALL, 0]),
    known(PERSISTENT_RESERVE_OUT, Some(0), &[0x5f, 0x1f, 0, 0, 0, ALL, ALL, ALL, ALL, 0]),
    known(PERSISTENT_RESERVE_OUT, Some(1), &[0x5f, 0x1f, ALL, 0, 0, ALL, ALL, ALL, ALL, 0]),
    known(PERSISTENT_RESERVE_OUT, Some(2), &[0x5f, 0x1f, ALL, 0, 0, ALL, ALL, ALL, ALL, 0]),
    known(PERSISTENT_RESERVE_OUT, Some(3), &[0x5f, 0x1f, 0, 0, 0, ALL, ALL, ALL, ALL, 0]),
    known(PERSISTENT_RESERVE_OUT, Some(4), &[0x5f, 0x1f, ALL, 0, 0, ALL, ALL, ALL, ALL, 0]),
    known(PERSISTENT_RESERVE_OUT, Some(5), &[0x5f, 0x1f, ALL, 0, 0, ALL, ALL, ALL, ALL, 0]),
    known(PERSISTENT_RESERVE_OUT, Some(6), &[0x5f, 0x1f, 0, 0, 0, ALL, ALL, ALL, ALL, 0]),
    known(PERSISTENT_RESERVE_OUT, Some(7), &[0x5f, 0x1f, 0, 0, 0, ALL, ALL, ALL, ALL, 0]),
    known(EXTENDED_COPY, Some(0), &[0x83, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, ALL, ALL, ALL, ALL, 0, 0]),
    known(RECEIVE_COPY_RESULTS, Some(0), &[0x84, 0x1f, ALL, 0, 0, 0, 0, 0, 0, 0, ALL, ALL, ALL, ALL, 0, 0]),
    known(RECEIVE_COPY_RESULTS, Some(3), &[0x84, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, ALL, ALL, ALL, ALL, 0, 0]),
    known(READ_16, None, &[0x88, 0xf8, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0]),
    known(COMPARE_AND_WRITE, None, &[0x89, 0xf8, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0, 0, ALL, 0, 0]),
    known(WRITE_16, None, &[0x8a, 0xf8, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0]),
    known(OR_WRITE_16, None, &[0x8b, 0xf8, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0]),
    known(WRITE_VERIFY_16, None, &[0x8e, 0xf6, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0]),
    known(VERIFY_16, None, &[0x8f, 0xf6, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0]),
    known(PREFETCH_16, None, &[0x90, 0x02, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0]),
    known(SYNCHRONIZE_CACHE_16, None, &[0x91, 0x02, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0]),
    known(WRITE_SAME_16, None, &[0x93, 0xf9, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0]),
    known(WRITE_ATOMIC_16, None, &[0x9c, 0xf8, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0]),
    known(
        SERVICE_ACTION_IN_16,
        Some(READ_CAPACITY_16),
        &[0x9e, 0x1f, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0],
    ),
    known(
        SERVICE_ACTION_IN_16,
        Some(GET_LBA_STATUS),
        &[0x9e, 0x1f, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0],
    ),
    known(REPORT_LUNS, None, &[0xa0, 0, ALL, 0, 0, 0, ALL, ALL, ALL, ALL, 0, 0]),
    known(MAINTENANCE_IN, Some(REPORT_OPCODES), &[0xa3, 0x1f, 0x87, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0]),
    known(MAINTENANCE_IN, Some(REPORT_TMFS), &[0xa3, 0x1f, 0x80, 0, 0, 0, ALL, ALL, ALL, ALL, 0, 0]),
    known(READ_12, None, &[0xa8, 0xf8, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0]),
    known(WRITE_12, None, &[0xaa, 0xf8, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0]),
    known(WRITE_VERIFY_12, None, &[0xae, 0xf6, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0]),
    known(VERIFY_12, None, &[0xaf, 0xf6, ALL, ALL, ALL, ALL, ALL, ALL, ALL, ALL, 0, 0]),
];

/// Which command is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpcodeQuery {
    All,
    /// One without service actions.
    Opcode(u8),
    /// One with service actions.
    ServiceAction(u8, u16),
    /// Either.
    Any(u8, u16),
}

/// Parameter data of REPORT SUPPORTED OPERATION CODES; with `timeouts` each has a descriptor that names no timeout.
/// `None` where the question does not fit the command. `is_thin`: UNMAP exists.
pub fn report_opcodes(query: OpcodeQuery, timeouts: bool, is_thin: bool) -> Option<Vec<u8>> {
    const TIMEOUTS: [u8; 12] = [0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let exists = |command: &&Known| is_thin || command.opcode != UNMAP;
    let (opcode, wanted) = match query {
        OpcodeQuery::All => {
            let mut list = Vec::new();
            for command in COMMANDS.iter().filter(exists) {
                let mut flags = if timeouts { 0x02 } else { 0 };
                flags |= u8::from(command.service_action.is_some());
                list.extend_from_slice(&[command.opcode, 0, 0, command.service_action.unwrap_or(0), 0, flags]);
                list.extend_from_slice(&(command.usage.len() as u16).to_be_bytes());
                if timeouts {
                    list.extend_from_slice(&TIMEOUTS);
                }
            }
            return Some([&(list.len() as u32).to_be_bytes()[..], &list].concat());
        }
        OpcodeQuery::Opcode(opcode) => (opcode, None),
        OpcodeQuery::ServiceAction(opcode, action) | OpcodeQuery::Any(opcode, action) => (opcode, Some(action)),
    };
    let mut candidates = COMMANDS.iter().filter(exists).filter(|command| command.opcode == opcode).peekable();
    let has_actions = candidates.peek().map(|command| command.service_action.is_some());
    match (query, has_actions) {
        (OpcodeQuery::Opcode(_), Some(true)) | (OpcodeQuery::ServiceAction(..), Some(false)) => return None,
        _ => {}
    }
    let found = candidates.find(|command| match command.service_action {
        Some(action) => wanted == Some(u16::from(action)),
        None => wanted.is_none_or(|action| matches!(query, OpcodeQuery::Any(..)) && action == 0),
    });
    const NOT_SUPPORTED: u8 = 1;
    const SUPPORTED: u8 = 3;
    let mut out = match found {
        None => return Some(vec![0, NOT_SUPPORTED, 0, 0]),
        Some(command) => {
            let mut usage = command.usage.to_vec();
            if let (Some(action), Some(byte)) = (command.service_action, usage.get_mut(1)) {
                *byte = *byte & 0xe0 | action;
            }
            [&[0, SUPPORTED, 0, usage.len() as u8][..], &usage].concat()
        }
    };
    if timeouts {
        out[1] |= 0x80;
        out.extend_from_slice(&TIMEOUTS);
    }
    Some(out)
}

/// Parameter data of REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: abort task, abort task set, clear task set, logical
/// unit reset.
pub fn report_tmfs(extended: bool) -> Vec<u8> {
    let mut out = vec![0x80 | 0x40 | 0x10 | 0x08, 0, 0, 0];
    if extended {
        out[3] = 12;
        out.resize(16, 0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Cdb, CdbError};
    use super::*;

    #[test]
    fn every_command_in_the_table_is_parsed_and_its_length_is_that_of_its_group() {
        for command in COMMANDS {
            let length = match command.opcode >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                _ => 12,
            };
            assert_eq!((command.usage[0], command.usage.len()), (command.opcode, length), "{:#x}", command.opcode);
            let mut cdb = Cdb::default();
            cdb.0[0] = command.opcode;
            cdb.0[1] = command.service_action.unwrap_or(0);
            assert_ne!(cdb.parse(), Err(CdbError::UnknownOperation), "{:#x}", command.opcode);
        }
    }

    #[test]
    fn one_command_is_described_or_said_to_be_missing() {
        let read = report_opcodes(OpcodeQuery::Opcode(READ_10), true, true).expect("it has no service actions");
        assert_eq!((read[1], read[3], read.len()), (0x83, 10, 4 + 10 + 12));
        assert_eq!(report_opcodes(OpcodeQuery::Opcode(0xff), false, true), Some(vec![0, 1, 0, 0]));
        assert_eq!(report_opcodes(OpcodeQuery::Opcode(UNMAP), false, false), Some(vec![0, 1, 0, 0]));
        assert_eq!(report_opcodes(OpcodeQuery::Opcode(MAINTENANCE_IN), false, true), None);
        assert_eq!(report_opcodes(OpcodeQuery::ServiceAction(READ_10, 0), false, true), None);
        let all = report_opcodes(OpcodeQuery::All, false, true).expect("always");
        assert_eq!(all.len(), 4 + 8 * COMMANDS.len());
    }
}
