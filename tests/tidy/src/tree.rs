//! The files under the rules: what git would commit below the workspace's root.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file, by its path relative to the root with `/` between the parts.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into() }
    }
}

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("invariant: this package lies in tests/tidy")
}

/// Every text file whose name ends in one of `endings` (`""` takes files without an extension), sorted by path.
pub fn files(endings: &[&str]) -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    collect(&root, &root, endings, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(root: &Path, dir: &Path, endings: &[&str], found: &mut Vec<Source>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            let skipped = [".git", "target", "run", "corpus", "images"].contains(&name.as_str());
            if !skipped {
                collect(root, &path, endings, found);
            }
        } else if kind.is_file() && endings.contains(&path.extension().and_then(|e| e.to_str()).unwrap_or("")) {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            found.push(Source { path: relative, text });
        }
    }
}
