//! Replay against the kernel: after `corral fsck` an image is, block for block, what the kernel's own replay leaves,
//! the logs aside, and holds what the kernel says is in it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::{Mounted, Scratch, can_run, corral, expect_clean, root, run};
use serde_json::Value;

const DIRTY: [&str; 3] = ["dirty-j0", "dirty-j0-j1", "small-dirty"];

fn unpack(scratch: &Scratch, name: &str) -> std::path::PathBuf {
    let image = scratch.join(&format!("{name}.img"));
    let packed = root().join(format!("tests/golden/{name}.img.zst"));
    run(Command::new("zstd").arg("-qdf").arg(packed).arg("-o").arg(&image), Duration::from_secs(60)).expect_success();
    image
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Numbers of the blocks that differ.
fn difference(a: &Path, b: &Path, block_bytes: usize) -> Vec<u64> {
    let (mut a, mut b) = (File::open(a).expect("opens"), File::open(b).expect("opens"));
    let (mut x, mut y) = (vec![0; block_bytes * 64], vec![0; block_bytes * 64]);
    let mut different = Vec::new();
    for piece in 0.. {
        let len = a.read(&mut x).expect("reads");
        if len == 0 {
            break;
        }
        b.read_exact(&mut y[..len]).expect("images of one size");
        if x[..len] != y[..len] {
            let blocks = x[..len].chunks(block_bytes).zip(y[..len].chunks(block_bytes));
            different.extend((piece * 64..).zip(blocks).filter(|(_, (x, y))| x != y).map(|(block, _)| block));
        }
    }
    different
}

/// The blocks of all logs.
fn logs(image: &Path) -> BTreeSet<u64> {
    let done = corral(&["journal", "list", "--json", text(image)]);
    let list: Value = serde_json::from_str(&done.said).expect("JSON");
    let number = |value: &Value| value.as_u64().expect("a number");
    let journals = list["journals"].as_array().expect("journals");
    // Made by mkfs, so they lie in one piece but for their indirect blocks.
    journals
        .iter()
        .flat_map(|j| number(&j["first_block"])..number(&j["first_block"]) + number(&j["blocks"]) + 16)
        .collect()
}

#[test]
fn kernel_reads_the_same_after_our_replay_as_after_its_own() {
    const NAME: &str = "kernel_reads_the_same_after_our_replay_as_after_its_own";
    if !e2e::is_long(NAME) || !can_run(NAME, &["fsck.gfs2", "zstd"]) {
        return;
    }
    for name in DIRTY {
        let scratch = Scratch::new(name);
        let ours = unpack(&scratch, name);
        let theirs = scratch.join("theirs.img");
        std::fs::copy(&ours, &theirs).expect("copies");
        let logs = logs(&ours);
        assert_eq!(corral(&["fsck", text(&ours)]).code, Some(1), "{name}: journals were replayed");
        expect_clean(&ours);
        let mut vm = Command::new(root().join("tests/oracle/kernel-vm"));
        vm.arg("--disk").arg(&theirs).args(["--timeout", "200", "--"]);
        vm.arg("mount -t gfs2 -o lockproto=lock_nolock /dev/vdb /mnt/gfs2 && umount /mnt/gfs2");
        run(&mut vm, Duration::from_secs(220)).expect_success();
        let different: Vec<u64> =
            difference(&ours, &theirs, 4096).into_iter().filter(|block| !logs.contains(block)).collect();
        assert!(different.is_empty(), "{name}: blocks {different:?}");
    }
}

#[test]
fn a_dirty_image_holds_what_its_manifest_says_after_our_replay() {
    const NAME: &str = "a_dirty_image_holds_what_its_manifest_says_after_our_replay";
    if !can_run(NAME, &["fsck.gfs2", "zstd", "python3"]) {
        return;
    }
    for name in ["dirty-j0", "dirty-j0-j1"] {
        let scratch = Scratch::new(name);
        let (image, manifest) = scratch.golden(name);
        assert_eq!(corral(&["fsck", text(&image)]).code, Some(1), "{name}: journals were replayed");
        assert_eq!(corral(&["fsck", "-n", text(&image)]).code, Some(0), "{name}");
        expect_clean(&image);
        let mounted = Mounted::new(&scratch, &image, "ro,acl,lockproto=lock_nolock");
        mounted.work(move |dir| {
            let mut check = Command::new("python3");
            check.arg(root().join("tests/oracle/tree.py")).arg("check").arg(dir).arg(&manifest);
            let done = run(&mut check, Duration::from_secs(120));
            let tail: Vec<&str> = done.said.lines().rev().take(12).collect();
            assert_eq!(done.code, Some(0), "{name}: {}", tail.join("\n"));
        });
        mounted.unmount();
    }
}
