//! Extended attributes, access control lists, inode flags and holes on a mount, judged by their own tools, by
//! `fsck.gfs2` and by the Linux kernel's gfs2.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use e2e::{
    BODY_MAX, Done, MOUNT_MAX, Mounted, Scratch, can_run, corral, expect_clean, is_long, make_filesystem, root, run,
};

const TOOLS: [&str; 8] = ["fsck.gfs2", "setfattr", "getfattr", "setfacl", "getfacl", "chattr", "lsattr", "setpriv"];

fn call(program: &str, arguments: &[&str], at: &Path) -> Done {
    run(Command::new(program).args(arguments).current_dir(at).env("LC_ALL", "C"), MOUNT_MAX)
}

#[track_caller]
fn must(program: &str, arguments: &[&str], at: &Path) -> String {
    let done = call(program, arguments, at);
    done.expect_success();
    done.said
}

#[track_caller]
fn must_fail(program: &str, arguments: &[&str], at: &Path) {
    let done = call(program, arguments, at);
    assert!(matches!(done.code, Some(1..)), "{} succeeded", done.command);
}

/// A user that owns nothing here.
const STRANGER: [&str; 3] = ["--reuid=65533", "--regid=65533", "--clear-groups"];

fn stranger(command: &[&str], at: &Path) -> Done {
    call("setpriv", &[&STRANGER, command].concat(), at)
}

/// Folders above a mount let everybody through.
fn open_up(dir: &Path) {
    for folder in dir.ancestors().take_while(|folder| folder.parent().is_some_and(|above| above.parent().is_some())) {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("chmod");
    }
}

#[test]
fn the_tools_for_attributes_lists_and_flags_work_on_a_mount() {
    if !can_run("the_tools_for_attributes_lists_and_flags_work_on_a_mount", &TOOLS) {
        return;
    }
    let scratch = Scratch::new("attributes");
    let disk = scratch.disk(128);
    make_filesystem(&disk, &["-j", "1", "-J", "8"]);
    let mounted = Mounted::new(&scratch, &disk, "acl");
    mounted.work(|dir| {
        open_up(dir);
        attributes_and_lists(dir);
        flags(dir);
    });
    mounted.unmount();
    expect_clean(&disk);
    let mounted = Mounted::new(&scratch, &disk, "");
    mounted.work(|dir| {
        assert!(must("getfattr", &["-d", "file"], dir).contains("user.colour=\"red\""));
        must_fail("setfacl", &["-m", "u:65533:r", "file"], dir);
    });
    mounted.unmount();
}

fn attributes_and_lists(dir: &Path) {
    fs::write(dir.join("file"), "content").expect("write");
    fs::set_permissions(dir.join("file"), Permissions::from_mode(0o600)).expect("chmod");
    must("setfattr", &["-n", "user.colour", "-v", "red", "file"], dir);
    must("setfattr", &["-n", "trusted.mark", "-v", "1", "file"], dir);
    let big = "x".repeat(60_000);
    must("setfattr", &["-n", "user.big", "-v", &big, "file"], dir);
    assert!(must("getfattr", &["-n", "user.big", "--only-values", "file"], dir) == big, "another value came back");
    must("setfattr", &["-x", "user.big", "file"], dir);
    must_fail("getfattr", &["-n", "user.big", "file"], dir);
    must_fail("setfattr", &["-n", "os2.colour", "-v", "red", "file"], dir);

    assert_ne!(stranger(&["cat", "file"], dir).code, Some(0));
    must("setfacl", &["-m", "u:65533:r", "file"], dir);
    assert_eq!(stranger(&["cat", "file"], dir).said, "content");
    assert!(must("getfacl", &["-nc", "file"], dir).contains("user:65533:r--"));
    fs::set_permissions(dir.join("file"), Permissions::from_mode(0o600)).expect("chmod");
    assert_ne!(stranger(&["cat", "file"], dir).code, Some(0), "the mask is empty");
    assert!(must("getfacl", &["-nc", "file"], dir).contains("#effective:---"));

    fs::create_dir(dir.join("shared")).expect("mkdir");
    must("setfacl", &["-d", "-m", "u:65533:rwx,g::rx,o::-", "shared"], dir);
    must("sh", &["-c", "umask 077; echo inherited >shared/file; mkdir shared/below"], dir);
    assert_eq!(stranger(&["cat", "shared/file"], dir).said.trim(), "inherited");
    assert!(must("getfacl", &["-nc", "shared/below"], dir).contains("default:user:65533:rwx"));
    must("sh", &["-c", "umask 027; echo plain >plain"], dir);
    assert_eq!(fs::metadata(dir.join("plain")).expect("stat").permissions().mode() & 0o777, 0o640);
    must("setfacl", &["-b", "file"], dir);
    assert!(!must("getfattr", &["-d", "-m-", "file"], dir).contains("posix_acl"));
}

