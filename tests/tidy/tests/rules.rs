//! The rules on the real tree. A failure lists every violation with what to do instead.

use tidy::tree::{Source, files, root};
use tidy::{layers, sources};

fn text_of(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn none(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n  {}\n", violations.join("\n  "));
}

#[test]
fn every_edge_between_packages_points_downwards() {
    let manifests: Vec<_> = files(&["toml"])
        .iter()
        .filter(|s| s.path.ends_with("Cargo.toml") && !s.path.starts_with("tests/fuzz"))
        .filter_map(layers::read_manifest)
        .collect();
    assert!(manifests.len() > 10, "the manifests were not found");
    let table = layers::read_table(&text_of("Cargo.toml"));
    none(layers::violations(&table, &layers::read_allowed(&text_of("deny.toml")), &manifests));
}

#[test]
fn every_rust_file_keeps_the_rules() {
    none(files(&["rs"]).iter().flat_map(sources::check_rust).collect());
}

#[test]
fn every_text_file_is_free_of_marks_and_paths_of_one_machine() {
    let ours = |s: &&Source| s.path != "Cargo.lock";
    none(files(&["rs", "toml", "md", "sh", "py", "c", ""]).iter().filter(ours).flat_map(sources::check_text).collect());
}

#[test]
fn every_file_in_the_lists_of_exceptions_exists() {
    let listed = sources::UNSAFE_FILES.iter().chain(&sources::ERRNO_FILES).map(|(file, _)| file);
    none(
        listed.filter(|f| !root().join(f).exists()).map(|f| format!("{f} is listed in tests/tidy but gone")).collect(),
    );
}

#[test]
fn every_relative_link_of_the_documents_leads_somewhere() {
    let exists = |path: &str| root().join(path).exists();
    none(files(&["md"]).iter().flat_map(|page| sources::dead_links(page, exists)).collect());
}
