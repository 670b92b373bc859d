//! One node, `lock_nolock`: what a filesystem must do, judged by the distribution's tools.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use e2e::{BODY_MAX, MOUNT_MAX, Mounted, Scratch, can_run, corral, expect_clean, make_filesystem, root, run};

const JUDGES: [&str; 2] = ["fsck.gfs2", "diff"];

/// A tree small enough for every run: a part of the machine's own headers and this repository.
fn copy_tree(to: &Path) {
    let from = root();
    let done = run(
        Command::new("cp")
            .args(["-a", "--no-preserve=xattr"])
            .args(["gfs", "dlm", "tests/golden"].map(|d| from.join(d)))
            .arg(to),
        BODY_MAX,
    );
    done.expect_success();
}

fn expect_same_tree(at: &Path) {
    for part in ["gfs", "dlm", "tests/golden"] {
        let copy = at.join(part.rsplit('/').next().unwrap_or(part));
        run(Command::new("diff").arg("-r").arg("--no-dereference").arg(root().join(part)).arg(copy), BODY_MAX)
            .expect_success();
    }
}

#[test]
fn a_tree_survives_unmount_and_mount_and_fsck_finds_nothing() {
    if !can_run("a_tree_survives_unmount_and_mount_and_fsck_finds_nothing", &JUDGES) {
        return;
    }
    let scratch = Scratch::new("tree");
    let disk = scratch.disk(512);
    make_filesystem(&disk, &["-j", "1", "-J", "16"]);
    let mounted = Mounted::new(&scratch, &disk, "");
    mounted.work(|dir| {
        copy_tree(dir);
        expect_same_tree(dir);
    });
    mounted.unmount();
    expect_clean(&disk);
    let mounted = Mounted::new(&scratch, &disk, "");
    mounted.work(expect_same_tree);
    mounted.work(|dir| {
        fs::remove_dir_all(dir.join("gfs")).expect("the tree can be removed");
        assert!(!dir.join("gfs").exists());
    });
    mounted.unmount();
    expect_clean(&disk);
}

#[test]
fn every_kind_of_change_is_seen_after_a_remount() {
    if !can_run("every_kind_of_change_is_seen_after_a_remount", &JUDGES) {
        return;
    }
    let scratch = Scratch::new("changes");
    let disk = scratch.disk(256);
    make_filesystem(&disk, &["-j", "1", "-J", "16"]);
    let mounted = Mounted::new(&scratch, &disk, "");
    mounted.work(make_changes);
    mounted.work(expect_changes);
    mounted.unmount();
    expect_clean(&disk);
    let mounted = Mounted::new(&scratch, &disk, "");
    mounted.work(expect_changes);
    mounted.unmount();
    expect_clean(&disk);
}

fn make_changes(dir: &Path) {
    fs::create_dir(dir.join("folder")).expect("mkdir");
    fs::write(dir.join("stuffed"), "short").expect("a stuffed file");
    fs::write(dir.join("grown"), vec![7; 5_000_000]).expect("a file with indirect blocks");
    let sparse = File::create(dir.join("sparse")).expect("create");
    sparse.write_all_at(b"end", 50 << 20).expect("write far out");
    let cut = File::create(dir.join("cut")).expect("create");
    (&cut).write_all(&[9; 100_000]).expect("write");
    cut.set_len(10_000).expect("truncate");
    fs::write(dir.join("before"), "moved").expect("write");
    fs::rename(dir.join("before"), dir.join("folder/after")).expect("rename");
    fs::hard_link(dir.join("stuffed"), dir.join("folder/second name")).expect("link");
    symlink("folder/after", dir.join("pointer")).expect("symlink");
    fs::write(dir.join("gone"), "gone").expect("write");
    fs::remove_file(dir.join("gone")).expect("unlink");
    for number in 0..2_000 {
        fs::write(dir.join(format!("folder/entry with a rather long name {number:05}")), "").expect("create");
    }
}

fn expect_changes(dir: &Path) {
    let read = |name: &str| fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(read("stuffed"), b"short");
    assert_eq!(read("grown"), vec![7; 5_000_000]);
    let sparse = read("sparse");
    assert_eq!((sparse.len(), &sparse[50 << 20..]), ((50 << 20) + 3, b"end".as_slice()));
    assert!(sparse[..50 << 20].iter().all(|b| *b == 0), "a hole reads as zeroes");
    assert_eq!(read("cut"), vec![9; 10_000]);
    assert_eq!(read("pointer"), b"moved");
    assert_eq!(fs::metadata(dir.join("folder/second name")).expect("stat").nlink(), 2);
    assert!(!dir.join("before").exists() && !dir.join("gone").exists());
    assert_eq!(fs::read_dir(dir.join("folder")).expect("readdir").count(), 2_002);
}

#[test]
fn an_image_written_by_the_kernel_reads_as_its_manifest_says() {
    if !can_run("an_image_written_by_the_kernel_reads_as_its_manifest_says", &["zstd", "python3"]) {
        return;
    }
    for name in ["clean-4k", "clean-1k", "jdata-4k", "dirty-j0", "dirty-j0-j1"] {
        let scratch = Scratch::new(name);
        let (image, manifest) = scratch.golden(name);
        let mounted = Mounted::new(&scratch, &image, "ro,acl,lockproto=lock_nolock");
        let dir = mounted.dir.clone();
        mounted.work(move |_| {
            let mut check = Command::new("python3");
            check.arg(root().join("tests/oracle/tree.py")).arg("check").arg(&dir).arg(&manifest);
            let done = run(&mut check, BODY_MAX);
            let tail: Vec<&str> = done.said.lines().rev().take(12).collect();
            assert_eq!(done.code, Some(0), "{name}: {}", tail.join("\n"));
        });
        mounted.unmount();
    }
}

