//! `mkfs.gfs2`: see [`mkfs::program`]. Called as `gfs2_jadd` or `gfs2_grow` it is that tool: see [`mkfs::change`].

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Err(error) = iscsi_target_initiator::hide_secrets() {
        eprintln!("mkfs.gfs2: cannot take the secret out of the arguments: {error}");
        return ExitCode::from(255);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mkfs.gfs2: cannot start: {error}");
            return ExitCode::from(255);
        }
    };
    let mut arguments = std::env::args();
    let called = arguments.next().unwrap_or_default();
    match called.rsplit('/').next() {
        Some("gfs2_jadd") => runtime.block_on(mkfs::change::program::run_jadd(arguments)),
        Some("gfs2_grow") => runtime.block_on(mkfs::change::program::run_grow(arguments)),
        _ => runtime.block_on(mkfs::program::run(arguments)),
    }
}
