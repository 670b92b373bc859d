//! `mkfs.gfs2`: see [`mkfs::program`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mkfs.gfs2: cannot start: {error}");
            return ExitCode::from(255);
        }
    };
    runtime.block_on(mkfs::program::run(std::env::args().skip(1)))
}
