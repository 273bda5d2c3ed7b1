//! Who is spoken to: this cluster's own proxy, and other clusters, over TCP or TLS.

use super::Options;
use bytes::Bytes;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll};
use core::time::Duration;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use onggi_common_host::{Clock, Entropy as _, SystemEntropy};
use onggi_common_service::http::{Body, BodyError, collect, empty};
use onggi_object_wire::auth::{BodyProof, Signed};
use onggi_object_wire::realms::Endpoint;
use onggi_object_wire::{Signer, head};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Until a connection is made, TLS and all.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Without a byte in either direction.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Connections to a cluster kept open without a request.
const KEPT_MAX: usize = 16;
/// The longest header block of an answer.
const HEAD_BYTES_MAX: usize = 128 << 10;
/// How much of what another cluster says beside its status is read.
const WORDS_BYTES_MAX: usize = 64 << 10;

/// A peer that does not answer as it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// It is not there.
    #[error("connecting to {authority}: {source}")]
    Connect {
        /// Which.
        authority: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("talking to {authority}: {source}")]
    Broken {
        /// Which.
        authority: String,
        /// Why.
        source: hyper::Error,
    },
    /// Nothing moved for too long.
    #[error("{authority} takes and says nothing for {IDLE_MAX:?}")]
    Stalled {
        /// Which.
        authority: String,
    },
    /// Its answer broke off, or has no end.
    #[error("the answer of {authority} broke off")]
    BrokenAnswer {
        /// Which.
        authority: String,
    },
    /// A request that cannot be made.
    #[error("a request cannot be made: {0}")]
    Request(#[from] http::Error),
}

/// Why a cluster cannot be spoken to at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// The certificates of authorities cannot be read.
    #[error("object.container_sync.ca_file {}: {problem}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A host no certificate can name.
    #[error("{host:?} is no host name that a certificate could have")]
    Host {
        /// The host.
        host: String,
    },
}

/// Everybody this node speaks to about containers.
pub(super) struct Peers {
    local: Arc<Peer>,
    signer: Signer,
    clock: Arc<dyn Clock>,
    ca_file: PathBuf,
    tls: Mutex<Option<Arc<ClientConfig>>>,
    remotes: Mutex<BTreeMap<Endpoint, Arc<Peer>>>,
}

impl Peers {
    pub(super) fn new(options: &Options, clock: Arc<dyn Clock>) -> Self {
        Self {
            local: Arc::new(Peer::new(
                options.proxy.clone(),
                options.proxy.clone(),
                None,
            )),
            signer: Signer::new(options.keys.clone(), SystemEntropy.bytes()),
            clock,
            ca_file: options.ca_file.clone(),
            tls: Mutex::default(),
            remotes: Mutex::default(),
        }
    }

    /// A word no other request has.
    pub(super) fn nonce(&self) -> String {
        SystemEntropy.hex_id().to_string()
    }

    /// Another cluster.
    pub(super) fn remote(&self, endpoint: &Endpoint) -> Result<Arc<Peer>, TlsError> {
        let mut remotes = self.remotes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = remotes.get(endpoint) {
            return Ok(Arc::clone(known));
        }
        let tls = match endpoint.is_secure {
            true => Some(self.tls(&endpoint.host)?),
            false => None,
        };
        let host = match endpoint.host.contains(':') {
            true => format!("[{}]", endpoint.host),
            false => endpoint.host.clone(),
        };
        let address = format!("{host}:{}", endpoint.port);
        let peer = Arc::new(Peer::new(address, endpoint.authority.clone(), tls));
        remotes.insert(endpoint.clone(), Arc::clone(&peer));
        Ok(peer)
    }

