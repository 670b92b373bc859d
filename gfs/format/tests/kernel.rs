//! The format against those who own it: the kernel's header, and blocks that the kernel wrote.
//! What is missing on this machine is reported, not passed over in silence.

use std::path::{Path, PathBuf};
use std::process::Command;

use gfs_format::describe::{Shape, TABLES};
use gfs_format::directory::{name_hash, records};
use gfs_format::log::LOG_HEADER_V1_BYTES;
use gfs_format::{Dinode, LogHeader, MetaHeader, MetaType, ResourceGroup, Superblock};
use zerocopy::{FromBytes, IntoBytes};

/// Fields of the tables that lie in a structure within the structure, by the path in C.
fn path_in_c(table: &str, field: &str) -> String {
    let header = match table {
        "gfs2_sb" => "sb_header.",
        "gfs2_rgrp" => "rg_header.",
        "gfs2_dinode" => "di_header.",
        "gfs2_leaf" => "lf_header.",
        "gfs2_log_header" => "lh_header.",
        "gfs2_log_descriptor" => "ld_header.",
        _ => "",
    };
    match (table, field) {
        (_, field) if field.starts_with("mh_") => format!("{header}{field}"),
        ("gfs2_dinode", "no_formal_ino" | "no_addr") => format!("di_num.{field}"),
        ("gfs2_dirent", "no_formal_ino" | "no_addr") => format!("de_inum.{field}"),
        _ => field.to_owned(),
    }
}

#[test]
fn names_offsets_and_sizes_are_those_of_the_kernels_header() {
    if !Path::new("/usr/include/linux/gfs2_ondisk.h").exists() {
        eprintln!("NOT TESTED: no linux/gfs2_ondisk.h (Debian: linux-libc-dev)");
        return;
    }
    let mut source = String::from("#include <stddef.h>\n#include <linux/gfs2_ondisk.h>\n");
    for table in TABLES {
        let name = table.name;
        source += &format!("_Static_assert(sizeof(struct {name}) == {}, \"{name}\");\n", table.size);
        for field in table.fields.iter().filter(|field| field.shape != Shape::Reserved) {
            let path = path_in_c(name, field.name);
            source += &format!(
                "_Static_assert(offsetof(struct {name}, {path}) == {}, \"{name}.{path}\");\n\
                 _Static_assert(sizeof(((struct {name} *)0)->{path}) == {}, \"{name}.{path}\");\n",
                field.offset, field.size
            );
        }
    }
    let file = std::env::temp_dir().join(format!("corral-gfs2-layout-{}.c", std::process::id()));
    std::fs::write(&file, source).expect("a file for the compiler");
    let compiled = Command::new("cc").args(["-fsyntax-only"]).arg(&file).output();
    std::fs::remove_file(&file).expect("the file is there");
    match compiled {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("NOT TESTED: no C compiler: {error}"),
    }
}

/// An image of tests/golden; `None`, loudly, when it cannot be unpacked.
fn golden(name: &str) -> Option<Vec<u8>> {
    let packed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/golden/{name}.img.zst"));
    match Command::new("zstd").arg("-qdc").arg(&packed).output() {
        Ok(output) if output.status.success() => Some(output.stdout),
        other => {
            eprintln!("NOT TESTED: zstd cannot unpack {}: {other:?}", packed.display());
            None
        }
    }
}

#[test]
fn log_headers_of_the_kernel_have_the_checksums_that_we_compute() {
    for (name, size) in [("dirty-j0", 4096), ("clean-1k", 1024)] {
        let Some(image) = golden(name) else { return };
        let (mut kernel, mut tools) = (0, 0);
        for block in image.chunks_exact(size).filter(|block| MetaHeader::kind_of(block) == Some(MetaType::LogHeader)) {
            let (found, _) = LogHeader::read_from_prefix(block).expect("a whole block");
            let header = LogHeader::decode(block, found.block.get()).expect("both checksums fit");
            assert_ne!(header.crc.get(), 0, "version 2");
            let mut again = vec![0xff; size];
            header.encode(&mut again);
            assert_eq!(again, block, "encoding gives the same bytes");
            let by_tools = header.flags.get() & gfs_format::log::flags::USERSPACE != 0;
            *if by_tools { &mut tools } else { &mut kernel } += 1;

            let mut damaged = block.to_vec();
            damaged[LOG_HEADER_V1_BYTES + 12] ^= 1;
            assert!(LogHeader::decode(&damaged, found.block.get()).is_err(), "the crc covers the time");
        }
        assert!(kernel > 2 && tools > 1000, "{name}: {kernel} headers of the kernel, {tools} of the tools");
    }
}

#[test]
fn resource_groups_and_names_of_the_kernel_have_the_checksums_that_we_compute() {
    let Some(image) = golden("clean-4k") else { return };
    let superblock = Superblock::decode(&image[65536..]).expect("a superblock");
    let size = superblock.block_size().as_usize();
    let (mut groups, mut names) = (0, 0);
    for block in image.chunks_exact(size) {
        match MetaHeader::kind_of(block) {
            Some(MetaType::ResourceGroup) => {
                let (mut group, _) = ResourceGroup::read_from_prefix(block).expect("a whole block");
                let crc = group.crc;
                group.seal();
                assert_eq!(group.crc, crc);
                assert_eq!(group.as_bytes(), &block[..group.as_bytes().len()]);
                groups += 1;
            }
            Some(MetaType::Leaf) => {
                for record in records(&block[104..]).map(|record| record.expect("the kernel wrote it")) {
                    if record.is_entry() {
                        assert_eq!(name_hash(record.name), record.dirent.hash.get());
                        names += 1;
                    }
                }
            }
            _ => {}
        }
    }
    assert!(groups >= 3 && names > 1000, "{groups} groups, {names} names");
    let root = superblock.root_directory.address.get() as usize;
    let (dinode, _) = Dinode::ref_from_prefix(&image[root * size..]).expect("a whole block");
    assert_eq!(dinode.number, superblock.root_directory);
}
