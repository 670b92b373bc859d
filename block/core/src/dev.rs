//! Names of devices, as a user writes them: a path, an iSCSI URL, or a logical volume.
//!
//! Only parsing; opening is for the shells. A secret in a URL is never printed: `Display` and
//! `Debug` leave it out, and [`Secret`] has to be asked for its text by name.

use std::fmt;
use std::path::{Path, PathBuf};

/// A device's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DevName {
    /// A file or a block device.
    Path(PathBuf),
    /// A logical unit of an iSCSI target.
    Iscsi(IscsiUrl),
    /// A logical volume.
    Volume { vg: String, lv: String },
}

impl DevName {
    /// Parses a name. `exists` says whether a path is there: `VG/LV` and `/dev/VG/LV` look like
    /// paths, and a path that exists is a path. To name a file that is not there yet and looks like
    /// `VG/LV`, write `./VG/LV`.
    pub fn parse(text: &str, exists: impl Fn(&Path) -> bool) -> Result<DevName, DevNameError> {
        if text.is_empty() {
            return Err(DevNameError::Empty);
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return match scheme {
                "iscsi" => IscsiUrl::parse(text).map(DevName::Iscsi),
                _ => Err(DevNameError::UnknownScheme { scheme: scheme.to_owned() }),
            };
        }
        let path = Path::new(text);
        match volume_parts(text) {
            Some((vg, lv)) if !exists(path) => Ok(DevName::Volume { vg: vg.to_owned(), lv: lv.to_owned() }),
            Some(_) | None => Ok(DevName::Path(path.to_owned())),
        }
    }
}

impl fmt::Display for DevName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Iscsi(url) => write!(f, "{url}"),
            Self::Volume { vg, lv } => write!(f, "{vg}/{lv}"),
        }
    }
}

/// A logical unit behind iSCSI, in libiscsi's form:
/// `iscsi://[user%secret@]host[:port]/target-iqn/lun[?option=value&…]`. Options:
/// `header_digest` and `data_digest`, each `crc32c` or `none`. An IPv6 address is written in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiUrl {
    /// Name or address, without brackets.
    pub host: String,
    pub port: u16,
    /// The target's iSCSI name.
    pub target: String,
    /// 0 to 16383.
    pub lun: u16,
    /// For CHAP.
    pub user: Option<String>,
    /// For CHAP; only together with a user.
    pub secret: Option<Secret>,
    /// CRC32C over the headers is wanted.
    pub header_digest: bool,
    /// CRC32C over the data is wanted.
    pub data_digest: bool,
}

impl IscsiUrl {
    /// The port of iSCSI targets (RFC 7143).
    pub const DEFAULT_PORT: u16 = 3260;

    /// Parses a URL.
    pub fn parse(text: &str) -> Result<IscsiUrl, DevNameError> {
        let Some(rest) = text.strip_prefix("iscsi://") else {
            return Err(DevNameError::UnknownScheme { scheme: text.split(':').next().unwrap_or_default().to_owned() });
        };
        // A secret may contain any of the separators, so the login part is cut off first; neither
        // a host nor an iSCSI name contains '@'.
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        let (user, secret) = match login.map(|login| login.split_once('%').unwrap_or((login, ""))) {
            None => (None, None),
            Some(("", _)) => return Err(DevNameError::EmptyUser),
            Some((user, "")) => (Some(user.to_owned()), None),
            Some((user, secret)) => (Some(user.to_owned()), Some(Secret(secret.to_owned()))),
        };
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, rest) = rest.split_once('/').ok_or(DevNameError::MissingTarget)?;
        let (target, lun) = rest.rsplit_once('/').ok_or(DevNameError::MissingLun)?;
        let (host, port) = parse_authority(authority)?;
        if !is_iscsi_name(target) {
            return Err(DevNameError::BadTarget { target: target.to_owned() });
        }
        let lun_number = lun.parse().ok().filter(|lun| *lun <= LUN_MAX);
        let mut url = IscsiUrl {
            host,
            port,
            target: target.to_owned(),
            lun: lun_number.ok_or_else(|| DevNameError::BadLun { lun: lun.to_owned() })?,
            user,
            secret,
            header_digest: false,
            data_digest: false,
        };
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let wanted = match option.split_once('=') {
                Some((_, "crc32c")) => true,
                Some((_, "none")) => false,
                Some(_) | None => return Err(DevNameError::BadOption { option: option.to_owned() }),
            };
            match option.split_once('=').map(|(name, _)| name) {
                Some("header_digest") => url.header_digest = wanted,
                Some("data_digest") => url.data_digest = wanted,
                Some(_) | None => return Err(DevNameError::BadOption { option: option.to_owned() }),
            }
        }
        Ok(url)
    }

    /// Host and port as a connection needs them.
    pub fn portal(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for IscsiUrl {
    /// Without user and secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iscsi://{}/{}/{}", self.portal(), self.target, self.lun)
    }
}

