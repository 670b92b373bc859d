//! `corral links DIR`: the names under which other tools expect Corral's programs.
//!
//! A name is made only where nothing stands or where our own link stands: a distribution's file is never
//! replaced. Called by such a name, `corral` acts as that tool (see `cli`).

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::sibling;

/// Programs of their own, linked to themselves; then names that `corral` answers to.
const PROGRAMS: [&str; 3] = ["corral", "corral-target", "corral-mount"];
const NAMES: [&str; 7] = ["mkfs.gfs2", "mount.gfs2", "gfs2_tool", "tunegfs2", "gfs2_edit", "gfs2_jadd", "gfs2_grow"];

/// Makes the links in `dir`; the names made or already right, and the refused ones with the reason.
pub fn make(dir: &Path) -> io::Result<(Vec<String>, Vec<String>)> {
    fs::create_dir_all(dir)?;
    let folder = sibling::own_folder()?;
    let (mut made, mut refused) = (Vec::new(), Vec::new());
    for name in PROGRAMS.into_iter().chain(NAMES) {
        let program = if NAMES.contains(&name) { folder.join("corral") } else { folder.join(name) };
        match make_one(&dir.join(name), &program)? {
            None => made.push(name.to_string()),
            Some(reason) => refused.push(format!("{}: {reason}", dir.join(name).display())),
        }
    }
    Ok((made, refused))
}

/// `None` when the link is there afterwards, else why it was not made.
fn make_one(link: &Path, program: &Path) -> io::Result<Option<String>> {
    match fs::symlink_metadata(link) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
        Ok(found) if !found.file_type().is_symlink() => return Ok(Some("a file that is not ours stands there".into())),
        Ok(_) => {
            let to = fs::read_link(link)?;
            if to == program {
                return Ok(None);
            }
            if !is_ours(&to) {
                return Ok(Some(format!("a link to {} stands there", to.display())));
            }
            fs::remove_file(link)?;
        }
    }
    symlink(program, link)?;
    Ok(None)
}

/// A link that an earlier build of Corral left, possibly in another folder.
fn is_ours(to: &Path) -> bool {
    to.file_name().and_then(|n| n.to_str()).is_some_and(|n| PROGRAMS.contains(&n))
}

/// The names that are made, for the help text.
pub fn names() -> Vec<PathBuf> {
    PROGRAMS.into_iter().chain(NAMES).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("corral-links-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a temporary folder");
        dir
    }

    #[test]
    fn a_file_of_the_distribution_is_never_replaced() {
        let dir = folder("foreign");
        fs::write(dir.join("mkfs.gfs2"), "not ours").expect("write");
        let reason = make_one(&dir.join("mkfs.gfs2"), Path::new("/x/corral")).expect("no I/O error");
        assert!(reason.is_some());
        assert_eq!(fs::read_to_string(dir.join("mkfs.gfs2")).expect("read"), "not ours");
        let _ = fs::remove_dir_all(dir);
    }

    #[test]
    fn our_own_link_moves_to_the_new_build() {
        let dir = folder("own");
        let link = dir.join("mount.gfs2");
        assert_eq!(make_one(&link, Path::new("/old/corral")).expect("first"), None);
        assert_eq!(make_one(&link, Path::new("/new/corral")).expect("second"), None);
        assert_eq!(fs::read_link(&link).expect("a link"), Path::new("/new/corral"));
        let _ = fs::remove_dir_all(dir);
    }
}
