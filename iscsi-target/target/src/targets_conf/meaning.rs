//! What the directives mean here. Unknown ones are errors; those whose meaning in tgt cannot matter to an initiator's data
//! are told as warnings, the rest of tgt's that we do not have as errors.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use iscsi_target_proto::chap::{ChapPolicy, ChapSecret, ChapUser};

use super::lines::{Place, unquote};
use super::tree::{Directive, Document, Store, TargetBlock};
use crate::access::{Access, check_initiator_name};
use crate::config::LunOptions;
use crate::lun_options::{parse_block, parse_label, parse_number, parse_serial};
use crate::plan::{Plan, PlanError, TargetPlan, UnitPlan};

/// Names of targets are longest so, in bytes (RFC 7143 §4.2.7.2).
const NAME_MAX: usize = 223;

/// Adds a configuration's targets to a plan.
pub fn add(document: &Document, plan: &mut Plan) -> Result<(), PlanError> {
    globals(&document.globals, plan)?;
    for block in merged(&document.targets, &mut plan.warnings) {
        let target = target(&block, &mut plan.warnings)?;
        plan.targets.push(target);
    }
    Ok(())
}

/// Blocks of one name are one target, as in tgt.
fn merged(blocks: &[TargetBlock], warnings: &mut Vec<String>) -> Vec<TargetBlock> {
    let mut merged: Vec<TargetBlock> = Vec::new();
    for block in blocks {
        let directives = block.directives.iter().cloned();
        match merged.iter_mut().find(|before| before.name.eq_ignore_ascii_case(&block.name)) {
            Some(before) => {
                warnings.push(format!(
                    "{}: target {} is there already ({}); both are taken as one",
                    block.place, block.name, before.place
                ));
                before.directives.extend(directives);
                before.stores.extend(block.stores.iter().cloned());
            }
            None => merged.push(TargetBlock {
                place: block.place.clone(),
                name: block.name.clone(),
                directives: directives.collect(),
                stores: block.stores.clone(),
            }),
        }
    }
    merged
}

fn globals(directives: &[Directive], plan: &mut Plan) -> Result<(), PlanError> {
    let mut users = Users::default();
    for directive in directives {
        let Directive { place, name, value } = directive;
        match name.as_str() {
            "default-driver" => driver(directive)?,
            "incomingdiscoveryuser" => users.add_incoming(directive)?,
            "outgoingdiscoveryuser" => users.add_outgoing(directive, &mut plan.warnings)?,
            "ignore-errors" | "control-port" => {
                plan.warnings.push(format!("{place}: {name} is about tgt-admin and has no effect here"));
            }
            "iSNS" | "iSNSServerIP" | "iSNSServerPort" | "iSNSAccessControl" => {
                plan.warnings
                    .push(format!("{place}: {name} has no effect: targets are not registered with an iSNS server"));
            }
            _ if is_of_a_target(name) => return Err(place.wrong(format!("{name} {value}: it stands in a <target>"))),
            _ => return Err(unknown(directive)),
        }
    }
    if let Some(policy) = users.policy()? {
        plan.discovery = Some(policy);
    }
    Ok(())
}

fn is_of_a_target(name: &str) -> bool {
    matches!(name, "backing-store" | "direct-store" | "initiator-address" | "initiator-name")
        || lun_effect(name).is_some()
}

fn unknown(directive: &Directive) -> PlanError {
    // Its value is not shown: it may be a secret behind a misspelled name.
    directive.place.wrong(format!("{} is not a directive that is known here", directive.name))
}

/// "iser" needs hardware that this program does not speak to.
fn driver(directive: &Directive) -> Result<(), PlanError> {
    match directive.value.as_str() {
        "iscsi" => Ok(()),
        other => Err(directive.place.wrong(format!("{} {other}: only iscsi is served", directive.name))),
    }
}

