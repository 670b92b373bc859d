//! Directories: entries in the dinode ("stuffed") or in leaves behind a hash table.
//!
//! A change of the structure (to a hash table, a leaf split in two, the table doubled) is a
//! transaction of its own before the one that adds the entry: each leaves a valid directory.

mod grow;
mod list;
mod records;
mod remove;
mod table;

use gfs_format::InodeNumberPair;

pub(crate) use records::RecordError;
pub(crate) use table::Place;

/// Fills a new directory's region with its first entries.
pub(crate) fn init(region: &mut [u8], entries: &[(&[u8], InodeNumberPair)], kind: u8) -> Result<(), RecordError> {
    records::clear(region);
    for (name, inode) in entries {
        records::insert(region, name, *inode, kind)?;
    }
    Ok(())
}
