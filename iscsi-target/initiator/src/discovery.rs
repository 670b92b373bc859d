//! Asks a portal for its targets: a discovery session of its own, with SendTargets.

use std::io;

use block_core::IscsiPortal;
use bytes::Buf;
use iscsi_target_proto::initiator::{CloseReason, DiscoveredTarget, InitiatorConfig, InitiatorSession, Input, Output};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::clock;
use crate::device::Initiator;
use crate::error::ConnectError;
use crate::name;
use crate::options::Options;
use crate::random;
use crate::secrets;

impl Initiator {
    /// The targets that a portal offers to this initiator.
    pub async fn discover(portal: &IscsiPortal, options: &Options) -> Result<Vec<DiscoveredTarget>, ConnectError> {
        let initiator_name = name::initiator_name(options.initiator_name.as_deref(), options.state_dir.as_deref());
        let identity = secrets::identity(&portal.login, None, options.secrets_file.as_deref());
        let mut config = InitiatorConfig::new(&initiator_name.map_err(ConnectError::Name)?, None, 0);
        config.isid = random::session_id().map_err(ConnectError::Random)?;
        config.login_timeout = options.connect_timeout;
        config.credentials = random::credentials(identity.map_err(ConnectError::Secrets)?.as_ref())?;
        let limit = options.connect_timeout;
        match tokio::time::timeout(limit, ask(&portal.portal(), config)).await {
            Ok(found) => found,
            Err(_) => Err(ConnectError::TimedOut { portal: portal.portal(), limit }),
        }
    }
}

async fn ask(portal: &str, config: InitiatorConfig) -> Result<Vec<DiscoveredTarget>, ConnectError> {
    let unreachable = |error| ConnectError::Unreachable { portal: portal.to_owned(), error };
    let ended = |reason| ConnectError::Session { target: portal.to_owned(), reason };
    let mut stream = TcpStream::connect(portal).await.map_err(unreachable)?;
    let mut session = InitiatorSession::new(config, clock::now());
    session.handle(Input::SendTargets, clock::now());
    let mut found = None;
    loop {
        while let Some(output) = session.poll_output() {
            match output {
                Output::Targets { targets } => {
                    found = Some(targets);
                    session.handle(Input::Logout, clock::now());
                }
                Output::Closed(CloseReason::LoggedOut | CloseReason::StreamEnded { .. }) if found.is_some() => {
                    return Ok(found.unwrap_or_default());
                }
                Output::Closed(reason) => return Err(ended(reason)),
                Output::LoggedIn { .. }
                | Output::Completed { .. }
                | Output::Rejected { .. }
                | Output::TaskManaged { .. }
                | Output::Pong { .. }
                | Output::LogoutRequested { .. } => {}
            }
        }
        while session.transmit().has_remaining() {
            let written = stream.write_buf(session.transmit()).await.and_then(|count| match count {
                0 => Err(io::ErrorKind::WriteZero.into()),
                _ => Ok(()),
            });
            if let Err(error) = written {
                session.handle(Input::StreamEnded { what: error.to_string() }, clock::now());
                break;
            }
        }
        let input = match stream.read_buf(session.receive_buffer()).await {
            Ok(0) => Input::StreamEnded { what: "the target closed the connection".to_owned() },
            Ok(_) => Input::Received,
            Err(error) => Input::StreamEnded { what: error.to_string() },
        };
        session.handle(input, clock::now());
    }
}
