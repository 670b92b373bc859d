//! What a source file may contain. Each rule names what to do instead.

use crate::tree::Source;

/// The longest a Rust file may be; 150 to 500 lines is healthy.
pub const LINES_MAX: usize = 800;

/// The only files with `unsafe`, and what they need it for.
pub const UNSAFE_FILES: [(&str, &str); 5] = [
    ("block/file/src/ring.rs", "io_uring: buffers that the kernel fills while nobody else touches them"),
    ("block/file/src/system.rs", "ioctls that ask a block device for its size and sector"),
    ("gfs/fuse/src/device.rs", "/dev/fuse: ioctls, and bytes as the kernel lays them out"),
    ("iscsi-target/target/src/system.rs", "receiving into memory that is not initialised; the allocator's limits"),
    ("gfs/fuse/tests/toy/map.rs", "mmap, to test that mappings are coherent"),
];

/// Where error numbers may be named inside gfs/: the one mapping, and the files that speak with /dev/fuse itself.
pub const ERRNO_FILES: [(&str, &str); 8] = [
    ("gfs/fuse/src/errno.rs", "the one mapping of the filesystem's errors"),
    ("gfs/fuse/src/answer.rs", "the type of an answer; the numbers come from errno.rs"),
    ("gfs/fuse/src/connection.rs", "the kernel's answers about the connection"),
    ("gfs/fuse/src/device.rs", "the kernel's answers on /dev/fuse"),
    ("gfs/fuse/src/interrupt.rs", "EINTR, the protocol's answer to INTERRUPT"),
    ("gfs/fuse/src/notify.rs", "the kernel's answers to notifications"),
    ("gfs/fuse/src/reply.rs", "the answer to a request that was dropped"),
    ("gfs/fuse/src/session.rs", "requests that are malformed or unknown"),
];

/// Folders of the layers L0 to L3, which have no clock, socket, thread or file of their own.
const PURE: [&str; 8] = [
    "base/src",
    "block/core/src",
    "dlm/api/src",
    "dlm/core/src",
    "gfs/format/src",
    "gfs/core/src",
    "iscsi-target/proto/src",
    "gfs/check/src",
];

/// What must not occur there, with what to use instead.
const IMPURE: [(&str, &str); 11] = [
    ("std::fs", "take a BlockDevice"),
    ("std::net", "queue bytes for the shell to send"),
    ("std::thread", "spawn through the Host port"),
    ("std::env", "take it as an argument"),
    ("std::process", "return an error"),
    ("std::time::Instant", "base::Instant, handed in"),
    ("std::time::SystemTime", "base::WallTime, handed in"),
    ("tokio::spawn", "spawn through the Host port"),
    ("tokio::time", "sleep through the Host port"),
    ("tokio::net", "queue bytes for the shell to send"),
    ("rand::", "random bits through the Host port"),
];

/// Violations of one Rust file, one sentence each.
pub fn check_rust(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let path = &source.path;
    let mut say = |line: usize, what: String| found.push(format!("{path}:{line}: {what}"));
    let first = source.text.lines().next().unwrap_or_default();
    // The tests of one file, moved out of it, belong to that file's heading.
    if !first.starts_with("//!") && !path.ends_with("/tests.rs") {
        say(1, "a file opens with `//!`: what it owns, its invariants, who calls it".into());
    }
    let count = source.text.lines().count();
    if count > LINES_MAX {
        say(count, format!("{count} lines, at most {LINES_MAX}: split it by owner"));
    }
    let code = without_comments_and_strings(&source.text);
    let lines: Vec<&str> = source.text.lines().collect();
    // Tests at the end of a file may do what they like with files and threads.
    let tests_from = lines.iter().position(|l| l.trim() == "#[cfg(test)]").unwrap_or(lines.len());
    let is_test = |line: usize| line >= tests_from || path.contains("/tests/") || path.ends_with("/tests.rs");
    for (index, line) in code.lines().enumerate() {
        for (mark, instead) in [("todo!", "finish it"), ("unimplemented!", "finish it"), ("dbg!", "use tracing")] {
            if has_word(line, mark) {
                say(index + 1, format!("{mark} may not merge: {instead}"));
            }
        }
        if has_word(line, "unsafe") && !line.contains("unsafe_") {
            check_unsafe(path, &lines, index, &mut say);
        }
        let errno = line.contains("libc::E") || has_word(line, "Errno");
        if errno && path.starts_with("gfs/") && !is_test(index) && !ERRNO_FILES.iter().any(|(f, _)| f == path) {
            say(index + 1, "error numbers of the filesystem are named in gfs/fuse/src/errno.rs only".into());
        }
        if PURE.iter().any(|folder| path.starts_with(folder)) && !is_test(index) {
            for (word, instead) in IMPURE.iter().filter(|(word, _)| line.contains(word)) {
                say(index + 1, format!("{word} in a layer that has none: {instead}"));
            }
        }
    }
    found
}

fn check_unsafe(path: &str, lines: &[&str], index: usize, say: &mut impl FnMut(usize, String)) {
    if !UNSAFE_FILES.iter().any(|(file, _)| *file == path) {
        say(index + 1, "unsafe outside the files that tests/tidy lists: use a safe wrapper (nix, zerocopy)".into());
        return;
    }
    let above = &lines[index.saturating_sub(8)..=index];
    if !above.iter().any(|l| l.contains("SAFETY:") || l.contains("# Safety")) {
        say(index + 1, "unsafe without a `// SAFETY:` above it".into());
    }
}

