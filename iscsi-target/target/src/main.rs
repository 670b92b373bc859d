//! `corral-target`: exports files and block devices over iSCSI.
//!
//! The program: options, sockets, signals, exit codes. 0 after SIGTERM or SIGINT with everything flushed, 1 if
//! something cannot be used (a file, a port, the state directory), 2 for wrong options or a wrong configuration.
//! A start that fails leaves nothing behind: all that can be looked at is looked at before anything is made.

use std::process::ExitCode;
use std::sync::Arc;

use clap::error::ErrorKind;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

use corral_target::admin::AdminSocket;
use corral_target::backing::Made;
use corral_target::config::{self, OptionsError, Settings};
use corral_target::fence::Fences;
use corral_target::plan::PlanError;
use corral_target::portal::Portals;
use corral_target::registry::Target;
use corral_target::server::Server;
use corral_target::state::StateDirectory;
use corral_target::unit::LogicalUnit;

/// Open files that the program wants to be allowed: three for each connection, and those of the units.
const FILES_WANTED: u64 = 8192;

fn main() -> ExitCode {
    corral_target::system::keep_freed_memory();
    // Where fewer are allowed, connections beyond them are closed at once.
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.max(FILES_WANTED.min(hard)), hard);
    }
    let settings = match config::read(std::env::args_os()) {
        Ok(settings) => settings,
        Err(OptionsError::Clap(error)) => {
            let is_question = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Where the terminal is gone there is nobody to tell.
            let _ = error.print();
            return ExitCode::from(if is_question { 0 } else { EXIT_USAGE });
        }
        Err(OptionsError::Plan(PlanError::Usage(what))) => {
            eprintln!("corral-target: error: {what}");
            return ExitCode::from(EXIT_USAGE);
        }
        Err(OptionsError::Plan(PlanError::Unusable(what))) => return fail(&what),
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("CORRAL_LOG").unwrap_or_else(|_| "corral_target=info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    settings.plan.warnings.iter().for_each(|warning| warn!("{warning}"));
    if settings.is_check {
        print!("{}", settings.plan);
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    match runtime.block_on(run(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => fail(&what),
    }
}

const EXIT_USAGE: u8 = 2;

fn fail(what: &str) -> ExitCode {
    eprintln!("corral-target: {what}");
    ExitCode::FAILURE
}

async fn run(settings: Settings) -> Result<(), String> {
    let Settings { listen, state, plan, connections_max, .. } = settings;
    let stop = stop_signals()?;
    for target in &plan.targets {
        for unit in &target.units {
            LogicalUnit::check(unit.number, &target.name, &unit.options, &state)
                .map_err(|what| format!("target {}: {what}", target.name))?;
        }
    }
    let portals = Portals::bind(&listen).await?;
    let mut state = StateDirectory::open(&state)?;
    let fences = Fences::open(state.path().join("fences.json"))?;
    let mut made = Made::default();
    let mut targets = Vec::new();
    for target in plan.targets {
        let mut units = Vec::new();
        for unit in &target.units {
            let opened = LogicalUnit::open(unit.number, &target.name, &unit.options, state.path(), &mut made);
            units.push(opened.map_err(|what| format!("target {}: {what}", target.name))?);
        }
        targets.push(Target::new(target.name, target.access, units).with_authentication(target.authentication));
    }
    let server =
        Arc::new(Server::new(targets, plan.discovery, fences, portals.addresses()).with_connections(connections_max));
    let admin = tokio::spawn(AdminSocket::bind(state.path())?.serve(server.clone()));
    made.keep();
    state.keep();
    println!("corral-target: listening on {portals}, {server}");
    portals.serve(server.clone(), stop).await;
    admin.abort();
    // Its end takes the socket's name away; that it was aborted is no news.
    let _ = admin.await;
    info!("stopping: flushing");
    server.flush().await
}

/// Completes when the process is asked to stop.
fn stop_signals() -> Result<impl Future<Output = ()>, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let open = |kind| signal(kind).map_err(|error| format!("cannot wait for signals: {error}"));
    let (mut terminate, mut interrupt) = (open(SignalKind::terminate())?, open(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