#[test]
fn a_full_filesystem_says_so_and_stays_clean() {
    if !can_run("a_full_filesystem_says_so_and_stays_clean", &JUDGES) {
        return;
    }
    let scratch = Scratch::new("full");
    let disk = scratch.disk(64);
    make_filesystem(&disk, &["-j", "1", "-J", "8"]);
    let mounted = Mounted::new(&scratch, &disk, "");
    mounted.work(|dir| {
        let mut written = 0_u64;
        let error = (0..10_000)
            .find_map(|number| {
                let result = fs::write(dir.join(format!("file{number}")), vec![1; 256 << 10]);
                written += 256 << 10;
                result.err()
            })
            .expect("64 MiB cannot hold 2.5 GiB");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
        assert!(written > 32 << 20, "full after only {written} bytes");
        let error = (0..100_000).find_map(|number| fs::create_dir(dir.join(format!("dir{number}"))).err());
        assert_eq!(error.expect("directories need blocks too").kind(), std::io::ErrorKind::StorageFull);
        fs::remove_file(dir.join("file0")).expect("a full filesystem can still remove");
        fs::write(dir.join("again"), vec![2; 64 << 10]).expect("what was freed can be used");
    });
    mounted.unmount();
    expect_clean(&disk);
}

#[test]
fn a_hostile_or_truncated_superblock_is_refused_with_a_reason() {
    if !can_run("a_hostile_or_truncated_superblock_is_refused_with_a_reason", &[]) {
        return;
    }
    const SUPERBLOCK: u64 = 64 << 10;
    // Offset within the superblock, bytes to put there, what is wrong then. linux/gfs2_ondisk.h has the fields.
    let damages: [(u64, &[u8], &str); 6] = [
        (0, &[0; 4], "no magic number"),
        (4, &[0xff; 4], "an impossible block type"),
        (24, &[0xff; 4], "an unknown format"),
        (36, &[0, 0, 0, 1], "a block size of one byte"),
        (36, &[0x80, 0, 0, 0], "a block size of two GiB"),
        (48, &[0xff; 16], "a master directory beyond the disk"),
    ];
    let scratch = Scratch::new("hostile");
    let disk = scratch.disk(128);
    make_filesystem(&disk, &["-j", "1", "-J", "8"]);
    let mnt = scratch.join("mnt");
    fs::create_dir(&mnt).expect("mkdir");
    let good = fs::read(&disk).expect("the image");
    let refuse = |what: &str| {
        let done = corral(&["mount", "-o", "lockproto=lock_nolock", disk.to_str().unwrap(), mnt.to_str().unwrap()]);
        if let Ok(Some(mount)) = tools::mounts::Mount::at(&mnt) {
            let _ = mount.end(MOUNT_MAX, &|_| {});
        }
        assert!(matches!(done.code, Some(1..)), "{what}: {:?} {}", done.code, done.said);
        assert!(!done.said.contains("panicked"), "{what}: {}", done.said);
        assert!(done.said.trim().len() > 15, "{what}: no reason given: {:?}", done.said);
    };
    for (offset, bytes, what) in damages {
        let image = File::options().write(true).open(&disk).expect("open");
        image.write_all_at(bytes, SUPERBLOCK + offset).expect("damage");
        refuse(what);
        fs::write(&disk, &good).expect("restore");
    }
    for (length, what) in [(0, "an empty device"), (4096, "4 KiB"), (SUPERBLOCK + 100, "half a superblock")] {
        File::options().write(true).open(&disk).and_then(|f| f.set_len(length)).expect("truncate");
        refuse(what);
        fs::write(&disk, &good).expect("restore");
    }
}

#[test]
fn kernel_reads_what_corral_wrote() {
    const NAME: &str = "kernel_reads_what_corral_wrote";
    if !e2e::is_long(NAME) || !can_run(NAME, &["fsck.gfs2", "python3"]) {
        return;
    }
    let scratch = Scratch::new("kernel");
    let disk = scratch.disk(512);
    make_filesystem(&disk, &["-j", "1", "-J", "16"]);
    let share = scratch.join("share");
    fs::create_dir(&share).expect("mkdir");
    let tree = root().join("tests/oracle/tree.py");
    fs::copy(&tree, share.join("tree.py")).expect("copy");
    let mounted = Mounted::new(&scratch, &disk, "");
    mounted.work(|dir| {
        copy_tree(dir);
        make_changes(dir);
    });
    let manifest = share.join("manifest");
    let (dir, into) = (mounted.dir.clone(), manifest.clone());
    mounted.work(move |_| {
        let done = run(Command::new("python3").arg(tree).arg("manifest").arg(&dir), BODY_MAX);
        done.expect_success();
        fs::write(into, done.said).expect("write");
    });
    mounted.unmount();
    let script = "mount -t gfs2 -o ro,spectator,lockproto=lock_nolock /dev/vdb /mnt/gfs2 && \
                  python3 /mnt/host/tree.py check /mnt/gfs2 /mnt/host/manifest";
    let mut vm = Command::new(root().join("tests/oracle/kernel-vm"));
    vm.arg("--disk").arg(format!("{}:ro", disk.display())).arg("--share").arg(&share);
    run(vm.args(["--timeout", "400", "--", script]), std::time::Duration::from_secs(420)).expect_success();
}
