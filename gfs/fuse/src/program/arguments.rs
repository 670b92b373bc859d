//! `corral-mount [-f] [-o OPTS] DEV DIR`.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use nix::mount::MsFlags;

pub const USAGE: &str = "usage: corral-mount [-f] [-o OPTS] DEV DIR
  -f       stay in the foreground
  -o OPTS  ro rw lockproto=lock_nolock|lock_dlm locktable=CLUSTER:FS node=N view=FILE log=FILE debug
           acl noacl spectator noatime relatime nodiratime nosuid nodev noexec
DEV is a file, a block device, iscsi://[user%secret@]host[:port]/iqn/lun, or VG/LV.";

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    pub is_foreground: bool,
    /// As given; may hold a secret.
    pub device: String,
    pub directory: PathBuf,
    /// As given, for the command line of the background process.
    pub option_text: String,
    pub options: Options,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub is_read_only: bool,
    pub is_spectator: bool,
    /// Access control lists are shown, inherited and changed.
    pub has_acls: bool,
    pub flags: MsFlags,
    pub lock_protocol: Option<LockProtocol>,
    pub lock_table: Option<String>,
    /// This node's number in a static view.
    pub node: Option<u32>,
    /// File with the members of the lockspace.
    pub view: Option<PathBuf>,
    pub log: Option<PathBuf>,
    pub is_debug: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            is_read_only: false,
            is_spectator: false,
            has_acls: false,
            flags: MsFlags::empty(),
            lock_protocol: None,
            lock_table: None,
            node: None,
            view: None,
            log: None,
            is_debug: false,
        }
    }
}

/// Who else may have the filesystem mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockProtocol {
    /// Nobody.
    NoLock,
    /// The other members of a lockspace.
    Dlm,
}

impl LockProtocol {
    /// By its name on the disk and on the command line.
    pub fn parse(name: &[u8]) -> Option<LockProtocol> {
        match name {
            b"lock_nolock" => Some(LockProtocol::NoLock),
            b"lock_dlm" => Some(LockProtocol::Dlm),
            _ => None,
        }
    }
}

/// What is wrong with the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgumentError {
    Usage,
    UnknownFlag(String),
    UnknownOption(String),
    /// An option with a value that it cannot have.
    BadValue {
        option: &'static str,
        value: String,
        wanted: &'static str,
    },
    NeedsValue(&'static str),
    NoValue(String),
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage => write!(f, "{USAGE}"),
            Self::UnknownFlag(flag) => write!(f, "unknown option {flag}\n{USAGE}"),
            Self::UnknownOption(name) => write!(f, "unknown mount option \"{name}\"; nothing was mounted"),
            Self::BadValue { option, value, wanted } => write!(f, "mount option {option}={value}: wanted {wanted}"),
            Self::NeedsValue(option) => write!(f, "mount option {option} needs a value"),
            Self::NoValue(option) => write!(f, "mount option {option} takes no value"),
        }
    }
}

impl std::error::Error for ArgumentError {}

impl Arguments {
    /// Reads what follows the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, ArgumentError> {
        let mut is_foreground = false;
        let mut texts: Vec<String> = Vec::new();
        let mut plain = Vec::new();
        let mut rest = arguments.into_iter();
        while let Some(argument) = rest.next() {
            let shown = argument.to_string_lossy().into_owned();
            if shown == "-f" || shown == "--foreground" {
                is_foreground = true;
            } else if let Some(list) = shown.strip_prefix("-o") {
                let list = match list {
                    "" => rest.next().ok_or(ArgumentError::Usage)?.to_string_lossy().into_owned(),
                    list => list.to_owned(),
                };
                texts.push(list);
            } else if shown.starts_with('-') && shown.len() > 1 {
                return Err(ArgumentError::UnknownFlag(shown));
            } else {
                plain.push(argument);
            }
        }
        let [device, directory] = <[OsString; 2]>::try_from(plain).map_err(|_| ArgumentError::Usage)?;
        let device = device.into_string().map_err(|_| ArgumentError::Usage)?;
        let option_text = texts.join(",");
        let options = Options::parse(&option_text)?;
        Ok(Arguments { is_foreground, device, directory: directory.into(), option_text, options })
    }
}

impl Options {
    /// Reads a comma-separated list; later ones win.
    pub fn parse(text: &str) -> Result<Options, ArgumentError> {
        let mut options = Options::default();
        for option in text.split(',').filter(|option| !option.is_empty()) {
            options.set(option)?;
        }
        Ok(options)
    }