/// Violations of any text file.
pub fn check_text(source: &Source) -> Vec<String> {
    // Spelled in parts, because this file is under the rule as well.
    let marks = [
        (["FIX", "ME"].concat(), "mend it, or open an issue and write TODO(name-of-issue)"),
        (["/wo", "rk/"].concat(), "a path of one machine: use a relative one"),
    ];
    let mut found = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for (mark, instead) in marks.iter().filter(|(mark, _)| line.contains(mark.as_str())) {
            found.push(format!("{}:{}: {mark}: {instead}", source.path, index + 1));
        }
    }
    found
}

/// Relative links of a Markdown file that lead nowhere; `exists` takes a path relative to the root.
pub fn dead_links(source: &Source, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let folder = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let targets = source.text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local = targets.map(|t| t.split('#').next().unwrap_or(t)).filter(|t| !t.is_empty() && !t.contains("://"));
    let resolve = |target: &str| {
        let mut parts: Vec<&str> = folder.split('/').filter(|p| !p.is_empty()).collect();
        for part in target.split('/').filter(|p| !p.is_empty() && *p != ".") {
            if part == ".." {
                parts.pop();
            } else {
                parts.push(part);
            }
        }
        parts.join("/")
    };
    let dead = local.filter(|t| !exists(&resolve(t)));
    dead.map(|t| format!("{}: the link to {t} leads nowhere", source.path)).collect()
}

/// `word` standing alone: no letter, digit or underscore on either side.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word)
        .any(|(at, _)| !part(line[..at].chars().next_back()) && !part(line[at + word.len()..].chars().next()))
}

/// The text with comments, strings and character literals blanked, line breaks kept. Knows raw strings with up to
/// any number of `#`, and tells lifetimes from character literals.
fn without_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = skip_length(&bytes[at..], at.checked_sub(1).map(|i| bytes[i]));
        if end == 0 {
            out.push(bytes[at]);
            at += 1;
        } else {
            let to = (at + end).min(bytes.len());
            out.extend(bytes[at..to].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
            at = to;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// How many bytes from here on are a comment or a literal; 0 for code.
fn skip_length(rest: &[u8], before: Option<u8>) -> usize {
    let until = |from: usize, end: &[u8]| {
        rest[from..].windows(end.len()).position(|w| w == end).map_or(rest.len(), |i| from + i + end.len())
    };
    if rest.starts_with(b"//") {
        return rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return until(2, b"*/");
    }
    let in_word = before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if rest[0] == b'r' && (!in_word || before == Some(b'b')) {
        let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            return until(2 + hashes, &[b"\"".as_slice(), &vec![b'#'; hashes]].concat());
        }
    }
    match rest {
        [b'"', ..] => quoted(rest, b'"'),
        [b'\'', b'\\', ..] => quoted(rest, b'\''),
        // A character literal closes behind one character of up to four bytes; a lifetime does not close.
        [b'\'', ..] => (2..=5).find(|i| rest.get(*i) == Some(&b'\'')).map_or(0, |i| i + 1),
        _ => 0,
    }
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust(path: &str, text: &str) -> Vec<String> {
        check_rust(&Source::new(path, text))
    }

    #[test]
    fn words_in_comments_and_strings_do_not_count() {
        let text =
            "//! Map.\n// unsafe dbg!\nlet s = \"unsafe \\\" todo!\"; let r = r#\"dbg!(\"x\")\"#; let c = '\"';\n";
        assert_eq!(rust("tools/src/x.rs", text), Vec::<String>::new());
        assert_eq!(rust("tools/src/x.rs", "//! Map.\nfn f<'a>(x: &'a str) { dbg!(x); }\n").len(), 1);
    }

    #[test]
    fn unsafe_is_refused_outside_its_files_and_needs_its_reason_inside() {
        assert_eq!(rust("dlm/core/src/x.rs", "//! X.\nunsafe { f() }\n").len(), 1);
        assert_eq!(rust("gfs/fuse/src/device.rs", "//! X.\nunsafe { f() }\n").len(), 1);
        assert_eq!(rust("gfs/fuse/src/device.rs", "//! X.\n// SAFETY: f is fine.\nunsafe { f() }\n").len(), 0);
    }

    #[test]
    fn a_core_has_no_clock_and_its_tests_may() {
        assert_eq!(rust("dlm/core/src/x.rs", "//! X.\nuse std::time::Instant;\n").len(), 1);
        assert_eq!(rust("dlm/node/src/x.rs", "//! X.\nuse std::time::Instant;\n").len(), 0);
        assert_eq!(rust("dlm/core/src/x.rs", "//! X.\n#[cfg(test)]\nmod t { use std::thread; }\n").len(), 0);
    }

    #[test]
    fn error_numbers_stay_in_their_file() {
        assert_eq!(rust("gfs/core/src/x.rs", "//! X.\nfn f() -> i32 { libc::EIO }\n").len(), 1);
        assert_eq!(rust("gfs/fuse/src/errno.rs", "//! X.\nfn f() -> i32 { libc::EIO }\n").len(), 0);
    }

    #[test]
    fn a_file_without_a_heading_or_too_long_fails() {
        assert_eq!(rust("tools/src/x.rs", "fn f() {}\n").len(), 1);
        let long = format!("//! X.\n{}", "// line\n".repeat(LINES_MAX));
        assert_eq!(rust("tools/src/x.rs", &long).len(), 1);
    }

    #[test]
    fn a_dead_link_is_found_from_the_folder_of_its_page() {
        let page = Source::new("docs/a.md", "[one](../README.md) [two](gone.md#x) [three](https://x.org)");
        assert_eq!(dead_links(&page, |p| p == "README.md"), ["docs/a.md: the link to gone.md leads nowhere"]);
    }
}
