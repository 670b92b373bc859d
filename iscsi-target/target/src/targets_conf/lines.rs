//! The lines of a configuration file and of those that it includes: without comments, continued lines joined.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::plan::PlanError;

/// Files that include one another deeper than this include themselves.
const DEPTH_MAX: usize = 16;
/// Longest file, in bytes.
const LENGTH_MAX: u64 = 16 * 1024 * 1024;
/// Lines of all files together, at most.
const LINES_MAX: usize = 1_000_000;

/// Where something was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    file: Arc<PathBuf>,
    /// Counted from 1.
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

impl Place {
    /// An error here.
    pub fn wrong(&self, what: impl fmt::Display) -> PlanError {
        PlanError::Usage(format!("{self}: {what}"))
    }
}

/// A line with something on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub place: Place,
    /// Without blanks at its ends.
    pub text: String,
}

/// Reads a file and what it includes, in its place.
pub fn read(file: &Path) -> Result<Vec<Line>, PlanError> {
    let mut lines = Vec::new();
    read_into(file, &mut lines, 0, None)?;
    Ok(lines)
}

fn read_into(file: &Path, lines: &mut Vec<Line>, depth: usize, from: Option<&Place>) -> Result<(), PlanError> {
    let tell = |what: String| match from {
        Some(place) => PlanError::Unusable(format!("{place}: include {}: {what}", file.display())),
        None => PlanError::Unusable(format!("{}: {what}", file.display())),
    };
    let found = fs::metadata(file).map_err(|error| tell(error.to_string()))?;
    if !found.is_file() {
        // Reading a device or a FIFO may never end.
        return Err(tell("it is not a regular file".to_owned()));
    }
    let length = found.len();
    if length > LENGTH_MAX {
        return Err(tell(format!("{length} bytes are too many for a configuration")));
    }
    let content = fs::read(file).map_err(|error| tell(error.to_string()))?;
    let name = Arc::new(file.to_owned());
    let mut pending: Option<Line> = None;
    for (index, raw) in content.split(|byte| *byte == b'\n').enumerate() {
        let place = Place { file: name.clone(), line: index + 1 };
        let raw = std::str::from_utf8(raw).map_err(|_| place.wrong("it is not UTF-8"))?;
        let (text, goes_on) = match without_comment(raw.trim_end_matches('\r')) {
            text if text.ends_with('\\') => (text[..text.len() - 1].to_owned(), true),
            text => (text, false),
        };
        let line = match pending.take() {
            // What is joined keeps the blanks before the backslash, not those at the beginning of the next line.
            Some(before) => Line { text: before.text + text.trim_start(), ..before },
            None => Line { place, text: text.trim_start().to_owned() },
        };
        if goes_on {
            pending = Some(line);
        } else {
            take(line, lines, depth)?;
        }
    }
    match pending {
        Some(line) => Err(line.place.wrong("the file ends after a backslash")),
        None => Ok(()),
    }
}

/// Takes a whole line; for an include, the lines of those files.
fn take(line: Line, lines: &mut Vec<Line>, depth: usize) -> Result<(), PlanError> {
    let text = line.text.trim();
    if text.is_empty() {
        return Ok(());
    }
    let inner = text.strip_prefix("<<").and_then(|rest| rest.strip_suffix(">>")).unwrap_or(text).trim();
    let is_include = inner.split(char::is_whitespace).next().is_some_and(|word| word.eq_ignore_ascii_case("include"));
    if !is_include {
        if lines.len() >= LINES_MAX {
            return Err(line.place.wrong(format!("more than {LINES_MAX} lines")));
        }
        lines.push(Line { text: text.to_owned(), place: line.place });
        return Ok(());
    }
    let pattern = unquote(inner["include".len()..].trim());
    if pattern.is_empty() {
        return Err(line.place.wrong("include: which file?"));
    }
    if depth >= DEPTH_MAX {
        return Err(line.place.wrong(format!("include {pattern}: more than {DEPTH_MAX} files deep")));
    }
    let folder = line.place.file.parent().unwrap_or(Path::new(""));
    for file in matching(&folder.join(pattern)) {
        read_into(&file, lines, depth + 1, Some(&line.place))?;
    }
    Ok(())
}

/// What stands before a `#`, unless that is escaped.
fn without_comment(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '#' => break,
            '\\' if characters.peek() == Some(&'#') => out.extend(characters.next()),
            other => out.push(other),
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// Text within quotes at both ends, or as it is.
pub fn unquote(text: &str) -> &str {
    let within = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    within('"').or_else(|| within('\'')).unwrap_or(text)
}

/// The files that a path with wildcards means, in order; a folder means all that is in it. Without wildcards it is itself,
/// there or not.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let part = part.as_os_str().to_string_lossy();
        match part.contains(['*', '?']) {
            false => found.iter_mut().for_each(|path| path.push(&*part)),
            true => found = found.iter().flat_map(|folder| entries(folder, |name| is_match(&part, name))).collect(),
        }
    }
    let in_folders = |path: PathBuf| if path.is_dir() { entries(&path, |_| true) } else { vec![path] };
    found.into_iter().flat_map(in_folders).filter(|path| !path.is_dir()).collect()
}

/// Entries of a folder whose name is meant, sorted; hidden ones never are.
fn entries(folder: &Path, is_meant: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<_> =
        names.filter(|name| !name.starts_with('.') && is_meant(name)).map(|name| folder.join(name)).collect();
    found.sort();
    found
}

/// Whether a name matches a pattern with `*` and `?`.
fn is_match(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut of) = (0, 0);
    // Where the last star stands, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    while of < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(character) if *character == '?' || *character == name[of] => {
                at += 1;
                of += 1;
            }
            _ => match &mut star {
                Some((star, taken)) => {
                    *taken += 1;
                    (at, of) = (*star + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|character| *character == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_end_a_line_unless_they_are_escaped() {
        assert_eq!(without_comment("a b # c"), "a b");
        assert_eq!(without_comment("a\\#b#c"), "a#b");
        assert_eq!(without_comment("  # all"), "");
    }

    #[test]
    fn wildcards_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf.bak", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("", "a", false),
        ] {
            assert_eq!(is_match(pattern, name), expected, "{pattern} and {name}");
        }
    }
}