    fn set(&mut self, option: &str) -> Result<(), ArgumentError> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        if let Some(value) = value {
            return self.set_value(name, value);
        }
        match name {
            "ro" => self.is_read_only = true,
            "rw" => self.is_read_only = false,
            "spectator" | "norecovery" => (self.is_spectator, self.is_read_only) = (true, true),
            "debug" => self.is_debug = true,
            "nosuid" => self.flags.insert(MsFlags::MS_NOSUID),
            "suid" => self.flags.remove(MsFlags::MS_NOSUID),
            "nodev" => self.flags.insert(MsFlags::MS_NODEV),
            "dev" => self.flags.remove(MsFlags::MS_NODEV),
            "noexec" => self.flags.insert(MsFlags::MS_NOEXEC),
            "exec" => self.flags.remove(MsFlags::MS_NOEXEC),
            "acl" => self.has_acls = true,
            "noacl" => self.has_acls = false,
            // Reading never changes the access time here, so these hold anyway.
            "noatime" | "relatime" | "nodiratime" => {}
            // For mount(8) and systemd.
            "defaults" | "auto" | "noauto" | "_netdev" | "nofail" | "nouser" | "async" => {}
            name if name.starts_with("x-") => {}
            "lockproto" => return Err(ArgumentError::NeedsValue("lockproto")),
            "locktable" => return Err(ArgumentError::NeedsValue("locktable")),
            "node" => return Err(ArgumentError::NeedsValue("node")),
            "view" => return Err(ArgumentError::NeedsValue("view")),
            "log" => return Err(ArgumentError::NeedsValue("log")),
            name => return Err(ArgumentError::UnknownOption(name.to_owned())),
        }
        Ok(())
    }

    fn set_value(&mut self, name: &str, value: &str) -> Result<(), ArgumentError> {
        let bad = |option, wanted| ArgumentError::BadValue { option, value: value.to_owned(), wanted };
        match name {
            "lockproto" => {
                let protocol = LockProtocol::parse(value.as_bytes());
                self.lock_protocol = Some(protocol.ok_or_else(|| bad("lockproto", "lock_nolock or lock_dlm"))?);
            }
            "locktable" => {
                let is_good = value.split_once(':').is_some_and(|(cluster, fs)| !cluster.is_empty() && !fs.is_empty());
                if !is_good || value.len() > 63 {
                    return Err(bad("locktable", "CLUSTER:FILESYSTEM, at most 63 bytes"));
                }
                self.lock_table = Some(value.to_owned());
            }
            "node" => match value.parse() {
                Ok(node) if node > 0 => self.node = Some(node),
                _ => return Err(bad("node", "a number from 1 on")),
            },
            "view" if !value.is_empty() => self.view = Some(value.into()),
            "log" if !value.is_empty() => self.log = Some(value.into()),
            "view" => return Err(bad("view", "a file")),
            "log" => return Err(bad("log", "a file")),
            name if name.starts_with("x-") || name == "comment" => {}
            "ro" | "rw" | "debug" | "acl" | "noacl" | "noatime" => {
                return Err(ArgumentError::NoValue(name.to_owned()));
            }
            name => return Err(ArgumentError::UnknownOption(name.to_owned())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, ArgumentError> {
        Arguments::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn a_usual_call_is_understood() {
        let call = parse(&["-o", "lockproto=lock_dlm,locktable=c:f,node=2", "-oro,acl", "disk.img", "/mnt"]);
        let call = call.expect("good");
        assert_eq!(call.options.lock_protocol, Some(LockProtocol::Dlm));
        assert_eq!((call.options.node, call.options.is_read_only), (Some(2), true));
        assert_eq!((call.device.as_str(), call.is_foreground), ("disk.img", false));
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        assert_eq!(parse(&["-o", "rw,fast", "d", "m"]), Err(ArgumentError::UnknownOption("fast".into())));
        assert_eq!(parse(&["-o", "size=3", "d", "m"]), Err(ArgumentError::UnknownOption("size".into())));
        assert_eq!(parse(&["-x", "d", "m"]), Err(ArgumentError::UnknownFlag("-x".into())));
        assert_eq!(parse(&["d"]), Err(ArgumentError::Usage));
        for bad in ["lockproto=x", "lockproto", "locktable=f", "node=0", "node=a", "view=", "ro=1"] {
            assert!(parse(&["-o", bad, "d", "m"]).is_err(), "{bad}");
        }
    }
}
