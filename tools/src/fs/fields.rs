//! Structures by their field tables, as text and JSON; times and modes as people read them.

use std::fmt::Write as _;

use gfs_format::describe::{self, Shape, Table};
use serde_json::{Map, Value, json};

/// Every field but the reserved ones and the common header, one `name  value` a line.
pub fn text(table: &Table, bytes: &[u8]) -> String {
    let mut out = String::new();
    for (name, _, value) in shown(table, bytes) {
        let _ = writeln!(out, "{name:<28}{value}");
    }
    out
}

/// The same as an object; numbers as numbers.
pub fn object(table: &Table, bytes: &[u8]) -> Map<String, Value> {
    shown(table, bytes).map(|(name, shape, value)| (name.to_string(), json_value(shape, &value))).collect()
}

fn shown<'a>(table: &Table, bytes: &'a [u8]) -> impl Iterator<Item = (&'static str, Shape, describe::Value)> + 'a {
    let fields = table.fields.iter().filter(|field| field.shape != Shape::Reserved && !field.name.starts_with("mh_"));
    fields.filter_map(move |field| Some((field.name, field.shape, field.value(bytes)?)))
}

fn json_value(shape: Shape, value: &describe::Value) -> Value {
    match (shape, value) {
        (_, describe::Value::Number(n) | describe::Value::Hex(n) | describe::Value::Octal(n)) => json!(n),
        (_, describe::Value::Signed(n)) => json!(n),
        (Shape::Uuid, describe::Value::Bytes(bytes)) => json!(uuid_text(bytes)),
        (_, other) => json!(other.to_string()),
    }
}

/// Sixteen bytes in the usual form.
pub fn uuid_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `2026-11-21 06:31:37.000000000 UTC`.
pub fn time_text(seconds: u64, nanos: u32) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{nanos:09} UTC")
}

/// Year, month and day of a number of days since 1970, in the Gregorian calendar. Counts from 1 March of the year 0,
/// so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468;
    const DAYS_OF_ERA: u64 = 146_097;
    let days = days.saturating_add(DAYS_TO_1970);
    let (era, day) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, of_month)
}

/// `drwxr-xr-x`, as ls(1) shows it.
pub fn mode_text(mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(match mode >> 12 & 0xf {
        1 => 'p',
        2 => 'c',
        4 => 'd',
        6 => 'b',
        8 => '-',
        10 => 'l',
        12 => 's',
        _ => '?',
    });
    for (shift, special, set, letter) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bits = mode >> shift & 7;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => letter,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates_of_the_calendar() {
        assert_eq!(time_text(0, 0), "1970-01-01 00:00:00.000000000 UTC");
        assert_eq!(time_text(951_782_400, 5), "2000-02-29 00:00:00.000000005 UTC");
        assert_eq!(time_text(1_795_224_496, 0), "2026-11-21 01:28:16.000000000 UTC");
        assert!(!time_text(u64::MAX, 0).is_empty());
    }

    #[test]
    fn modes_read_as_ls_shows_them() {
        assert_eq!(mode_text(0o040_755), "drwxr-xr-x");
        assert_eq!(mode_text(0o104_711), "-rws--x--x");
        assert_eq!(mode_text(0o041_776), "drwxrwxrwT");
    }
}
