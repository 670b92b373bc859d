//! How to connect.

use std::path::PathBuf;
use std::time::Duration;

use block_core::ByteLen;

/// How to connect and when to give up.
#[derive(Clone, Debug)]
pub struct Options {
    /// This initiator's name; see [`crate::initiator_name`] for what holds without one.
    pub initiator_name: Option<String>,
    /// Where a name that was made is kept; `None`: the machine's or the user's state directory.
    pub state_dir: Option<PathBuf>,
    /// The file with CHAP secrets; see [`crate::secrets`] for what holds without one.
    pub secrets_file: Option<PathBuf>,
    /// How long making the TCP connection and the login may take, each time.
    pub connect_timeout: Duration,
    /// A command that is not answered for so long ends the connection; it is sent again on the next one.
    pub command_timeout: Duration,
    /// How long the target may be gone before requests fail, and a request may go without progress.
    pub recovery_limit: Duration,
    /// The target is asked for a sign of life after so much silence.
    pub ping_interval: Duration,
    /// CRC32C over headers; as well if the URL asks for it.
    pub header_digest: bool,
    /// CRC32C over data; as well if the URL asks for it.
    pub data_digest: bool,
    /// Data of answered writes that is kept until it is flushed. At half of it the initiator flushes by itself, at all
    /// of it writes wait.
    pub unflushed_max: ByteLen,
    /// Where the connection runs; `None`: the runtime that `connect` is called in.
    pub runtime: Option<tokio::runtime::Handle>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            initiator_name: None,
            state_dir: None,
            secrets_file: None,
            connect_timeout: Duration::from_secs(10),
            command_timeout: Duration::from_secs(30),
            recovery_limit: Duration::from_secs(120),
            ping_interval: Duration::from_secs(5),
            header_digest: false,
            data_digest: false,
            unflushed_max: ByteLen(256 << 20),
            runtime: None,
        }
    }
}
