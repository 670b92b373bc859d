//! The program `corral`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::cli::run(std::env::args_os().collect())
}
