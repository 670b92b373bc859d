//! Where CHAP secrets come from: the URL, else a file that only root (or only this user) can read.
//!
//! The file has a line for each secret: `WHERE KIND USER SECRET`, separated by blanks; a field with blanks stands in
//! double quotes (`\"` and `\\` inside); `#` begins a comment line.
//! - WHERE: a target's iSCSI name, `discovery`, or `*` for every target (not for discovery);
//! - KIND: `login` (by this we log in) or `target` (this the target has to prove: mutual CHAP).
//!
//! The first line that fits holds. Which file: [`Options::secrets_file`](crate::Options), else the environment's
//! [`FILE_VARIABLE`], else [`SYSTEM_FILE`] if it is there.
//!
//! A secret from a URL goes on to child processes and to this one's next life in the environment ([`HIDDEN_VARIABLE`],
//! same format), which only the same user and root can read, never in arguments, which everybody can.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use block_core::{IscsiLogin, IscsiUrl};
use iscsi_target_proto::chap::{ChapIdentity, ChapSecret, ChapUser, PolicyError};

/// The file that is looked into without being named.
pub const SYSTEM_FILE: &str = "/etc/corral/iscsi-secrets";
/// Names another file.
pub const FILE_VARIABLE: &str = "CORRAL_ISCSI_SECRETS";
/// Holds lines of its own.
pub const HIDDEN_VARIABLE: &str = "CORRAL_ISCSI_SECRETS_HIDDEN";
/// Longest file, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// Why there are no credentials. Never contains a secret.
#[derive(Debug)]
pub enum SecretsError {
    Read {
        file: PathBuf,
        error: io::Error,
    },
    /// Others than its owner may read or write it, or it is somebody else's.
    Exposed {
        file: PathBuf,
        why: String,
    },
    /// A line is not `WHERE KIND USER SECRET`.
    BadLine {
        file: PathBuf,
        line: usize,
        what: &'static str,
    },
    /// The URL names a user and nobody has the secret.
    NoSecret {
        user: String,
        looked_in: String,
    },
    Unusable(PolicyError),
}