fn target(block: &TargetBlock, warnings: &mut Vec<String>) -> Result<TargetPlan, PlanError> {
    let name = target_name(block, warnings)?;
    let mut access = Access::default();
    let (mut every_name, mut every_address) = (false, false);
    let mut users = Users::default();
    let mut seen = BTreeSet::new();
    let mut of_every_lun = Vec::new();
    for directive in &block.directives {
        let Directive { place, name: key, value } = directive;
        match key.as_str() {
            "initiator-address" if value.eq_ignore_ascii_case("all") => every_address = true,
            "initiator-address" => {
                access.addresses.push(value.parse().map_err(|what| place.wrong(format!("initiator-address: {what}")))?);
            }
            "initiator-name" if value.eq_ignore_ascii_case("all") => every_name = true,
            "initiator-name" => access.names.push(check_initiator_name(value).map_err(|what| place.wrong(what))?),
            "incominguser" => users.add_incoming(directive)?,
            "outgoinguser" => users.add_outgoing(directive, warnings)?,
            "driver" => driver(directive)?,
            "controller_tid" => {
                value.parse::<u32>().map_err(|_| place.wrong(format!("controller_tid {value}: it is a number")))?;
                once(&mut seen, directive)?;
            }
            _ if is_negotiated(key) => {
                warnings.push(format!("{place}: {key} has no effect: it is negotiated with each initiator"));
            }
            "state" if value == "ready" || value == "running" => {}
            "state" => {
                return Err(place.wrong(format!("state {value}: a target is always ready; leave it out of the file")));
            }
            _ if lun_effect(key).is_some() => of_every_lun.push(directive.clone()),
            _ => return Err(unknown(directive)),
        }
    }
    // As in tgt: one that lets in everybody makes the others superfluous.
    if every_address {
        access.addresses.clear();
    }
    if every_name {
        access.names.clear();
    }
    let units = units(block, &of_every_lun, warnings)?;
    if units.is_empty() {
        warnings.push(format!("{}: target {name} has no LUN", block.place));
    }
    let place = block.place.to_string();
    Ok(TargetPlan { name, place, units, access, authentication: users.policy()? })
}

/// In lower case: names are compared so (RFC 7143 §4.2.7.1). Other characters than those that the RFC allows are taken as
/// tgt takes them, as long as they cannot break a list of names.
fn target_name(block: &TargetBlock, warnings: &mut Vec<String>) -> Result<String, PlanError> {
    let name = block.name.to_ascii_lowercase();
    let has_type = ["iqn.", "eui.", "naa."].iter().any(|kind| name.starts_with(kind) && name.len() > kind.len());
    let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    if !has_type || !is_plain || name.len() > NAME_MAX {
        let what = "it begins with iqn., eui. or naa. and has up to 223 characters without blanks and commas";
        return Err(block.place.wrong(format!("target {}: {what}", block.name.escape_debug())));
    }
    if name.bytes().any(|b| !(b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:".contains(&b))) {
        warnings.push(format!("{}: target {name}: RFC 7143 allows only a-z 0-9 - . : in names", block.place));
    }
    Ok(name)
}

fn once<'a>(seen: &mut BTreeSet<&'a str>, directive: &'a Directive) -> Result<(), PlanError> {
    match seen.insert(&directive.name) {
        true => Ok(()),
        false => Err(directive.place.wrong(format!("{} is there twice", directive.name))),
    }
}

/// Keys of the login, which tgt can set for each target.
fn is_negotiated(name: &str) -> bool {
    const KEYS: [&str; 19] = [
        "MaxRecvDataSegmentLength",
        "MaxXmitDataSegmentLength",
        "HeaderDigest",
        "DataDigest",
        "InitialR2T",
        "MaxOutstandingR2T",
        "ImmediateData",
        "FirstBurstLength",
        "MaxBurstLength",
        "DataPDUInOrder",
        "DataSequenceInOrder",
        "ErrorRecoveryLevel",
        "IFMarker",
        "OFMarker",
        "DefaultTime2Wait",
        "DefaultTime2Retain",
        "OFMarkInt",
        "IFMarkInt",
        "MaxConnections",
    ];
    KEYS.contains(&name)
}

// ---- units ----

/// The units with tgt's numbers: backing stores before direct stores, each sorted by path, from 1 on, leaving out the
/// numbers that are given explicitly.
fn units(block: &TargetBlock, defaults: &[Directive], warnings: &mut Vec<String>) -> Result<Vec<UnitPlan>, PlanError> {
    let mut stores: Vec<&Store> = block.stores.iter().collect();
    stores.sort_by(|a, b| (a.is_direct, &a.path).cmp(&(b.is_direct, &b.path)));
    stores.dedup_by(|again, store| {
        // The same line twice is one unit, as in tgt; two different blocks are two, which the plan refuses.
        again.path == store.path && again.is_direct == store.is_direct && again.directives == store.directives
    });
    let mut planned = Vec::new();
    for store in stores {
        let mut options = LunOptions::new(PathBuf::from(&store.path));
        if store.is_direct {
            take_labels_of_device(store, &mut options, warnings);
        }
        for directives in [defaults, store.directives.as_deref().unwrap_or_default()] {
            let mut seen = BTreeSet::new();
            for directive in directives {
                if !matches!(directive.name.as_str(), "mode_page" | "params") {
                    once(&mut seen, directive)?;
                }
                apply(directive, &directive.name, &directive.value, &mut options, warnings)?;
            }
        }
        planned.push((&store.place, options));
    }
    let taken: BTreeSet<u16> = planned.iter().filter_map(|(_, options)| options.number).collect();
    let mut free = (1..=u16::MAX).filter(|number| !taken.contains(number));
    let mut units = Vec::new();
    for (place, options) in planned {
        let number = match options.number.or_else(|| free.next()) {
            Some(number) => number,
            None => return Err(place.wrong("there is no free LUN")),
        };
        units.push(UnitPlan { number, place: place.to_string(), options });
    }
    Ok(units)
}