    fn tls(&self, host: &str) -> Result<Tls, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_invalid| TlsError::Host {
            host: host.to_owned(),
        })?;
        let mut known = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        let config = match &*known {
            Some(config) => Arc::clone(config),
            None => {
                let config = Arc::new(self.authorities()?);
                *known = Some(Arc::clone(&config));
                config
            }
        };
        Ok((TlsConnector::from(config), name))
    }

    fn authorities(&self) -> Result<ClientConfig, TlsError> {
        let failed = |problem: String| TlsError::Authorities {
            path: self.ca_file.clone(),
            problem,
        };
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(&self.ca_file)
            .map_err(|error| failed(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            // One that cannot be understood vouches for nobody.
            drop(roots.add(certificate));
        }
        if roots.is_empty() {
            return Err(failed("no certificate is in it".to_owned()));
        }
        // Named here: what a process takes when nobody does depends on all it is built of.
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?;
        Ok(config.with_root_certificates(roots).with_no_client_auth())
    }

    /// Asks this cluster's proxy for an object as it is kept.
    pub(super) async fn read(&self, path: &str) -> Result<Answer, PeerError> {
        let authority = &self.local.authority;
        let signed = Signed {
            method: "GET",
            authority,
            path,
            head: &[],
            length: Some(0),
            body: BodyProof::of(&[]),
        };
        let signature = self.signer.sign(&signed, self.clock.now());
        let request = Request::get(path)
            .header(head::AUTHORIZATION, &signature.header)
            .header(header::CONNECTION, "close")
            .body(empty())?;
        self.local.send(request).await
    }
}

type Tls = (TlsConnector, ServerName<'static>);

/// A host that is spoken to, and connections to it.
pub(super) struct Peer {
    address: String,
    authority: String,
    tls: Option<Tls>,
    kept: Mutex<Vec<SendRequest<Body>>>,
}

/// What a peer answers, its body still to come.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    home: Option<(Arc<Peer>, SendRequest<Body>)>,
    authority: String,
}

/// An answer that has ended.
pub(super) struct Finished {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
}

impl Answer {
    /// Reads the answer to its end and keeps the connection.
    pub(super) async fn finish(self) -> Result<Finished, PeerError> {
        let (parts, body) = self.response.into_parts();
        let authority = || self.authority.clone();
        let collected = tokio::time::timeout(IDLE_MAX, collect(body, WORDS_BYTES_MAX)).await;
        let collected = collected.map_err(|_elapsed| PeerError::Stalled {
            authority: authority(),
        })?;
        collected.map_err(|_broken| PeerError::BrokenAnswer {
            authority: authority(),
        })?;
        if let Some((peer, sender)) = self.home {
            peer.keep(sender);
        }
        Ok(Finished {
            status: parts.status,
            headers: parts.headers,
        })
    }
}

impl Peer {
    fn new(address: String, authority: String, tls: Option<Tls>) -> Self {
        Self {
            address,
            authority,
            tls,
            kept: Mutex::default(),
        }
    }

    fn keep(&self, sender: SendRequest<Body>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !sender.is_closed() && kept.len() < KEPT_MAX {
            kept.push(sender);
        }
    }

    fn kept(&self) -> Option<SendRequest<Body>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        core::iter::from_fn(|| kept.pop()).find(|sender| sender.is_ready() && !sender.is_closed())
    }

    async fn connect(&self) -> Result<SendRequest<Body>, PeerError> {
        let failed = |source| PeerError::Connect {
            authority: self.authority.clone(),
            source,
        };
        let open = async {
            let stream = TcpStream::connect(&self.address).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            match &self.tls {
                None => self.handshake(stream).await,
                Some((connector, name)) => {
                    let stream = connector.connect(name.clone(), stream).await;
                    self.handshake(stream.map_err(failed)?).await
                }
            }
        };
        let opened = tokio::time::timeout(CONNECT_MAX, open).await;
        opened.map_err(|_elapsed| failed(io::ErrorKind::TimedOut.into()))?
    }

    async fn handshake<S>(&self, stream: S) -> Result<SendRequest<Body>, PeerError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let made = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = made.map_err(|source| self.broken(source))?;
        let authority = self.authority.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, %authority, "a connection of container sync ended");
            }
        });
        Ok(sender)
    }

    fn broken(&self, source: hyper::Error) -> PeerError {
        PeerError::Broken {
            authority: self.authority.clone(),
            source,
        }
    }

    /// Sends a request and waits for its answer's head, as long as its body moves.
    pub(super) async fn send(
        self: &Arc<Self>,
        request: Request<Body>,
    ) -> Result<Answer, PeerError> {
        let (response, sender) = self.exchange(request).await?;
        Ok(Answer {
            response: response.map(|body| body.map_err(BodyError::from).boxed_unsync()),
            home: Some((Arc::clone(self), sender)),
            authority: self.authority.clone(),
        })
    }

    async fn exchange(
        &self,
        mut request: Request<Body>,
    ) -> Result<(Response<Incoming>, SendRequest<Body>), PeerError> {
        let host = HeaderValue::try_from(self.authority.as_str()).map_err(http::Error::from)?;
        request.headers_mut().insert(header::HOST, host);
        let moved = Arc::new(AtomicU64::new(0));
        let request = request.map(|body| {
            let moved = Arc::clone(&moved);
            Counted { body, moved }.boxed_unsync()
        });
        let work = async {
            let (mut sender, is_kept) = match self.kept() {
                Some(sender) => (sender, true),
                None => (self.connect().await?, false),
            };
            let mut failed = match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(failed) => failed,
            };
            // The peer closed a kept connection before the request was on it: it was never seen, so send it again.
            match failed.take_message().filter(|_| is_kept) {
                Some(request) => {
                    let mut sender = self.connect().await?;
                    let sent = sender.send_request(request).await;
                    Ok((sent.map_err(|source| self.broken(source))?, sender))
                }
                None => Err(self.broken(failed.into_error())),
            }
        };
        let mut work = core::pin::pin!(work);
        let mut seen = 0;
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(IDLE_MAX) => {}
            }
            let now = moved.load(Ordering::Relaxed);
            if now == seen {
                return Err(PeerError::Stalled {
                    authority: self.authority.clone(),
                });
            }
            seen = now;
        }
    }
}

