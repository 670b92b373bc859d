//! Directory records within one block: pure functions over the bytes that hold them.

use gfs_format::directory::{DIRENT_BYTES, dirent_size, name_hash};
use gfs_format::{Dirent, InodeNumberPair};
use zerocopy::{FromBytes, IntoBytes};

/// An entry, where it is, and what it says.
#[derive(Clone, Debug)]
pub struct Record {
    /// Byte within the region.
    pub offset: usize,
    pub inode: InodeNumberPair,
    pub hash: u32,
    /// `DT_*`.
    pub kind: u8,
    pub name: Vec<u8>,
}

/// Records that do not fill their region exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordError {
    pub offset: usize,
    pub record_len: usize,
    pub name_len: usize,
}

/// A record with its place, used or not.
struct Slot<'a> {
    offset: usize,
    head: &'a Dirent,
    name: &'a [u8],
}

impl Slot<'_> {
    fn is_used(&self) -> bool {
        self.head.inode.address.get() != 0 && self.head.inode.formal.get() != 0
    }

    fn record_len(&self) -> usize {
        usize::from(self.head.record_len.get())
    }
}

/// Visits every slot; stops at the first malformed one.
fn slots<'a>(region: &'a [u8], mut visit: impl FnMut(Slot<'a>) -> bool) -> Result<(), RecordError> {
    let mut offset = 0;
    while offset < region.len() {
        let malformed = |record_len, name_len| RecordError { offset, record_len, name_len };
        let (head, rest) = Dirent::ref_from_prefix(&region[offset..]).map_err(|_| malformed(0, 0))?;
        let (record_len, name_len) = (usize::from(head.record_len.get()), usize::from(head.name_len.get()));
        let is_sound = record_len >= DIRENT_BYTES
            && record_len % 8 == 0
            && record_len <= region.len() - offset
            && name_len <= record_len - DIRENT_BYTES;
        if !is_sound {
            return Err(malformed(record_len, name_len));
        }
        if !visit(Slot { offset, head, name: &rest[..name_len] }) {
            return Ok(());
        }
        offset += record_len;
    }
    Ok(())
}

/// Every entry of the region.
pub fn list(region: &[u8]) -> Result<Vec<Record>, RecordError> {
    let mut out = Vec::new();
    slots(region, |slot| {
        if slot.is_used() {
            out.push(Record {
                offset: slot.offset,
                inode: slot.head.inode,
                hash: slot.head.hash.get(),
                kind: u8::try_from(slot.head.kind.get()).unwrap_or(0),
                name: slot.name.to_vec(),
            });
        }
        true
    })?;
    Ok(out)
}