/// A secret that cannot be printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret in.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// The secret itself; for computing a CHAP response, never for printing.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// What is wrong with a device's name. Never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DevNameError {
    Empty,
    UnknownScheme { scheme: String },
    EmptyUser,
    EmptyHost,
    BadHost { host: String },
    BadPort { port: String },
    MissingTarget,
    BadTarget { target: String },
    MissingLun,
    BadLun { lun: String },
    BadOption { option: String },
}

impl fmt::Display for DevNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the device's name is empty"),
            Self::UnknownScheme { scheme } => {
                write!(f, "{scheme}:// is not known; a device is a path, VG/LV, or iscsi://host/target/lun")
            }
            Self::EmptyUser => write!(f, "the URL has an '@' but no user before it ({FORM})"),
            Self::EmptyHost => write!(f, "the URL names no host ({FORM})"),
            Self::BadHost { host } => write!(f, "'{host}' is not a host; an IPv6 address is written in brackets"),
            Self::BadPort { port } => write!(f, "'{port}' is not a port: 1 to 65535"),
            Self::MissingTarget => write!(f, "the URL names no target ({FORM})"),
            Self::BadTarget { target } => {
                write!(
                    f,
                    "'{target}' is not an iSCSI name: it begins with iqn., eui. or naa. and has at most 223 bytes"
                )
            }
            Self::MissingLun => write!(f, "the URL names no LUN after the target ({FORM})"),
            Self::BadLun { lun } => write!(f, "'{lun}' is not a LUN: 0 to {LUN_MAX}"),
            Self::BadOption { option } => {
                write!(f, "'{option}' is not an option of an iSCSI URL: header_digest or data_digest, =crc32c or =none")
            }
        }
    }
}

impl std::error::Error for DevNameError {}

const FORM: &str = "iscsi://[user%secret@]host[:port]/target-iqn/lun";

/// Flat space addressing (SAM-5) ends here.
const LUN_MAX: u16 = 16383;

/// Folders below /dev that are no volume groups.
const DEV_FOLDERS: &[&str] = &[
    "block",
    "bsg",
    "bus",
    "char",
    "cpu",
    "disk",
    "dri",
    "fd",
    "hugepages",
    "input",
    "loop",
    "mapper",
    "mqueue",
    "net",
    "nvme",
    "pts",
    "shm",
    "snd",
    "vfio",
    "virtio-ports",
];

fn parse_authority(authority: &str) -> Result<(String, u16), DevNameError> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(|| DevNameError::BadHost { host: authority.to_owned() })?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(DevNameError::BadHost { host: authority.to_owned() }),
        }
    } else {
        match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(DevNameError::BadHost { host: authority.to_owned() });
            }
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    if host.is_empty() {
        return Err(DevNameError::EmptyHost);
    }
    let port = match port {
        None => IscsiUrl::DEFAULT_PORT,
        Some(port) => match port.parse() {
            Ok(number) if number != 0 => number,
            Ok(_) | Err(_) => return Err(DevNameError::BadPort { port: port.to_owned() }),
        },
    };
    Ok((host.to_owned(), port))
}

/// RFC 7143 section 4.2.7: type, and at most 223 bytes.
fn is_iscsi_name(name: &str) -> bool {
    name.len() <= 223
        && ["iqn.", "eui.", "naa."].iter().any(|kind| name.starts_with(kind) && name.len() > kind.len())
        && name.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '/')
}

fn volume_parts(text: &str) -> Option<(&str, &str)> {
    let (vg, lv) = match text.strip_prefix("/dev/") {
        Some(rest) => rest.split_once('/').filter(|(vg, _)| !DEV_FOLDERS.contains(vg))?,
        None => text.split_once('/')?,
    };
    (is_lvm_name(vg) && is_lvm_name(lv)).then_some((vg, lv))
}