/// What a directive does to a unit.
#[derive(Clone, Copy)]
enum Effect {
    /// See [`apply`].
    Applies,
    /// Nothing, and why.
    Nothing(&'static str),
}

fn lun_effect(name: &str) -> Option<Effect> {
    Some(match name {
        "lun" | "write-cache" | "scsi_sn" | "scsi_id" | "vendor_id" | "product_id" | "product_rev" | "readonly"
        | "block-size" | "bs-type" | "bsoflags" | "bsopts" | "device-type" | "online" | "removable" | "params" => {
            Effect::Applies
        }
        "thin_provisioning" => Effect::Applies,
        "sense_format" => Effect::Nothing("sense data has the format that the initiator asks for"),
        "path" => Effect::Nothing("the path is that of the store"),
        "mode_page" => Effect::Nothing("mode pages tell what the unit does"),
        "allow-in-use" => Effect::Nothing("a file or device that others use is never exported"),
        "lbppbe" | "la_lba" | "optimal_xfer_gran" | "optimal_xfer_len" => Effect::Nothing("it is found out"),
        _ => return None,
    })
}

/// Applies one directive, or one of the pairs within `params`.
fn apply(
    directive: &Directive,
    name: &str,
    value: &str,
    options: &mut LunOptions,
    warnings: &mut Vec<String>,
) -> Result<(), PlanError> {
    let place = &directive.place;
    let wrong = |what: String| place.wrong(format!("{name}: {what}"));
    if let Some(Effect::Nothing(why)) = lun_effect(name) {
        let warning = format!("{place}: {name} has no effect: {why}");
        // A target's directive applies to all of its units and is told once.
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
        return Ok(());
    }
    match name {
        "lun" => options.number = Some(parse_number(value).map_err(wrong)?),
        "write-cache" => options.write_cache = switch(value).map_err(wrong)?,
        "scsi_sn" => options.serial = Some(parse_serial(value).map_err(wrong)?),
        "scsi_id" => options.labels.designator = Some(parse_label("designator", value, 64).map_err(wrong)?),
        // What is too long is cut, as tgt does.
        "vendor_id" => options.labels.vendor = parse_label("vendor", value, 255).map_err(wrong)?,
        "product_id" => options.labels.product = parse_label("product", value, 255).map_err(wrong)?,
        "product_rev" => options.labels.revision = parse_label("revision", value, 255).map_err(wrong)?,
        "readonly" => options.is_read_only = switch(value).map_err(wrong)?,
        "thin_provisioning" => options.is_thin = switch(value).map_err(wrong)?,
        "block-size" => options.block = parse_block(value).map_err(wrong)?,
        "bs-type" => match value {
            "rdwr" | "aio" => {}
            other => return Err(wrong(format!("'{other}' is not served; files and devices are (rdwr, aio)"))),
        },
        "bsoflags" => {
            for flag in value.split([',', ' ']).filter(|flag| !flag.is_empty()) {
                match flag {
                    // Every write is durable before it is answered.
                    "sync" => options.write_cache = false,
                    "direct" => options.is_direct = true,
                    other => return Err(wrong(format!("'{other}' is not known (sync, direct)"))),
                }
            }
        }
        "bsopts" => return Err(wrong("no backing store here takes options".to_owned())),
        "device-type" => match value {
            "disk" => {}
            other => return Err(wrong(format!("'{other}' is not served; disks are"))),
        },
        "online" => match switch(value).map_err(wrong)? {
            true => {}
            false => return Err(wrong("a unit is always online; leave it out of the file".to_owned())),
        },
        "removable" => {
            if switch(value).map_err(wrong)? {
                warnings.push(format!("{place}: removable has no effect: the medium cannot be taken out"));
            }
        }
        "params" => {
            for pair in value.split(',') {
                let (key, value) = pair.split_once('=').ok_or_else(|| wrong(format!("'{pair}' is not KEY=VALUE")))?;
                let (key, value) = (key.trim(), unquote(value.trim()));
                if key == "params" || key == "lun" || lun_effect(key).is_none() {
                    return Err(wrong(format!("'{key}' is not known here")));
                }
                apply(directive, key, value, options, warnings)?;
            }
        }
        _ => return Err(unknown(directive)),
    }
    Ok(())
}

fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "1" | "yes" | "true" => Ok(true),
        "off" | "0" | "no" | "false" => Ok(false),
        _ => Err(format!("'{text}' is neither on nor off")),
    }
}