/// The entry of `name`.
pub fn find(region: &[u8], name: &[u8]) -> Result<Option<Record>, RecordError> {
    let hash = name_hash(name);
    let mut found = None;
    slots(region, |slot| {
        if slot.is_used() && slot.head.hash.get() == hash && slot.name == name {
            found = Some(Record {
                offset: slot.offset,
                inode: slot.head.inode,
                hash,
                kind: u8::try_from(slot.head.kind.get()).unwrap_or(0),
                name: name.to_vec(),
            });
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Makes the region one unused record.
pub fn clear(region: &mut [u8]) {
    region.fill(0);
    let length = u16::try_from(region.len()).expect("invariant: a block has at most 65536 bytes less a header");
    put_head(region, 0, &empty_head(length));
}

fn empty_head(record_len: u16) -> Dirent {
    Dirent {
        inode: InodeNumberPair::default(),
        hash: 0.into(),
        record_len: record_len.into(),
        name_len: 0.into(),
        kind: 0.into(),
        read_ahead: 0.into(),
        reserved: [0; 12],
    }
}

fn put_head(region: &mut [u8], offset: usize, head: &Dirent) {
    region[offset..offset + DIRENT_BYTES].copy_from_slice(head.as_bytes());
}

/// Where a record for a name of `name_len` bytes fits: offset of the slot, and how many bytes of
/// it its present entry keeps.
fn place(region: &[u8], name_len: usize) -> Result<Option<(usize, usize)>, RecordError> {
    let wanted = dirent_size(name_len);
    let mut found = None;
    slots(region, |slot| {
        let kept = if slot.is_used() { dirent_size(slot.name.len()) } else { 0 };
        if slot.record_len() >= kept + wanted {
            found = Some((slot.offset, kept));
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Whether a name of `name_len` bytes fits.
pub fn has_room(region: &[u8], name_len: usize) -> Result<bool, RecordError> {
    Ok(place(region, name_len)?.is_some())
}

/// Adds an entry; false if it does not fit.
pub fn insert(region: &mut [u8], name: &[u8], inode: InodeNumberPair, kind: u8) -> Result<bool, RecordError> {
    let Some((offset, kept)) = place(region, name.len())? else { return Ok(false) };
    let (old, _) =
        Dirent::read_from_prefix(&region[offset..]).map_err(|_| RecordError { offset, record_len: 0, name_len: 0 })?;
    let total = usize::from(old.record_len.get());
    let to_u16 = |n: usize| u16::try_from(n).expect("invariant: within a record");
    if kept > 0 {
        let mut shorter = old;
        shorter.record_len = to_u16(kept).into();
        put_head(region, offset, &shorter);
    }
    let head = Dirent {
        inode,
        hash: name_hash(name).into(),
        name_len: to_u16(name.len()).into(),
        kind: u16::from(kind).into(),
        ..empty_head(to_u16(total - kept))
    };
    put_head(region, offset + kept, &head);
    let at = offset + kept + DIRENT_BYTES;
    region[at..at + name.len()].copy_from_slice(name);
    Ok(true)
}

/// Removes the entry at `offset`: the record before it takes its room; the first of a region
/// stays, unused.
pub fn remove(region: &mut [u8], offset: usize) -> Result<(), RecordError> {
    let mut before = None;
    let mut own = 0;
    slots(region, |slot| {
        if slot.offset == offset {
            own = slot.record_len();
            return false;
        }
        before = Some((slot.offset, *slot.head));
        true
    })?;
    let to_u16 = |n: usize| u16::try_from(n).expect("invariant: within a region");
    match before {
        Some((at, mut head)) => {
            head.record_len = to_u16(usize::from(head.record_len.get()) + own).into();
            put_head(region, at, &head);
        }
        None => put_head(region, offset, &empty_head(to_u16(own))),
    }
    Ok(())
}

/// Points the entry at `offset` to another inode.
pub fn redirect(region: &mut [u8], offset: usize, inode: InodeNumberPair, kind: u8) {
    if let Ok((head, _)) = Dirent::mut_from_prefix(&mut region[offset..]) {
        head.inode = inode;
        head.kind = u16::from(kind).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(n: u64) -> InodeNumberPair {
        InodeNumberPair { formal: n.into(), address: n.into() }
    }

    #[test]
    fn what_is_inserted_is_found_until_removed() {
        let mut region = vec![0; 512];
        clear(&mut region);
        let mut count = 0;
        while insert(&mut region, format!("name{count}").as_bytes(), inode(count + 1), 8).unwrap() {
            count += 1;
        }
        assert_eq!(count, 512 / 48);
        for i in (0..count).rev() {
            let name = format!("name{i}");
            let record = find(&region, name.as_bytes()).unwrap().unwrap();
            assert_eq!(record.inode, inode(i + 1));
            remove(&mut region, record.offset).unwrap();
            assert!(find(&region, name.as_bytes()).unwrap().is_none());
        }
        assert!(list(&region).unwrap().is_empty());
        assert!(has_room(&region, 255).unwrap());
    }

    #[test]
    fn a_malformed_record_is_reported_with_its_place() {
        let mut region = vec![0; 512];
        clear(&mut region);
        region[20] = 0xff;
        assert!(list(&region).is_err());
        assert_eq!(find(&[0; 100], b"x").unwrap_err().offset, 0);
    }
}
