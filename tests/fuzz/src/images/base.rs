//! An image, and where the structures in it are.

use std::path::Path;
use std::process::Command;

use block_core::{ByteLen, ByteOffset, Geometry, Image, MemoryDevice};
use gfs_check::journal::Journals;
use gfs_format::describe::{self, Table};
use gfs_format::dinode::{DINODE_BYTES, flags};
use gfs_format::directory::{LEAF_BYTES, records};
use gfs_format::{Dinode, MetaHeader, MetaType, eattr};
use zerocopy::FromBytes;

use super::judge::run;

/// The images: one with small blocks and deep trees, one with a journal to replay.
pub const NAMES: [&str; 2] = ["small-1k", "small-dirty"];

/// A structure in a block.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub block: u64,
    /// Bytes from the start of the block.
    pub offset: usize,
    pub what: What,
}

/// What it is.
#[derive(Clone, Copy, Debug)]
pub enum What {
    Structure(&'static Table),
    /// Block numbers up to this byte.
    Pointers {
        end: usize,
    },
    /// Two bits a block up to the end.
    Bitmap,
}

/// An image to damage.
pub struct Base {
    pub name: &'static str,
    pub image: Image,
    pub block_bytes: usize,
    /// By kind of block, so that a rare one is met as often as a common one.
    pub kinds: Vec<Vec<Place>>,
    /// Blocks that something is in.
    pub blocks: Vec<u64>,
}

impl Base {
    /// Unpacks a golden image and looks for its structures; `None`, loudly, when it cannot be unpacked.
    pub fn load(name: &'static str) -> Option<Base> {
        let image = unpack(name)?;
        let device = MemoryDevice::from_image(image.clone());
        let journals = run(Journals::open(device)).expect("the golden image has journals");
        let block_bytes = journals.block_size().as_usize();
        let mut base = Base { name, image, block_bytes, kinds: Vec::new(), blocks: Vec::new() };
        let mut kinds: std::collections::BTreeMap<MetaType, Vec<Place>> = std::collections::BTreeMap::new();
        let logs: std::collections::BTreeSet<u64> = journals.list.iter().flat_map(|j| j.map.iter().copied()).collect();
        for block in 0..journals.device_blocks() {
            let bytes = base.read(block);
            let Some(kind) = MetaHeader::kind_of(&bytes) else { continue };
            let is_log = logs.contains(&block);
            // Of a log, headers and descriptors; of those that mkfs wrote, one in some hundred.
            if is_log && !matches!(kind, MetaType::LogHeader | MetaType::LogDescriptor | MetaType::LogBlock) {
                continue;
            }
            if is_log && kind == MetaType::LogHeader && bytes[24 + 8] & 0x80 != 0 && block % 300 != 0 {
                continue;
            }
            base.blocks.push(block);
            structures(block, kind, &bytes, kinds.entry(kind).or_default());
        }
        base.kinds = kinds.into_values().filter(|places| !places.is_empty()).collect();
        Some(base)
    }

    /// One block.
    pub fn read(&self, block: u64) -> Vec<u8> {
        self.image.read(ByteOffset(block * self.block_bytes as u64), ByteLen(self.block_bytes as u64)).to_vec()
    }
}

fn unpack(name: &str) -> Option<Image> {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../golden/{name}.img.zst"));
    match Command::new("zstd").arg("-qdc").arg(&packed).output() {
        Ok(output) if output.status.success() => {
            let mut image = Image::new(Geometry { sector: 512, sectors: output.stdout.len() as u64 / 512 });
            for (index, piece) in output.stdout.chunks(1 << 16).enumerate() {
                // What is zero takes no memory.
                if piece.iter().any(|byte| *byte != 0) {
                    image.write(ByteOffset((index as u64) << 16), piece);
                }
            }
            Some(image)
        }
        other => {
            println!("SKIPPED damaged images: zstd cannot unpack {}: {other:?}", packed.display());
            None
        }
    }
}

/// The structures of one block.
fn structures(block: u64, kind: MetaType, bytes: &[u8], into: &mut Vec<Place>) {
    let mut add = |offset, what| into.push(Place { block, offset, what });
    let table = describe::table_of(kind);
    add(0, What::Structure(table));
    let end = bytes.len();
    match kind {
        MetaType::Indirect | MetaType::JournaledData => {
            add(size_of::<MetaHeader>(), What::Pointers { end });
        }
        MetaType::LogDescriptor | MetaType::LogBlock => add(table.size, What::Pointers { end }),
        MetaType::ResourceGroup | MetaType::ResourceGroupBitmap => add(table.size, What::Bitmap),
        MetaType::Leaf => entries(&bytes[LEAF_BYTES..], LEAF_BYTES, &mut add),
        MetaType::Dinode => {
            let Ok((dinode, body)) = Dinode::ref_from_prefix(bytes) else { return };
            let is_directory = dinode.mode.get() >> 12 == 4;
            if dinode.height.get() > 0 {
                add(DINODE_BYTES, What::Pointers { end: (DINODE_BYTES + 16 * 8).min(end) });
            } else if is_directory && dinode.flags.get() & flags::EXHASH == 0 {
                entries(body, DINODE_BYTES, &mut add);
            } else if dinode.flags.get() & flags::SYSTEM != 0 {
                // Small system files: counters, or entries of the resource index.
                let table = if dinode.size.get() == 24 { &describe::STATFS_CHANGE } else { &describe::RESOURCE_INDEX };
                for index in 0..(dinode.size.get() as usize).min(body.len()) / table.size {
                    add(DINODE_BYTES + index * table.size, What::Structure(table));
                }
            }
        }
        MetaType::ExtendedAttribute => {
            let start = size_of::<MetaHeader>();
            for record in eattr::records(&bytes[start..]).flatten() {
                let at = start + record.offset;
                add(at, What::Structure(&describe::EXTENDED_ATTRIBUTE));
                if record.header.pointer_count > 0 {
                    let names = at + eattr::HEADER_BYTES + usize::from(record.header.name_len);
                    let end = names.next_multiple_of(8) + usize::from(record.header.pointer_count) * 8;
                    add(names.next_multiple_of(8), What::Pointers { end });
                }
            }
        }
        MetaType::Superblock | MetaType::LogHeader | MetaType::ExtendedAttributeData | MetaType::QuotaChange => {}
    }
}

fn entries(area: &[u8], from: usize, add: &mut impl FnMut(usize, What)) {
    for record in records(area).flatten() {
        add(from + record.offset, What::Structure(&describe::DIRENT));
    }
}
