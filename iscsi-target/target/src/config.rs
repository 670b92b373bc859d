//! Options of the command line, checked while they are read.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;

/// Export files and block devices over iSCSI.
#[derive(Debug, Parser)]
#[command(name = "corral-target", version, about)]
pub struct Options {
    /// Where to listen; may be given several times. Nothing else is listened on.
    #[arg(long, value_name = "ADDR:PORT", required = true, value_parser = parse_address)]
    pub listen: Vec<SocketAddr>,
    /// Directory for what must survive a restart.
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// The target's iSCSI name.
    #[arg(long, value_name = "IQN", value_parser = parse_name)]
    pub target: String,
    /// A logical unit: file=F,size=S[,ro][,thin][,block=512|4096][,cache=on|off][,serial=S]. The first is LUN 0. The
    /// file is created if it is missing; with `thin` it takes space only where it is written.
    #[arg(long = "lun", value_name = "OPTIONS", required = true)]
    pub luns: Vec<LunOptions>,
}

/// One `--lun`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LunOptions {
    pub file: PathBuf,
    /// Bytes; needed if the file is not there yet.
    pub size: Option<u64>,
    pub is_read_only: bool,
    pub is_thin: bool,
    /// Bytes of a logical block.
    pub block: u32,
    /// Writes are answered when the kernel has them, and are durable after a flush; else each is durable at once.
    pub write_cache: bool,
    pub serial: Option<String>,
}

impl FromStr for LunOptions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut file = None;
        let mut options = Self {
            file: PathBuf::new(),
            size: None,
            is_read_only: false,
            is_thin: false,
            block: 512,
            write_cache: true,
            serial: None,
        };
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("file", path)) if !path.is_empty() => file = Some(PathBuf::from(path)),
                Some(("size", size)) => options.size = Some(parse_size(size)?),
                Some(("block", "512")) => options.block = 512,
                Some(("block", "4096")) => options.block = 4096,
                Some(("block", other)) => return Err(format!("block={other}: it is 512 or 4096")),
                Some(("cache", "on")) => options.write_cache = true,
                Some(("cache", "off")) => options.write_cache = false,
                Some(("cache", other)) => return Err(format!("cache={other}: it is on or off")),
                Some(("serial", serial)) => options.serial = Some(parse_serial(serial)?),
                None if part == "ro" => options.is_read_only = true,
                None if part == "thin" => options.is_thin = true,
                Some(_) | None => return Err(format!("'{part}' is not an option of a LUN")),
            }
        }
        options.file = file.ok_or("file=… is missing")?;
        if let Some(size) = options.size.filter(|size| size % u64::from(options.block) != 0) {
            return Err(format!("size {size} is not a multiple of the block length {}", options.block));
        }
        Ok(options)
    }
}

/// A size with a suffix K, M, G or T (powers of 1024), in bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("size={text}: it is a number with K, M, G or T behind it, at most 2^63 bytes");
    let (digits, factor) = match text.char_indices().last() {
        Some((at, suffix)) if suffix.is_ascii_alphabetic() => {
            let factor = match suffix.to_ascii_uppercase() {
                'K' => 1u64 << 10,
                'M' => 1 << 20,
                'G' => 1 << 30,
                'T' => 1 << 40,
                _ => return Err(bad()),
            };
            (&text[..at], factor)
        }
        _ => (text, 1),
    };
    let size = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(bad)?;
    if size == 0 || size > i64::MAX as u64 {
        return Err(bad());
    }
    Ok(size)
}

fn parse_serial(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > 36 || !is_plain {
        return Err(format!("serial={text}: it has 1 to 36 printable ASCII characters without spaces"));
    }
    Ok(text.to_owned())
}

/// An iSCSI name (RFC 7143 §4.2.7).
fn parse_name(text: &str) -> Result<String, String> {
    let has_type = ["iqn.", "eui.", "naa."].iter().any(|kind| text.starts_with(kind));
    let is_plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:".contains(&b));
    if !has_type || !is_plain || text.len() < 5 || text.len() > 223 {
        return Err("it begins with iqn., eui. or naa. and has up to 223 of a-z 0-9 - . :".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|error| format!("not an ADDR:PORT ({error})"))?;
    found.next().ok_or_else(|| "the host has no address".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lun_with_everything_is_understood() {
        let lun: LunOptions = "file=a.img,size=4G,ro,thin,block=4096,cache=off,serial=X1".parse().expect("valid");
        let expected = LunOptions {
            file: "a.img".into(),
            size: Some(4 << 30),
            is_read_only: true,
            is_thin: true,
            block: 4096,
            write_cache: false,
            serial: Some("X1".to_owned()),
        };
        assert_eq!(lun, expected);
    }

    #[test]
    fn wrong_options_are_refused_with_their_name() {
        for wrong in [
            "size=1G",
            "file=a,size=1X",
            "file=a,size=0",
            "file=a,size=99999999T",
            "file=a,block=1024",
            "file=a,cache=maybe",
            "file=a,rw",
            "file=a,serial=",
            "file=a,size=1000",
            "",
        ] {
            assert!(wrong.parse::<LunOptions>().is_err(), "{wrong} was taken");
        }
    }
}
