//! The faces of other tools beside those tools, on every image that the kernel made. A missing tool is reported, not
//! passed over in silence.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CORRAL: &str = env!("CARGO_BIN_EXE_corral");
const IMAGES: [&str; 5] = ["clean-4k", "clean-1k", "jdata-4k", "dirty-j0", "dirty-j0-j1"];

/// A folder with Corral's faces and unpacked images; gone at the end.
struct Place(PathBuf);

impl Place {
    /// `None`, loudly, when a tool to compare with is missing.
    fn new(name: &str, tools: &[&str]) -> Option<Place> {
        let path = std::env::temp_dir().join(format!("corral-faces-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("bin")).expect("a folder");
        let place = Place(path);
        for tool in ["gfs2_edit", "gfs2_tool", "tunegfs2"] {
            symlink(CORRAL, place.0.join("bin").join(tool)).expect("a link");
        }
        for tool in tools {
            if real(tool).is_none() {
                eprintln!("SKIPPED: {tool} is not installed (Debian: gfs2-utils)");
                return None;
            }
        }
        Some(place)
    }

    fn image(&self, name: &str) -> Option<PathBuf> {
        let packed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/golden/{name}.img.zst"));
        let path = self.0.join(name);
        match Command::new("zstd").args(["-qdfo"]).arg(&path).arg(&packed).status() {
            Ok(status) if status.success() => Some(path),
            other => {
                eprintln!("SKIPPED: zstd cannot unpack {}: {other:?}", packed.display());
                None
            }
        }
    }

    fn ours(&self, tool: &str, arguments: &[&str]) -> Output {
        run(&self.0.join("bin").join(tool), arguments)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left over is no reason to fail.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn real(tool: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/sbin"].iter().map(|folder| Path::new(folder).join(tool)).find(|path| path.exists())
}

fn run(program: &Path, arguments: &[&str]) -> Output {
    // gfs2_edit asks the terminal's description even when it only prints.
    Command::new(program).args(arguments).env("TERM", "xterm").output().expect("the program starts")
}

fn assert_same(place: &Place, tool: &str, arguments: &[&str]) {
    let theirs = run(&real(tool).expect("looked for above"), arguments);
    let ours = place.ours(tool, arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if ours.stdout != theirs.stdout {
        let (ours, theirs) = (text(&ours.stdout), text(&theirs.stdout));
        let differing = ours.lines().zip(theirs.lines()).enumerate().find(|(_, (a, b))| a != b);
        panic!(
            "{tool} {arguments:?}: {} and {} lines, first difference {differing:?}",
            ours.lines().count(),
            theirs.lines().count()
        );
    }
    assert_eq!(ours.status.code(), theirs.status.code(), "{tool} {arguments:?}: {}", text(&ours.stderr));
}

#[test]
fn gfs2_edit_prints_every_structure_as_the_tool_does() {
    let Some(place) = Place::new("structures", &["gfs2_edit"]) else { return };
    for name in IMAGES {
        let Some(image) = place.image(name) else { return };
        let image = image.display().to_string();
        let words = "sb size master root jindex per_node inum statfs rindex rgs quota journals journal0 journal1";
        let mut cases: Vec<Vec<&str>> = words.split(' ').map(|word| vec!["-p", word]).collect();
        cases.push(vec!["-p", "rg", "0"]);
        cases.push(vec!["-p", "inum", "statfs"]);
        cases.push(vec!["identify", "-p", "root"]);
        cases.push(vec!["-p", "root", "blocktype"]);
        cases.push(vec!["-p", "root", "blockrg"]);
        cases.push(vec!["-p", "root", "blockbits"]);
        cases.push(vec!["-p", "root", "blockalloc"]);
        cases.push(vec!["-p", "root", "field", "di_size"]);
        cases.push(vec!["-p", "quota", "find", "di"]);
        cases.push(vec!["rgcount"]);
        cases.push(vec!["rgflags", "1"]);
        for mut case in cases {
            // That image has one journal.
            if name == "jdata-4k" && case.contains(&"journal1") {
                continue;
            }
            case.push(&image);
            assert_same(&place, "gfs2_edit", &case);
        }
        std::fs::remove_file(&image).expect("it is there");
    }
}

#[test]
fn gfs2_edit_prints_every_kind_of_block_as_the_tool_does() {
    let Some(place) = Place::new("blocks", &["gfs2_edit"]) else { return };
    for (name, size) in [("clean-4k", 4096), ("clean-1k", 1024), ("jdata-4k", 4096)] {
        let Some(image) = place.image(name) else { return };
        let bytes = std::fs::read(&image).expect("it is there");
        let image = image.display().to_string();
        // Some blocks of each type. The tool misreads attribute blocks (10) and quota changes (14); see the face.
        let mut seen = [0usize; 15];
        for (number, block) in bytes.chunks_exact(size).enumerate().skip(1) {
            let is_metadata = block[..4] == 0x0116_1970u32.to_be_bytes();
            let kind = if is_metadata { usize::from(block[7]) } else { 0 };
            seen[kind] += 1;
            // The first few, then ever fewer.
            if matches!(kind, 10 | 14) || !(seen[kind] <= 6 || seen[kind].is_power_of_two()) {
                continue;
            }
            assert_same(&place, "gfs2_edit", &["-p", &number.to_string(), &image]);
        }
        assert!(seen[4] > 1000 && seen[6] > 50, "{name}: {seen:?}");
        std::fs::remove_file(&image).expect("it is there");
    }
}

#[test]
fn tunegfs2_lists_as_the_tool_does_and_what_it_writes_the_tool_reads() {
    let Some(place) = Place::new("tune", &["tunegfs2", "fsck.gfs2"]) else { return };
    for name in IMAGES {
        let Some(image) = place.image(name) else { return };
        let image = image.display().to_string();
        assert_same(&place, "tunegfs2", &["-l", &image]);
        if name != "clean-4k" {
            std::fs::remove_file(&image).expect("it is there");
            continue;
        }
        let uuid = "01234567-89ab-cdef-0123-456789abcdef";
        let changes: [&[&str]; 3] = [
            &["-U", uuid, "-L", "other:name", &image],
            &["-o", "lockproto=lock_dlm,locktable=third:fs", &image],
            &["-r", "1802", &image],
        ];
        for change in changes {
            let done = place.ours("tunegfs2", change);
            assert!(done.status.success() && done.stderr.is_empty(), "{change:?}: {done:?}");
            assert_same(&place, "tunegfs2", &["-l", &image]);
        }
        let listed = String::from_utf8_lossy(&place.ours("tunegfs2", &["-l", &image]).stdout).into_owned();
        for wanted in [uuid, "Lock protocol: lock_dlm", "Lock table: third:fs"] {
            assert!(listed.contains(wanted), "{wanted}: {listed}");
        }
        let checked = run(&real("fsck.gfs2").expect("looked for above"), &["-n", &image]);
        assert!(checked.status.success(), "{checked:?}");
    }
}

#[test]
fn tunegfs2_refuses_with_the_tools_words_and_codes_and_changes_nothing() {
    let Some(place) = Place::new("refusals", &["tunegfs2"]) else { return };
    let Some(image) = place.image("jdata-4k") else { return };
    let before = std::fs::read(&image).expect("it is there");
    let image = image.display().to_string();
    let cases: &[&[&str]] = &[
        &["-o", "lockproto=foo", &image],
        &["-o", "lockproto=lock_dlm,locktable=qr", &image],
        &["-r", "1801", &image],
        &["-r", "1803", &image],
        &["-r", "x", &image],
        &["-L"],
        &["-l"],
        &["-l", "/nonexistent"],
        &["-l", CORRAL],
        &["-l", &image, &image],
    ];
    for case in cases {
        let theirs = run(&real("tunegfs2").expect("looked for above"), case);
        let ours = place.ours("tunegfs2", case);
        assert_eq!(ours.status.code(), theirs.status.code(), "{case:?}");
        assert_ne!(ours.status.code(), Some(0));
        // What getopt says of a missing argument has the program's name in it, however it was called.
        if case.len() > 1 {
            assert_eq!(String::from_utf8_lossy(&ours.stderr), String::from_utf8_lossy(&theirs.stderr), "{case:?}");
        }
    }
    // Stricter than the tool: names that no cluster can have.
    for table in ["a.b:c", "a:b:c", ":b", "a:"] {
        assert_eq!(place.ours("tunegfs2", &["-L", table, &image]).status.code(), Some(65), "{table}");
    }
    assert!(before == std::fs::read(&image).expect("it is there"), "nothing was written");
}

#[test]
fn gfs2_tool_shows_superblock_and_journals_in_its_old_form() {
    let Some(place) = Place::new("tool", &[]) else { return };
    let Some(image) = place.image("clean-4k") else { return };
    let image = image.display().to_string();
    let said = |arguments: &[&str]| {
        let out = place.ours("gfs2_tool", arguments);
        assert!(out.status.success(), "{arguments:?}: {out:?}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert_eq!(said(&["journals", &image]), "journal1 - 8MB\njournal0 - 8MB\n2 journal(s) found.\n");
    let all = said(&["sb", &image, "all"]);
    for line in ["  mh_magic = 0x01161970", "  sb_bsize = 4096", "  sb_lockproto = lock_nolock", "  sb_locktable = c:f"]
    {
        assert!(all.lines().any(|found| found == line), "{line}: {all}");
    }
    assert_eq!(said(&["sb", &image, "table"]), "current lock table name = \"c:f\"\n");
    assert_eq!(
        said(&["-O", "sb", &image, "table", "d:g"]),
        "current lock table name = \"c:f\"\nnew lock table name = \"d:g\"\nDone\n"
    );
    assert_eq!(said(&["sb", &image, "table"]), "current lock table name = \"d:g\"\n");
    // Not asked to be sure: nothing changes.
    assert!(!place.ours("gfs2_tool", &["sb", &image, "table", "e:h"]).status.success());
    assert_eq!(said(&["sb", &image, "table"]), "current lock table name = \"d:g\"\n");
    assert!(String::from_utf8_lossy(&place.ours("gfs2_tool", &["lockdump", "/mnt"]).stderr).contains("corral glocks"));
}
