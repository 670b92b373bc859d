//! Judges of the final image: the project's own checker for every seed, fsck.gfs2 for some.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use block_core::{Image, MemoryDevice};

use crate::executor::{Limits, Sim, TaskKind, lock};
use crate::trace::{TraceWish, Who};
use crate::world::expect_done;

/// Whether the image is sound.
pub fn check(image: Image, ask_fsck: bool) -> Result<(), String> {
    if ask_fsck {
        fsck_gfs2(&image)?;
    }
    own_check(image)
}

fn own_check(image: Image) -> Result<(), String> {
    let device = MemoryDevice::from_image(image);
    let sim = Sim::new(0, TraceWish::Nothing);
    let report = Arc::new(Mutex::new(None));
    let found = report.clone();
    sim.spawn(Who::World, "gfs-check", TaskKind::Client, async move {
        *lock(&found) = Some(gfs_check::check(device).await);
    });
    expect_done(sim.run(Limits { time: Duration::from_secs(1), steps: 10_000_000 }), "the check of the image")?;
    match lock(&report).take() {
        Some(Ok(report)) if report.findings.is_empty() => Ok(()),
        Some(Ok(report)) => {
            let findings: Vec<String> = report.findings.iter().take(5).map(|finding| finding.to_string()).collect();
            Err(format!("the filesystem is damaged:\n    {}", findings.join("\n    ")))
        }
        Some(Err(error)) => Err(format!("the filesystem cannot be checked: {error}")),
        None => Err("the check of the image gave no report".into()),
    }
}

/// Asks Debian's fsck.gfs2 (gfs2-utils), in a file of its own that is gone afterwards.
fn fsck_gfs2(image: &Image) -> Result<(), String> {
    let path = std::env::temp_dir().join(format!("corral-sim-{}.img", std::process::id()));
    std::fs::write(&path, image.to_bytes()).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    let output = std::process::Command::new("fsck.gfs2").arg("-n").arg(&path).output();
    let _ = std::fs::remove_file(&path);
    let output = output.map_err(|error| format!("fsck.gfs2 does not run (package gfs2-utils): {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let suspicious = ["error", "bad ", "wrong", "should be", "not linked", "is dirty", "mismatch"];
    let complaint = text.lines().find(|line| suspicious.iter().any(|word| line.to_lowercase().contains(word)));
    match complaint {
        None if output.status.success() => Ok(()),
        complaint => Err(format!("fsck.gfs2 ({}): {}", output.status, complaint.unwrap_or("no word why"))),
    }
}
