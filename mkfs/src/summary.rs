//! What was made, as the lines that users of the established tool know.

use std::fmt;

use crate::error::gigabytes;
use crate::options::Options;
use crate::plan::Plan;

/// The result of making a filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Bytes.
    pub block_size: u64,
    pub device_blocks: u64,
    pub filesystem_blocks: u64,
    pub journals: u32,
    pub journal_mb: u32,
    pub groups: u64,
    pub protocol: &'static str,
    pub table: String,
    pub uuid: [u8; 16],
}

impl Summary {
    /// Of a plan made from `options`.
    pub fn new(plan: &Plan, options: &Options) -> Summary {
        let geometry = &plan.geometry;
        Summary {
            block_size: geometry.block.bytes(),
            device_blocks: geometry.device_blocks,
            filesystem_blocks: geometry.filesystem_blocks(),
            journals: geometry.journals,
            journal_mb: geometry.journal_mb,
            groups: geometry.groups.len() as u64,
            protocol: options.protocol.name(),
            table: options.table.clone(),
            uuid: options.uuid,
        }
    }

    /// The lines, with `device` as the device's name.
    pub fn with_device<'a>(&'a self, device: &'a str) -> impl fmt::Display + 'a {
        Lines { summary: self, device }
    }
}

struct Lines<'a> {
    summary: &'a Summary,
    device: &'a str,
}

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.summary;
        let size = |blocks| format!("{:.2} GB ({blocks} blocks)", gigabytes(blocks, s.block_size));
        let mut line = |name: &str, value: String| writeln!(f, "{:<27}{value}", format!("{name}:"));
        line("Device", self.device.to_owned())?;
        line("Block size", s.block_size.to_string())?;
        line("Device size", size(s.device_blocks))?;
        line("Filesystem size", size(s.filesystem_blocks))?;
        line("Journals", s.journals.to_string())?;
        line("Journal size", format!("{}MB", s.journal_mb))?;
        line("Resource groups", s.groups.to_string())?;
        line("Locking protocol", format!("\"{}\"", s.protocol))?;
        line("Lock table", format!("\"{}\"", s.table))?;
        line("UUID", uuid_text(&s.uuid))
    }
}

/// A UUID in its usual form.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
