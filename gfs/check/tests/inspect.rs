//! Looking at images that the kernel made: every block has one owner, paths lead where they should, damage is named.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use block_core::{BlockDevice, ByteOffset, Image, MemoryDevice};
use gfs_check::inspect::{Inode, InspectError, Volume};
use gfs_format::BlockState;

/// An image of tests/golden; `None`, loudly, when it cannot be unpacked.
fn golden(name: &str) -> Option<Image> {
    let packed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/golden/{name}.img.zst"));
    match Command::new("zstd").arg("-qdc").arg(&packed).output() {
        Ok(output) if output.status.success() => Some(Image::from_bytes(512, &output.stdout)),
        other => {
            eprintln!("NOT TESTED: zstd cannot unpack {}: {other:?}", packed.display());
            None
        }
    }
}

fn open(image: Image) -> Volume {
    let device: Arc<dyn BlockDevice> = MemoryDevice::from_image(image);
    support::run(Volume::open(device)).expect("a filesystem")
}

/// Every inode that a name leads to, from both roots.
async fn all_inodes(volume: &Volume) -> Result<BTreeMap<u64, Inode>, InspectError> {
    let mut found = BTreeMap::new();
    let mut pending = vec![volume.master().await?, volume.root().await?];
    while let Some(inode) = pending.pop() {
        if found.insert(inode.address, inode.clone()).is_some() || !inode.is_directory() {
            continue;
        }
        for entry in volume.entries(&inode).await? {
            if !matches!(&entry.name[..], b"." | b"..") {
                pending.push(volume.inode(entry.address).await?);
            }
        }
    }
    Ok(found)
}

#[test]
fn every_used_block_of_the_kernels_images_has_one_owner() {
    for name in ["clean-4k", "clean-1k", "jdata-4k"] {
        let Some(image) = golden(name) else { return };
        let volume = open(image);
        support::run(async {
            let mut owners: BTreeMap<u64, u64> = BTreeMap::new();
            for (address, inode) in all_inodes(&volume).await.expect("sound inodes") {
                let blocks = volume.blocks_of(&inode).await.expect("a sound tree");
                assert_eq!(blocks.len() as u64, inode.dinode.blocks.get(), "{name}: inode {address}");
                for (block, _) in blocks {
                    assert_eq!(owners.insert(block, address), None, "{name}: block {block} has two owners");
                }
            }
            for group in volume.groups().expect("an index") {
                let found = volume.group_use(group).await.expect("a sound group");
                assert_eq!(u64::from(found.header.free.get()), found.counted[BlockState::Free as usize]);
                for (start, count) in &found.free_runs {
                    assert_eq!(owners.range(*start..start + count).next(), None, "{name}: free and owned");
                }
                let owned = owners.range(group.data_start()..group.end()).count() as u64;
                assert_eq!(owned + found.counted[0], u64::from(group.entry.data_blocks.get()), "{name}");
            }
            let space = volume.free_space().await.expect("sound groups");
            assert_eq!(space.by_length.iter().map(|(_, blocks)| blocks).sum::<u64>(), space.free);
        });
    }
}

#[test]
fn a_path_leads_to_its_inode_and_a_wrong_one_says_where_it_ends() {
    let Some(image) = golden("clean-4k") else { return };
    let volume = open(image);
    support::run(async {
        // A hashed directory of 3000 entries: found by hash, the same as by reading it all.
        let directory = volume.lookup(b"/dir-3000").await.expect("it is there");
        assert!(directory.is_hashed());
        let entries = volume.entries(&directory).await.expect("sound leaves");
        assert_eq!(entries.len(), directory.dinode.entries.get() as usize);
        for entry in entries.iter().step_by(97) {
            assert_eq!(volume.find(&directory, &entry.name).await.expect("sound").as_ref(), Some(entry));
        }
        let journal = volume.lookup(b"//jindex/journal0").await.expect("a journal");
        assert_eq!(volume.extents(&journal).await.expect("a tree").iter().map(|e| e.count).sum::<u64>(), 2048);
        let error = volume.lookup(b"/dir-3/none").await.expect_err("no such name");
        assert!(error.to_string().contains("no entry \"none\""), "{error}");
    });
}

#[test]
fn damage_ends_in_an_error_that_names_the_block() {
    let Some(clean) = golden("clean-4k") else { return };
    let volume = open(clean.clone());
    let (journal, root) = support::run(async {
        let journal = volume.lookup(b"//jindex/journal0").await.expect("a journal").address;
        (journal, volume.root().await.expect("a root").address)
    });
    let poke = |block: u64, at: u64, bytes: &[u8]| {
        let mut image = clean.clone();
        let mut sector = image.read(ByteOffset(block * 4096), block_core::ByteLen(4096)).to_vec();
        sector[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        image.write(ByteOffset(block * 4096), &sector);
        open(image)
    };
    support::run(async {
        let volume = poke(root, 0, &[0; 4]);
        let error = volume.root().await.expect_err("no magic").to_string();
        assert_eq!(error, format!("block {root}: expected magic 0x01161970, found 0x00000000"));

        // The first pointer of the journal leads back to its own indirect block: a circle.
        let volume = poke(journal, 232, &[0xff; 8]);
        let inode = volume.inode(journal).await.expect("still an inode");
        let error = volume.blocks_of(&inode).await.expect_err("out of the device").to_string();
        assert!(error.starts_with(&format!("block {journal}: pointer 0: expected a block from ")), "{error}");

        let volume = poke(17, 64, &[1, 2, 3, 4]);
        let group = volume.groups().expect("an index")[0].clone();
        let error = volume.group_use(&group).await.expect_err("a wrong checksum").to_string();
        assert!(error.starts_with("block 17: rg_crc: expected 0x"), "{error}");
    });
}
