//! A journal as the tool dumps it: every header and descriptor in the order in which they lie, and the numbers behind
//! each descriptor four a line.

use std::io::Write as _;

use gfs_check::inspect::{InspectError, Volume};
use gfs_check::journal::Journal;
use gfs_format::log::{descriptor, flags};
use gfs_format::{LogDescriptor, LogHeader, MetaHeader, MetaType};
use zerocopy::FromBytes;

use super::{put, structure};

/// Characters of a number with what stands behind it.
const CELL: usize = 19;
const CELLS_IN_LINE: usize = 4;

/// Prints a journal.
pub(super) async fn print(out: &mut Vec<u8>, volume: &Volume, journal: &Journal) -> Result<(), InspectError> {
    let mut before = 0;
    let mut has_wrapped = false;
    for (at, address) in journal.map.iter().enumerate() {
        let bytes = volume.block(*address).await?;
        let place = format!("0x{address:x} (j+{at:4x}): ");
        match MetaHeader::kind_of(&bytes) {
            Some(MetaType::LogHeader) => {
                let Ok((header, _)) = LogHeader::ref_from_prefix(&bytes) else { continue };
                let sequence = header.sequence.get();
                if sequence < before && !has_wrapped {
                    has_wrapped = true;
                    let line = "-".repeat(96);
                    put!(out, "{line}\nJournal wrapped here.\n{line}\n");
                }
                before = sequence;
                let names: Vec<_> = flags::names(header.flags.get()).collect();
                put!(
                    out,
                    "{place}Log header: Seq: 0x{sequence:x}, tail: 0x{:x}, blk: 0x{:x} [{}]\n",
                    header.tail.get(),
                    header.block.get(),
                    names.join("/"),
                );
            }
            Some(MetaType::LogDescriptor) => {
                let Ok((found, numbers)) = LogDescriptor::ref_from_prefix(&bytes) else { continue };
                let kind = match found.kind.get() {
                    descriptor::METADATA => " (Metadata)",
                    descriptor::REVOKE => " (Revoke)",
                    descriptor::JOURNALED_DATA => " (Jdata)",
                    _ => " (Unknown)",
                };
                let (length, count) = (found.length.get(), found.count.get());
                put!(out, "{place}Log descriptor, type {}{kind} len:{length}, data1: {count}\n", found.kind.get());
                let is_metadata = found.kind.get() == descriptor::METADATA;
                // Journaled data has two words a block: its number, and whether it was escaped.
                let is_pairs = found.kind.get() == descriptor::JOURNALED_DATA;
                let words = count as usize * if is_pairs { 2 } else { 1 };
                self::numbers(out, volume, *address, numbers, words, is_metadata).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The numbers behind the descriptor at `address`, up to the first 0; behind those of metadata the type of the block
/// that is logged. The tool looks for that behind the descriptor on the disk even where the log goes on at its front,
/// and so does this; `corral journal show` has the right types.
async fn numbers(
    out: &mut Vec<u8>,
    volume: &Volume,
    address: u64,
    area: &[u8],
    count: usize,
    is_metadata: bool,
) -> Result<(), InspectError> {
    let words = area.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word));
    let words: Vec<u64> = words.take(count).take_while(|word| *word != 0).collect();
    for (line, cells) in words.chunks(CELLS_IN_LINE).enumerate() {
        put!(out, "                    ");
        for (index, word) in cells.iter().enumerate() {
            let mut cell = format!("0x{word:x}");
            if is_metadata {
                let logged = address + 1 + (line * CELLS_IN_LINE + index) as u64;
                let kind = match volume.block(logged).await {
                    Ok(bytes) => MetaHeader::kind_of(&bytes),
                    Err(InspectError::OutOfDevice { .. }) => None,
                    Err(error) => return Err(error),
                };
                cell.push(' ');
                cell.push_str(kind.map_or("none", structure::short_name));
            }
            put!(out, "{cell:<CELL$}");
        }
        put!(out, "\n");
    }
    Ok(())
}
