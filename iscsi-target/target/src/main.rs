//! `corral-target`: exports files and block devices over iSCSI.
//!
//! The program: options, sockets, signals, exit codes. 0 after SIGTERM or SIGINT with everything flushed, 1 if
//! something cannot be used (a file, a port, the state directory), 2 for wrong options.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use clap::error::ErrorKind;
use tracing::info;

use corral_target::access::Access;
use corral_target::admin::AdminSocket;
use corral_target::backing::Made;
use corral_target::config::Options;
use corral_target::fence::Fences;
use corral_target::portal::Portals;
use corral_target::registry::Target;
use corral_target::server::Server;
use corral_target::state::StateDirectory;
use corral_target::unit::LogicalUnit;

fn main() -> ExitCode {
    corral_target::system::keep_freed_memory();
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let is_question = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Where the terminal is gone there is nobody to tell.
            let _ = error.print();
            return ExitCode::from(if is_question { 0 } else { EXIT_USAGE });
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("CORRAL_LOG").unwrap_or_else(|_| "corral_target=info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    match runtime.block_on(run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => fail(&what),
    }
}

const EXIT_USAGE: u8 = 2;

fn fail(what: &str) -> ExitCode {
    eprintln!("corral-target: {what}");
    ExitCode::FAILURE
}

async fn run(options: Options) -> Result<(), String> {
    let stop = stop_signals()?;
    for (number, lun) in (0u16..).zip(&options.luns) {
        LogicalUnit::check(number, &options.target, lun, &options.state)?;
    }
    let portals = Portals::bind(&options.listen).await?;
    let state = StateDirectory::open(&options.state)?;
    let mut made = Made::default();
    let mut units = Vec::new();
    for (number, lun) in (0u16..).zip(&options.luns) {
        units.push(LogicalUnit::open(number, &options.target, lun, state.path(), &mut made)?);
    }
    let target = Target::new(options.target.clone(), Access::default(), units);
    let fences = Fences::open(state.path().join("fences.json"))?;
    let server = Arc::new(Server::new(vec![target], fences, portals.addresses()));
    let admin = tokio::spawn(AdminSocket::bind(state.path())?.serve(server.clone()));
    made.keep();
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
