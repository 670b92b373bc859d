//! `sim WORLD --seeds A..B`: runs worlds by seed and reports the seeds that failed.
//!
//! Exit 0 when none failed, 1 when some did, 2 when the command is not understood.

use std::fmt::Display;
use std::io::Write;
use std::ops::Range;
use std::process::ExitCode;

use clap::Parser;
use sim::trace::TraceWish;
use sim::world::{RunOptions, World};

/// A whole cluster in one deterministic process: one seed is one run.
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    /// Which world to run: locks, fs.
    world: String,
    /// Seeds A..B to run, B excluded.
    #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
    seeds: Option<Range<u64>>,
    /// A single seed to run.
    #[arg(long, value_name = "SEED", conflicts_with = "seeds")]
    one: Option<u64>,
    /// Print every event of the run, one a line (with --one).
    #[arg(long, requires = "one")]
    trace: bool,
    /// Plant this deliberate fault, to see it caught.
    #[arg(long, value_name = "FAULT")]
    plant: Option<String>,
    /// Stop at the first seed that fails.
    #[arg(long)]
    until_failure: bool,
    /// Print the world's deliberate faults, one a line, and nothing else.
    #[arg(long)]
    list_plants: bool,
    /// Give the final image of every Nth seed to fsck.gfs2 as well (world fs).
    #[arg(long, value_name = "N")]
    fsck_every: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(world) = World::from_name(&arguments.world) else {
        return refuse(format!("there is no world \"{}\"; there are: {}", arguments.world, World::names().join(", ")));
    };
    if arguments.list_plants {
        world.plants().iter().for_each(say);
        return ExitCode::SUCCESS;
    }
    if let Some(plant) = &arguments.plant
        && !world.plants().contains(&plant.as_str())
    {
        let known = world.plants().join(", ");
        return refuse(format!("world {} has no deliberate fault \"{plant}\"; it has: {known}", world.name()));
    }
    let Some(seeds) = arguments.seeds.clone().or(arguments.one.map(|seed| seed..seed.saturating_add(1))) else {
        return refuse("say which seeds to run: --seeds A..B or --one SEED");
    };
    match sweep(world, seeds, &arguments) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Runs the seeds, prints what failed and the last line, and returns how many failed.
fn sweep(world: World, seeds: Range<u64>, arguments: &Arguments) -> u64 {
    let (mut run, mut failed) = (0_u64, 0_u64);
    for seed in seeds {
        let options = RunOptions {
            plant: arguments.plant.as_deref(),
            wish: if arguments.trace { TraceWish::Everything } else { TraceWish::Nothing },
            ask_fsck: arguments.fsck_every.is_some_and(|every| every != 0 && seed % every == 0),
        };
        let report = world.run(seed, options);
        report.trace.iter().for_each(say);
        run += 1;
        if let Some(failure) = report.failure {
            failed += 1;
            say(format_args!("seed {seed} of world {} failed: {failure}", world.name()));
            let plant = arguments.plant.as_ref().map(|plant| format!(" --plant {plant}")).unwrap_or_default();
            let command = "cargo run --release -q -p sim --";
            say(format_args!("  again, with its trace: {command} {} --one {seed} --trace{plant}", world.name()));
            if arguments.until_failure {
                break;
            }
        }
    }
    say(format_args!("{run} seeds, {failed} failed"));
    failed
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let explain = || format!("\"{text}\" is not a range of seeds A..B with A below B");
    let (first, end) = text.split_once("..").ok_or_else(explain)?;
    let first: u64 = first.parse().map_err(|_| explain())?;
    let end: u64 = end.parse().map_err(|_| explain())?;
    if first < end { Ok(first..end) } else { Err(explain()) }
}

fn refuse(why: impl Display) -> ExitCode {
    eprintln!("sim: {why}");
    ExitCode::from(2)
}

/// Prints a line; a reader that has gone away is no failure of the run.
fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
