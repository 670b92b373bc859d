//! The blocks of a configuration: targets, and within them units.

use super::lines::{Line, Place, unquote};
use crate::plan::PlanError;

/// A whole configuration.
#[derive(Debug, Default)]
pub struct Document {
    pub globals: Vec<Directive>,
    pub targets: Vec<TargetBlock>,
}

/// A name with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    pub place: Place,
    pub name: String,
    /// May be a secret.
    pub value: String,
}

/// `<target …>` to `</target>`.
#[derive(Debug)]
pub struct TargetBlock {
    pub place: Place,
    pub name: String,
    pub directives: Vec<Directive>,
    pub stores: Vec<Store>,
}

/// A unit: `backing-store PATH`, or a block of that name.
#[derive(Clone, Debug)]
pub struct Store {
    pub place: Place,
    pub path: String,
    pub is_direct: bool,
    /// `None` for one without a block.
    pub directives: Option<Vec<Directive>>,
}

impl Document {
    /// Whether there is a secret in it.
    pub fn holds_secrets(&self) -> bool {
        let is_secret = |directive: &Directive| is_user(&directive.name);
        self.globals.iter().any(is_secret) || self.targets.iter().any(|target| target.directives.iter().any(is_secret))
    }
}

/// Whether a directive's value has a secret in it.
fn is_user(name: &str) -> bool {
    matches!(name, "incominguser" | "outgoinguser" | "incomingdiscoveryuser" | "outgoingdiscoveryuser")
}

const STORES: [&str; 2] = ["backing-store", "direct-store"];

/// Finds the blocks.
pub fn parse(lines: Vec<Line>) -> Result<Document, PlanError> {
    let mut document = Document::default();
    let mut target: Option<TargetBlock> = None;
    let mut store: Option<Store> = None;
    for line in lines {
        let place = line.place.clone();
        if let Some(tag) = line.text.strip_prefix('<') {
            let tag = tag.strip_suffix('>').ok_or_else(|| place.wrong("a tag that does not end with '>'"))?.trim();
            match tag.strip_prefix('/') {
                Some(name) => match (name.trim(), store.take(), target.take()) {
                    ("target", None, Some(whole)) => document.targets.push(whole),
                    (name, Some(whole), Some(mut of))
                        if STORES.contains(&name) && (name == STORES[1]) == whole.is_direct =>
                    {
                        of.stores.push(whole);
                        target = Some(of);
                    }
                    (name, open, of) => {
                        let open = match (&open, &of) {
                            (Some(store), _) => format!("the block that was begun at {} is", store.place),
                            (None, Some(target)) => format!("<target> of {} is", target.place),
                            (None, None) => "no block is".to_owned(),
                        };
                        return Err(place.wrong(format!("</{name}> where {open} open")));
                    }
                },
                None => {
                    let (kind, name) = split(tag);
                    let name = unquote(name).to_owned();
                    if name.is_empty() {
                        return Err(place.wrong(format!("<{kind}> without a name")));
                    }
                    match (kind, &target, &store) {
                        ("target", None, _) => {
                            target = Some(TargetBlock { place, name, directives: Vec::new(), stores: Vec::new() });
                        }
                        (kind, Some(_), None) if STORES.contains(&kind) => {
                            let is_direct = kind == STORES[1];
                            store = Some(Store { place, path: name, is_direct, directives: Some(Vec::new()) });
                        }
                        (kind, _, _) if kind == "target" || STORES.contains(&kind) => {
                            return Err(place.wrong(format!("<{kind}> cannot stand here; is a closing tag missing?")));
                        }
                        (kind, _, _) => return Err(place.wrong(format!("<{kind}> is not known"))),
                    }
                }
            }
            continue;
        }
        let (name, value) = split(&line.text);
        // Shows no more of the line: it may be a secret that was moved to a line of its own.
        let is_word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if name.is_empty() || !is_word {
            return Err(place.wrong("it is neither a directive nor a tag"));
        }
        if value.is_empty() {
            return Err(place.wrong(format!("{name} has no value")));
        }
        let directive = Directive { place, name: name.to_owned(), value: unquote(value).to_owned() };
        match (&mut store, &mut target) {
            (Some(Store { directives: Some(directives), .. }), _) => directives.push(directive),
            (_, Some(target)) if STORES.contains(&directive.name.as_str()) => {
                let Directive { place, name, value: path } = directive;
                target.stores.push(Store { place, path, is_direct: name == STORES[1], directives: None });
            }
            (_, Some(target)) => target.directives.push(directive),
            (_, None) => document.globals.push(directive),
        }
    }
    match (store, target) {
        (Some(store), _) => Err(store.place.wrong("the block is not closed")),
        (None, Some(target)) => Err(target.place.wrong("<target> is not closed")),
        (None, None) => Ok(document),
    }
}

/// The first word and the rest; an equals sign may stand between them.
fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let rest = rest.trim_start();
    (name, rest.strip_prefix('=').unwrap_or(rest).trim())
}
