//! Mounts that go wrong: what their users are told, and by which command.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use e2e::{BODY_MAX, Scratch, can_run, corral, make_filesystem};
use nix::errno::Errno;
use tools::clock;

/// With 4 KiB blocks the first resource group follows the superblock.
const FIRST_GROUP: u64 = 17 * 4096;

#[test]
fn a_mount_that_withdraws_tells_why_in_status_and_at_umount() {
    const NAME: &str = "a_mount_that_withdraws_tells_why_in_status_and_at_umount";
    if !can_run(NAME, &[]) {
        return;
    }
    let scratch = Scratch::new("withdraw");
    let disk = scratch.disk(128);
    make_filesystem(&disk, &["-j", "1", "-J", "8"]);
    let image = File::options().write(true).open(&disk).expect("open the image");
    image.write_all_at(&[0; 24], FIRST_GROUP).expect("damage the first resource group");
    let mnt = scratch.join("mnt");
    fs::create_dir(&mnt).expect("mkdir");
    let (disk, dir) = (disk.to_str().expect("text"), mnt.to_str().expect("text"));
    corral(&["mount", "-o", "lockproto=lock_nolock", disk, dir]).expect_success();

    let (tell, told) = std::sync::mpsc::channel();
    let name = mnt.join("new");
    std::thread::spawn(move || tell.send(File::create(name).map_err(|error| error.raw_os_error())));
    let created = told.recv_timeout(BODY_MAX).expect("the call ends").map(|_| ());
    let error = created.expect_err("there is no resource group to take a block from").map(Errno::from_raw);
    assert!(matches!(error, Some(Errno::EIO | Errno::ENOTCONN)), "{error:?}");

    let tells_why = |line: &str| line.starts_with(dir) && line.contains("withdrawn") && line.contains("block 17 is");
    let is_told = clock::wait_until(BODY_MAX, || corral(&["status"]).said.lines().any(tells_why));
    assert!(is_told, "{}", corral(&["status"]).said);
    let done = corral(&["umount", dir]);
    assert_eq!(done.code, Some(32), "{}", done.said);
    assert!(done.said.contains("not cleanly") && done.said.contains("block 17"), "{}", done.said);
    // Said once; then it is over.
    assert!(corral(&["umount", dir]).said.contains("no Corral mount there"));
    assert!(!corral(&["status"]).said.contains(dir));
}
