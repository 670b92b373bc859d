//! Several targets, and tgt's targets.conf: what is served, to whom, and what is wrong with a file. tgt's own tool and
//! examples are the judge of what a file means.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::driver::Initiator;
use crate::running::{Directory, Program};
use crate::tool;

/// What `--check` says of a file: exit code, plan, messages.
fn check(file: &str) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_corral-target")).args(["--check", "--config", file]).output();
    let output = output.expect("the program can be started");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn write(directory: &Directory, name: &str, content: &str) -> String {
    let path = directory.path(name);
    std::fs::write(&path, content).expect("a file can be written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("our own file");
    path
}

/// A target's name, a LUN and its file.
type Unit = (String, String, String);

/// The units in the commands that tgt-admin would run.
fn units_of_tgt(said: &str) -> Vec<Unit> {
    let mut target = String::new();
    let mut units = Vec::new();
    for line in said.lines() {
        if let Some(name) = line.strip_prefix("# Adding target: ") {
            target = name.to_owned();
        }
        let after = |option: &str| {
            let rest = &line[line.find(option)? + option.len()..];
            rest.split_whitespace().next().map(|word| word.trim_matches('"').to_owned())
        };
        if line.contains("--op new --mode logicalunit")
            && let (Some(lun), Some(file)) = (after("--lun "), after("-b "))
        {
            units.push((target.clone(), lun, file));
        }
    }
    units.sort();
    units
}

/// The units in a plan of ours.
fn units_of_ours(plan: &str) -> Vec<Unit> {
    let mut target = String::new();
    let mut units = Vec::new();
    for line in plan.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["target", name] => target = name.to_owned(),
            ["LUN", lun, file, ..] => units.push((target.clone(), lun.to_owned(), file.to_owned())),
            _ => {}
        }
    }
    units.sort();
    units
}

#[test]
fn a_file_means_the_same_targets_and_luns_as_to_tgt() {
    let directory = Directory::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        write(&directory, &format!("{name}.img"), "x");
    }
    let image = |name: &str| directory.path(&format!("{name}.img"));
    write(
        &directory,
        "more.conf",
        &format!("<target iqn.2008-09.com.example:three>\n backing-store {}\n lun 10\n</target>\n", image("f")),
    );
    let content = format!(
        "default-driver iscsi\ninclude {}\n# nothing\n<target iqn.2008-09.com.example:one>\n\
         \tbacking-store {} # not the first\n\tbacking-store {}\n\tdirect-store {}\n\twrite-cache off\n</target>\n\
         <target iqn.2008-09.com.example:two>\n<backing-store {}>\n lun 1\n scsi_sn \\\n   SERIAL\n</backing-store>\n\
         <backing-store {}>\n vendor_id \"back 1\"\n</backing-store>\n initiator-address 10.0.0.0/8\n</target>\n",
        directory.path("mo*.conf"),
        image("c"),
        image("a"),
        image("b"),
        image("e"),
        image("d")
    );
    let file = write(&directory, "targets.conf", &content);
    let (code, plan, said) = check(&file);
    assert_eq!(code, Some(0), "{said}");
    assert!(plan.contains("serial=SERIAL") && plan.contains("vendor='back 1'"), "{plan}");
    let ours = units_of_ours(&plan);
    assert_eq!(ours.len(), 6, "{plan}");
    let Some((done, theirs)) = tool("tgt-admin", &["--pretend", "--execute", "--conf", &file]) else { return };
    assert!(done, "{theirs}");
    assert_eq!(ours, units_of_tgt(&theirs), "{theirs}");
}

