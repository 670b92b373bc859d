//! `corral journal list`: one line for each journal.

use gfs_check::CheckError;
use gfs_check::journal::{Journals, Log};
use serde_json::json;

use crate::device::{self, Access};
use crate::output::{self, Table};
use crate::users::{self, User};

/// Shows the journals of `device`.
pub fn list(name: &str, is_json: bool) -> Result<(), String> {
    // Asked before the device is opened: our own lock is not a user.
    let users = users::of(name);
    let rows = device::with(name, Access::Read, async |device| {
        let journals = Journals::open(device).await.map_err(|error| error.to_string())?;
        let mut rows = Vec::new();
        for journal in &journals.list {
            let log = match Log::read(&journals, journal).await {
                Ok(log) => Ok(log),
                Err(CheckError::Damaged(finding)) => Err(finding.to_string()),
                Err(error) => return Err(error.to_string()),
            };
            rows.push((journal.clone(), log));
        }
        Ok((rows, journals.findings.iter().map(ToString::to_string).collect::<Vec<String>>()))
    })?;
    let (rows, findings) = rows;
    let mut table = Table::new(&["JOURNAL", "SIZE", "INODE", "STATE", "SEQUENCE", "TAIL", "HEAD", "LIVE BLOCKS", "BY"]);
    let mut documents = Vec::new();
    for (journal, log) in &rows {
        let user = users.iter().find(|user| user.journal == Some(journal.index));
        let (state, log) = match log {
            Err(_) => ("damaged", None),
            Ok(log) if user.is_some() || !log.is_clean() && !users.is_empty() => ("in use", Some(log)),
            Ok(log) => (if log.is_clean() { "clean" } else { "dirty" }, Some(log)),
        };
        // Whoever has the device may be the one, where no mount says which journal it has.
        let by = match (state, user) {
            (_, Some(user)) => user.to_string(),
            ("in use", None) => users.iter().map(User::to_string).collect::<Vec<_>>().join(", "),
            _ => String::new(),
        };
        let number = |value: Option<u64>| value.map_or(String::new(), |value| value.to_string());
        let head = log.map(|log| &log.head);
        let live = log.map(live_blocks);
        table.row(vec![
            format!("journal{}", journal.index),
            format!("{}MB", journal.bytes >> 20),
            journal.inode.to_string(),
            state.into(),
            number(head.map(|head| head.sequence.get())),
            number(head.map(|head| head.tail.get().into())),
            number(head.map(|head| head.block.get().into())),
            number(live),
            by.clone(),
        ]);
        documents.push(json!({
            "journal": journal.index,
            "name": format!("journal{}", journal.index),
            "inode": journal.inode,
            "bytes": journal.bytes,
            "blocks": journal.map.len(),
            "first_block": journal.map.first(),
            "state": state,
            "in_use_by": by,
            "sequence": head.map(|head| head.sequence.get()),
            "tail": head.map(|head| head.tail.get()),
            "head": head.map(|head| head.block.get()),
            "live_blocks": live,
            "statfs_inode": journal.statfs_inode,
            "quota_inode": journal.quota_inode,
        }));
    }
    if is_json {
        let users: Vec<String> = users.iter().map(User::to_string).collect();
        output::print_json(&json!({ "journals": documents, "users": users, "findings": findings }));
        return Ok(());
    }
    output::print(&table.text());
    for (_, log) in &rows {
        if let Err(finding) = log {
            eprintln!("{finding}");
        }
    }
    findings.iter().for_each(|finding| eprintln!("{finding}"));
    output::print(&format!("{} journal(s) found.\n", rows.len()));
    Ok(())
}

/// Blocks from tail to head, the head not counted; none in a clean log.
fn live_blocks(log: &Log) -> u64 {
    if log.is_clean() {
        return 0;
    }
    let (tail, head, blocks) = (log.head.tail.get(), log.head.block.get(), log.blocks);
    u64::from((head + blocks - tail.min(blocks - 1)) % blocks)
}
