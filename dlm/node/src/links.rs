//! The connections between this member and its peers, one each: the member with the higher id dials,
//! and dials again when a connection ends. Frames in, frames out; what is lost with a connection is
//! the core's to send again.
//!
//! Both ends bind to and check the addresses of the view, so a connection under another member's
//! number must come from that member's address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::NodeId;
use bytes::{Buf, BytesMut};
use dlm_core::Input;
use dlm_core::codec::frame_length;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tracing::{info, warn};

use crate::hello::{Hello, HelloError};
use crate::shared::Shared;

/// Takes connections from the peers with higher ids.
pub(crate) async fn accept_loop(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move { accept(shared, stream, from).await });
            }
            Err(error) => {
                warn!(%error, "cannot take a connection");
                tokio::time::sleep(REDIAL_AFTER_MAX).await;
            }
        }
    }
}

/// Keeps a connection to a peer with a lower id.
pub(crate) async fn dial_loop(shared: Arc<Shared>, peer: NodeId, address: SocketAddr) {
    let mut wait = REDIAL_AFTER_MIN;
    let mut last_trouble = String::new();
    loop {
        let trouble = match tokio::time::timeout(HELLO_WITHIN, dial(&shared, peer, address)).await {
            Ok(Ok((stream, hello))) => {
                wait = REDIAL_AFTER_MIN;
                last_trouble.clear();
                serve(&shared, stream, hello).await;
                continue;
            }
            Ok(Err(error)) => {
                if error.is_permanent() {
                    shared.refuse_join(peer, &error.to_string());
                }
                error.to_string()
            }
            Err(_) => "it does not answer".to_owned(),
        };
        if trouble != last_trouble {
            info!(%peer, %address, %trouble, "cannot connect yet");
            last_trouble = trouble;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(REDIAL_AFTER_MAX);
    }
}

async fn dial(shared: &Arc<Shared>, peer: NodeId, address: SocketAddr) -> Result<(TcpStream, Hello), HelloError> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(shared.address.ip(), 0))?;
    let mut stream = socket.connect(address).await?;
    shared.hello.write(&mut stream).await?;
    let hello = Hello::read(&mut stream).await?;
    shared.hello.check(&hello)?;
    if hello.node != peer {
        let what = format!("{address} belongs to {peer}, but {} answers there", hello.node);
        return Err(HelloError::Mismatch { what });
    }
    Ok((stream, hello))
}

async fn accept(shared: Arc<Shared>, mut stream: TcpStream, from: SocketAddr) {
    let handshake = async {
        let hello = Hello::read(&mut stream).await?;
        // Answer before judging, so that the other side can say what is wrong too.
        shared.hello.write(&mut stream).await?;
        shared.hello.check(&hello)?;
        let known = shared.view.address_of(hello.node).map(|address| address.ip());
        if known != Some(from.ip()) {
            let what = format!("{} does not connect from {}", hello.node, from.ip());
            return Err(HelloError::Mismatch { what });
        }
        Ok(hello)
    };
    match tokio::time::timeout(HELLO_WITHIN, handshake).await {
        Ok(Ok(hello)) => serve(&shared, stream, hello).await,
        Ok(Err(error)) => {
            warn!(%from, %error, "refused a connection");
            let is_member = shared.view.members.iter().any(|member| member.address.ip() == from.ip());
            if is_member && error.is_permanent() {
                shared.refuse_join(NodeId(0), &format!("{from}: {error}"));
            }
        }
        Err(_) => warn!(%from, "refused a connection: no greeting in time"),
    }
}

/// Moves frames until the connection ends or another takes its place.
async fn serve(shared: &Arc<Shared>, stream: TcpStream, hello: Hello) {
    let peer = hello.node;
    if let Err(error) = stream.set_nodelay(true) {
        warn!(%peer, %error, "cannot send without delay");
    }
    let Some((connection, wake)) = shared.connected(peer, hello.incarnation) else {
        warn!(%peer, "refused a connection of an earlier life");
        return;
    };
    info!(%peer, "connected");
    let (reader, mut writer) = stream.into_split();
    let write = async {
        let mut buffer = BytesMut::new();
        loop {
            if !shared.take_outgoing(peer, connection, &mut buffer) {
                return;
            }
            if buffer.is_empty() {
                wake.notified().await;
            } else if writer.write_all_buf(&mut buffer).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read_frames(shared, peer, connection, reader) => {}
    }
    shared.disconnected(peer, connection);
    info!(%peer, "the connection has ended");
}

async fn read_frames(shared: &Arc<Shared>, peer: NodeId, connection: u64, mut reader: OwnedReadHalf) {
    let mut buffer = BytesMut::with_capacity(64 << 10);
    loop {
        loop {
            match frame_length(&buffer) {
                Ok(Some(length)) if buffer.len() >= length => {
                    let frame = buffer.split_to(length).freeze();
                    if !shared.handle_of_connection(peer, connection, Input::Received { peer, frame }) {
                        return;
                    }
                }
                Ok(Some(length)) => {
                    buffer.reserve(length - buffer.len());
                    break;
                }
                Ok(None) => break,
                Err(error) => {
                    warn!(%peer, %error, "the peer sends no frames");
                    return;
                }
            }
        }
        if buffer.remaining() == 0 {
            buffer.reserve(64 << 10);
        }
        match reader.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

const HELLO_WITHIN: Duration = Duration::from_secs(5);
const REDIAL_AFTER_MIN: Duration = Duration::from_millis(20);
const REDIAL_AFTER_MAX: Duration = Duration::from_millis(500);