fn flags(dir: &Path) {
    must("chattr", &["+i", "plain"], dir);
    assert!(must("lsattr", &["plain"], dir).starts_with("----i---"));
    for refused in ["echo x >>plain", "rm -f plain", "mv plain moved", "ln plain linked", "chmod 600 plain"] {
        must_fail("sh", &["-c", refused], dir);
    }
    must("chattr", &["-i", "+a", "plain"], dir);
    must("sh", &["-c", "echo more >>plain"], dir);
    for refused in ["echo x >plain", "rm -f plain", "mv plain moved", "truncate -s 0 plain"] {
        must_fail("sh", &["-c", refused], dir);
    }
    must("chattr", &["-a", "+jAS", "plain"], dir);
    assert!(must("lsattr", &["plain"], dir).starts_with("--S----A--j-"));
    must("chattr", &["+j", "shared"], dir);
    must("sh", &["-c", "echo >shared/journaled"], dir);
    assert!(must("lsattr", &["shared/journaled"], dir).starts_with("----------j-"));
}

#[test]
fn holes_are_found_where_nothing_was_written() {
    if !can_run("holes_are_found_where_nothing_was_written", &["fsck.gfs2", "fallocate"]) {
        return;
    }
    let scratch = Scratch::new("holes");
    let disk = scratch.disk(128);
    make_filesystem(&disk, &["-j", "1", "-J", "8"]);
    let mounted = Mounted::new(&scratch, &disk, "");
    mounted.work(|dir| {
        let file = File::create(dir.join("sparse")).expect("create");
        file.write_all_at(b"first", 100_000).expect("write");
        file.write_all_at(b"second", 10 << 30).expect("write");
        file.set_len(20 << 30).expect("truncate");
        let seek = |offset: i64, whence| nix::unistd::lseek(&file, offset, whence).map_err(|errno| errno.to_string());
        use nix::unistd::Whence::{SeekData, SeekHole};
        assert_eq!(seek(0, SeekData), Ok(98_304));
        assert_eq!(seek(99_000, SeekData), Ok(99_000));
        assert_eq!(seek(98_304, SeekHole), Ok(102_400));
        assert_eq!(seek(102_400, SeekData), Ok(10 << 30));
        assert_eq!(seek((10 << 30) + 4096, SeekHole), Ok((10 << 30) + 4096));
        assert!(seek(11 << 30, SeekData).is_err(), "no data behind the last");
        assert!(seek(20 << 30, SeekHole).is_err(), "nothing behind the end");
        let stuffed = File::create(dir.join("stuffed")).expect("create");
        stuffed.write_all_at(b"short", 0).expect("write");
        assert_eq!(nix::unistd::lseek(&stuffed, 0, SeekHole).map_err(|errno| errno.to_string()), Ok(5));
        let blocks = |name: &str| fs::metadata(dir.join(name)).expect("stat").blocks();
        must("fallocate", &["-l", "1M", "ahead"], dir);
        assert!(blocks("ahead") >= 2048 && fs::read(dir.join("ahead")).expect("read") == vec![0; 1 << 20]);
        must("fallocate", &["-n", "-l", "2M", "ahead"], dir);
        assert!(blocks("ahead") >= 4096 && fs::metadata(dir.join("ahead")).expect("stat").len() == 1 << 20);
        fs::write(dir.join("punched"), vec![5; 1 << 20]).expect("write");
        must("fallocate", &["-p", "-o", "4095", "-l", "65538", "punched"], dir);
        let mut expected = vec![5; 1 << 20];
        expected[4095..4095 + 65_538].fill(0);
        assert!(fs::read(dir.join("punched")).expect("read") == expected && blocks("punched") < 2048);
        must_fail("fallocate", &["-c", "-o", "0", "-l", "4096", "punched"], dir);
    });
    mounted.unmount();
    expect_clean(&disk);
}

