//! The form of small files that must survive a restart: a first line with the format's name and a checksum of the rest,
//! then JSON. They are replaced as a whole (`reservations::write_whole`), so a damaged one is the disk's fault, and is
//! refused rather than half believed.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The content of a file of this format: `FORMAT checksum`, then the value. The checksum is CRC32C, hexadecimal.
pub fn seal(format: &str, value: &impl Serialize) -> String {
    let body = serde_json::to_string_pretty(value).expect("invariant: strings and numbers have a JSON form") + "\n";
    format!("{format} {:08x}\n{body}", crc32c::crc32c(body.as_bytes()))
}

/// The value in such a file; the error says what is wrong with it.
pub fn unseal<T: DeserializeOwned>(format: &str, content: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(content).map_err(|_| "it is damaged (not text)".to_owned())?;
    let (heading, body) = text.split_once('\n').ok_or("it is damaged (it ends within its first line)")?;
    let (found, checksum) = heading.split_once(' ').unwrap_or((heading, ""));
    if found != format {
        return Err(format!("its format is '{found}', this program knows '{format}'"));
    }
    if checksum != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
        return Err("it is damaged (its checksum is not that of its content)".to_owned());
    }
    serde_json::from_str(body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_or_changed_is_refused() {
        let sealed = seal("corral-test-1", &vec![1, 2, 3]);
        assert_eq!(unseal("corral-test-1", sealed.as_bytes()), Ok(vec![1, 2, 3]));
        for length in 0..sealed.len() {
            assert!(unseal::<Vec<u8>>("corral-test-1", &sealed.as_bytes()[..length]).is_err(), "cut to {length} bytes");
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone().into_bytes();
            damaged[at] ^= 0x04;
            assert!(unseal::<Vec<u8>>("corral-test-1", &damaged).is_err(), "byte {at} changed");
        }
        assert!(
            unseal::<Vec<u8>>("corral-test-2", sealed.as_bytes()).is_err_and(|said| said.contains("corral-test-1"))
        );
    }
}
