//! The command line: the established tool's options, its words and its limits.
//!
//! Parsing only: no device is opened and nothing is printed here.

use std::fmt;

use crate::error::MkfsError;
use crate::options::{Options, Protocol, Stripe};

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    Help,
    ExtendedHelp,
    Version,
    Make(Box<Request>),
}

/// A filesystem to be made.
#[derive(Debug)]
pub struct Request {
    /// As written: a path, an iSCSI URL or a logical volume.
    pub device: String,
    /// Time and UUID are still to be filled in unless `uuid_given`.
    pub options: Options,
    pub uuid_given: bool,
    pub quiet: bool,
    /// Do not ask before overwriting.
    pub override_question: bool,
    pub debug: bool,
}

/// Why a command line is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum UsageError {
    UnknownOption {
        program: &'static str,
        option: char,
    },
    MissingArgument {
        program: &'static str,
        option: char,
    },
    NoDevice,
    SecondDevice,
    NegativeJournals {
        found: i64,
    },
    Uuid,
    ExtendedOption {
        found: String,
    },
    ExtendedArgument {
        key: String,
    },
    /// `-o` with nothing behind it.
    NoExtended,
    ExtendedValue {
        key: String,
    },
    Align,
    StripeAlone,
    Refused(MkfsError),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownOption { program, option } => {
                write!(f, "{program}: invalid option -- '{option}'\nPlease use '-h' for help.")
            }
            Self::MissingArgument { program, option } => {
                write!(f, "{program}: option requires an argument -- '{option}'\nPlease use '-h' for help.")
            }
            Self::NoDevice => write!(f, "No device specified. Use -h for help"),
            Self::SecondDevice => write!(f, "More than one device specified (try -h for help)"),
            Self::NegativeJournals { found } => write!(f, "Number of journals cannot be negative: {found}"),
            Self::Uuid => write!(f, "Failed to parse UUID option."),
            Self::ExtendedOption { found } => {
                write!(f, "Invalid extended option (specified with -o): '{found}'")
            }
            Self::ExtendedArgument { key } => write!(f, "Missing argument to '{key}'"),
            Self::NoExtended => write!(f, "Missing argument to '-o' option"),
            Self::ExtendedValue { key } => write!(f, "Value of '{key}' is invalid"),
            Self::Align => write!(f, "Option 'align' must be either 1 or 0"),
            Self::StripeAlone => write!(f, "Stripe unit and stripe width must be specified together"),
            Self::Refused(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for UsageError {}

impl From<MkfsError> for UsageError {
    fn from(error: MkfsError) -> UsageError {
        UsageError::Refused(error)
    }
}

/// The name in front of complaints about options.
pub const PROGRAM: &str = "mkfs.gfs2";

/// `-h`.
pub const HELP: &str = "\
Usage:
mkfs.gfs2 [options] <device> [blocks]

Makes a GFS2 filesystem. The device is a file, a block device, or iscsi://host[:port]/target/lun.
Without a size in filesystem blocks the whole device is used.

Options:
 -b <size>                 Filesystem block size in bytes (512 to 4096; 4096)
 -c <size>                 Size of each quota change file in megabytes (1 to 64; 1)
 -D                        Say what is being laid out where
 -h                        Print this, then exit
 -J <size>                 Size of each journal in megabytes (8 to 1024; by the device's size)
 -j <number>               Number of journals: one for each machine that mounts at once (1)
 -K                        Do not discard the device's old content
 -O                        Do not ask before overwriting
 -o <key>[=<value>][,...]  Extended options; see '-o help'
 -p <name>                 Locking protocol: lock_dlm or lock_nolock (lock_dlm)
 -q                        Print nothing
 -r <size>                 Size of resource groups in megabytes (32 to 2048; 256)
 -t <cluster>:<name>       Lock table: the cluster that may mount it, and the filesystem's name
 -U <UUID>                 UUID of the filesystem (random)
 -V                        Print the version, then exit";

/// `-o help`.
pub const EXTENDED_HELP: &str = "\
Extended options:
           help  Print this, then exit
       swidth=N  Stripe width of the device in bytes
        sunit=N  Stripe unit of the device in bytes
    align=[0|1]  Whether resource groups are aligned to stripes
       format=N  Filesystem format version (1801 or 1802)";

/// Parses the arguments behind the program's name.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, UsageError> {
    let mut options = Options::new(Protocol::Dlm, "", [0; 16]);
    options.discard = true;
    let mut parsed = Parsed { table: None, uuid: None, sunit: None, swidth: None, journals: 1 };
    let mut request = Request {
        device: String::new(),
        options,
        uuid_given: false,
        quiet: false,
        override_question: false,
        debug: false,
    };
    let mut operands = Vec::new();
    let mut arguments = arguments.into_iter();
    let mut only_operands = false;
    while let Some(argument) = arguments.next() {
        if only_operands || argument == "-" || !argument.starts_with('-') {
            operands.push(argument);
            continue;
        }
        if argument == "--" {
            only_operands = true;
            continue;
        }
        let mut letters = argument[1..].chars();
        while let Some(option) = letters.next() {
            match option {
                'h' => return Ok(Command::Help),
                'V' => return Ok(Command::Version),
                'D' => request.debug = true,
                'K' => request.options.discard = false,
                'O' => request.override_question = true,
                'q' => request.quiet = true,
                'b' | 'c' | 'J' | 'j' | 'o' | 'p' | 'r' | 't' | 'U' => {
                    let rest = letters.as_str().to_owned();
                    letters = "".chars();
                    let value = if rest.is_empty() { arguments.next() } else { Some(rest) };
                    let value = value.ok_or(UsageError::MissingArgument { program: PROGRAM, option })?;
                    if parsed.option(&mut request, option, value)? == ControlFlow::Help {
                        return Ok(Command::ExtendedHelp);
                    }
                }
                other => return Err(UsageError::UnknownOption { program: PROGRAM, option: other }),
            }
        }
    }
    parsed.finish(request, operands).map(|request| Command::Make(Box::new(request)))
}

#[derive(PartialEq, Eq)]
enum ControlFlow {
    Go,
    Help,
}

/// Values whose check waits until all have been seen.
struct Parsed {
    table: Option<String>,
    uuid: Option<String>,
    sunit: Option<u64>,
    swidth: Option<u64>,
    journals: i64,
}

impl Parsed {
    fn option(&mut self, request: &mut Request, option: char, value: String) -> Result<ControlFlow, UsageError> {
        let options = &mut request.options;
        // A word where a number belongs counts as 0, which every limit refuses in its own words.
        let number = || value.parse::<u32>().unwrap_or(0);
        match option {
            'b' => options.block_size = Some(number()),
            'c' => options.quota_change_mb = number(),
            'J' => options.journal_mb = Some(number()),
            'j' => self.journals = value.parse().unwrap_or(0),
            'r' => options.group_mb = Some(number()),
            'p' => options.protocol = Protocol::parse(&value)?,
            't' => self.table = Some(value),
            'U' => self.uuid = Some(value),
            _ => return self.extended(options, &value),
        }
        Ok(ControlFlow::Go)
    }

    fn extended(&mut self, options: &mut Options, list: &str) -> Result<ControlFlow, UsageError> {
        if list.is_empty() {
            return Err(UsageError::NoExtended);
        }
        for item in list.split(',') {
            let (key, value) = item.split_once('=').map_or((item, None), |(key, value)| (key, Some(value)));
            if key == "help" {
                return Ok(ControlFlow::Help);
            }
            if !matches!(key, "sunit" | "swidth" | "align" | "format") {
                return Err(UsageError::ExtendedOption { found: key.to_owned() });
            }
            let value =
                value.filter(|v| !v.is_empty()).ok_or_else(|| UsageError::ExtendedArgument { key: key.to_owned() })?;
            let invalid = || UsageError::ExtendedValue { key: key.to_owned() };
            match key {
                "sunit" => self.sunit = Some(value.parse().map_err(|_| invalid())?),
                "swidth" => self.swidth = Some(value.parse().map_err(|_| invalid())?),
                "align" => {
                    options.align = match value {
                        "0" => false,
                        "1" => true,
                        _ => return Err(UsageError::Align),
                    }
                }
                _ => options.format = value.parse().ok().filter(|n| *n <= 1802).ok_or_else(invalid)?,
            }
        }
        Ok(ControlFlow::Go)
    }

    fn finish(self, mut request: Request, operands: Vec<String>) -> Result<Request, UsageError> {
        let mut operands = operands.into_iter();
        request.device = operands.next().ok_or(UsageError::NoDevice)?;
        let options = &mut request.options;
        if let Some(blocks) = operands.next() {
            options.blocks = Some(blocks.parse().map_err(|_| UsageError::SecondDevice)?);
        }
        if operands.next().is_some() {
            return Err(UsageError::SecondDevice);
        }
        match self.table {
            Some(table) if table.is_empty() => return Err(MkfsError::EmptyLockTable.into()),
            table => options.table = table.unwrap_or_default(),
        }
        if self.journals < 0 {
            return Err(UsageError::NegativeJournals { found: self.journals });
        }
        options.journals = u32::try_from(self.journals).unwrap_or(u32::MAX);
        options.stripe = match (self.sunit, self.swidth) {
            (Some(unit), Some(width)) => Some(Stripe { unit, width }),
            (None, None) => None,
            _ => return Err(UsageError::StripeAlone),
        };
        if let Some(text) = self.uuid {
            options.uuid = parse_uuid(&text).ok_or(UsageError::Uuid)?;
            request.uuid_given = true;
        }
        options.check()?;
        Ok(request)
    }
}

/// 8-4-4-4-12 hexadecimal digits.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let parts: Vec<&str> = text.split('-').collect();
    if parts.iter().map(|part| part.len()).ne([8, 4, 4, 4, 12]) {
        return None;
    }
    let digits = parts.concat();
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(0..16) {
        *byte = u8::from_str_radix(&digits[pair * 2..pair * 2 + 2], 16).ok()?;
    }
    Some(uuid)
}
