//! One field table per structure: names as in `linux/gfs2_ondisk.h`, offsets and sizes taken from
//! the struct itself. Drives printing, JSON, editing by field name and fuzzing.
//!
//! A table covers its structure without gap or overlap; a test holds it to that. New fields are
//! added to the struct and here.

use std::fmt;
use std::mem::offset_of;

use crate::dinode::Dinode;
use crate::directory::{Dirent, Leaf};
use crate::header::{InodeNumberPair, MetaHeader, MetaType};
use crate::log::{LogDescriptor, LogHeader};
use crate::resource_group::{ResourceGroup, ResourceIndexEntry};
use crate::small_files::{ExtendedAttribute, InumRange, Quota, QuotaChange, StatfsChange};
use crate::superblock::Superblock;
use crate::value_blocks::{InodeValue, QuotaValue, ResourceGroupValue};

/// How a field reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A big-endian number of 1, 2, 4 or 8 bytes.
    Number,
    /// A number in two's complement.
    Signed,
    /// A number that people read in hexadecimal.
    Hex,
    /// A number that people read in octal.
    Octal,
    /// Text up to a NUL.
    Text,
    Uuid,
    /// Unused; kept as it is.
    Reserved,
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
    pub shape: Shape,
}

/// One structure.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// As in `linux/gfs2_ondisk.h`.
    pub name: &'static str,
    /// Bytes.
    pub size: usize,
    pub fields: &'static [Field],
}

/// A field's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Number(u64),
    Signed(i64),
    Hex(u64),
    Octal(u64),
    Text(String),
    Bytes(Vec<u8>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Signed(n) => write!(f, "{n}"),
            Self::Hex(n) => write!(f, "0x{n:08x}"),
            Self::Octal(n) => write!(f, "0{n:o}"),
            Self::Text(text) => write!(f, "{text}"),
            Self::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

impl Field {
    /// The field's bytes in a structure that starts `bytes`; `None` if they are too short.
    pub fn bytes<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        bytes.get(self.offset..self.offset + self.size)
    }

    /// The field's content in a structure that starts `bytes`; `None` if they are too short.
    pub fn value(&self, bytes: &[u8]) -> Option<Value> {
        let bytes = self.bytes(bytes)?;
        let number = || bytes.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        Some(match self.shape {
            Shape::Number => Value::Number(number()),
            Shape::Signed => {
                let unused = 64 - 8 * self.size as u32;
                Value::Signed((number() << unused).cast_signed() >> unused)
            }
            Shape::Hex => Value::Hex(number()),
            Shape::Octal => Value::Octal(number()),
            Shape::Text => {
                let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                Value::Text(text.escape_ascii().to_string())
            }
            Shape::Uuid | Shape::Reserved => Value::Bytes(bytes.to_vec()),
        })
    }

    /// Writes a number into a structure that starts `bytes`. False if the field is none, the
    /// number is too large for it, or `bytes` are too short.
    pub fn set(&self, bytes: &mut [u8], number: u64) -> bool {
        if matches!(self.shape, Shape::Text | Shape::Uuid | Shape::Reserved) {
            return false;
        }
        let wide = number.to_be_bytes();
        let (unused, used) = wide.split_at(wide.len() - self.size);
        match bytes.get_mut(self.offset..self.offset + self.size) {
            Some(field) if unused.iter().all(|byte| *byte == 0) => {
                field.copy_from_slice(used);
                true
            }
            _ => false,
        }
    }
}

