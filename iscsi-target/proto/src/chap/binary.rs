//! Binary values in text parameters: hexadecimal or base64 (RFC 7143 §6.1, large-binary-value), and small numbers.

/// As it is sent: `0x` and two digits a byte.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + bytes.len() * 2);
    text.push_str("0x");
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    text
}

/// Reads `0x…` or `0b…`; `None` if it is neither, not whole bytes, empty or longer than `most` bytes.
pub(super) fn decode(text: &str, most: usize) -> Option<Vec<u8>> {
    let bytes = match text.get(..2)? {
        "0x" | "0X" => decode_hex(&text.as_bytes()[2..])?,
        "0b" | "0B" => decode_base64(&text.as_bytes()[2..])?,
        _ => return None,
    };
    (!bytes.is_empty() && bytes.len() <= most).then_some(bytes)
}

/// Reads an identifier: one byte as a decimal or hexadecimal number.
pub(super) fn decode_byte(text: &str) -> Option<u8> {
    let is_all = |digits: &str, is_digit: fn(&u8) -> bool| !digits.is_empty() && digits.as_bytes().iter().all(is_digit);
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        // `from_str_radix` would take a sign.
        Some(digits) if is_all(digits, u8::is_ascii_hexdigit) => u8::from_str_radix(digits, 16).ok(),
        None if is_all(text, u8::is_ascii_digit) => text.parse().ok(),
        Some(_) | None => None,
    }
}

fn decode_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let nibble = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect()
}

/// RFC 4648 §4, padded, without anything else in between.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let (quads, rest) = text.as_chunks::<4>();
    let (last, whole) = quads.split_last()?;
    if !rest.is_empty() {
        return None;
    }
    let padding = last.iter().rev().take_while(|digit| **digit == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(quads.len() * 3);
    for quad in whole {
        bytes.extend_from_slice(&decode_quad(quad)?.to_be_bytes()[1..]);
    }
    // A '=' further ahead is no digit, and is found here.
    let mut filled = *last;
    filled[4 - padding..].fill(b'A');
    let value = decode_quad(&filled)?.to_be_bytes();
    let (kept, cut) = value[1..].split_at(3 - padding);
    // Bits that are no part of a byte are zero, so that one value has one spelling.
    if cut.iter().any(|byte| *byte != 0) {
        return None;
    }
    bytes.extend_from_slice(kept);
    Some(bytes)
}

/// Four digits of 6 bits each.
fn decode_quad(quad: &[u8; 4]) -> Option<u32> {
    quad.iter().try_fold(0, |value, digit| {
        let bits = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        Some(value << 6 | u32::from(bits))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_the_same_bytes_are_read() {
        let bytes = [0x00, 0xff, 0x10, 0x83];
        assert_eq!(encode(&bytes), "0x00ff1083");
        for text in ["0x00ff1083", "0X00FF1083", "0bAP8Qgw==", "0BAP8Qgw=="] {
            assert_eq!(decode(text, 4).as_deref(), Some(&bytes[..]), "{text}");
        }
        assert_eq!(decode("0bAP8Qg0EB", 100).as_deref(), Some(&[0x00, 0xff, 0x10, 0x83, 0x41, 0x01][..]));
        assert_eq!(decode("0bAP8=", 100).as_deref(), Some(&[0x00, 0xff][..]));
    }

    #[test]
    fn whatever_is_not_whole_bytes_within_the_limit_is_refused() {
        for text in [
            "",
            "0",
            "0x",
            "0b",
            "00ff",
            "0x0",
            "0x0g",
            "0x00ff108300",
            "0bAP8",
            "0bAP8Qg",
            "0bAP8Qgx==",
            "0b====",
            "0bA===",
            "0bAP=8",
            "0bAP8Qgw==AAAA",
            "0bAP8 gw==",
            "-0x00",
            "0x-1",
            "\u{e9}x00",
        ] {
            assert_eq!(decode(text, 4), None, "{text}");
        }
    }

    #[test]
    fn an_identifier_is_one_byte() {
        assert_eq!(decode_byte("255"), Some(255));
        assert_eq!(decode_byte("0xfF"), Some(255));
        for text in ["", "256", "0x100", "-1", "+1", "0x+1", "1 ", "0x"] {
            assert_eq!(decode_byte(text), None, "{text}");
        }
    }
}
