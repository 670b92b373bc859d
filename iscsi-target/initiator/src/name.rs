//! Who this initiator is: its name, one per machine.
//!
//! The name's file has open-iscsi's format: a line `InitiatorName=iqn…`, `#` begins a comment.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where open-iscsi keeps the machine's name.
const SYSTEM_FILE: &str = "/etc/iscsi/initiatorname.iscsi";
/// Where this machine's own state is, if we may write there.
const STATE_DIR: &str = "/var/lib/corral";
const FILE_NAME: &str = "initiatorname.iscsi";

/// Why there is no initiator name.
#[derive(Debug)]
pub enum NameError {
    /// Not `iqn.`, `eui.` or `naa.`, too long, or with characters that a name cannot have.
    Bad {
        name: String,
        from: Option<PathBuf>,
    },
    /// The file has no line `InitiatorName=…`.
    Missing {
        file: PathBuf,
    },
    Read {
        file: PathBuf,
        error: io::Error,
    },
    Write {
        file: PathBuf,
        error: io::Error,
    },
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad { name, from } => {
                write!(f, "'{name}' is not an iSCSI name: it begins with iqn., eui. or naa., has at most 223 bytes")?;
                write!(f, " and only letters, digits, '.', '-' and ':'")?;
                match from {
                    Some(file) => write!(f, " (in {})", file.display()),
                    None => Ok(()),
                }
            }
            Self::Missing { file } => write!(f, "{} has no line InitiatorName=iqn…", file.display()),
            Self::Read { file, error } => write!(f, "cannot read the initiator name from {}: {error}", file.display()),
            Self::Write { file, error } => write!(f, "cannot keep an initiator name in {}: {error}", file.display()),
        }
    }
}

impl std::error::Error for NameError {}

/// Gives a process its name where no option does.
const NAME_VARIABLE: &str = "CORRAL_INITIATOR_NAME";

/// The name to use: `wanted`, else the environment's ([`NAME_VARIABLE`]), else the machine's (open-iscsi's file), else
/// the one kept in `state_dir`, which is made when there is none.
pub fn initiator_name(wanted: Option<&str>, state_dir: Option<&Path>) -> Result<String, NameError> {
    if let Some(name) = wanted {
        return checked(name, None);
    }
    if let Some(name) = std::env::var_os(NAME_VARIABLE) {
        return checked(&name.to_string_lossy(), None);
    }
    match read_name(Path::new(SYSTEM_FILE)) {
        Err(NameError::Read { error, .. })
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
        // A file that was never filled in is no reason to fail; one with a bad name is.
        Err(NameError::Missing { .. }) => {}
        other => return other,
    }
    match state_dir {
        Some(dir) => kept_name(dir),
        None => kept_name(Path::new(STATE_DIR)).or_else(|error| match (error, user_state_dir()) {
            (NameError::Write { .. }, Some(dir)) => kept_name(&dir),
            (error, _) => Err(error),
        }),
    }
}

fn user_state_dir() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    Some(base.join("corral"))
}

fn kept_name(dir: &Path) -> Result<String, NameError> {
    let file = dir.join(FILE_NAME);
    match read_name(&file) {
        Err(NameError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let failed = |error| NameError::Write { file: file.clone(), error };
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed)?;
    let random: String =
        crate::random::bytes::<6>().map_err(failed)?.iter().map(|byte| format!("{byte:02x}")).collect();
    // Written whole under another name first: a second process sees no name or a whole one, and the first link wins.
    let draft = dir.join(format!("{FILE_NAME}.{random}"));
    let text = format!("InitiatorName=iqn.2026-11.org.corral:{random}\n");
    let mut options = fs::OpenOptions::new();
    let written = options.write(true).create_new(true).mode(0o644).open(&draft).and_then(|mut draft| {
        draft.write_all(text.as_bytes())?;
        draft.sync_all()
    });
    let linked = written.and_then(|()| fs::hard_link(&draft, &file));
    // The draft has served its purpose; if it cannot be removed it only takes up a name.
    let _ = fs::remove_file(&draft);
    match linked {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    read_name(&file)
}

fn read_name(file: &Path) -> Result<String, NameError> {
    let text = fs::read_to_string(file).map_err(|error| NameError::Read { file: file.to_owned(), error })?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("InitiatorName="));
    match line.map(str::trim) {
        None | Some("") => Err(NameError::Missing { file: file.to_owned() }),
        Some(name) => checked(name, Some(file)),
    }
}

fn checked(name: &str, from: Option<&Path>) -> Result<String, NameError> {
    let is_good = name.len() <= 223
        && ["iqn.", "eui.", "naa."].iter().any(|kind| name.len() > kind.len() && name.starts_with(kind))
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | ':' | '_'));
    if is_good {
        Ok(name.to_owned())
    } else {
        Err(NameError::Bad { name: name.to_owned(), from: from.map(Into::into) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_name_is_kept_and_bad_names_are_refused() {
        let dir = std::env::temp_dir().join(format!("corral-name-{}", std::process::id()));
        let first = kept_name(&dir).expect("the temporary folder is writable");
        assert!(first.starts_with("iqn.2026-11.org.corral:"));
        assert_eq!(kept_name(&dir).expect("it is there now"), first);
        fs::write(dir.join(FILE_NAME), "# mine\n\n  InitiatorName=iqn.1993-08.org.debian:01:abc \n").expect("writable");
        assert_eq!(kept_name(&dir).expect("it is a name"), "iqn.1993-08.org.debian:01:abc");
        fs::write(dir.join(FILE_NAME), "InitiatorName=nobody\n").expect("writable");
        assert!(matches!(kept_name(&dir), Err(NameError::Bad { from: Some(_), .. })));
        fs::write(dir.join(FILE_NAME), "# nothing\n").expect("writable");
        assert!(matches!(kept_name(&dir), Err(NameError::Missing { .. })));
        let _ = fs::remove_dir_all(&dir);
        assert!(matches!(initiator_name(Some("iqn."), None), Err(NameError::Bad { .. })));
        assert!(initiator_name(Some("iqn.2026-11.x:y z"), None).is_err());
    }
}
