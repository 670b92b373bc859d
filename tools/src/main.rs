//! The program `corral`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Err(error) = iscsi_target_initiator::hide_secrets() {
        eprintln!("corral: cannot take the secret out of the arguments: {error}");
        return ExitCode::FAILURE;
    }
    tools::cli::run(std::env::args_os().collect())
}
