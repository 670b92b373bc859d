//! `corral-mount`: mounts a GFS2 filesystem and serves it.

use std::env;
use std::process::ExitCode;

use gfs_fuse::program::arguments::{Arguments, USAGE};
use gfs_fuse::program::background::{self, Role};
use gfs_fuse::program::{log, serve};

fn main() -> ExitCode {
    if env::args_os().nth(1).is_some_and(|first| first == "--help" || first == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("corral-mount: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Box<dyn std::error::Error + Send + Sync>> {
    let mut arguments = Arguments::parse(env::args_os().skip(1))?;
    let server = match background::role(&mut arguments)? {
        Role::Caller => return Ok(ExitCode::from(background::start(&arguments)?)),
        Role::Server(server) => server,
    };
    log::start(&arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("corral").build()?;
    let ended = runtime.block_on(serve::serve(arguments, server));
    // Operations of the process's own that still wait have nobody left to wait for.
    runtime.shutdown_background();
    ended?;
    Ok(ExitCode::SUCCESS)
}