/// A direct store has the names of the device below it, where the kernel knows them.
fn take_labels_of_device(store: &Store, options: &mut LunOptions, warnings: &mut Vec<String>) {
    let device = Path::new(&store.path).canonicalize().ok();
    let of_kernel = |attribute: &str| {
        let name = device.as_ref()?.file_name()?;
        let folder = Path::new("/sys/class/block").join(name);
        // A partition has the names of its disk.
        let found = [folder.join("device"), folder.join("../device")].into_iter().find(|folder| folder.is_dir())?;
        let text = std::fs::read(found.join(attribute)).ok()?;
        let text =
            String::from_utf8_lossy(text.strip_prefix(b"\0\x80\0").map_or(&text, |rest| &rest[1.min(rest.len())..]));
        let text = text.trim().to_owned();
        parse_label(attribute, &text, 255).ok()
    };
    let (vendor, product, revision) = (of_kernel("vendor"), of_kernel("model"), of_kernel("rev"));
    if vendor.is_none() && product.is_none() {
        warnings
            .push(format!("{}: direct-store {}: the device tells no names; ours are used", store.place, store.path));
    }
    options.labels.vendor = vendor.unwrap_or(std::mem::take(&mut options.labels.vendor));
    options.labels.product = product.unwrap_or(std::mem::take(&mut options.labels.product));
    options.labels.revision = revision.unwrap_or(std::mem::take(&mut options.labels.revision));
    options.serial = of_kernel("vpd_pg80").filter(|serial| parse_serial(serial).is_ok());
}

// ---- users ----

/// Users of a target, or of discovery.
#[derive(Default)]
struct Users {
    incoming: Vec<ChapUser>,
    outgoing: Option<ChapUser>,
    /// Of the last one.
    place: Option<Place>,
}

impl Users {
    fn add_incoming(&mut self, directive: &Directive) -> Result<(), PlanError> {
        let user = user(directive)?;
        self.place = Some(directive.place.clone());
        self.incoming.push(user);
        Ok(())
    }

    fn add_outgoing(&mut self, directive: &Directive, warnings: &mut Vec<String>) -> Result<(), PlanError> {
        let user = user(directive)?;
        if self.outgoing.is_some() {
            warnings.push(format!("{}: only the first {} is used", directive.place, directive.name));
            return Ok(());
        }
        self.place = Some(directive.place.clone());
        self.outgoing = Some(user);
        Ok(())
    }

    fn policy(self) -> Result<Option<Arc<ChapPolicy>>, PlanError> {
        let Some(place) = self.place else { return Ok(None) };
        let policy = ChapPolicy::new(self.incoming, self.outgoing).map_err(|error| place.wrong(error))?;
        Ok(Some(Arc::new(policy)))
    }
}

/// `NAME SECRET`. The error never shows the secret.
fn user(directive: &Directive) -> Result<ChapUser, PlanError> {
    let Directive { place, name: key, value } = directive;
    let mut words = value.split_whitespace();
    let (Some(name), Some(secret), None) = (words.next(), words.next(), words.next()) else {
        return Err(place.wrong(format!("{key}: it is a name and a secret, without blanks in them")));
    };
    ChapUser::new(name, ChapSecret::new(unquote(secret))).map_err(|error| place.wrong(format!("{key}: {error}")))
}

/// A file with nothing but users.
pub fn users_only(document: &Document, file: &Path) -> Result<Arc<ChapPolicy>, PlanError> {
    let mut users = Users::default();
    if let Some(target) = document.targets.first() {
        return Err(target.place.wrong("only incominguser and outgoinguser stand in this file"));
    }
    for directive in &document.globals {
        match directive.name.as_str() {
            "incominguser" => users.add_incoming(directive)?,
            "outgoinguser" if users.outgoing.is_some() => {
                return Err(directive.place.wrong("outgoinguser is there twice"));
            }
            "outgoinguser" => users.add_outgoing(directive, &mut Vec::new())?,
            _ => return Err(directive.place.wrong("only incominguser and outgoinguser stand in this file")),
        }
    }
    users.policy()?.ok_or_else(|| PlanError::Usage(format!("{}: there is no incominguser in it", file.display())))
}
