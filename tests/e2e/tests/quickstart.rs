//! The command of the README: it starts a cluster, a second run is quick, Ctrl-C and SIGKILL leave nothing that the next run
//! or `corral down` does not end. In a run folder of its own, so that a user's cluster is not touched.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::{Scratch, can_run, expect_clean, is_long, program, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tools::clock;

const NEEDS: [&str; 4] = ["ip", "fsck.gfs2", "sha256sum", "xargs"];
const QUICKSTART_MAX: Duration = Duration::from_secs(400);

fn corral(run_folder: &Path, command: &str) -> Command {
    let mut corral = Command::new(program("corral").expect("checked by can_run"));
    corral.arg(command).env("CORRAL_RUN", run_folder).current_dir(run_folder.parent().expect("a scratch folder"));
    corral
}

fn start(run_folder: &Path) -> Child {
    corral(run_folder, "quickstart").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("corral quickstart")
}

fn expect_nothing_left(run_folder: &Path) {
    let mounts = tools::mounts::all().expect("mountinfo");
    assert!(!mounts.iter().any(|m| m.dir.starts_with(run_folder)), "a mount is left");
    let left: Vec<String> = tools::process::Process::all()
        .iter()
        .filter(|p| ["corral-mount", "corral-target"].contains(&p.name().as_str()))
        .filter(|p| p.arguments().iter().any(|a| a.to_string_lossy().contains(&*run_folder.to_string_lossy())))
        .map(|p| format!("{} {}", p.name(), p.pid))
        .collect();
    assert!(left.is_empty(), "left: {left:?}");
}

#[test]
fn quickstart_runs_and_down_leaves_a_clean_disk_and_nothing_else() {
    if !can_run("quickstart_runs_and_down_leaves_a_clean_disk_and_nothing_else", &NEEDS) {
        return;
    }
    let scratch = Scratch::new("quickstart");
    let folder = scratch.join("run");
    let first = run(&mut corral(&folder, "quickstart"), QUICKSTART_MAX);
    let status = run(&mut corral(&folder, "status"), Duration::from_secs(20));
    // The second run takes as long as the first, so it has to be asked for.
    let runs_again = first.code == Some(0) && is_long("the second quickstart");
    let second = runs_again.then(|| run(&mut corral(&folder, "quickstart"), QUICKSTART_MAX));
    let down = run(&mut corral(&folder, "down"), Duration::from_secs(200));
    first.expect_success();
    let ours = |line: &&str| line.contains(&*folder.to_string_lossy()) && line.contains(" mounted ");
    assert_eq!(status.said.lines().filter(ours).count(), 3, "{}", status.said);
    if let Some(second) = second {
        second.expect_success();
    }
    down.expect_success();
    expect_nothing_left(&folder);
    expect_clean(&folder.join("disk.img"));
    run(&mut corral(&folder, "down"), Duration::from_secs(20)).expect_success();
}

#[test]
fn quickstart_stopped_at_any_moment_leaves_nothing_and_starts_again() {
    if !can_run("quickstart_stopped_at_any_moment_leaves_nothing_and_starts_again", &NEEDS) {
        return;
    }
    let scratch = Scratch::new("stopped");
    let folder = scratch.join("run");
    let mnt = folder.join("node1/mnt");
    // Moments: at once; while the target or mkfs runs; while the mounts come up; while files are copied in.
    let moments: [(&str, &dyn Fn() -> bool); 4] = [
        ("at once", &|| true),
        ("with a target", &|| folder.join("storage/pids").exists()),
        ("with a mount process", &|| folder.join("node2/pids").exists()),
        ("while copying", &|| is_mounted(&mnt) && mnt.join("usr/share").exists()),
    ];
    for (index, (moment, reached)) in moments.iter().enumerate() {
        let mut child = start(&folder);
        let came = clock::wait_until(Duration::from_secs(90), || reached() || !matches!(child.try_wait(), Ok(None)));
        assert!(came, "{moment}: never reached");
        // The last one dies without a chance to clean up: that is what the next run or `down` must mend.
        let signal = if index + 1 == moments.len() { Signal::SIGKILL } else { Signal::SIGINT };
        let _ = kill(Pid::from_raw(i32::try_from(child.id()).expect("a process number")), signal);
        assert!(
            clock::wait_until(Duration::from_secs(150), || !matches!(child.try_wait(), Ok(None))),
            "{moment}: hangs"
        );
        if signal == Signal::SIGINT {
            expect_nothing_left(&folder);
        }
    }
    run(&mut corral(&folder, "down"), Duration::from_secs(200));
    expect_nothing_left(&folder);
}

fn is_mounted(dir: &Path) -> bool {
    tools::mounts::Mount::at(dir).is_ok_and(|m| m.is_some())
}
