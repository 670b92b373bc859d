//! What one logical unit is made of: `--lun file=F,size=S,…`, and the same from targets.conf.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use iscsi_target_proto::scsi::InquiryLabels;

/// One `--lun`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LunOptions {
    pub file: PathBuf,
    /// `None`: the next one.
    pub number: Option<u16>,
    /// Bytes; needed if the file is not there yet.
    pub size: Option<u64>,
    pub is_read_only: bool,
    pub is_thin: bool,
    /// Bytes of a logical block.
    pub block: u32,
    /// Writes are answered when the kernel has them, and are durable after a flush; else each is durable at once.
    pub write_cache: bool,
    /// Past the page cache of this machine (O_DIRECT).
    pub is_direct: bool,
    pub serial: Option<String>,
    pub labels: InquiryLabels,
}

impl LunOptions {
    /// A writable unit with blocks of 512 bytes and a write cache, on a file that is there.
    pub fn new(file: PathBuf) -> Self {
        Self {
            file,
            number: None,
            size: None,
            is_read_only: false,
            is_thin: false,
            block: 512,
            write_cache: true,
            is_direct: false,
            serial: None,
            labels: InquiryLabels::default(),
        }
    }
}

impl FromStr for LunOptions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut file = None;
        let mut options = Self::new(PathBuf::new());
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("file", path)) if !path.is_empty() => file = Some(PathBuf::from(path)),
                Some(("size", size)) => options.size = Some(parse_size(size)?),
                Some(("block", block)) => options.block = parse_block(block)?,
                Some(("cache", "on")) => options.write_cache = true,
                Some(("cache", "off")) => options.write_cache = false,
                Some(("cache", other)) => return Err(format!("cache={other}: it is on or off")),
                Some(("serial", serial)) => options.serial = Some(parse_serial(serial)?),
                Some(("lun", number)) => options.number = Some(parse_number(number)?),
                None if part == "ro" => options.is_read_only = true,
                None if part == "thin" => options.is_thin = true,
                None if part == "direct" => options.is_direct = true,
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

impl fmt::Display for LunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} block={}", self.file.display(), self.block)?;
        if let Some(size) = self.size {
            write!(f, " size={size}")?;
        }
        let flags = [(self.is_read_only, "ro"), (self.is_thin, "thin"), (self.is_direct, "direct")];
        flags.iter().filter(|(applies, _)| *applies).try_for_each(|(_, word)| write!(f, " {word}"))?;
        write!(f, " cache={}", if self.write_cache { "on" } else { "off" })?;
        if let Some(serial) = &self.serial {
            write!(f, " serial={serial}")?;
        }
        let InquiryLabels { vendor, product, revision, designator } = &self.labels;
        let named = InquiryLabels::default();
        for (word, text, is_usual) in [
            ("vendor", vendor, *vendor == named.vendor),
            ("product", product, *product == named.product),
            ("revision", revision, *revision == named.revision),
        ] {
            if !is_usual {
                write!(f, " {word}='{text}'")?;
            }
        }
        designator.iter().try_for_each(|text| write!(f, " id='{text}'"))
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

/// Bytes of a logical block.
pub fn parse_block(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        other => Err(format!("a block of {other} bytes: it has 512 or 4096")),
    }
}

/// A LUN.
pub fn parse_number(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("LUN '{text}': it is a number from 0 to 16383"))
}

/// A unit serial number.
pub fn parse_serial(text: &str) -> Result<String, String> {
    parse_label("serial number", text, 36)
}

/// A text of INQUIRY data.
pub fn parse_label(what: &str, text: &str, length_max: usize) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if text.trim().is_empty() || text.len() > length_max || !is_plain {
        return Err(format!("{what} '{}': it has 1 to {length_max} printable ASCII characters", text.escape_debug()));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lun_with_everything_is_understood() {
        let text = "file=a.img,size=4G,ro,thin,block=4096,cache=off,serial=X1,lun=7,direct";
        let lun: LunOptions = text.parse().expect("valid");
        let expected = LunOptions {
            file: "a.img".into(),
            number: Some(7),
            size: Some(4 << 30),
            is_read_only: true,
            is_thin: true,
            block: 4096,
            write_cache: false,
            is_direct: true,
            serial: Some("X1".to_owned()),
            labels: InquiryLabels::default(),
        };
        assert_eq!(lun, expected);
        assert_eq!(lun.to_string(), "a.img block=4096 size=4294967296 ro thin direct cache=off serial=X1");
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
            "file=a,serial=\u{e9}",
            "file=a,size=1000",
            "file=a,lun=x",
            "file=a,lun=70000",
            "",
        ] {
            assert!(wrong.parse::<LunOptions>().is_err(), "{wrong} was taken");
        }
    }
}
