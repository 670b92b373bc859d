//! Asks a logical unit what it is: a disk, how large, with which limits, and whether it is the same as before.

use std::time::Duration;

use block_core::{BlockError, ByteLen, ByteOffset, RegisteredKeys};
use bytes::Bytes;
use iscsi_target_proto::scsi::{AdditionalSense, Capacity, Cdb, DataPhase, ScsiCommand, StandardInquiry};

use crate::clock;
use crate::command::{self, ReserveIn};
use crate::error::ConnectError;
use crate::queue::Shared;
use crate::verdict::{Verdict, judge};

/// What the initiator needs to know of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Bytes per logical block.
    pub sector: u32,
    pub sectors: u64,
    pub is_read_only: bool,
    /// Writes are answered before they would survive a loss of power.
    pub has_write_cache: bool,
    /// Most bytes of one command.
    pub transfer_max: ByteLen,
    /// Most bytes that one command fills with zeroes, or gives back.
    pub write_same_max: ByteLen,
    /// As above; `None` if the unit does not give space back.
    pub unmap_max: Option<ByteLen>,
    /// Most bytes that are compared and written in one step.
    pub compare_max: ByteLen,
    /// What names the unit: its device identification or serial number page, as it came.
    pub identity: Option<Bytes>,
}

struct BlockLimits {
    transfer_max: ByteLen,
    write_same_max: ByteLen,
    unmap_max: Option<ByteLen>,
    compare_max: ByteLen,
}

/// Where to ask.
#[derive(Clone, Copy)]
pub struct Probe<'a> {
    pub shared: &'a Shared,
    pub target: &'a str,
    pub lun: u16,
    /// How long "not ready" and "busy" are waited for.
    pub patience: Duration,
}

