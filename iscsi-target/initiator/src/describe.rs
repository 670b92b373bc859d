//! What a unit says of itself, for people: names, sizes, limits.

use block_core::{BlockError, ByteOffset};
use bytes::Bytes;
use iscsi_target_proto::scsi::{Capacity, ScsiCommand, StandardInquiry};

use crate::device::IscsiDevice;
use crate::queue::Role;
use crate::way::settled;

/// A unit, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub vendor: String,
    pub product: String,
    pub revision: String,
    /// The serial number page, if there is one.
    pub serial: Option<String>,
    /// What names the unit on every path: NAA, EUI-64 and T10 designators, as text.
    pub identifiers: Vec<String>,
    pub is_read_only: bool,
    pub has_write_cache: bool,
    /// Space is taken as it is written, and can be given back.
    pub is_thin: bool,
    /// Bytes of a logical block.
    pub block_length: u32,
    /// Bytes of a physical block: writes that are whole ones are fastest.
    pub physical_block_length: u64,
    pub blocks: u64,
    /// Most bytes of one command that this initiator sends.
    pub transfer_max: u64,
    /// Most bytes that are compared and written in one step.
    pub compare_and_write_max: u64,
}

impl IscsiDevice {
    /// Asks the unit what it is.
    pub async fn describe(&self) -> Result<Description, BlockError> {
        let bad = |what: &str| BlockError::Io { at: ByteOffset(0), what: format!("{what} makes no sense") };
        let inquiry = self.ask(ScsiCommand::inquiry(self.way().lun, None)).await?;
        let inquiry = StandardInquiry::parse(&inquiry).ok_or_else(|| bad("its INQUIRY data"))?;
        let capacity = self.ask(ScsiCommand::read_capacity_16(self.way().lun)).await?;
        let capacity = Capacity::parse_long(&capacity).ok_or_else(|| bad("its capacity"))?;
        let serial = self.page(SERIAL_NUMBER).await?.map(|body| plain(&body)).filter(|serial| !serial.is_empty());
        let identifiers = self.page(DEVICE_IDENTIFICATION).await?.map_or_else(Vec::new, |body| designators(&body));
        let unit = &self.way().unit;
        Ok(Description {
            vendor: plain(inquiry.vendor.as_bytes()),
            product: plain(inquiry.product.as_bytes()),
            revision: plain(inquiry.revision.as_bytes()),
            serial,
            identifiers,
            is_read_only: unit.is_read_only,
            has_write_cache: unit.has_write_cache,
            is_thin: capacity.is_thin,
            block_length: capacity.block_length,
            physical_block_length: u64::from(capacity.block_length) << (capacity.physical_exponent & 0x0f),
            blocks: capacity.blocks,
            transfer_max: unit.transfer_max.0,
            compare_and_write_max: unit.compare_max.0,
        })
    }

    /// The body of a vital product data page; `None` if the unit does not have it.
    async fn page(&self, page: u8) -> Result<Option<Bytes>, BlockError> {
        match self.ask(ScsiCommand::inquiry(self.way().lun, Some(page))).await {
            Ok(data) if data.get(1) == Some(&page) && data.len() >= 4 => {
                let length = usize::from(u16::from_be_bytes([data[2], data[3]]));
                Ok(Some(data.slice(4..(4 + length).min(data.len()))))
            }
            Ok(_) | Err(BlockError::Io { .. } | BlockError::Unsupported { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn ask(&self, command: ScsiCommand) -> Result<Bytes, BlockError> {
        settled(self.way().shared.submit_one(command, Role::Query)).await
    }
}

const SERIAL_NUMBER: u8 = 0x80;
const DEVICE_IDENTIFICATION: u8 = 0x83;

/// The designators of the unit itself (SPC-4 §7.8.6), as `naa.…`, `eui.…` or `t10.…`.
fn designators(mut body: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while let Some(([code_set, kind, _, length], rest)) = body.split_first_chunk::<4>() {
        let Some((designator, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        body = rest;
        let is_of_unit = kind >> 4 & 3 == 0;
        let text = match code_set & 0x0f {
            1 => designator.iter().map(|byte| format!("{byte:02x}")).collect(),
            _ => plain(designator),
        };
        match kind & 0x0f {
            1 if is_of_unit => found.push(format!("t10.{text}")),
            2 if is_of_unit => found.push(format!("eui.{text}")),
            3 if is_of_unit => found.push(format!("naa.{text}")),
            8 if is_of_unit => found.push(text),
            _ => {}
        }
    }
    found
}

/// Text from a device, which may hold anything, without what a terminal would act on.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn designators_of_the_unit_are_told_and_those_of_ports_are_not() {
        let naa = [&[1, 3, 0, 8][..], &[0x60, 1, 2, 3, 4, 5, 6, 7]].concat();
        let t10 = [&[2, 1, 0, 6][..], b"IET\x1b[1"].concat();
        let port = [&[1, 0x94, 0, 4][..], &[0, 0, 0, 1]].concat();
        let all = [naa, t10, port, vec![1, 3, 0, 200, 1]].concat();
        assert_eq!(designators(&all), ["naa.6001020304050607", "t10.IET[1"]);
    }
}
