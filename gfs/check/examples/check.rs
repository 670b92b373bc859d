//! Checks the images named on the command line: `cargo run -p gfs-check --example check -- IMAGE…`.
//! Exits 0 if all are consistent, 1 if one is not, 2 if one cannot be checked.

use std::process::ExitCode;

#[path = "../tests/support/mod.rs"]
mod support;

fn main() -> ExitCode {
    let mut worst = 0;
    for path in std::env::args().skip(1) {
        let device = match support::load(path.as_ref()) {
            Ok(device) => device,
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::from(2);
            }
        };
        let code = match support::run(gfs_check::check(device)) {
            Ok(report) => {
                println!("{path}: {report}");
                println!("{:?} {:?}", report.counts, report.journals);
                u8::from(!report.is_consistent())
            }
            Err(error) => {
                eprintln!("{path}: {error}");
                2
            }
        };
        worst = worst.max(code);
    }
    ExitCode::from(worst)
}