#[test]
fn a_read_only_mount_of_a_dirty_journal_replays_it_or_says_why_not() {
    const NAME: &str = "a_read_only_mount_of_a_dirty_journal_replays_it_or_says_why_not";
    if !can_run(NAME, &["zstd", "losetup", "fsck.gfs2"]) {
        return;
    }
    let scratch = Scratch::new("dirty");
    let (image, _) = scratch.golden("dirty-j0");
    let shown = image.to_str().expect("a plain path");
    let attached = run(Command::new("losetup").args(["-r", "-f", "--show", shown]), MOUNT_MAX);
    if attached.code != Some(0) {
        eprintln!("SKIPPED {NAME}: no loop device: {}", attached.said);
        return;
    }
    let device = attached.said.trim().to_owned();
    let dir = scratch.join("mnt");
    fs::create_dir(&dir).expect("mkdir");
    let refused = corral(&["mount", "-o", "ro,lockproto=lock_nolock", &device, dir.to_str().expect("a plain path")]);
    let options = format!("norecovery,lockproto=lock_nolock,log={}", scratch.join("log").display());
    let looked = corral(&["mount", "-o", &options, &device, dir.to_str().expect("a plain path")]);
    let mounted = Mounted { dir };
    mounted.unmount();
    let _ = run(Command::new("losetup").args(["-d", &device]), MOUNT_MAX);
    assert!(refused.code != Some(0) && refused.said.contains("-o norecovery"), "{}", refused.said);
    looked.expect_success();
    let mounted = Mounted::new(&scratch, &image, "ro,lockproto=lock_nolock");
    mounted.unmount();
    expect_clean(&image);
}

