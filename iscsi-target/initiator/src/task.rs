//! The life of a device's connection: make it, make it again when it is lost, give up when that lasts too long.
//!
//! ```text
//! connect ─► log in ─► probe ─► send kept writes again ─► serve ─► (lost) ─► connect …
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use block_core::completion::Completer;
use block_core::{BlockError, IscsiUrl};
use iscsi_target_proto::chap::ChapIdentity;
use iscsi_target_proto::initiator::{CloseReason, InitiatorConfig, InitiatorSession};
use iscsi_target_proto::negotiate::DigestPolicy;
use iscsi_target_proto::pdu::LoginStatus;
use iscsi_target_proto::scsi::ScsiCommand;
use tokio::net::TcpStream;

use crate::clock;
use crate::command;
use crate::error::ConnectError;
use crate::kept::Run;
use crate::link;
use crate::options::Options;
use crate::probe::{Probe, Unit};
use crate::queue::{Registered, Shared};
use crate::random;

/// What a connection is made from, each time.
pub struct Task {
    pub url: IscsiUrl,
    pub options: Options,
    pub initiator_name: String,
    pub session_id: [u8; 6],
    /// Who to log in as.
    pub identity: Option<Arc<ChapIdentity>>,
    pub shared: Arc<Shared>,
    /// What the unit was when it was first seen.
    pub unit: Arc<OnceLock<Unit>>,
    /// Its size now.
    pub sectors: Arc<AtomicU64>,
}

