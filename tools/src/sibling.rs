//! The programs that are installed beside this one: where they are, and becoming one of them.
//!
//! A sibling is looked for in the folder of the running executable with links resolved (so `run/bin/mkfs.gfs2 ->
//! …/corral` still finds `…/mkfs.gfs2`), then, for names that are Corral's alone, in PATH. `mkfs.gfs2` is never taken
//! from PATH: a distribution's program of that name is not ours.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the running executable.
pub fn own_folder() -> io::Result<PathBuf> {
    let exe = env::current_exe()?.canonicalize()?;
    Ok(exe.parent().unwrap_or(Path::new("/")).to_path_buf())
}

/// The full path of the sibling program `name`.
pub fn find(name: &str) -> Result<PathBuf, String> {
    let folder = own_folder().map_err(|e| format!("cannot tell where this program is: {e}"))?;
    // Cargo cannot build a program with a dot in its name, so in a build folder mkfs.gfs2 is mkfs-gfs2.
    for spelling in [name.to_string(), name.replace('.', "-")] {
        let beside = folder.join(spelling);
        if is_program(&beside) {
            return Ok(beside);
        }
    }
    if name.starts_with("corral") {
        let found =
            env::var_os("PATH").and_then(|path| env::split_paths(&path).map(|d| d.join(name)).find(|p| is_program(p)));
        if let Some(found) = found {
            return Ok(found);
        }
        return Err(format!("the program {name} is neither in {} nor in PATH", folder.display()));
    }
    Err(format!("the program {name} is not in {}", folder.display()))
}

/// Becomes the sibling program `name`, called by that name. Returns only when that failed, with the message.
pub fn become_program(name: &str, args: impl IntoIterator<Item = OsString>) -> String {
    become_called(name, name, args)
}

/// Becomes the sibling program `name`, which answers to `called` as well.
pub fn become_called(name: &str, called: &str, args: impl IntoIterator<Item = OsString>) -> String {
    match find(name) {
        Ok(program) => {
            let error = Command::new(&program).arg0(OsStr::new(called)).args(args).exec();
            format!("{}: {error}", program.display())
        }
        Err(message) => message,
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
