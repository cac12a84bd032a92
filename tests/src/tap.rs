//! A tap between a stock client and a stock server: it ends TLS on both sides and notes every record.
//!
//! Records are passed on one by one, so that both peers notice nothing. Only the datagram channel, whose key
//! comes from one TLS connection, cannot work through it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::{Connection, ServerConnection};

use crate::certificate::Certificate;
use crate::corporate::Service;
use crate::gateway::Gateway;
use crate::issuer::server_config;
use crate::network::Network;
use crate::raw::{RawClient, Tls};
use crate::records::{Heard, Records};
use crate::transcript::{Side, Transcript};

const PORT: u16 = 4444;
/// How long one side is listened to before the other has its turn.
const TURN: Duration = Duration::from_millis(2);

/// The tap, in the server's namespace; ends when dropped.
#[derive(Debug)]
pub struct Tap {
    certificate: Certificate,
    address: SocketAddr,
    transcripts: Arc<Mutex<Vec<Transcript>>>,
    _service: Service,
}

impl Tap {
    /// Listens for client 0 and passes everything on to `gateway`.
    pub fn start(network: &Network, gateway: &Gateway) -> Self {
        let certificate = Certificate::for_addresses(&network.server_addresses());
        let tls = server_config(&certificate);
        let any = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        let listener =
            network.server().with(|| TcpListener::bind((any, PORT))).expect("the tap's port is free");
        let transcripts = Arc::new(Mutex::new(Vec::<Transcript>::new()));
        let shared = Arc::clone(&transcripts);
        let upstream =
            (network.server().reference(), gateway.address(network, 0), gateway.certificate().clone());
        let service = Service::start(listener, move |stream| {
            let Ok(connection) = ServerConnection::new(Arc::clone(&tls)) else { return };
            let Ok(mut client) = Records::handshake(stream, Connection::Server(connection)) else { return };
            let (netns, address, certificate) = &upstream;
            let Ok(mut server) = RawClient::try_connect(netns, *address, certificate, Tls::Both) else {
                return;
            };
            let index = {
                let mut all = shared.lock().unwrap_or_else(PoisonError::into_inner);
                all.push(Transcript::default());
                all.len() - 1
            };
            let note = |side, bytes: &[u8]| {
                let mut all = shared.lock().unwrap_or_else(PoisonError::into_inner);
                all[index].records.push((side, bytes.to_vec()));
            };
            loop {
                match client.hear(TURN) {
                    Heard::Record(bytes) => {
                        note(Side::Client, &bytes);
                        if server.try_send(&bytes).is_err() {
                            return;
                        }
                    }
                    Heard::Closed(_) => return,
                    Heard::Silence => {}
                }
                match server.hear(TURN) {
                    Heard::Record(bytes) => {
                        note(Side::Server, &bytes);
                        if client.send(&bytes).is_err() {
                            return;
                        }
                    }
                    Heard::Closed(_) => return,
                    Heard::Silence => {}
                }
            }
        });
        let address = SocketAddr::new(network.ports(0).server_v4.into(), PORT);
        Self { certificate, address, transcripts, _service: service }
    }

    /// Where the client finds it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the client must be told to trust.
    pub fn pin(&self) -> &str {
        self.certificate.pin()
    }

    /// What was said so far, one transcript for each connection.
    pub fn take(&self) -> Vec<Transcript> {
        std::mem::take(&mut *self.transcripts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
