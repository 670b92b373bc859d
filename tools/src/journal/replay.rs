//! `corral journal replay`: recovers dirty journals, or says which blocks that would write.

use std::collections::BTreeSet;

use gfs_check::journal::{Journal, Journals, Log, Plan, Replayed};
use serde_json::json;

use super::names::{block_type, find_owners, owner_json, owner_text};
use crate::device::{self, Access};
use crate::output::{self, Table};
use crate::{recovery, users};

/// The journals that a call is about.
fn chosen(journals: &Journals, number: Option<u32>) -> Result<Vec<&Journal>, String> {
    match number {
        Some(number) => Ok(vec![journals.get(number).ok_or_else(|| super::show::no_journal(journals, number))?]),
        None => match journals.findings.first() {
            Some(finding) => Err(format!("not every journal can be found: {finding}")),
            None => Ok(journals.list.iter().collect()),
        },
    }
}

/// Replays.
pub fn replay(name: &str, number: Option<u32>, is_json: bool) -> Result<(), String> {
    // An image file that several nodes of this machine share is not held exclusively by any of them.
    if let Some(user) = users::of(name).first() {
        return Err(format!("{name} is in use by {user}: unmount it first; a mount replays what needs it"));
    }
    let (numbers, done) = device::with(name, Access::Write, async |device| {
        let journals = Journals::open(device.clone()).await.map_err(|error| error.to_string())?;
        let chosen = chosen(&journals, number)?;
        let done = recovery::replay(&device, &journals, &chosen).await?;
        Ok((chosen.iter().map(|journal| journal.index).collect::<Vec<u32>>(), done))
    })?;
    let documents = numbers.iter().zip(&done).map(|(number, done)| {
        json!({
            "journal": number,
            "replayed": done.is_some(),
            "blocks": done.map(|done| done.blocks),
            "revoked": done.map(|done| done.revoked),
        })
    });
    if is_json {
        output::print_json(&json!({ "journals": documents.collect::<Vec<_>>() }));
        return Ok(());
    }
    for (number, done) in numbers.iter().zip(&done) {
        output::print(&match done {
            Some(done) => format!("journal{number}: replayed, {} blocks written in place\n", done.blocks),
            None => format!("journal{number}: clean\n"),
        });
    }
    Ok(())
}

/// Says what a replay would write.
pub fn dry_run(name: &str, number: Option<u32>, is_json: bool) -> Result<(), String> {
    device::with(name, Access::Read, async |device| {
        let journals = Journals::open(device.clone()).await.map_err(|error| error.to_string())?;
        let mut plans = Vec::new();
        for journal in chosen(&journals, number)? {
            let log = Log::read(&journals, journal).await.map_err(|error| error.to_string())?;
            if !log.is_clean() {
                let why = |error| format!("journal{} cannot be replayed: {error}", journal.index);
                plans.push((Plan::of(&journals, &log).map_err(why)?, log.head));
            }
        }
        let only: Vec<Plan> = plans.iter().map(|(plan, _)| plan.clone()).collect();
        let after = Replayed::new(device.clone(), &journals, &only).await.map_err(|error| error.to_string())?;
        let changed: BTreeSet<u64> = after.changed().await.map_err(|error| error.to_string())?.into_iter().collect();
        let settled: BTreeSet<u64> = after.settled().collect();
        let blocks: BTreeSet<u64> = only.iter().flat_map(|plan| plan.writes.keys()).chain(&settled).copied().collect();
        let owners = find_owners(&device, &journals, &blocks).await?;
        let mut table = Table::new(&["BLOCK", "FROM", "TYPE", "CHANGES", "OF"]);
        let mut writes = Vec::new();
        for block in &blocks {
            // The last plan wins, as the last replay does.
            let found = only.iter().rev().find_map(|plan| Some((plan.journal, plan.writes.get(block)?)));
            let changes = changed.contains(block);
            let owner = owners.get(block);
            let is_settled = settled.contains(block);
            let (from, kind) = match found {
                Some((journal, write)) => (format!("journal{journal}:{}", write.at), block_type(write.kind)),
                None => ("totals".into(), "inode"),
            };
            table.row(vec![
                block.to_string(),
                from,
                kind.into(),
                if changes { "yes" } else { "no" }.into(),
                owner_text(owner),
            ]);
            writes.push(json!({
                "block": block,
                "journal": found.map(|(journal, _)| journal),
                "at": found.map(|(_, write)| write.at),
                "log_address": found.map(|(_, write)| write.address),
                "escaped": found.map(|(_, write)| write.is_escaped),
                "type": kind,
                "totals": is_settled,
                "changes": changes,
                "owner": owner_json(owner),
            }));
        }
        let logs: Vec<_> = plans
            .iter()
            .map(|(plan, head)| {
                json!({
                    "journal": plan.journal,
                    "sequence": head.sequence.get(),
                    "head": head.block.get(),
                    "tail": head.tail.get(),
                    "blocks": plan.writes.len(),
                    "revoked": plan.revoked.iter().map(|(block, times)| json!({ "block": block, "times": times }))
                        .collect::<Vec<_>>(),
                    "free": plan.space.free,
                    "total": plan.space.total,
                    "inodes": plan.space.dinodes,
                })
            })
            .collect();
        if is_json {
            output::print_json(&json!({ "dirty": logs, "writes": writes }));
            return Ok(());
        }
        if plans.is_empty() {
            output::print("clean: nothing to replay\n");
            return Ok(());
        }
        output::print(&table.text());
        for (plan, head) in &plans {
            output::print(&format!(
                "journal{}: {} blocks would be written, {} are revoked; then a clean header behind block {} of the log\n",
                plan.journal,
                plan.writes.len(),
                plan.revoked.len(),
                head.block.get(),
            ));
        }
        output::print(&format!("{} of {} blocks would change\n", changed.len(), blocks.len()));
        Ok(())
    })
}
