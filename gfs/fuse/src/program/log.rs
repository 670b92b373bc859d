//! Where the program's log goes: the file that was named; else, in the background, a file of the mount's own below
//! /var/log/corral; else standard error.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

use super::arguments::Arguments;
use super::background::TELLS_READY;

/// Where logs go that nobody chose a place for.
const DIRECTORY: &str = "/var/log/corral";

/// The log's file; `None` for standard error.
pub fn path(arguments: &Arguments) -> Option<PathBuf> {
    let own = || Path::new(DIRECTORY).join(file_name(&arguments.directory));
    let is_background = env::var_os(TELLS_READY).is_some();
    arguments.options.log.clone().or_else(|| is_background.then(own))
}

/// Starts logging. `RUST_LOG` chooses more finely than the option `debug`.
pub fn start(arguments: &Arguments) -> io::Result<()> {
    let options = &arguments.options;
    let level = if options.is_debug { "debug" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    let file = match (path(arguments), &options.log) {
        (None, _) => None,
        (Some(path), Some(_)) => Some(open(&path)?),
        // A place that nobody asked for is no reason to refuse the mount.
        (Some(path), None) => fs::create_dir_all(DIRECTORY).and_then(|()| open(&path)).ok(),
    };
    match file {
        Some(file) => builder.with_writer(Mutex::new(file)).init(),
        None => builder.with_writer(io::stderr).init(),
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| io::Error::new(error.kind(), format!("log file {}: {error}", path.display())))
}

/// `/srv/mail` logs to `srv-mail.log`.
fn file_name(directory: &Path) -> String {
    let text = directory.to_string_lossy();
    match text.trim_matches('/').replace('/', "-") {
        name if name.is_empty() => "root.log".to_owned(),
        // A file's name has at most 255 bytes.
        name => format!("{}.log", name.chars().take(60).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mount_point_has_a_log_of_its_own() {
        assert_eq!(file_name(Path::new("/srv/mail/")), "srv-mail.log");
        assert_eq!(file_name(Path::new("/")), "root.log");
        assert!(file_name(Path::new(&format!("/{}", "ä".repeat(300)))).len() < 255);
    }
}