/// A body that counts what moves, so that a slow transfer is told from a dead one.
struct Counted {
    body: Body,
    moved: Arc<AtomicU64>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_host::SystemClock;
    use onggi_common_host::durable::{self, Visibility};
    use onggi_object_wire::{ClusterKeys, Realms};
    use std::path::Path;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    const CERTIFICATE: &[u8] = include_bytes!("tls/localhost.pem");
    const KEY: &[u8] = include_bytes!("tls/localhost.key");
    const ANOTHER: &[u8] = include_bytes!("tls/another.pem");

    fn peers(ca_file: &Path) -> Peers {
        let (_sender, realms) = tokio::sync::watch::channel(Arc::<Realms>::default());
        let options = Options {
            realms,
            proxy: "127.0.0.1:1".to_owned(),
            keys: ClusterKeys::derive(&["the ring's secret"]).unwrap(),
            interval: Duration::from_secs(1),
            container_time: Duration::from_secs(1),
            concurrency: 1,
            ca_file: ca_file.to_owned(),
        };
        Peers::new(&options, Arc::new(SystemClock::new()))
    }

    fn endpoint(host: &str, port: u16) -> Endpoint {
        Endpoint {
            is_secure: true,
            host: host.to_owned(),
            port,
            authority: format!("{host}:{port}"),
            path: "/v1".to_owned(),
        }
    }

    // Answers everything with 204.
    async fn serve() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(CERTIFICATE).unwrap()],
                PrivateKeyDer::from_pem_slice(KEY).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut asked = Vec::new();
                    while !asked.ends_with(b"\r\n\r\n") {
                        asked.push(stream.read_u8().await.unwrap());
                    }
                    let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                });
            }
        });
        port
    }

    async fn asked(peers: &Peers, endpoint: &Endpoint) -> Result<StatusCode, PeerError> {
        let request = Request::head("/v1/a/c/o").body(empty()).unwrap();
        let peer = peers.remote(endpoint).unwrap();
        let answer = peer.send(request).await?;
        Ok(answer.finish().await?.status)
    }

    #[tokio::test]
    async fn a_cluster_over_tls_proves_who_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (own, another) = (dir.path().join("own.pem"), dir.path().join("another.pem"));
        durable::replace(&own, CERTIFICATE, Visibility::World).unwrap();
        durable::replace(&another, ANOTHER, Visibility::World).unwrap();
        let port = serve().await;
        let named = endpoint("localhost", port);
        let status = asked(&peers(&own), &named).await.unwrap();
        assert_eq!(status, StatusCode::NO_CONTENT);
        // The right name, vouched for by somebody else; the right certificate, of another name.
        for (ca_file, asked_for) in [(&another, &named), (&own, &endpoint("127.0.0.1", port))] {
            let refused = asked(&peers(ca_file), asked_for).await.unwrap_err();
            assert!(matches!(refused, PeerError::Connect { .. }), "{refused}");
        }
        for (ca_file, host) in [(dir.path().join("none"), "localhost"), (own, "a host")] {
            assert!(peers(&ca_file).remote(&endpoint(host, port)).is_err());
        }
    }
}
