//! `fuzz [--seconds N] [--seed N] [--round N]`: every target in turn, each for its share of the time. With `--round` only that round.
//! `fuzz --images N [--seed N] [--round N] [--verbose]`: N damaged filesystems, the first with that round.
//! `fuzz --compare N …`: the verdicts of `gfs-check` and `fsck.gfs2` on N of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fuzz::chap;
use fuzz::images::program::{self, Rounds};
use fuzz::random::Random;
use fuzz::scsi;
use fuzz::targets::TARGETS;
use fuzz::wire;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| -> Option<u64> {
        let at = arguments.iter().position(|a| a == name)?;
        arguments.get(at + 1)?.parse().ok()
    };
    let seed = option("--seed").unwrap_or(1);
    let share = Duration::from_secs(option("--seconds").unwrap_or(10)) / (TARGETS.len() as u32 + 3);
    let only = option("--round");
    let rounds = |count| Rounds {
        seed,
        first: only.unwrap_or(0),
        count,
        is_verbose: arguments.iter().any(|argument| argument == "--verbose"),
    };
    if let Some(count) = option("--images") {
        return if program::run(rounds(count)) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(count) = option("--compare") {
        return if program::compare(rounds(count)) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mut is_good = true;
    for target in &TARGETS {
        is_good &= run(target.name, seed, share, only, |random| {
            let mut bytes = (target.seed)();
            random.mutate(&mut bytes);
            (target.run)(&bytes);
        });
    }
    is_good &= run("scsi_commands", seed, share, only, scsi::round);
    is_good &= run("iscsi_sessions", seed, share, only, wire::round);
    is_good &= run("iscsi_chap", seed, share, only, chap::round);
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs rounds until the time is over or one panics; at least one.
#[expect(clippy::disallowed_methods, reason = "a test program spends its share of the wall clock")]
fn run(name: &str, seed: u64, share: Duration, only: Option<u64>, work: impl Fn(&mut Random)) -> bool {
    let start = Instant::now();
    let mut round = only.unwrap_or(0);
    loop {
        if catch_unwind(AssertUnwindSafe(|| work(&mut Random::new(seed, round)))).is_err() {
            println!("{name}: PANIC, again with --seed {seed} --round {round}");
            return false;
        }
        round += 1;
        if only.is_some() || start.elapsed() >= share {
            println!("{name}: {round} rounds, no panic");
            return true;
        }
    }
}
