//! Who may depend on whom. An edge between packages of the workspace points strictly downwards in the table at the
//! top of the root Cargo.toml; tests see everything and are seen by nothing; the lower layers use only the external
//! crates that deny.toml lists with a reason.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::tree::Source;

/// Package name to layer, 0 at the bottom.
pub type Layers = BTreeMap<String, u32>;

/// The highest layer whose external crates need a line in deny.toml.
const LISTED_UP_TO: u32 = 2;

/// One package's manifest: its name and what it depends on, development and build included.
#[derive(Debug)]
pub struct Manifest {
    pub path: String,
    pub package: String,
    pub dependencies: Vec<String>,
}

/// Reads the table from the comment at the top of the root manifest: `# L5 tools mkfs …  L4 dlm/node …`.
pub fn read_table(root_manifest: &str) -> Layers {
    let mut layers = Layers::new();
    let mut layer = None;
    let comment = root_manifest.lines().take_while(|l| l.starts_with('#')).flat_map(|l| l[1..].split_whitespace());
    for word in comment {
        match word.strip_prefix('L').and_then(|digits| digits.parse().ok()) {
            Some(number) => layer = Some(number),
            None => {
                if let Some(layer) = layer {
                    layers.insert(word.replace('/', "-"), layer);
                }
            }
        }
    }
    layers
}

/// The crates that deny.toml lists for the lower layers: comment lines `#   name   reason` below the heading.
pub fn read_allowed(deny: &str) -> BTreeMap<String, String> {
    let below = deny.lines().skip_while(|l| !l.starts_with("# Crates that the layers L0 to L2 may use")).skip(1);
    let rows = below.take_while(|l| l.starts_with('#')).filter_map(|l| {
        let (name, reason) = l[1..].trim().split_once(char::is_whitespace)?;
        Some((name.to_string(), reason.trim().to_string()))
    });
    rows.collect()
}

/// Reads a package's manifest; `None` for one without a package.
pub fn read_manifest(source: &Source) -> Option<Manifest> {
    let table: Table = source.text.parse().ok()?;
    let package = table.get("package")?.get("name")?.as_str()?.to_string();
    let mut dependencies = Vec::new();
    collect_dependencies(&table, &mut dependencies);
    if let Some(targets) = table.get("target").and_then(Value::as_table) {
        targets.values().filter_map(Value::as_table).for_each(|t| collect_dependencies(t, &mut dependencies));
    }
    Some(Manifest { path: source.path.clone(), package, dependencies })
}

fn collect_dependencies(table: &Table, into: &mut Vec<String>) {
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for (name, value) in table.get(kind).and_then(Value::as_table).into_iter().flatten() {
            let renamed = value.get("package").and_then(Value::as_str);
            into.push(renamed.unwrap_or(name).to_string());
        }
    }
}

/// Every edge that breaks a rule, one sentence each.
pub fn violations(layers: &Layers, allowed: &BTreeMap<String, String>, manifests: &[Manifest]) -> Vec<String> {
    let is_test = |package: &str| manifests.iter().any(|m| m.package == package && m.path.starts_with("tests/"));
    let is_ours = |package: &str| manifests.iter().any(|m| m.package == package);
    let mut found = Vec::new();
    for manifest in manifests.iter().filter(|m| !m.path.starts_with("tests/")) {
        let package = &manifest.package;
        let Some(layer) = layers.get(package) else {
            found.push(format!("{package} is not in the table of layers at the top of Cargo.toml"));
            continue;
        };
        for dependency in &manifest.dependencies {
            match layers.get(dependency) {
                _ if is_test(dependency) => found.push(format!("{package} depends on {dependency}, which is a test")),
                Some(below) if below >= layer => {
                    found.push(format!("{package} (L{layer}) depends on {dependency} (L{below}): edges point down"));
                }
                Some(_) => {}
                None if is_ours(dependency) => {} // reported at its own manifest
                None if *layer > LISTED_UP_TO => {}
                None if allowed.get(dependency).is_some_and(|reason| !reason.is_empty()) => {}
                None => found.push(format!(
                    "{package} (L{layer}) uses the crate {dependency}, which deny.toml does not list with a reason"
                )),
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "# The map\n#   L5 tools gfs/fuse   L2 dlm/core\n#   L0 base\n[workspace]\n# L9 not-this\n";

    fn check(manifests: &[(&str, &str)]) -> Vec<String> {
        let read = |(path, text): &(&str, &str)| read_manifest(&Source::new(path, text)).expect("a package");
        let manifests: Vec<Manifest> = manifests.iter().map(read).collect();
        let allowed = read_allowed("# Crates that the layers L0 to L2 may use:\n#   bytes  frames\n[bans]\n");
        violations(&read_table(TABLE), &allowed, &manifests)
    }

    #[test]
    fn the_table_is_read_from_the_first_comment_only() {
        let layers = read_table(TABLE);
        assert_eq!(layers.get("gfs-fuse"), Some(&5));
        assert_eq!(layers.get("base"), Some(&0));
        assert!(!layers.contains_key("not-this"));
    }

    #[test]
    fn an_edge_downwards_and_a_listed_crate_pass() {
        let core = "[package]\nname = \"dlm-core\"\n[dependencies]\nbase.workspace = true\nbytes = \"1\"\n";
        let base = "[package]\nname = \"base\"\n";
        assert_eq!(check(&[("dlm/core/Cargo.toml", core), ("base/Cargo.toml", base)]), Vec::<String>::new());
    }

    #[test]
    fn an_edge_upwards_fails() {
        let core = "[package]\nname = \"dlm-core\"\n[dependencies]\ngfs-fuse.workspace = true\n";
        let fuse = "[package]\nname = \"gfs-fuse\"\n";
        let found = check(&[("dlm/core/Cargo.toml", core), ("gfs/fuse/Cargo.toml", fuse)]);
        assert_eq!(found, ["dlm-core (L2) depends on gfs-fuse (L5): edges point down"]);
    }

    #[test]
    fn an_edge_within_a_layer_fails_also_for_development_and_under_another_name() {
        let tools =
            "[package]\nname = \"tools\"\n[dev-dependencies]\nfuse = { package = \"gfs-fuse\", path = \"x\" }\n";
        let fuse = "[package]\nname = \"gfs-fuse\"\n";
        assert_eq!(check(&[("tools/Cargo.toml", tools), ("gfs/fuse/Cargo.toml", fuse)]).len(), 1);
    }

    #[test]
    fn nobody_depends_on_a_test_and_nobody_stands_outside_the_table() {
        let tools = "[package]\nname = \"tools\"\n[dependencies]\nsim.workspace = true\n";
        let sim = "[package]\nname = \"sim\"\n[dependencies]\ntools.workspace = true\n";
        let stray = "[package]\nname = \"stray\"\n";
        let found = check(&[("tools/Cargo.toml", tools), ("tests/sim/Cargo.toml", sim), ("stray/Cargo.toml", stray)]);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn a_crate_that_is_not_listed_fails_in_a_core_and_passes_in_a_program() {
        let core = "[package]\nname = \"dlm-core\"\n[target.'cfg(unix)'.dependencies]\ntokio = \"1\"\n";
        let tools = "[package]\nname = \"tools\"\n[dependencies]\ntokio = \"1\"\n";
        let found = check(&[("dlm/core/Cargo.toml", core), ("tools/Cargo.toml", tools)]);
        assert_eq!(found, ["dlm-core (L2) uses the crate tokio, which deny.toml does not list with a reason"]);
    }
}