/// lvm(8): letters, digits and `+ _ . -`, not beginning with a hyphen, not `.` or `..`.
fn is_lvm_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 127
        && !name.starts_with('-')
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DevName, DevNameError> {
        DevName::parse(text, |path| path == Path::new("run/disk.img") || path == Path::new("/dev/there/x"))
    }

    fn url(text: &str) -> IscsiUrl {
        match parse(text) {
            Ok(DevName::Iscsi(url)) => url,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_full_url_is_taken_apart() {
        let url = url("iscsi://joe%se/c%r@et@10.0.0.1:3261/iqn.2026-11.org.corral:disk0/7?header_digest=crc32c");
        assert_eq!((url.host.as_str(), url.port, url.lun), ("10.0.0.1", 3261, 7));
        assert_eq!(url.target, "iqn.2026-11.org.corral:disk0");
        assert_eq!(url.user.as_deref(), Some("joe"));
        assert_eq!(url.secret.as_ref().map(Secret::reveal), Some("se/c%r@et"));
        assert!(url.header_digest && !url.data_digest);
    }

    #[test]
    fn port_defaults_and_ipv6_stands_in_brackets() {
        assert_eq!(url("iscsi://store/iqn.2026-11.x:y/0").portal(), "store:3260");
        assert_eq!(url("iscsi://[::1]:99/iqn.2026-11.x:y/0").portal(), "[::1]:99");
        assert_eq!(url("iscsi://[fe80::2]/iqn.2026-11.x:y/0").portal(), "[fe80::2]:3260");
    }

    #[test]
    fn no_form_of_printing_shows_the_secret() {
        let name = parse("iscsi://joe%hunter2@h/iqn.2026-11.x:y/0").expect("it is a name");
        assert!(!format!("{name} {name:?} {name:#?}").contains("hunter2"));
        for bad in ["iscsi://joe%hunter2@h", "iscsi://joe%hunter2@h/x/0", "iscsi://%hunter2@h/iqn.x/0"] {
            let error = parse(bad).expect_err("it is no name");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn each_mistake_has_its_own_error() {
        use DevNameError::*;
        let own = |text: &str| text.to_owned();
        assert_eq!(parse(""), Err(Empty));
        assert_eq!(parse("nbd://x/y"), Err(UnknownScheme { scheme: own("nbd") }));
        assert_eq!(parse("iscsi://h"), Err(MissingTarget));
        assert_eq!(parse("iscsi://h/iqn.2026-11.x:y"), Err(MissingLun));
        assert_eq!(parse("iscsi:///iqn.2026-11.x:y/0"), Err(EmptyHost));
        assert_eq!(parse("iscsi://h:0/iqn.2026-11.x:y/0"), Err(BadPort { port: own("0") }));
        assert_eq!(parse("iscsi://h:99999/iqn.2026-11.x:y/0"), Err(BadPort { port: own("99999") }));
        assert_eq!(parse("iscsi://::1/iqn.2026-11.x:y/0"), Err(BadHost { host: own("::1") }));
        assert_eq!(parse("iscsi://h/disk0/0"), Err(BadTarget { target: own("disk0") }));
        assert_eq!(parse("iscsi://h/iqn.2026-11.x:y/-1"), Err(BadLun { lun: own("-1") }));
        assert_eq!(parse("iscsi://h/iqn.2026-11.x:y/20000"), Err(BadLun { lun: own("20000") }));
        assert_eq!(parse("iscsi://h/iqn.2026-11.x:y/0?a=b"), Err(BadOption { option: own("a=b") }));
    }

    #[test]
    fn a_path_that_exists_is_a_path_and_vg_lv_otherwise_a_volume() {
        let volume = |vg: &str, lv: &str| Ok(DevName::Volume { vg: vg.to_owned(), lv: lv.to_owned() });
        let path = |text: &str| Ok(DevName::Path(text.into()));
        assert_eq!(parse("vg0/home"), volume("vg0", "home"));
        assert_eq!(parse("/dev/vg0/home"), volume("vg0", "home"));
        assert_eq!(parse("run/disk.img"), path("run/disk.img"));
        assert_eq!(parse("/dev/there/x"), path("/dev/there/x"));
        for text in ["disk.img", "/dev/sdb", "./vg0/home", "../a/b", "/dev/mapper/vg0-home", "/tmp/a", "a/b/c"] {
            assert_eq!(parse(text), path(text));
        }
    }
}
