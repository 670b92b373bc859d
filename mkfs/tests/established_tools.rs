//! The tools that own the format judge what is made here. A missing tool is reported, not passed
//! over in silence.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MKFS: &str = env!("CARGO_BIN_EXE_mkfs-gfs2");

struct Images(PathBuf);

impl Images {
    fn new(name: &str) -> Images {
        let path = std::env::temp_dir().join(format!("corral-mkfs-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for images");
        Images(path)
    }

    fn image(&self, name: &str, size: u64) -> PathBuf {
        let path = self.0.join(name);
        let file = std::fs::File::create(&path).expect("an image");
        file.set_len(size).expect("a sparse image");
        path
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        // Left-over images are no reason to fail.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn installed(tools: &[&str]) -> bool {
    let missing: Vec<_> = tools
        .iter()
        .filter(|tool| !["/sbin", "/usr/sbin", "/bin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(tool).exists()))
        .collect();
    if !missing.is_empty() {
        eprintln!("NOT TESTED: {missing:?} not installed (Debian: gfs2-utils, util-linux)");
    }
    missing.is_empty()
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    Command::new(program).args(arguments).env("PATH", path).output().expect("the program starts")
}

fn resource_index(image: &Path) -> String {
    let out = run("gfs2_edit", &["-p", "rindex", &image.display().to_string()]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.split_once("RG index").expect("gfs2_edit prints the index").1.to_owned()
}

#[test]
fn fsck_finds_nothing_and_the_resource_index_is_the_established_tools() {
    if !installed(&["fsck.gfs2", "mkfs.gfs2", "gfs2_edit"]) {
        return;
    }
    let images = Images::new("matrix");
    for block in ["512", "1024", "2048", "4096"] {
        for (journals, size) in [("1", 64u64 << 20), ("3", 100 << 20), ("16", 300 << 20), ("2", 2 << 30)] {
            let (ours, theirs) = (images.image("ours", size), images.image("theirs", size));
            for (program, image) in [(MKFS, &ours), ("mkfs.gfs2", &theirs)] {
                let image = image.display().to_string();
                let out = run(program, &["-q", "-O", "-t", "acc:fs", "-b", block, "-j", journals, "-J", "8", &image]);
                assert!(out.status.success(), "{program} -b {block} -j {journals}: {out:?}");
            }
            let out = run("fsck.gfs2", &["-n", &ours.display().to_string()]);
            let said = String::from_utf8_lossy(&out.stdout).to_lowercase();
            assert!(out.status.success() && out.stderr.is_empty(), "-b {block} -j {journals}: {out:?}");
            assert!(!["error", "bad ", "wrong", "should be"].iter().any(|word| said.contains(word)), "{said}");
            assert_eq!(resource_index(&ours), resource_index(&theirs), "-b {block} -j {journals}");
        }
    }
}

#[test]
fn groups_lie_on_stripes_as_the_established_tool_lays_them() {
    if !installed(&["fsck.gfs2", "mkfs.gfs2", "gfs2_edit"]) {
        return;
    }
    let images = Images::new("stripes");
    for stripe in ["sunit=65536,swidth=262144", "sunit=4096,swidth=8192", "sunit=1048576,swidth=4194304"] {
        for (journals, size, groups) in [("1", 300u64 << 20, "256"), ("3", 2 << 30, "32")] {
            let (ours, theirs) = (images.image("ours", size), images.image("theirs", size));
            for (program, image) in [(MKFS, &ours), ("mkfs.gfs2", &theirs)] {
                let image = image.display().to_string();
                let out = run(program, &["-qOK", "-ta:b", "-J8", "-j", journals, "-r", groups, "-o", stripe, &image]);
                assert!(out.status.success(), "{program} -o {stripe}: {out:?}");
            }
            let out = run("fsck.gfs2", &["-n", &ours.display().to_string()]);
            assert!(out.status.success() && out.stderr.is_empty(), "-o {stripe}: {out:?}");
            assert_eq!(resource_index(&ours), resource_index(&theirs), "-o {stripe} -r {groups}");
        }
    }
}

#[test]
fn refusals_have_the_established_words_and_exit_codes() {
    if !installed(&["mkfs.gfs2"]) {
        return;
    }
    let images = Images::new("refusals");
    let image = images.image("image", 300 << 20).display().to_string();
    let long = "x".repeat(33);
    let (cluster, filesystem) = (format!("{long}:b"), format!("a:{}", &long[..31]));
    let cases: &[&[&str]] = &[
        &[],
        &["-p", "lock_dlm"],
        &["-t", "ab"],
        &["-t", "a:"],
        &["-t", ":b"],
        &["-t", "a:b:c"],
        &["-t", "a.c:b"],
        &["-t", &cluster],
        &["-t", &filesystem],
        &["-p", "foo"],
        &["-t", "a:b", "-b", "1000"],
        &["-t", "a:b", "-b", "256"],
        &["-t", "a:b", "-b", "8192"],
        &["-t", "a:b", "-J", "7"],
        &["-t", "a:b", "-J", "1025"],
        &["-t", "a:b", "-J", "200", "-j", "2"],
        &["-t", "a:b", "-j", "0"],
        &["-t", "a:b", "-j", "-1"],
        &["-t", "a:b", "-j", "40"],
        &["-t", "a:b", "-r", "31"],
        &["-t", "a:b", "-r", "2049"],
        &["-t", "a:b", "-c", "0"],
        &["-t", "a:b", "-c", "65"],
        &["-t", "a:b", "-o", "format=1700"],
        &["-t", "a:b", "-o", "format=1803"],
        &["-t", "a:b", "-o", "align=2"],
        &["-t", "a:b", "-o", "sunit=4096"],
        &["-t", "a:b", "-o", "sunit=4096,swidth=4097"],
        &["-t", "a:b", "-z"],
        &["-t", ""],
        &["-t", ":"],
        &["-p", "LOCK_DLM", "-t", "a:b"],
        &["-p", "", "-t", "a:b"],
        &["-p", "lock_nolock", "-t", "ab"],
        &["-p", "lock_nolock", "-t", "a b:c"],
        &["-t", "a:b", "-U", "bogus"],
        &["-t", "a:b", "-U", ""],
        &["-t", "a:b", "-U", "5eac6ad6"],
        &["-t", "a:b", "-b", "x"],
        &["-t", "a:b", "-b", "0"],
        &["-t", "a:b", "-b", "4097"],
        &["-t", "a:b", "-J", "x"],
        &["-t", "a:b", "-J", "0"],
        &["-t", "a:b", "-J", "-1"],
        &["-t", "a:b", "-J", "140"],
        &["-t", "a:b", "-J", "99999999999"],
        &["-t", "a:b", "-j", "x"],
        &["-t", "a:b", "-j", "128"],
        &["-t", "a:b", "-r", "x"],
        &["-t", "a:b", "-r", "0"],
        &["-t", "a:b", "-r", "-1"],
        &["-t", "a:b", "-r", "1.5"],
        &["-t", "a:b", "-c", "x"],
        &["-t", "a:b", "-c", "-1"],
        &["-t", "a:b", "-o", ""],
        &["-t", "a:b", "-o", "bogus"],
        &["-t", "a:b", "-o", "format=1801,align=1,bogus=3"],
        &["-t", "a:b", "-o", "format="],
        &["-t", "a:b", "-o", "format=x"],
        &["-t", "a:b", "-o", "align=x"],
        &["-t", "a:b", "-o", "sunit="],
        &["-t", "a:b", "-o", "sunit=x,swidth=4096"],
        &["-t", "a:b", "-o", "swidth=4096"],
        &["-t", "a:b", "-o", "sunit=1000,swidth=4000"],
    ];
    let tiny = images.image("tiny", 1 << 20).display().to_string();
    let empty = images.image("empty", 0).display().to_string();
    // Whole command lines: what is wrong is the device, its size, or the number of operands.
    let lines: &[&[&str]] = &[
        &["-t", "a:b"],
        &["-t", "a:b", &tiny],
        &["-t", "a:b", &empty],
        &["-t", "a:b", "/nonexistent/x"],
        &["-t", "a:b", "/tmp"],
        &["-t", "a:b", "/dev/null"],
        &["-t", "a:b", &image, "10"],
        &["-t", "a:b", &image, "0"],
        &["-t", "a:b", &image, "abc"],
        &["-t", "a:b", &image, "100", "200"],
        &["-t", "a:b", &image, "999999999999"],
    ];
    let with_image = cases.iter().map(|case| [*case, &[&image]].concat());
    for arguments in with_image.chain(lines.iter().map(|line| line.to_vec())) {
        let (ours, theirs) = (run(MKFS, &arguments), run("mkfs.gfs2", &arguments));
        let words = |out: &Output| (out.status.code(), String::from_utf8_lossy(&out.stderr).trim().to_owned());
        assert_eq!(words(&ours), words(&theirs), "{arguments:?}");
        assert_ne!(ours.status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn without_a_yes_nothing_is_overwritten() {
    let images = Images::new("question");
    let image = images.image("image", 64 << 20).display().to_string();
    assert!(run(MKFS, &["-q", "-O", "-t", "a:b", &image]).status.success());
    let before = std::fs::read(&image).expect("the image");
    let asked = run(MKFS, &["-t", "a:c", &image]);
    assert_eq!(asked.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&asked.stdout).contains("It appears to contain an existing filesystem (gfs2)"));
    assert!(before == std::fs::read(&image).expect("the image"), "nothing was written");
}
