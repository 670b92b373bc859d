//! Our verdict on damaged images beside that of `fsck.gfs2 -n`.

use std::path::{Path, PathBuf};
use std::process::Command;

use block_core::Image;

use super::judge;

/// What two judges say of one image.
pub struct Verdicts {
    pub ours_is_clean: bool,
    pub ours: String,
    pub theirs_is_clean: bool,
    pub theirs: String,
}

/// The tool, if it is there.
pub fn tool() -> Option<PathBuf> {
    ["/usr/sbin/fsck.gfs2", "/sbin/fsck.gfs2"].iter().map(PathBuf::from).find(|path| path.exists())
}

/// Asks both; `file` is written over.
pub fn verdicts(tool: &Path, image: &Image, file: &Path) -> std::io::Result<Verdicts> {
    let (ours_is_clean, ours) = match judge::check(image) {
        // An unlinked inode is no damage, but fsck.gfs2 would free it.
        Ok(report) => (report.findings.is_empty(), report.to_string()),
        Err(error) => (false, error.to_string()),
    };
    std::fs::write(file, image.to_bytes())?;
    let output = Command::new("timeout").args(["30"]).arg(tool).arg("-n").arg(file).output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let noise = [
        "Initializing",
        "Validating",
        "Level ",
        "(level",
        "Starting",
        "completed in",
        "fsck.gfs2 complete",
        "Reconciling",
    ];
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !noise.iter().any(|word| line.contains(word)));
    let theirs = format!("{}: {}", output.status, lines.take(8).collect::<Vec<_>>().join(" | "));
    Ok(Verdicts { ours_is_clean, ours, theirs_is_clean: output.status.success(), theirs })
}
