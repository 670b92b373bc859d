//! One structure: its title and its fields, from the field tables.

use std::io::Write as _;

use gfs_check::inspect::Entry;
use gfs_format::describe::{self, Field, Shape, Table, Value};
use gfs_format::{MetaHeader, MetaType, eattr};

use super::put;
use crate::fs::uuid_text;

/// What stands in brackets behind a block's number; the tool has no word for some types.
pub(super) fn kind_name(kind: MetaType) -> Option<&'static str> {
    Some(match kind {
        MetaType::Superblock => "superblock",
        MetaType::ResourceGroup => "resource group",
        MetaType::ResourceGroupBitmap => "allocation bitmap",
        MetaType::Dinode => "inode",
        MetaType::Indirect => "indirect",
        MetaType::Leaf => "leaf",
        MetaType::JournaledData => "journal data",
        MetaType::LogHeader => "log header",
        MetaType::LogDescriptor => "log descriptor",
        MetaType::ExtendedAttribute => "extended attribute",
        MetaType::ExtendedAttributeData => "extended attribute data",
        MetaType::LogBlock => "log buffer",
        MetaType::QuotaChange => return None,
    })
}

/// The two letters that a log's listing has for a type.
pub(super) fn short_name(kind: MetaType) -> &'static str {
    match kind {
        MetaType::Superblock => "sb",
        MetaType::ResourceGroup => "rg",
        MetaType::ResourceGroupBitmap => "rb",
        MetaType::Dinode => "di",
        MetaType::Indirect => "in",
        MetaType::Leaf => "lf",
        MetaType::JournaledData => "jd",
        MetaType::LogHeader => "lh",
        MetaType::LogDescriptor => "ld",
        MetaType::ExtendedAttribute => "ea",
        MetaType::ExtendedAttributeData => "ed",
        MetaType::LogBlock => "lb",
        MetaType::QuotaChange => "qc",
    }
}

/// Title, fields, and for leaves, attributes and pointers what follows them.
pub(super) fn print(out: &mut Vec<u8>, kind: MetaType, bytes: &[u8]) {
    put!(out, "{}\n", title(kind));
    if kind == MetaType::ExtendedAttribute {
        attributes(out, bytes);
        return;
    }
    fields(out, describe::table_of(kind), bytes);
    match kind {
        MetaType::Leaf => super::tree::leaf(out, bytes),
        MetaType::Indirect => super::tree::pointers(out, bytes.get(size_of::<MetaHeader>()..).unwrap_or_default()),
        MetaType::QuotaChange => quota_changes(out, bytes),
        _ => {}
    }
}

fn title(kind: MetaType) -> &'static str {
    match kind {
        MetaType::Superblock => "Superblock:",
        MetaType::ResourceGroup => "Resource Group Header:",
        MetaType::ResourceGroupBitmap => "Resource Group Bitmap:",
        MetaType::Dinode => "Dinode:",
        MetaType::Indirect => "Indirect Block:",
        MetaType::Leaf => "Leaf:",
        MetaType::JournaledData => "Journaled Data:",
        MetaType::LogHeader => "Log Header:",
        MetaType::LogDescriptor => "Log descriptor:",
        MetaType::ExtendedAttribute => "Ext. attrib:",
        MetaType::ExtendedAttributeData => "Eattr Data:",
        MetaType::LogBlock => "Log Buffer:",
        MetaType::QuotaChange => "Quota Change:",
    }
}

/// Fields that the tool leaves out.
const LEFT_OUT: [&str; 5] = ["mh_jid", "di_generation", "di_atime_nsec", "di_mtime_nsec", "di_ctime_nsec"];

/// The fields of a structure, one a line.
pub(super) fn fields(out: &mut Vec<u8>, table: &Table, bytes: &[u8]) {
    for field in table.fields.iter().filter(|f| f.shape != Shape::Reserved && !LEFT_OUT.contains(&f.name)) {
        if let Some(value) = field.value(bytes) {
            line(out, field, &value);
        }
    }
}

fn line(out: &mut Vec<u8>, field: &Field, value: &Value) {
    let name = match field.name {
        "sb_uuid" => "uuid",
        // Fields of a structure within the structure go by their own name.
        name => name.rsplit('.').next().unwrap_or(name),
    };
    put!(out, "  {name:<22}");
    match value {
        // Written by the tool as plain numbers, though nobody reads them so.
        Value::Hex(n) if matches!(name, "rg_flags" | "rg_crc") => put!(out, "{n:<20}0x{n:x}\n"),
        Value::Hex(n) if matches!(name, "lh_hash" | "lh_crc") => put!(out, "0x{n:08X}(hex)\n"),
        Value::Hex(n) if name.starts_with("ea_") => put!(out, "{n:<20}0x{n:x}\n"),
        Value::Hex(n) => put!(out, "0x{n:08x}(hex)\n"),
        Value::Number(n) => put!(out, "{n:<20}0x{n:x}\n"),
        Value::Signed(n) => put!(out, "{n:<20}0x{n:x}\n"),
        Value::Octal(n) => put!(out, "0{n:o}(decimal)\n"),
        Value::Text(text) => put!(out, "{text}\n"),
        Value::Bytes(bytes) => put!(out, "{}\n", uuid_text(bytes)),
    }
}

/// An entry of a directory; `number` counts from 1, `read_ahead` is what the record says of the blocks behind.
pub(super) fn entry(out: &mut Vec<u8>, number: usize, entry: &Entry, read_ahead: u16) {
    let Entry { formal, address, hash, .. } = entry;
    let kind = match entry.kind {
        1 => "Fifo",
        2 => "ChrDev",
        4 => "Dir",
        6 => "BlkDev",
        8 => "File",
        10 => "Symlink",
        12 => "Socket",
        _ => "Unknown",
    };
    put!(
        out,
        "   {number}/{number} [{hash:08X}] {formal}/{address} (0x{formal:x}/0x{address:x}) +{read_ahead}: {kind:<7} "
    );
    out.extend_from_slice(&entry.name);
    out.push(b'\n');
}

/// Every record of an attribute block.
fn attributes(out: &mut Vec<u8>, bytes: &[u8]) {
    put!(out, "\nEattr Entries:\n");
    let area = bytes.get(size_of::<MetaHeader>()..).unwrap_or_default();
    for record in eattr::records(area) {
        let Ok(record) = record else {
            put!(out, "\n(no record that can be read from here on)\n");
            return;
        };
        put!(out, "\n");
        fields(out, &describe::EXTENDED_ATTRIBUTE, &area[record.offset..]);
        put!(out, "  {:<22}", "name");
        out.extend_from_slice(record.name);
        put!(out, "\n");
    }
}

/// The changes in a quota change block that say something.
fn quota_changes(out: &mut Vec<u8>, bytes: &[u8]) {
    let area = bytes.get(size_of::<MetaHeader>()..).unwrap_or_default();
    for change in area.chunks_exact(describe::QUOTA_CHANGE.size).filter(|change| change.iter().any(|byte| *byte != 0)) {
        fields(out, &describe::QUOTA_CHANGE, change);
    }
}