impl Probe<'_> {
    /// Asks everything.
    pub async fn unit(&self) -> Result<Unit, ConnectError> {
        let inquiry = self.ask("INQUIRY", ScsiCommand::inquiry(self.lun, None)).await?;
        let inquiry = StandardInquiry::parse(&inquiry).ok_or_else(|| ConnectError::Refused {
            question: "INQUIRY",
            answer: "its answer is too short".to_owned(),
        })?;
        if inquiry.qualifier != 0 {
            return Err(ConnectError::NoSuchLun { target: self.target.to_owned(), lun: self.lun });
        }
        if inquiry.device_type != DISK {
            return Err(ConnectError::NotADisk { device_type: inquiry.device_type });
        }
        self.ask("TEST UNIT READY", ScsiCommand::test_unit_ready(self.lun)).await?;
        let capacity = self.capacity().await?;
        let (has_write_cache, is_read_only) = self.mode().await?;
        let limits = self.limits(capacity.block_length).await?;
        Ok(Unit {
            sector: capacity.block_length,
            sectors: capacity.blocks,
            is_read_only,
            has_write_cache,
            transfer_max: limits.transfer_max,
            write_same_max: limits.write_same_max,
            unmap_max: limits.unmap_max.filter(|_| capacity.is_thin),
            compare_max: limits.compare_max,
            identity: self.identity().await?,
        })
    }

    /// The size now.
    pub async fn capacity(&self) -> Result<Capacity, ConnectError> {
        let answer = self.ask("READ CAPACITY", ScsiCommand::read_capacity_16(self.lun)).await?;
        let bad = |what: String| ConnectError::BadCapacity { what };
        let capacity = Capacity::parse_long(&answer).ok_or_else(|| bad("its size makes no sense".to_owned()))?;
        let length = capacity.block_length;
        if !length.is_power_of_two() || !(512..=65536).contains(&length) {
            return Err(bad(format!("its blocks have {length} bytes")));
        }
        Ok(capacity)
    }

    /// Whether there is a write cache and whether writes are refused. A unit that does not say so is taken to have a
    /// cache: that is the careful guess.
    async fn mode(&self) -> Result<(bool, bool), ConnectError> {
        let mut cdb = Cdb::default();
        (cdb.0[0], cdb.0[2], cdb.0[4]) = (MODE_SENSE_6, CACHING_PAGE, MODE_ALLOCATION);
        let command = ScsiCommand { lun: self.lun, cdb, data: DataPhase::In { length: u32::from(MODE_ALLOCATION) } };
        let Some(answer) = self.ask_if_known("MODE SENSE", command).await? else { return Ok((true, false)) };
        let byte = |at: usize| answer.get(at).copied().unwrap_or(0);
        let is_read_only = byte(2) & WRITE_PROTECTED != 0;
        let page = 4 + usize::from(byte(3));
        let has_write_cache = byte(page) & 0x3f != CACHING_PAGE || byte(page + 2) & WRITE_CACHE_ENABLED != 0;
        Ok((has_write_cache, is_read_only))
    }

    /// Our limits, or less where the unit's block limits page says so (SBC-4 §6.6.4).
    async fn limits(&self, block_length: u32) -> Result<BlockLimits, ConnectError> {
        let page = self.ask_if_known("INQUIRY (block limits)", self.page(BLOCK_LIMITS)).await?;
        let page = page.filter(|page| page.get(1) == Some(&BLOCK_LIMITS));
        let field =
            |at: usize| -> Option<u32> { Some(u32::from_be_bytes(page.as_ref()?.get(at..at + 4)?.try_into().ok()?)) };
        let least = |most: u64, blocks: u64| match blocks.saturating_mul(u64::from(block_length)) {
            // Zero says nothing.
            0 => ByteLen(most),
            limit => ByteLen(most.min(limit)),
        };
        let long = page.as_ref().and_then(|page| page.get(36..44)?.try_into().ok()).map_or(0, u64::from_be_bytes);
        let compare = page.as_ref().and_then(|page| page.get(5)).copied().unwrap_or(0);
        Ok(BlockLimits {
            transfer_max: least(TRANSFER_MAX, field(8).unwrap_or(0).into()),
            write_same_max: least(WRITE_SAME_MAX, long),
            unmap_max: field(20).filter(|blocks| *blocks > 0).map(|blocks| least(UNMAP_MAX, blocks.into())),
            compare_max: ByteLen(u64::from(compare.max(1)) * u64::from(block_length)),
        })
    }

    /// The keys that are registered with the unit.
    pub async fn keys(&self) -> Result<RegisteredKeys, ConnectError> {
        const QUESTION: &str = "PERSISTENT RESERVE IN (READ KEYS)";
        let answer = self.ask(QUESTION, command::reserve_in(self.lun, ReserveIn::Keys)).await?;
        let answer = command::parse_keys(&answer);
        answer.ok_or(ConnectError::Refused { question: QUESTION, answer: "its answer makes no sense".to_owned() })
    }

    async fn identity(&self) -> Result<Option<Bytes>, ConnectError> {
        for page in [DEVICE_IDENTIFICATION, SERIAL_NUMBER] {
            let answer = self.ask_if_known("INQUIRY (identification)", self.page(page)).await?;
            if let Some(answer) = answer.filter(|answer| answer.get(1) == Some(&page) && answer.len() > 4) {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    fn page(&self, page: u8) -> ScsiCommand {
        ScsiCommand::inquiry(self.lun, Some(page))
    }

    /// `None` if the unit does not know the question.
    async fn ask_if_known(&self, question: &'static str, command: ScsiCommand) -> Result<Option<Bytes>, ConnectError> {
        match self.ask(question, command).await {
            Ok(answer) => Ok(Some(answer)),
            Err(ConnectError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks until the answer is neither a unit attention nor a request for patience.
    pub async fn ask(&self, question: &'static str, command: ScsiCommand) -> Result<Bytes, ConnectError> {
        let refused = |answer: String| ConnectError::Refused { question, answer };
        let begin = clock::now();
        loop {
            let Some(completion) = self.shared.ask(command.clone()).await else {
                return Err(refused("the target did not answer it".to_owned()));
            };
            if completion.sense.is_some_and(|sense| sense.additional == AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED) {
                return Err(ConnectError::NoSuchLun { target: self.target.to_owned(), lun: self.lun });
            }
            match judge(&completion, ByteOffset(0), ByteLen(0)) {
                Verdict::Done(data) => return Ok(data),
                Verdict::Again { after, what, .. } => {
                    if clock::now().saturating_since(begin) >= self.patience {
                        return Err(refused(what));
                    }
                    tokio::time::sleep(after).await;
                }
                Verdict::Failed(BlockError::Fenced) => return Err(ConnectError::Fenced),
                Verdict::Failed(BlockError::Io { what, .. }) => return Err(refused(what)),
                Verdict::Failed(error) => return Err(refused(error.to_string())),
            }
        }
    }
}

/// One command moves at most this much. Larger ones would hold up small ones on the same connection.
const TRANSFER_MAX: u64 = 1 << 20;

/// What one WRITE SAME or UNMAP may take of a unit's time.
const WRITE_SAME_MAX: u64 = 64 << 20;
const UNMAP_MAX: u64 = 1 << 30;

const DISK: u8 = 0x00;
const MODE_SENSE_6: u8 = 0x1a;
const CACHING_PAGE: u8 = 0x08;
const MODE_ALLOCATION: u8 = 192;
const WRITE_PROTECTED: u8 = 0x80;
const WRITE_CACHE_ENABLED: u8 = 0x04;
const SERIAL_NUMBER: u8 = 0x80;
const DEVICE_IDENTIFICATION: u8 = 0x83;
const BLOCK_LIMITS: u8 = 0xb0;
