//! Puts a draft on the disk, in the order that the module above promises.

use std::sync::Arc;

use block_core::BlockDevice;
use bytes::Bytes;
use gfs_format::log::{descriptor, flags};
use gfs_format::{LogDescriptor, LogHeader, MetaHeader, MetaType};
use zerocopy::{FromZeros, IntoBytes};

use super::draft::{Draft, Fresh};
use super::error::ChangeError;
use crate::error::MkfsError;
use crate::plan::clean_log_block;
use crate::write::Writer;

impl Draft {
    /// Writes everything.
    pub(super) async fn commit(mut self, device: &Arc<dyn BlockDevice>) -> Result<(), ChangeError> {
        self.close();
        let transaction = self.transaction()?;
        let mut writer = Writer::new(device, self.block_size().as_usize());
        // 1. New content, where nothing is yet.
        for fresh in std::mem::take(&mut self.fresh) {
            self.write_fresh(&mut writer, fresh).await?;
        }
        flush(&mut writer, device).await?;
        // 2. The transaction: all but its header, then that.
        let (header, body) = transaction.split_last().ok_or(ChangeError::Full)?;
        for (address, bytes) in body {
            put(&mut writer, *address, bytes).await?;
        }
        flush(&mut writer, device).await?;
        put(&mut writer, header.0, &header.1).await?;
        flush(&mut writer, device).await?;
        // 3. In place, and the journal is clean again.
        for (address, bytes) in &self.changed {
            put(&mut writer, *address, bytes).await?;
        }
        flush(&mut writer, device).await?;
        let (address, bytes) = self.header(self.log_place(transaction.len() as u64), None, 2);
        put(&mut writer, address, &bytes).await?;
        flush(&mut writer, device).await
    }

    /// The blocks of the transaction with their addresses in the log, the header last.
    fn transaction(&self) -> Result<Vec<(u64, Vec<u8>)>, ChangeError> {
        let size = self.block_size();
        let per_chunk = size.descriptor_blocks();
        let changed = self.changed.len() as u64;
        let needed = changed + changed.div_ceil(per_chunk) + 1;
        let blocks = u64::from(self.log.blocks);
        // The header that marks the log clean comes behind, and the old head stays.
        if needed + 2 > blocks {
            return Err(ChangeError::LogTooSmall { needed: needed + 2, blocks });
        }
        let mut written = Vec::new();
        let mut place = 0;
        let all: Vec<_> = self.changed.iter().collect();
        for chunk in all.chunks(per_chunk as usize) {
            let count = chunk.len() as u32;
            let descriptor = LogDescriptor {
                header: MetaHeader::new(MetaType::LogDescriptor),
                kind: descriptor::METADATA.into(),
                length: (count + 1).into(),
                count: count.into(),
                ..LogDescriptor::new_zeroed()
            };
            let mut bytes = descriptor.as_bytes().to_vec();
            bytes.extend(chunk.iter().flat_map(|(address, _)| address.to_be_bytes()));
            bytes.resize(size.as_usize(), 0);
            written.push((self.log_address(place), bytes));
            place += 1;
            for (_, bytes) in chunk {
                written.push((self.log_address(place), (*bytes).clone()));
                place += 1;
            }
        }
        let tail = self.log_place(0);
        written.push(self.header(self.log_place(place), Some(tail), 1));
        Ok(written)
    }

    /// A header at a block of the log: with a tail, it makes what lies from there exist; without one, it says that
    /// the log is clean. `steps` is how far its sequence is behind the head's.
    fn header(&self, block: u32, tail: Option<u32>, steps: u64) -> (u64, Vec<u8>) {
        let head = &self.log.head;
        let journal = &self.journals.list[0];
        let address = journal.map[block as usize];
        let header = LogHeader {
            header: MetaHeader::new(MetaType::LogHeader),
            sequence: (head.sequence.get() + steps).into(),
            flags: (flags::USERSPACE | if tail.is_some() { flags::FLUSH_NORMAL } else { flags::UNMOUNT }).into(),
            tail: tail.unwrap_or(block).into(),
            block: block.into(),
            seconds: self.seconds.into(),
            address: address.into(),
            journal_inode: journal.inode.into(),
            statfs_inode: journal.statfs_inode.into(),
            quota_inode: journal.quota_inode.into(),
            local_total: head.local_total,
            local_free: head.local_free,
            local_dinodes: head.local_dinodes,
            ..LogHeader::new_zeroed()
        };
        let mut bytes = vec![0; self.block_size().as_usize()];
        header.encode(&mut bytes);
        (address, bytes)
    }

    /// The block of the log that is `place` behind the old head, and where it lies.
    fn log_place(&self, place: u64) -> u32 {
        ((u64::from(self.log.head.block.get()) + 1 + place) % u64::from(self.log.blocks)) as u32
    }

    fn log_address(&self, place: u64) -> u64 {
        self.journals.list[0].map[self.log_place(place) as usize]
    }

    async fn write_fresh(&self, writer: &mut Writer<'_>, fresh: Fresh) -> Result<(), ChangeError> {
        match fresh {
            Fresh::Bytes(address, bytes) => put(writer, address, &bytes).await,
            Fresh::QuotaChanges { start, count } => {
                let header = MetaHeader::new(MetaType::QuotaChange);
                let bytes = header.as_bytes();
                writer
                    .fill(start, count, |_, into| into[..bytes.len()].copy_from_slice(bytes))
                    .await
                    .map_err(device_error)
            }
            Fresh::Log { start, count, index, length, inode } => writer
                .fill(start, count, |at, into| {
                    let block = (index + at) as u32;
                    clean_log_block(inode, inode % length, length, block, start + at, into);
                })
                .await
                .map_err(device_error),
        }
    }
}

async fn put(writer: &mut Writer<'_>, address: u64, bytes: &[u8]) -> Result<(), ChangeError> {
    writer.put(address, Bytes::copy_from_slice(bytes)).await.map_err(device_error)
}

async fn flush(writer: &mut Writer<'_>, device: &Arc<dyn BlockDevice>) -> Result<(), ChangeError> {
    writer.finish().await.map_err(device_error)?;
    Ok(device.flush().await?)
}

/// A writer fails only as its device does.
fn device_error(error: MkfsError) -> ChangeError {
    match error {
        MkfsError::Device(error) => ChangeError::Device(error),
        _ => ChangeError::Full,
    }
}