impl fmt::Display for SecretsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { file, error } => write!(f, "cannot read the iSCSI secrets in {}: {error}", file.display()),
            Self::Exposed { file, why } => {
                let file = file.display();
                write!(f, "{file} holds secrets and {why}: not used; make it yours alone (chmod 600 {file})")
            }
            Self::BadLine { file, line, what } => {
                write!(f, "{}, line {line}: {what}; a line is WHERE login|target USER SECRET", file.display())
            }
            Self::NoSecret { user, looked_in } => {
                write!(f, "there is no secret for CHAP user '{user}', neither in the URL nor in {looked_in}")
            }
            Self::Unusable(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for SecretsError {}

/// Who to log in as at `target` (`None`: for discovery); `None` if nothing says so.
pub(crate) fn identity(
    login: &IscsiLogin,
    target: Option<&str>,
    file: Option<&Path>,
) -> Result<Option<Arc<ChapIdentity>>, SecretsError> {
    let is_complete = login.secret.is_some() && (login.target_user.is_none() || login.target_secret.is_some());
    // A URL that says everything needs no file, not even a good one.
    let (lines, looked_in) = if is_complete { Default::default() } else { known_lines(file)? };
    let find = |kind: Kind, user: Option<&str>| {
        let fits = |line: &&Line| line.kind == kind && line.is_for(target) && user.is_none_or(|user| user == line.user);
        lines.iter().find(fits)
    };
    let complete = |kind, user: Option<&str>, secret: Option<&str>| match (user, secret, find(kind, user)) {
        (Some(user), Some(secret), _) => Ok(Some((user.to_owned(), secret.to_owned()))),
        (_, None, Some(line)) => Ok(Some((line.user.clone(), line.secret.clone()))),
        (Some(user), None, None) => Err(SecretsError::NoSecret { user: user.to_owned(), looked_in: looked_in.clone() }),
        (None, _, None) | (None, Some(_), _) => Ok(None),
    };
    let own = complete(Kind::Login, login.user.as_deref(), login.secret.as_ref().map(|secret| secret.reveal()))?;
    let Some(own) = own else { return Ok(None) };
    let target_secret = login.target_secret.as_ref().map(|secret| secret.reveal());
    let peer = match (is_complete, &login.target_user) {
        (true, None) => None,
        _ => complete(Kind::Target, login.target_user.as_deref(), target_secret)?,
    };
    let user = |(name, secret): (String, String)| ChapUser::new(&name, ChapSecret::new(secret));
    let identity = user(own).and_then(|own| ChapIdentity::new(own, peer.map(user).transpose()?));
    identity.map(|identity| Some(Arc::new(identity))).map_err(SecretsError::Unusable)
}

/// The lines that keep a URL's secrets when the URL is written without them.
pub(crate) fn lines_of(url: &IscsiUrl) -> String {
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let line = |kind: &str, user: &Option<String>, secret: &Option<block_core::Secret>| match (user, secret) {
        (Some(user), Some(secret)) => {
            format!("{} {kind} {} {}\n", quote(&url.target), quote(user), quote(secret.reveal()))
        }
        _ => String::new(),
    };
    line("login", &url.user, &url.secret) + &line("target", &url.target_user, &url.target_secret)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Login,
    Target,
}

struct Line {
    place: String,
    kind: Kind,
    user: String,
    secret: String,
}

impl Line {
    fn is_for(&self, target: Option<&str>) -> bool {
        match target {
            Some(target) => self.place == "*" || self.place == target,
            None => self.place == "discovery",
        }
    }
}

/// What the environment and the file say, and where that was.
fn known_lines(file: Option<&Path>) -> Result<(Vec<Line>, String), SecretsError> {
    let mut lines = match std::env::var(HIDDEN_VARIABLE) {
        Ok(text) => parse(&text, Path::new(HIDDEN_VARIABLE))?,
        Err(_) => Vec::new(),
    };
    let named = file.map(Path::to_owned).or_else(|| std::env::var_os(FILE_VARIABLE).map(PathBuf::from));
    let is_named = named.is_some();
    let file = named.unwrap_or_else(|| PathBuf::from(SYSTEM_FILE));
    match read(&file) {
        Ok(text) => lines.extend(parse(&text, &file)?),
        // Nobody asked for it, and whoever may not read it has no business with it.
        Err(SecretsError::Read { error, .. })
            if !is_named && matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
        Err(error) => return Err(error),
    }
    Ok((lines, file.display().to_string()))
}

fn read(file: &Path) -> Result<String, SecretsError> {
    let failed = |error| SecretsError::Read { file: file.to_owned(), error };
    let exposed = |why: String| SecretsError::Exposed { file: file.to_owned(), why };
    let mut open = File::open(file).map_err(failed)?;
    // Of the file that is open, so that nobody puts another one there in between.
    let meta = open.metadata().map_err(failed)?;
    let (mode, owner) = (meta.mode() & 0o7777, meta.uid());
    if !meta.is_file() {
        return Err(exposed("it is not a file".to_owned()));
    }
    if mode & 0o077 != 0 {
        return Err(exposed(format!("its mode {mode:04o} lets others in")));
    }
    let own = std::fs::metadata("/proc/self").map_err(failed)?.uid();
    if owner != 0 && owner != own {
        return Err(exposed(format!("it belongs to user {owner}")));
    }
    let mut text = String::new();
    open.by_ref().take(FILE_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn parse(text: &str, file: &Path) -> Result<Vec<Line>, SecretsError> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let bad = |what| SecretsError::BadLine { file: file.to_owned(), line: number, what };
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let fields = split(line).ok_or_else(|| bad("a quote is not closed"))?;
        let [place, kind, user, secret] =
            <[String; 4]>::try_from(fields).map_err(|_| bad("it does not have four fields"))?;
        let kind = match kind.as_str() {
            "login" => Kind::Login,
            "target" => Kind::Target,
            _ => return Err(bad("its second field is neither login nor target")),
        };
        lines.push(Line { place, kind, user, secret });
    }
    Ok(lines)
}

/// Fields between blanks, with quotes; `None` if a quote is not closed.
fn split(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line.trim_start().chars();
    loop {
        let mut field = String::new();
        match rest.next() {
            None => return Some(fields),
            Some('"') => loop {
                match rest.next()? {
                    '"' => break,
                    '\\' => field.push(rest.next()?),
                    plain => field.push(plain),
                }
            },
            Some(first) => {
                field.push(first);
                field.extend(rest.by_ref().take_while(|c| !c.is_whitespace()));
            }
        }
        fields.push(field);
        rest = rest.as_str().trim_start().chars();
    }
}

#[cfg(test)]
mod tests;
