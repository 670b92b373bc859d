//! `corral iscsi`: looks at targets and units over the network, through Corral's own initiator.
//!
//! What is where: the commands and what they print, here and in `show`; the measurement, in `bench`.

mod bench;
mod show;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use block_core::{IscsiPortal, IscsiUrl};
use clap::Subcommand;
use iscsi_target_initiator::{Initiator, IscsiDevice, Options};

use crate::output;

/// What `corral iscsi` does.
#[derive(Subcommand, Debug)]
pub enum IscsiCommand {
    /// List the targets that a portal offers
    Discover {
        /// iscsi://[user%secret@]host[:port]
        #[arg(value_name = "URL")]
        url: String,
        #[command(flatten)]
        own: OwnArguments,
        /// As one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show what the unit says of itself
    Inquiry(UnitArguments),
    /// Show the unit's size
    Capacity(UnitArguments),
    /// Show who has registered which key, and the reservation
    Keys(UnitArguments),
    /// Measure the unit
    Bench(bench::BenchArguments),
}

/// A unit and the form of the answer.
#[derive(clap::Args, Debug)]
pub struct UnitArguments {
    /// iscsi://[user%secret@]host[:port]/target-iqn/lun; see docs/initiator.md for secrets outside of the URL
    #[arg(value_name = "URL")]
    pub url: String,
    #[command(flatten)]
    pub own: OwnArguments,
    /// As one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Who asks.
#[derive(clap::Args, Debug, Default)]
pub struct OwnArguments {
    /// This initiator's name, instead of the machine's
    #[arg(long, value_name = "IQN")]
    pub initiator_name: Option<String>,
    /// The file with CHAP secrets, instead of /etc/corral/iscsi-secrets
    #[arg(long, value_name = "FILE")]
    pub secrets: Option<PathBuf>,
}

impl OwnArguments {
    fn options(&self) -> Options {
        let (initiator_name, secrets_file) = (self.initiator_name.clone(), self.secrets.clone());
        Options { initiator_name, secrets_file, ..Options::default() }
    }
}

/// Carries a command out; the error says what could not be reached or used.
pub fn run(command: IscsiCommand) -> Result<(), String> {
    match command {
        IscsiCommand::Discover { url, own, json } => {
            let portal = IscsiPortal::parse(&url).map_err(|e| e.to_string())?;
            let options = own.options();
            let found = on_runtime(async { Initiator::discover(&portal, &options).await.map_err(|e| e.to_string()) })?;
            print(json, show::targets_json(&found), show::targets_text(&found));
            Ok(())
        }
        IscsiCommand::Inquiry(UnitArguments { url, own, json }) => with_unit(&url, &own, async |unit| {
            let found = unit.describe().await.map_err(|e| e.to_string())?;
            print(json, show::unit_json(&found), show::unit_text(&found));
            Ok(())
        }),
        IscsiCommand::Capacity(UnitArguments { url, own, json }) => with_unit(&url, &own, async |unit| {
            let found = unit.describe().await.map_err(|e| e.to_string())?;
            print(json, show::capacity_json(&found), show::capacity_text(&found));
            Ok(())
        }),
        IscsiCommand::Keys(UnitArguments { url, own, json }) => with_unit(&url, &own, async |unit| {
            let found = show::Keys::read(unit).await.map_err(|e| e.to_string())?;
            print(json, found.json(), found.text());
            Ok(())
        }),
        IscsiCommand::Bench(arguments) => {
            let plan = arguments.plan()?;
            with_unit(&arguments.url, &arguments.own, async |unit| {
                let measured = bench::measure(unit.clone(), &plan).await?;
                print(arguments.json, measured.json(), measured.text());
                Ok(())
            })
        }
    }
}

fn print(json: bool, document: serde_json::Value, text: String) {
    if json { output::print_json(&document) } else { output::print(&text) }
}

fn with_unit(
    url: &str,
    own: &OwnArguments,
    work: impl AsyncFnOnce(&Arc<IscsiDevice>) -> Result<(), String>,
) -> Result<(), String> {
    let url = IscsiUrl::parse(url).map_err(|e| e.to_string())?;
    on_runtime(async {
        let device = Initiator::connect(&url, own.options()).await.map_err(|e| e.to_string())?;
        let result = work(&device).await;
        device.close().await;
        result
    })
}

fn on_runtime<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_url_is_refused_before_anything_is_asked() {
        let (json, own) = (false, OwnArguments::default);
        for url in ["http://example.org", "iscsi://h/iqn.2026-11.x:y"] {
            assert!(
                run(IscsiCommand::Capacity(UnitArguments { url: url.to_owned(), own: own(), json })).is_err(),
                "{url}"
            );
        }
        assert!(run(IscsiCommand::Discover { url: "iscsi://".to_owned(), own: own(), json }).is_err());
    }
}
