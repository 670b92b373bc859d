//! Names of devices, as a user writes them: a path, an iSCSI URL, or a logical volume.
//!
//! Only parsing; opening is for the shells. A secret in a URL is never printed.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::url::{FORM, LUN_MAX};
pub use crate::url::{IscsiLogin, IscsiPortal, IscsiUrl, Secret};

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
                write!(
                    f,
                    "'{option}' is not an option of an iSCSI URL: header_digest or data_digest, =crc32c or =none; \
                     target_user and target_password"
                )
            }
        }
    }
}

impl std::error::Error for DevNameError {}

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
        assert_eq!(parse("iscsi://h/iqn.2026-11.x:y/0?a=b"), Err(BadOption { option: own("a") }));
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
