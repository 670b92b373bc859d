//! What is done to an image: a field gets another value, a pointer leads elsewhere, blocks are exchanged, cleared or
//! copied. Checksums are made right again more often than not, so that what lies behind them is reached.

use block_core::{ByteOffset, Image};
use gfs_format::describe::{Field, LOG_HEADER, RESOURCE_GROUP, Shape, Table};
use gfs_format::{LogHeader, ResourceGroup};
use zerocopy::{FromBytes, IntoBytes};

use super::base::{Base, Place, What};
use crate::random::Random;

/// A damaged image, and what was done.
pub struct Mutated {
    pub image: Image,
    pub done: Vec<String>,
}

/// One to three changes, mostly one.
pub fn mutate(base: &Base, random: &mut Random) -> Mutated {
    let mut mutated = Mutated { image: base.image.clone(), done: Vec::new() };
    let times = [1, 1, 1, 2, 2, 3][random.below(6)];
    for _ in 0..times {
        match random.below(20) {
            0 => exchange(base, random, &mut mutated),
            1 => overwrite(base, random, &mut mutated),
            _ => structure(base, random, &mut mutated),
        }
    }
    mutated
}

fn block(base: &Base, mutated: &Mutated, number: u64) -> Vec<u8> {
    let (at, len) = (ByteOffset(number * base.block_bytes as u64), block_core::ByteLen(base.block_bytes as u64));
    mutated.image.read(at, len).to_vec()
}

fn put(base: &Base, mutated: &mut Mutated, number: u64, bytes: &[u8]) {
    mutated.image.write(ByteOffset(number * base.block_bytes as u64), bytes);
}

fn any_block(base: &Base, random: &mut Random) -> u64 {
    base.blocks[random.below(base.blocks.len())]
}

fn exchange(base: &Base, random: &mut Random, mutated: &mut Mutated) {
    let (a, b) = (any_block(base, random), any_block(base, random));
    let (of_a, of_b) = (block(base, mutated, a), block(base, mutated, b));
    put(base, mutated, b, &of_a);
    if random.below(2) == 0 {
        put(base, mutated, a, &of_b);
        mutated.done.push(format!("blocks {a} and {b} exchanged"));
    } else {
        mutated.done.push(format!("block {a} copied to {b}"));
    }
}

fn overwrite(base: &Base, random: &mut Random, mutated: &mut Mutated) {
    let number = any_block(base, random);
    let mut bytes = block(base, mutated, number);
    let from = if random.below(2) == 0 { 0 } else { random.below(bytes.len()) };
    let fill = [0, 0xff, random.bits() as u8][random.below(3)];
    bytes[from..].fill(fill);
    put(base, mutated, number, &bytes);
    mutated.done.push(format!("block {number} filled with 0x{fill:02x} from byte {from}"));
}

fn structure(base: &Base, random: &mut Random, mutated: &mut Mutated) {
    let kind = &base.kinds[random.below(base.kinds.len())];
    let place = kind[random.below(kind.len())];
    let mut bytes = block(base, mutated, place.block);
    let done = match place.what {
        What::Structure(table) => field(base, random, table, &mut bytes[place.offset..]),
        What::Pointers { end } => pointer(base, random, place, end, &mut bytes),
        What::Bitmap => {
            let at = place.offset + random.below(bytes.len() - place.offset).min(random.below(64) + random.below(512));
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= 1 << random.below(8);
            format!("bitmap byte {at}")
        }
    };
    // One in four keeps a wrong checksum.
    if random.below(4) != 0 {
        seal(&mut bytes, place);
    }
    put(base, mutated, place.block, &bytes);
    mutated.done.push(format!("block {} at {}: {done}", place.block, place.offset));
}

fn field(base: &Base, random: &mut Random, table: &'static Table, bytes: &mut [u8]) -> String {
    // The common header is a quarter of many a structure: met less often than that.
    let mut field: &Field = &table.fields[random.below(table.fields.len())];
    if field.name.starts_with("mh_") && random.below(3) != 0 {
        field = &table.fields[random.below(table.fields.len())];
    }
    let Some(content) = bytes.get_mut(field.offset..field.offset + field.size) else { return "nothing".into() };
    match field.shape {
        Shape::Number | Shape::Signed | Shape::Hex | Shape::Octal => {
            let old = content.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
            let new = number(base, random, old, field.size);
            content.copy_from_slice(&new.to_be_bytes()[8 - field.size..]);
            format!("{}.{} from {old} to {new}", table.name, field.name)
        }
        Shape::Text | Shape::Uuid | Shape::Reserved => {
            let at = random.below(content.len());
            content[at] = random.bits() as u8;
            format!("{}.{} byte {at}", table.name, field.name)
        }
    }
}

/// Numbers that code stumbles over.
fn number(base: &Base, random: &mut Random, old: u64, size: usize) -> u64 {
    let max = u64::MAX >> (64 - 8 * size);
    let blocks = base.image.geometry().size().0 / base.block_bytes as u64;
    let new = match random.below(16) {
        0 => 0,
        1 => 1,
        2 => max,
        3 => max >> 1,
        4 | 5 => old.wrapping_add(1),
        6 | 7 => old.wrapping_sub(1),
        8 => old.wrapping_mul(2),
        9 => old ^ 1 << random.below(8 * size),
        10 => blocks,
        11 => blocks - 1,
        12 | 13 => any_block(base, random),
        14 => random.below(64) as u64,
        _ => random.bits(),
    };
    new & max
}

fn pointer(base: &Base, random: &mut Random, place: Place, end: usize, bytes: &mut [u8]) -> String {
    let count = (end.min(bytes.len()) - place.offset) / 8;
    if count == 0 {
        return "nothing".into();
    }
    // Mostly the first ones, which are in use.
    let index = if random.below(3) == 0 { random.below(count) } else { random.below(count.min(8)) };
    let at = place.offset + index * 8;
    let old = u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let new = number(base, random, old, 8);
    bytes[at..at + 8].copy_from_slice(&new.to_be_bytes());
    format!("pointer {index} from {old} to {new}")
}

/// Makes the checksums of a log header or a resource group right.
fn seal(bytes: &mut [u8], place: Place) {
    let What::Structure(table) = place.what else { return };
    if std::ptr::eq(table, &raw const LOG_HEADER) {
        if let Ok((header, _)) = LogHeader::read_from_prefix(bytes) {
            header.encode(bytes);
        }
    } else if std::ptr::eq(table, &raw const RESOURCE_GROUP)
        && let Ok((group, _)) = ResourceGroup::mut_from_prefix(bytes)
    {
        group.seal();
        let sealed = *group;
        bytes[..sealed.as_bytes().len()].copy_from_slice(sealed.as_bytes());
    }
}