impl Table {
    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Name and content of every field but the reserved ones; ends where `bytes` end.
    pub fn values<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = (&'static str, Value)> + 'a {
        let fields = self.fields.iter().filter(|field| field.shape != Shape::Reserved);
        fields.map_while(move |field| Some((field.name, field.value(bytes)?)))
    }
}

/// The structure that a metadata block of this type starts with; for those that have no more than
/// the common header, that one.
pub fn table_of(kind: MetaType) -> &'static Table {
    match kind {
        MetaType::Superblock => &SUPERBLOCK,
        MetaType::ResourceGroup => &RESOURCE_GROUP,
        MetaType::Dinode => &DINODE,
        MetaType::Leaf => &LEAF,
        MetaType::LogHeader => &LOG_HEADER,
        MetaType::LogDescriptor => &LOG_DESCRIPTOR,
        MetaType::ResourceGroupBitmap
        | MetaType::Indirect
        | MetaType::JournaledData
        | MetaType::ExtendedAttribute
        | MetaType::ExtendedAttributeData
        | MetaType::LogBlock
        | MetaType::QuotaChange => &META_HEADER,
    }
}

/// Size of what `field` gives; never called.
const fn size_behind<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! table {
    ($(#[$doc:meta])* $static:ident = $type:ty, $name:literal; $($shape:ident $field:literal = $($path:ident).+),+ $(,)?) => {
        $(#[$doc])*
        pub static $static: Table = Table {
            name: $name,
            size: size_of::<$type>(),
            fields: &[$(Field {
                name: $field,
                offset: offset_of!($type, $($path).+),
                size: size_behind(|whole: &$type| &whole.$($path).+),
                shape: Shape::$shape,
            }),+],
        };
    };
}

/// A table of a structure that starts with the common header.
macro_rules! headed {
    ($(#[$doc:meta])* $static:ident = $type:ty, $name:literal; $($rest:tt)+) => {
        table! {
            $(#[$doc])* $static = $type, $name;
            Hex "mh_magic" = header.magic,
            Number "mh_type" = header.kind,
            Reserved "__pad0" = header.reserved0,
            Number "mh_format" = header.format,
            Number "mh_jid" = header.journal,
            $($rest)+
        }
    };
}

table! {
    META_HEADER = MetaHeader, "gfs2_meta_header";
    Hex "mh_magic" = magic,
    Number "mh_type" = kind,
    Reserved "__pad0" = reserved0,
    Number "mh_format" = format,
    Number "mh_jid" = journal,
}

table! {
    INODE_NUMBER = InodeNumberPair, "gfs2_inum";
    Number "no_formal_ino" = formal,
    Number "no_addr" = address,
}

headed! {
    /// The inode numbers in it are told apart by what they belong to.
    SUPERBLOCK = Superblock, "gfs2_sb";
    Number "sb_fs_format" = fs_format,
    Number "sb_multihost_format" = multihost_format,
    Reserved "__pad0" = reserved0,
    Number "sb_bsize" = block_size,
    Number "sb_bsize_shift" = block_size_shift,
    Reserved "__pad1" = reserved1,
    Number "sb_master_dir.no_formal_ino" = master_directory.formal,
    Number "sb_master_dir.no_addr" = master_directory.address,
    Reserved "__pad2" = reserved2,
    Number "sb_root_dir.no_formal_ino" = root_directory.formal,
    Number "sb_root_dir.no_addr" = root_directory.address,
    Text "sb_lockproto" = lock_protocol,
    Text "sb_locktable" = lock_table,
    Reserved "__pad3" = reserved3,
    Reserved "__pad4" = reserved4,
    Uuid "sb_uuid" = uuid,
}

table! {
    RESOURCE_INDEX = ResourceIndexEntry, "gfs2_rindex";
    Number "ri_addr" = address,
    Number "ri_length" = length,
    Reserved "__pad" = reserved0,
    Number "ri_data0" = data_start,
    Number "ri_data" = data_blocks,
    Number "ri_bitbytes" = bitmap_bytes,
    Reserved "ri_reserved" = reserved1,
}

headed! {
    RESOURCE_GROUP = ResourceGroup, "gfs2_rgrp";
    Hex "rg_flags" = flags,
    Number "rg_free" = free,
    Number "rg_dinodes" = dinodes,
    Number "rg_skip" = skip,
    Number "rg_igeneration" = inode_generation,
    Number "rg_data0" = data_start,
    Number "rg_data" = data_blocks,
    Number "rg_bitbytes" = bitmap_bytes,
    Hex "rg_crc" = crc,
    Reserved "rg_reserved" = reserved,
}

headed! {
    DINODE = Dinode, "gfs2_dinode";
    Number "no_formal_ino" = number.formal,
    Number "no_addr" = number.address,
    Octal "di_mode" = mode,
    Number "di_uid" = uid,
    Number "di_gid" = gid,
    Number "di_nlink" = link_count,
    Number "di_size" = size,
    Number "di_blocks" = blocks,
    Number "di_atime" = atime,
    Number "di_mtime" = mtime,
    Number "di_ctime" = ctime,
    Number "di_major" = device_major,
    Number "di_minor" = device_minor,
    Number "di_goal_meta" = goal_meta,
    Number "di_goal_data" = goal_data,
    Number "di_generation" = generation,
    Hex "di_flags" = flags,
    Number "di_payload_format" = payload_format,
    Reserved "__pad1" = reserved1,
    Number "di_height" = height,
    Reserved "__pad2" = reserved2,
    Reserved "__pad3" = reserved3,
    Number "di_depth" = depth,
    Number "di_entries" = entries,
    Reserved "__pad4" = reserved4,
    Number "di_eattr" = eattr,
    Number "di_atime_nsec" = atime_nanos,
    Number "di_mtime_nsec" = mtime_nanos,
    Number "di_ctime_nsec" = ctime_nanos,
    Reserved "di_reserved" = reserved5,
}

table! {
    DIRENT = Dirent, "gfs2_dirent";
    Number "no_formal_ino" = inode.formal,
    Number "no_addr" = inode.address,
    Hex "de_hash" = hash,
    Number "de_rec_len" = record_len,
    Number "de_name_len" = name_len,
    Number "de_type" = kind,
    Number "de_rahead" = read_ahead,
    Reserved "__pad" = reserved,
}

headed! {
    LEAF = Leaf, "gfs2_leaf";
    Number "lf_depth" = depth,
    Number "lf_entries" = entries,
    Number "lf_dirent_format" = dirent_format,
    Number "lf_next" = next,
    Number "lf_inode" = inode,
    Number "lf_dist" = distance,
    Number "lf_nsec" = changed_nanos,
    Number "lf_sec" = changed_seconds,
    Reserved "lf_reserved2" = reserved,
}

headed! {
    LOG_HEADER = LogHeader, "gfs2_log_header";
    Number "lh_sequence" = sequence,
    Hex "lh_flags" = flags,
    Number "lh_tail" = tail,
    Number "lh_blkno" = block,
    Hex "lh_hash" = hash,
    Hex "lh_crc" = crc,
    Number "lh_nsec" = nanos,
    Number "lh_sec" = seconds,
    Number "lh_addr" = address,
    Number "lh_jinode" = journal_inode,
    Number "lh_statfs_addr" = statfs_inode,
    Number "lh_quota_addr" = quota_inode,
    Signed "lh_local_total" = local_total,
    Signed "lh_local_free" = local_free,
    Signed "lh_local_dinodes" = local_dinodes,
}

headed! {
    LOG_DESCRIPTOR = LogDescriptor, "gfs2_log_descriptor";
    Number "ld_type" = kind,
    Number "ld_length" = length,
    Number "ld_data1" = count,
    Number "ld_data2" = reserved0,
    Reserved "ld_reserved" = reserved1,
}

table! {
    STATFS_CHANGE = StatfsChange, "gfs2_statfs_change";
    Signed "sc_total" = total,
    Signed "sc_free" = free,
    Signed "sc_dinodes" = dinodes,
}

table! {
    INUM_RANGE = InumRange, "gfs2_inum_range";
    Number "ir_start" = start,
    Number "ir_length" = length,
}

table! {
    QUOTA = Quota, "gfs2_quota";
    Number "qu_limit" = limit,
    Number "qu_warn" = warn,
    Signed "qu_value" = value,
    Reserved "qu_reserved" = reserved,
}

table! {
    QUOTA_CHANGE = QuotaChange, "gfs2_quota_change";
    Signed "qc_change" = change,
    Hex "qc_flags" = flags,
    Number "qc_id" = id,
}

table! {
    EXTENDED_ATTRIBUTE = ExtendedAttribute, "gfs2_ea_header";
    Number "ea_rec_len" = record_len,
    Number "ea_data_len" = value_len,
    Number "ea_name_len" = name_len,
    Number "ea_type" = kind,
    Hex "ea_flags" = flags,
    Number "ea_num_ptrs" = pointer_count,
    Reserved "__pad" = reserved,
}

table! {
    INODE_VALUE = InodeValue, "gfs2_inode_lvb";
    Hex "ri_magic" = magic,
    Reserved "__pad" = reserved0,
    Number "ri_generation_deleted" = generation_deleted,
}

table! {
    RESOURCE_GROUP_VALUE = ResourceGroupValue, "gfs2_rgrp_lvb";
    Hex "rl_magic" = magic,
    Hex "rl_flags" = flags,
    Number "rl_free" = free,
    Number "rl_dinodes" = dinodes,
    Number "rl_igeneration" = inode_generation,
    Number "rl_unlinked" = unlinked,
    Reserved "__pad" = reserved0,
}

table! {
    QUOTA_VALUE = QuotaValue, "gfs2_quota_lvb";
    Hex "qb_magic" = magic,
    Reserved "__pad" = reserved0,
    Number "qb_limit" = limit,
    Number "qb_warn" = warn,
    Number "qb_value" = value,
}

/// Every table.
pub static TABLES: [&Table; 18] = [
    &META_HEADER,
    &INODE_NUMBER,
    &SUPERBLOCK,
    &RESOURCE_INDEX,
    &RESOURCE_GROUP,
    &DINODE,
    &DIRENT,
    &LEAF,
    &LOG_HEADER,
    &LOG_DESCRIPTOR,
    &STATFS_CHANGE,
    &INUM_RANGE,
    &QUOTA,
    &QUOTA_CHANGE,
    &EXTENDED_ATTRIBUTE,
    &INODE_VALUE,
    &RESOURCE_GROUP_VALUE,
    &QUOTA_VALUE,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_cover_their_structures_without_gap_or_overlap() {
        for table in TABLES {
            let mut end = 0;
            for field in table.fields {
                assert_eq!(field.offset, end, "{}.{}", table.name, field.name);
                end += field.size;
                let sizes: &[usize] = match field.shape {
                    Shape::Number | Shape::Signed | Shape::Hex | Shape::Octal => &[1, 2, 4, 8],
                    Shape::Uuid => &[16],
                    Shape::Text => &[64],
                    Shape::Reserved => continue,
                };
                assert!(sizes.contains(&field.size), "{}.{}", table.name, field.name);
            }
            assert_eq!(end, table.size, "{}", table.name);
        }
    }

    #[test]
    fn values_are_what_was_set() {
        let mut bytes = vec![0; DINODE.size];
        let depth = DINODE.field("di_depth").expect("a field");
        assert!(depth.set(&mut bytes, 17));
        assert!(!depth.set(&mut bytes, 65536), "too large for two bytes");
        assert_eq!(bytes[146..148], [0, 17]);
        let value = DINODE.values(&bytes).find(|(name, _)| *name == "di_depth").map(|(_, value)| value);
        assert_eq!(value, Some(Value::Number(17)));
        assert!(!DINODE.field("di_reserved").expect("a field").set(&mut bytes, 1));
    }

    #[test]
    fn negative_counters_read_as_negative() {
        let bytes = [[0xff; 8], [0; 8], [0; 8]].concat();
        assert_eq!(STATFS_CHANGE.fields[0].value(&bytes), Some(Value::Signed(-1)));
        assert_eq!(STATFS_CHANGE.values(&bytes[..20]).count(), 2, "what is cut off is left out");
    }
}
