//! Where initiators come in: the listening sockets and their connections, until the program is asked to stop.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::warn;

use crate::connection::Connection;
use crate::guests::Guests;
use crate::server::Server;

/// Stack of a connection's thread, in bytes.
const STACK: usize = 512 * 1024;
/// How long accepting rests when the process cannot take more files.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The listening sockets.
pub struct Portals {
    listeners: Vec<(SocketAddr, TcpListener)>,
}

impl Portals {
    /// Listens on the first address of each list that can be listened on, and on nothing else.
    pub async fn bind(addresses: &[Vec<SocketAddr>]) -> Result<Self, String> {
        let mut listeners = Vec::new();
        for choice in addresses {
            let mut failed = None;
            for address in choice {
                match TcpListener::bind(address).await.and_then(|listener| Ok((listener.local_addr()?, listener))) {
                    Ok(listener) => {
                        listeners.push(listener);
                        failed = None;
                        break;
                    }
                    Err(error) => failed = failed.or(Some(format!("cannot listen on {address}: {error}"))),
                }
            }
            if let Some(what) = failed {
                return Err(what);
            }
        }
        Ok(Self { listeners })
    }

    /// The addresses that are listened on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(address, _)| *address).collect()
    }

    /// Serves initiators until `stop` completes; then ends every session and waits for what is under way.
    pub async fn serve(self, server: Arc<Server>, stop: impl Future<Output = ()>) {
        let (accepted, mut incoming) = mpsc::channel(16);
        let (stop_sender, stop_receiver) = watch::channel(());
        let mut tasks = JoinSet::new();
        for (_, listener) in self.listeners {
            tasks.spawn(accept(listener, accepted.clone()));
        }
        drop(accepted);
        let (ended, mut all_ended) = mpsc::channel::<()>(1);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some((stream, peer)) = incoming.recv() => {
                    let Some(guest) = server.guests.enter(peer) else {
                        tell_refused(&server.guests, peer);
                        continue;
                    };
                    let stream = match stream.into_std().and_then(|stream| Ok((stream.try_clone()?, stream))) {
                        Ok((copy, stream)) => {
                            guest.hold(copy);
                            stream
                        }
                        Err(error) => {
                            warn!(%peer, %error, "closed at once");
                            continue;
                        }
                    };
                    let connection = Connection::new(stream, guest, server.clone(), stop_receiver.clone());
                    if let Err(error) = start(connection, ended.clone()) {
                        warn!(%peer, %error, "closed at once: no thread for it");
                    }
                }
            }
        }
        tasks.abort_all();
        drop(stop_sender);
        drop(ended);
        // Nothing is ever sent: it ends when the last connection has.
        while all_ended.recv().await.is_some() {}
    }
}

/// Gives a connection a thread of its own, so that between two requests nobody else has to be woken. `ended` is dropped
/// when nothing of the connection is under way any more.
fn start(connection: Connection, ended: mpsc::Sender<()>) -> io::Result<()> {
    // Commands may have something to do elsewhere.
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name("connection".to_owned()).stack_size(STACK);
    let serve = move || {
        let _runtime = runtime.enter();
        connection.run();
        drop(ended);
    };
    thread.spawn(serve).map(drop)
}

/// In a flood not each is told.
fn tell_refused(guests: &Guests, peer: SocketAddr) {
    let count = guests.refused();
    if count.is_power_of_two() {
        warn!(
            %peer,
            count,
            limits = ?guests.limits,
            "closed at once: there are as many connections, of one address or in login, as there may be"
        );
    }
}

async fn accept(listener: TcpListener, accepted: mpsc::Sender<(TcpStream, SocketAddr)>) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                if accepted.send(connection).await.is_err() {
                    return;
                }
            }
            // A connection that was reset before it was accepted, or no file left: neither ends the service.
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

impl fmt::Display for Portals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (address, _)) in self.listeners.iter().enumerate() {
            if index > 0 {
                write!(f, " and ")?;
            }
            write!(f, "{address}")?;
        }
        Ok(())
    }
}