impl Task {
    /// Runs until the device is closed or dead. `connected` hears how the first connection went.
    pub async fn run(self, connected: Completer<Result<(), ConnectError>>) {
        let mut connected = Some(connected);
        let mut pause = PAUSE_MIN;
        loop {
            let lost = self.serve_once(&mut connected, &mut pause).await;
            self.shared.with(|core| core.detach(clock::now()));
            if let Some(connected) = connected.take() {
                self.shared.with(|core| core.die(BlockError::Unavailable { what: lost.to_string() }));
                return connected.complete(Err(lost));
            }
            if self.shared.with(|core| core.is_over()) {
                return;
            }
            if let Some(error) = self.fatal(&lost) {
                tracing::error!(unit = %self.url, %error, cause = %lost, "giving the device up");
                return self.shared.with(|core| core.die(error));
            }
            tracing::warn!(unit = %self.url, cause = %lost, "connection lost, connecting again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // A closed device with nothing left to do does not wait.
                () = self.closed() => return,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One connection, from its making to its loss.
    async fn serve_once(
        &self,
        connected: &mut Option<Completer<Result<(), ConnectError>>>,
        pause: &mut Duration,
    ) -> ConnectError {
        let mut portal = self.url.portal();
        for _ in 0..REDIRECTS_MAX {
            match self.serve(&portal, connected, pause).await {
                ConnectError::Session { reason: CloseReason::LoginRefused { redirect: Some(to), .. }, .. } => {
                    // The portal group tag after the comma is of no use here.
                    portal = to.split(',').next().unwrap_or_default().to_owned();
                    if !portal.rsplit(']').next().unwrap_or_default().contains(':') {
                        portal = format!("{portal}:{}", IscsiUrl::DEFAULT_PORT);
                    }
                }
                other => return other,
            }
        }
        let error = std::io::Error::other("the target keeps sending us elsewhere");
        ConnectError::Unreachable { portal, error }
    }

    async fn serve(
        &self,
        portal: &str,
        connected: &mut Option<Completer<Result<(), ConnectError>>>,
        pause: &mut Duration,
    ) -> ConnectError {
        let limit = self.options.connect_timeout;
        let stream = match tokio::time::timeout(limit, TcpStream::connect(portal)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return ConnectError::Unreachable { portal: portal.to_owned(), error },
            Err(_) => return ConnectError::TimedOut { portal: portal.to_owned(), limit },
        };
        // Without it small commands wait for acknowledgements; slower, not wrong.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY is not possible");
        }
        let (reader, writer) = stream.into_split();
        let writer = Arc::new(writer);
        let config = match self.config() {
            Ok(config) => config,
            Err(error) => return error,
        };
        let session = InitiatorSession::new(config, clock::now());
        let login = self.shared.with(|core| core.attach(session, writer.clone()));
        let mut drive = std::pin::pin!(link::drive(&self.shared, reader, writer));
        let ended = |reason| ConnectError::Session { target: self.url.target.clone(), reason };

        let recovered = tokio::select! {
            biased;
            reason = &mut drive => return ended(reason),
            recovered = self.recover(login) => recovered,
        };
        if let Err(error) = recovered {
            return error;
        }
        *pause = PAUSE_MIN;
        if let Some(connected) = connected.take() {
            connected.complete(Ok(()));
        } else {
            tracing::info!(unit = %self.url, "connected again");
        }
        loop {
            tokio::select! {
                biased;
                reason = &mut drive => return ended(reason),
                () = self.shared.capacity_changed.notified() => {}
            }
            tokio::select! {
                biased;
                reason = &mut drive => return ended(reason),
                capacity = async { self.probe().capacity().await } => match capacity {
                    Ok(capacity) => self.sectors.store(capacity.blocks, Ordering::Relaxed),
                    Err(error) => tracing::warn!(unit = %self.url, %error, "cannot learn the new size"),
                },
            }
        }
    }

    /// What comes between the connection and the callers' requests.
    async fn recover(&self, login: block_core::completion::Completion<()>) -> Result<(), ConnectError> {
        if login.await.is_none() {
            // The session has closed; `drive` ends with the reason, before this is looked at.
            std::future::pending::<()>().await;
        }
        let found = self.probe().unit().await?;
        let unit = self.unit.get_or_init(|| found.clone());
        if unit.sector != found.sector {
            return Err(ConnectError::Replaced { what: "block length" });
        }
        if unit.identity != found.identity {
            return Err(ConnectError::Replaced { what: "identification" });
        }
        if found.sectors < self.sectors.load(Ordering::Relaxed) {
            return Err(ConnectError::Replaced { what: "size" });
        }
        self.sectors.store(found.sectors, Ordering::Relaxed);
        self.check_key().await?;
        self.restore(unit).await?;
        let has_write_cache = unit.has_write_cache || found.has_write_cache;
        self.shared.with(|core| core.open_for_business(has_write_cache, clock::now(), &self.shared.wake));
        Ok(())
    }

    /// A key that this process has registered must still be there: without it the node was fenced meanwhile, and
    /// nothing of it may land any more. (The unit refuses its writes as long as there is a reservation; this holds
    /// when there is none, too.)
    async fn check_key(&self) -> Result<(), ConnectError> {
        if self.shared.with(|core| *core.registered() == Registered::No) {
            return Ok(());
        }
        let keys = self.probe().keys().await?.keys;
        self.shared.with(|core| core.registered().settle(&keys)).map_err(|key| ConnectError::KeyMissing { key })
    }

    /// Sends the kept writes again; they stay kept until a flush.
    async fn restore(&self, unit: &Unit) -> Result<(), ConnectError> {
        let runs = self.shared.with(|core| core.kept_runs(unit.transfer_max));
        if !runs.is_empty() {
            tracing::info!(unit = %self.url, writes = runs.len(), "sending unflushed writes again");
        }
        let probe = self.probe();
        let mut commands = runs.into_iter().flat_map(|run| self.commands(unit, run));
        loop {
            let mut window = Vec::new();
            for command in commands.by_ref().take(RESTORE_WINDOW) {
                window.push((self.shared.ask(command.clone()), command));
            }
            if window.is_empty() {
                return Ok(());
            }
            for (answer, command) in window {
                // Whatever was wrong with it, asking again finds out, with patience.
                if !answer.await.is_some_and(|completion| completion.is_good()) {
                    probe.ask("WRITE (of unflushed data)", command).await?;
                }
            }
        }
    }

    fn commands(&self, unit: &Unit, run: Run) -> Vec<ScsiCommand> {
        let sector = u64::from(unit.sector);
        match run {
            Run::Data { at, buffers } => {
                let command = ScsiCommand::write_16(self.url.lun, at / sector, buffers, unit.sector, false);
                vec![command.expect("invariant: kept writes are whole sectors and short")]
            }
            Run::Zeroes { at, len } => {
                let most = (unit.write_same_max.0 / sector).max(1) * sector;
                let pieces = (at..at + len).step_by(most as usize);
                let blocks = |begin: u64| (most.min(at + len - begin) / sector) as u32;
                pieces
                    .map(|at| command::write_zeroes(self.url.lun, at / sector, blocks(at), unit.sector, false))
                    .collect()
            }
        }
    }

    fn probe(&self) -> Probe<'_> {
        let patience = self.options.connect_timeout;
        Probe { shared: &self.shared, target: &self.url.target, lun: self.url.lun, patience }
    }

    fn config(&self) -> Result<InitiatorConfig, ConnectError> {
        let mut config = InitiatorConfig::new(&self.initiator_name, Some(&self.url.target), 0);
        let policy = |wanted| if wanted { DigestPolicy::Required } else { DigestPolicy::Allowed };
        config.isid = self.session_id;
        config.credentials = random::credentials(self.identity.as_ref())?;
        config.login_timeout = self.options.connect_timeout;
        config.ping_interval = self.options.ping_interval;
        config.ping_timeout = self.options.ping_interval;
        config.willing.header_digest = policy(self.options.header_digest || self.url.header_digest);
        config.willing.data_digest = policy(self.options.data_digest || self.url.data_digest);
        Ok(config)
    }

    /// Why there is no point in connecting again; `None` if there is.
    fn fatal(&self, lost: &ConnectError) -> Option<BlockError> {
        let unavailable = || BlockError::Unavailable { what: lost.to_string() };
        match lost {
            ConnectError::Fenced | ConnectError::KeyMissing { .. } => return Some(BlockError::Fenced),
            ConnectError::Session { reason: CloseReason::LoginRefused { status, .. }, .. }
                if [LoginStatus::AUTHENTICATION_FAILURE, LoginStatus::AUTHORIZATION_FAILURE].contains(status) =>
            {
                return Some(BlockError::Fenced);
            }
            ConnectError::Replaced { .. } | ConnectError::NotADisk { .. } | ConnectError::BadCapacity { .. } => {
                return Some(unavailable());
            }
            _ => {}
        }
        let waiting = self.shared.with(|core| core.troubled_since()).map(|since| clock::now().saturating_since(since));
        let limit = self.options.recovery_limit;
        let gone = || BlockError::Unavailable {
            what: format!(
                "the target has been gone for more than {} seconds; the last attempt: {lost}",
                limit.as_secs_f64()
            ),
        };
        waiting.is_some_and(|waiting| waiting >= limit).then(gone)
    }

    async fn closed(&self) {
        while !self.shared.with(|core| core.is_over()) {
            self.shared.wake.notified().await;
        }
    }
}

impl Drop for Task {
    /// However the task ends, with its runtime too, nobody waits for it any more.
    fn drop(&mut self) {
        self.shared.with(|core| core.die(BlockError::Unavailable { what: "the device was closed".to_owned() }));
    }
}

/// Pauses between attempts to connect.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A target may send an initiator to another portal, but not in circles.
const REDIRECTS_MAX: usize = 4;

/// Kept writes in flight at once.
const RESTORE_WINDOW: usize = 32;