#[test]
fn the_examples_of_tgt_are_understood_up_to_what_is_not_a_disk() {
    let example = "/usr/share/doc/tgt/examples/targets.conf.example";
    let Ok(content) = std::fs::read_to_string(example) else {
        eprintln!("SKIPPED: {example} is not there (package tgt)");
        return;
    };
    let (code, _, said) = check(example);
    assert_eq!(code, Some(2));
    let at = 1 + content.lines().position(|line| line.contains("device-type cd")).expect("the example has a CD");
    assert!(said.contains(&format!("{example}:{at}: device-type: 'cd'")), "{said}");
    let directory = Directory::new();
    let without = content.replace("device-type cd", "device-type disk");
    let (code, plan, said) = check(&write(&directory, "disks.conf", &without));
    // The example has the same devices in many targets, each with reservations of its own.
    assert_eq!(code, Some(2), "{plan}");
    assert!(said.contains("already"), "{said}");
    let mut number = 0;
    let distinct: Vec<String> = without
        .lines()
        .map(|line| match line.trim_start().trim_start_matches('<').split_whitespace().next() {
            Some("backing-store" | "direct-store") => {
                number += 1;
                line.replacen("/dev/", &format!("/dev/{number}-"), 1)
            }
            _ => line.to_owned(),
        })
        .collect();
    let (code, plan, said) = check(&write(&directory, "distinct.conf", &distinct.join("\n")));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("taken as one") && plan.contains("LUN 15 "), "{plan}{said}");
    assert!(!plan.contains("secretpass") && !said.contains("secretpass"));
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_line_and_without_secrets() {
    let directory = Directory::new();
    let inside = |line: &str| format!("<target iqn.2008-09.com.example:t>\nbacking-store /x\n{line}\n</target>\n");
    for (content, line, word) in [
        ("<target iqn.2008-09.com.example:t>\nbacking-store /x\n".to_owned(), 1, "not closed"),
        ("</target>\n".to_owned(), 1, "no block"),
        ("<target>\n</target>\n".to_owned(), 1, "without a name"),
        ("<target node1>\n</target>\n".to_owned(), 1, "iqn."),
        ("<volume x>\n</volume>\n".to_owned(), 1, "<volume> is not known"),
        ("<target iqn.2008-09.com.example:t\n".to_owned(), 1, "'>'"),
        ("backing-store /x\n".to_owned(), 1, "stands in a <target>"),
        ("default-driver iser\n".to_owned(), 1, "iscsi"),
        ("\n\ninclude /nonexistent/targets.conf\n".to_owned(), 3, "/nonexistent/targets.conf"),
        (inside("<target iqn.2008-09.com.example:u>"), 3, "cannot stand here"),
        (inside("</backing-store>"), 3, "open"),
        (inside("incomminguser me hunter2hunter2"), 3, "incomminguser is not a directive"),
        (inside("incominguser me"), 3, "a name and a secret"),
        (inside("incominguser me hunter2 hunter2"), 3, "a name and a secret"),
        (inside("outgoinguser me hunter2hunter2"), 3, "may log in"),
        (inside("write-cache"), 3, "no value"),
        (inside("write-cache maybe"), 3, "neither on nor off"),
        (inside("block-size 1000"), 3, "512 or 4096"),
        (inside("lun x"), 3, "LUN 'x'"),
        (inside("bs-type rbd"), 3, "rbd"),
        (inside("initiator-address 10.0.0.0/99"), 3, "10.0.0.0/99"),
        (inside("initiator-name node1"), 3, "node1"),
        (inside("controller_tid one"), 3, "number"),
        (inside("vendor_id a\nvendor_id b"), 4, "twice"),
        (inside("params element_type=4"), 3, "element_type"),
        (inside("scsi_sn \u{1b}[2J"), 3, "printable"),
        (inside("write-cache off \\"), 3, "no value"),
    ] {
        let file = write(&directory, "targets.conf", &content);
        let (code, plan, said) = check(&file);
        let expected = if content.contains("nonexistent") { 1 } else { 2 };
        if content.contains("off \\") {
            // A line that goes on takes the closing tag with it.
            assert_eq!(code, Some(2), "{plan}");
            continue;
        }
        assert_eq!(code, Some(expected), "{content}: {plan}{said}");
        assert!(said.contains(&format!("{file}:{line}: ")), "{content}: {said}");
        assert!(said.contains(word), "'{word}' is not in: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let itself = write(&directory, "loop.conf", &format!("include {}\n", directory.path("loop.conf")));
    let (code, _, said) = check(&itself);
    assert_eq!(code, Some(2), "{said}");
    let (code, _, said) = check(&directory.path("none.conf"));
    assert_eq!(code, Some(1), "{said}");
    std::fs::write(directory.path("bytes.conf"), [b'\n', 0xff, 0xfe]).expect("a file can be written");
    let (code, _, said) = check(&directory.path("bytes.conf"));
    assert!(code == Some(2) && said.contains("bytes.conf:2: "), "{said}");
}

#[test]
fn an_initiator_sees_and_uses_only_what_it_may() {
    let directory = Directory::new();
    let image = |name: &str| write(&directory, name, &"x".repeat(1 << 20));
    let content = format!(
        "<target iqn.2008-09.com.example:all>\nbacking-store {}\n</target>\n\
         <target iqn.2008-09.com.example:named>\nbacking-store {}\ninitiator-name iqn.2026-11.org.corral:friend\n</target>\n\
         <target iqn.2008-09.com.example:elsewhere>\nbacking-store {}\ninitiator-address 10.0.0.0/8\n</target>\n\
         <target iqn.2008-09.com.example:secret>\nbacking-store {}\nincominguser me secretpass12\n\
         outgoinguser you secretpass34\n</target>\n",
        image("a.img"),
        image("b.img"),
        image("c.img"),
        image("d.img")
    );
    let file = write(&directory, "targets.conf", &content);
    let program = Program::start_with(&directory, &["--config".to_owned(), file]);
    assert!(program.line.contains("LUN 1 ") && !program.line.contains("secretpass"), "{}", program.line);
    let login = |name: &str, target: &str| {
        let target = format!("iqn.2008-09.com.example:{target}");
        let refused = Initiator::connect(program.address, &format!("iqn.2026-11.org.corral:{name}"), &target, 1).err();
        refused.map(|reason| format!("{reason:?}")).unwrap_or_default()
    };
    assert_eq!(login("stranger", "all"), "");
    assert_eq!(login("friend", "named"), "");
    assert!(login("stranger", "named").contains("0202"), "{}", login("stranger", "named"));
    assert!(login("friend", "elsewhere").contains("0202"));
    assert!(login("friend", "secret").contains("0201"));
    assert!(login("friend", "none").contains("0203"));
    let address = program.address;
    let Some((done, said)) = tool("iscsi-ls", &["-i", "iqn.2026-11.org.corral:friend", &format!("iscsi://{address}")])
    else {
        return;
    };
    assert!(done && said.contains(":all ") && said.contains(":named ") && !said.contains(":elsewhere"), "{said}");
    let (_, said) = tool("iscsi-ls", &[&format!("iscsi://{address}")]).expect("it was there just now");
    assert!(said.contains(":all ") && !said.contains(":named "), "{said}");
    let inquiry =
        |login: &str| tool("iscsi-inq", &[&format!("iscsi://{login}{address}/iqn.2008-09.com.example:secret/1")]);
    assert!(inquiry("me%secretpass12@").is_some_and(|(done, _)| done));
    assert!(inquiry("me%secretpass13@").is_some_and(|(done, said)| !done && said.contains("Authentication failure")));
    assert!(inquiry("").is_some_and(|(done, _)| !done));
}

#[test]
fn several_targets_on_the_command_line_have_their_own_luns() {
    let directory = Directory::new();
    let lun = |name: &str| format!("file={},size=1M", directory.path(name));
    let words =
        ["--target", "iqn.a:one", "--lun", &lun("a"), "--lun", &lun("b"), "--target", "iqn.a:two", "--lun", &lun("c")];
    let program = Program::start_with(&directory, &words.map(str::to_owned));
    let luns = |target: &str| {
        let mut initiator = Initiator::connect(program.address, "iqn.a:i", target, 1).expect("the login succeeds");
        iscsi_target_proto::scsi::parse_luns(&initiator.run(iscsi_target_proto::scsi::ScsiCommand::report_luns()).data)
    };
    assert_eq!((luns("iqn.a:one"), luns("IQN.a:TWO")), (Some(vec![0, 1]), Some(vec![0])));
}