/// Two nodes of one lockspace on one image.
fn mount_two(scratch: &Scratch, disk: &Path) -> [Mounted; 2] {
    let mut view = "cluster = \"e2e\"\nallow_plaintext = true\n".to_owned();
    let ports: Vec<_> = (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    for (index, port) in ports.iter().enumerate() {
        let address = port.local_addr().expect("bound");
        view.push_str(&format!("[[member]]\nid = {}\naddress = \"{address}\"\n", index + 1));
    }
    drop(ports);
    fs::write(scratch.join("view.toml"), view).expect("write");
    let mounts = [1, 2].map(|node| {
        let dir = scratch.join(&format!("node{node}"));
        fs::create_dir(&dir).expect("mkdir");
        let (view, log) = (scratch.join("view.toml"), scratch.join(&format!("log{node}")));
        let options = format!("acl,node={node},view={},log={}", view.display(), log.display());
        let disk: PathBuf = disk.into();
        thread::spawn(move || {
            let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
            corral(&["mount", "-o", &options, &text(&disk), &text(&dir)]).expect_success();
            Mounted { dir }
        })
    });
    mounts.map(|mount| mount.join().expect("mounted"))
}

#[test]
fn a_list_that_one_node_sets_counts_on_the_other_at_once() {
    if !can_run("a_list_that_one_node_sets_counts_on_the_other_at_once", &TOOLS) {
        return;
    }
    let scratch = Scratch::new("lists");
    let disk = scratch.disk(256);
    make_filesystem(&disk, &["-j", "2", "-J", "8", "-p", "lock_dlm"]);
    let [one, two] = mount_two(&scratch, &disk);
    let (first, second) = (one.dir.clone(), two.dir.clone());
    one.work(move |_| {
        open_up(&first);
        open_up(&second);
        fs::write(first.join("file"), "content").expect("write");
        for round in 0..40 {
            let (setter, asker) = if round % 2 == 0 { (&first, &second) } else { (&second, &first) };
            must("setfacl", &["-m", "u:65533:r,g::-,o::-", "file"], setter);
            for dir in [asker, setter] {
                assert_eq!(stranger(&["cat", "file"], dir).said, "content", "round {round}");
            }
            let taken: [&[&str]; 3] = [&["-x", "u:65533", "file"], &["-b", "file"], &["-m", "m::-", "file"]];
            must("setfacl", taken[round % 3], setter);
            if round % 3 == 1 {
                fs::set_permissions(setter.join("file"), Permissions::from_mode(0o600)).expect("chmod");
            }
            for dir in [asker, setter] {
                assert_ne!(stranger(&["cat", "file"], dir).code, Some(0), "round {round}");
            }
        }
    });
    for mount in [one, two] {
        mount.unmount();
    }
    expect_clean(&disk);
}

#[test]
fn attributes_that_we_wrote_the_kernel_reads_and_changes_and_we_read_again() {
    const NAME: &str = "attributes_that_we_wrote_the_kernel_reads_and_changes_and_we_read_again";
    if !is_long(NAME) || !can_run(NAME, &["fsck.gfs2", "python3"]) {
        return;
    }
    let scratch = Scratch::new("kernel");
    let disk = scratch.disk(600);
    make_filesystem(&disk, &["-j", "1", "-J", "16", "-b", "1024"]);
    let share = scratch.join("share");
    fs::create_dir(&share).expect("mkdir");
    let tree = share.join("tree.py");
    fs::copy(root().join("tests/oracle/tree.py"), &tree).expect("copy");
    let python = |arguments: &[&str]| run(Command::new("python3").arg(&tree).args(arguments), BODY_MAX);
    let mounted = Mounted::new(&scratch, &disk, "acl");
    let dir = mounted.dir.to_str().expect("a plain path").to_owned();
    python(&["populate", &dir, "--bulk", "300", "--big", "3", "--jdata"]).expect_success();
    let manifest = python(&["manifest", &dir]);
    manifest.expect_success();
    fs::write(share.join("ours.json"), manifest.said).expect("write");
    mounted.unmount();
    expect_clean(&disk);
    fs::write(share.join("change.py"), CHANGE).expect("write");
    let script = "mount -t gfs2 -o acl /dev/vdb /mnt/gfs2 && cd /mnt/host && \
        python3 tree.py check /mnt/gfs2 ours.json && python3 change.py /mnt/gfs2/xattrs && \
        python3 tree.py manifest /mnt/gfs2 >theirs.json && cd / && umount /mnt/gfs2";
    let mut kernel = Command::new(root().join("tests/oracle/kernel-vm"));
    kernel.arg("--disk").arg(&disk).arg("--share").arg(&share).arg("--").arg(script);
    let said = run(&mut kernel, BODY_MAX);
    assert_eq!(said.code, Some(0), "{}", said.said);
    let mounted = Mounted::new(&scratch, &disk, "acl");
    let theirs = share.join("theirs.json");
    let checked = python(&["check", &dir, theirs.to_str().expect("a plain path")]);
    assert_eq!(checked.code, Some(0), "{}", checked.said);
    run(Command::new("python3").arg(share.join("change.py")).arg(mounted.dir.join("xattrs")), BODY_MAX)
        .expect_success();
    mounted.unmount();
    expect_clean(&disk);
}

/// Random changes of the attributes of a folder's files.
const CHANGE: &str = r#"
import os, random, sys
random.seed(5)
os.chdir(sys.argv[1])
files = [f for f in sorted(os.listdir(".")) if os.path.isfile(f)]
for i in range(400):
    f = random.choice(files)
    names = os.listxattr(f)
    if names and random.random() < 0.4:
        os.removexattr(f, random.choice(names))
    else:
        value = os.urandom(random.choice([0, 10, 500, 3000, 5000, 40000]))
        os.setxattr(f, "user.k%d" % random.randrange(40), value)
"#;
