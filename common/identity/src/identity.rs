//! The identity service: the listener's handler over [`Realm`].
//!
//! Handlers run on blocking threads, since the store blocks. Those that hash a password wait for one of few places first,
//! so that a flood of logins cannot take all threads and memory.

use crate::bootstrap::{self, Bootstrap, BootstrapError};
use crate::call::{Answer, AnswerBody, Call, query_pairs, segments};
use crate::directory::{Directory, DirectoryError};
use crate::fault::Fault;
use crate::feed;
use crate::json;
use crate::keys::KeyRing;
use crate::options::Options;
use crate::realm::{Realm, TOKEN_LIFETIME_MAX};
use crate::v3::auth::LoginBody;
use crate::verifier::Verifier;
use crate::{v1, v3};
use bytes::Bytes;
use core::time::Duration;
use http::header::{CONTENT_TYPE, HOST, VARY};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use onggi_common_host::{Clock, Entropy};
use onggi_common_meta::control::Store;
use onggi_common_service::http::{
    CollectError, Handler, Peer, Request, Response, collect, empty, full,
};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 112 << 10;
/// Passwords hashed at a time: each takes 19 MiB and a core.
pub const HASHES_MAX: usize = 4;
/// How long a login waits for its turn.
const HASH_WAIT_MAX: Duration = Duration::from_secs(20);

/// The identity service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store cannot be read.
    #[error("opening the identity service: {detail}")]
    Store {
        /// What the store said.
        detail: String,
    },
    /// A token lifetime out of bounds.
    #[error("a token lifetime of {lifetime:?} is not between 1 s and {TOKEN_LIFETIME_MAX:?}")]
    Lifetime {
        /// What was configured.
        lifetime: Duration,
    },
    /// A v1 user that cannot be one.
    #[error("v1 user {account:?}:{user:?}: {rule}")]
    V1User {
        /// The account configured.
        account: String,
        /// The user configured.
        user: String,
        /// The rule it breaks.
        rule: &'static str,
    },
}

impl From<DirectoryError> for OpenError {
    fn from(error: DirectoryError) -> Self {
        Self::Store {
            detail: error.to_string(),
        }
    }
}

/// The identity service.
pub struct Identity {
    realm: Arc<Realm>,
    hashing: Arc<Semaphore>,
}

impl Identity {
    /// Opens the service over its store. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read, or an option is out of bounds.
    pub fn open(
        store: Arc<dyn Store>,
        ring: &KeyRing,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        options: Options,
    ) -> Result<Arc<Self>, OpenError> {
        check(&options)?;
        let directory = Directory::new(store, Arc::clone(&entropy));
        let realm = Realm::open(directory, ring, clock, entropy, options)?;
        Ok(Arc::new(Self {
            realm: Arc::new(realm),
            hashing: Arc::new(Semaphore::new(HASHES_MAX)),
        }))
    }

    /// Makes what a first start needs, and keeps the catalogue equal to the options. Credentials are kept in
    /// `directory`, in files only the owner reads. Blocks; does nothing twice.
    ///
    /// # Errors
    /// When the store or a file cannot be read or written.
    pub fn bootstrap(&self, directory: &Path) -> Result<Bootstrap, BootstrapError> {
        bootstrap::run(&self.realm, directory)
    }

    /// Verifies tokens in this process, revocations known at once.
    #[must_use]
    pub fn verifier(&self) -> Arc<Verifier> {
        Arc::clone(&self.realm.verifier)
    }

    /// Whether the store answers. Blocks.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.realm.directory.check().is_ok()
    }

    #[cfg(test)]
    pub(crate) fn realm(&self) -> &Realm {
        &self.realm
    }

    async fn answer(&self, request: Request) -> Result<Answer, Fault> {
        let (parts, body) = request.into_parts();
        let path = segments(parts.uri.path())?;
        let query = query_pairs(parts.uri.query().unwrap_or(""))?;
        let body = match parts.method {
            Method::GET | Method::HEAD => Bytes::new(),
            _ => collect(body, BODY_BYTES_MAX)
                .await
                .map_err(|error| match error {
                    CollectError::TooLong { .. } => Fault::TooLarge,
                    CollectError::Broken { .. } => Fault::bad("The body broke off."),
                })?,
        };
        let method = if parts.method == Method::HEAD {
            Method::GET
        } else {
            parts.method
        };
        // Held until the answer is there.
        let turn = if hashes(&method, &path, &body)? {
            let turn =
                tokio::time::timeout(HASH_WAIT_MAX, Arc::clone(&self.hashing).acquire_owned())
                    .await;
            Some(turn.ok().and_then(Result::ok).ok_or(Fault::Busy)?)
        } else {
            None
        };
        let realm = Arc::clone(&self.realm);
        let target = parts
            .uri
            .path_and_query()
            .map_or_else(|| "/".to_owned(), ToString::to_string);
        let base = base_url(&parts.headers, &self.realm.options);
        let answered = tokio::task::spawn_blocking(move || {
            let headers = parts.headers;
            let answer = route(&Call {
                realm: &realm,
                method,
                path,
                query,
                headers,
                body,
                target,
                base,
            });
            drop(turn);
            answer
        });
        answered.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a request handler ended without an answer");
            Err(Fault::Internal)
        })
    }
}

fn check(options: &Options) -> Result<(), OpenError> {
    let lifetime = options.token_lifetime;
    if lifetime < Duration::from_secs(1) || lifetime > TOKEN_LIFETIME_MAX {
        return Err(OpenError::Lifetime { lifetime });
    }
    for v1_user in &options.v1_users {
        let (account, user) = (v1_user.account.clone(), v1_user.user.clone());
        let rule = if account.is_empty() || account.contains([':', '/', ',']) || account.len() > 256
        {
            "an account has 1 to 256 bytes, no colon, comma or slash"
        } else if user.is_empty() || user.contains([':', ',']) || user.len() > 256 {
            "a user has 1 to 256 bytes, no colon or comma"
        } else if v1_user.key.expose().is_empty() {
            "its key is empty"
        } else {
            continue;
        };
        return Err(OpenError::V1User {
            account,
            user,
            rule,
        });
    }
    Ok(())
}

/// Whether answering takes hashing a password.
fn hashes(method: &Method, path: &[String], body: &[u8]) -> Result<bool, Fault> {
    let segments: Vec<&str> = path.iter().map(String::as_str).collect();
    match segments.as_slice() {
        ["v3", "auth", "tokens"] if method == Method::POST => {
            Ok(json::parse::<LoginBody>(body)?.has_password())
        }
        ["v3", "users", ..] => Ok(v3::users::hashes(method, path.get(2..).unwrap_or(&[]))),
        path => Ok(v1::is_login(path)),
    }
}

/// How the client reached us, for links in answers.
fn base_url(headers: &HeaderMap, options: &Options) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host
        .and_then(|host| host.parse::<Authority>().ok())
        .filter(|host| !host.as_str().contains('@'));
    host.map_or_else(
        || options.identity_url.clone(),
        |host| format!("http://{host}"),
    )
}

fn route(call: &Call<'_>) -> Result<Answer, Fault> {
    let path = call.segments();
    if v1::is_login(&path) {
        return v1::route(call);
    }
    match path.as_slice() {
        ["onggi", "revocations"] => revocations(call),
        ["healthcheck"] => {
            call.realm.directory.check()?;
            let bytes = b"OK".to_vec();
            let body = AnswerBody::Bytes {
                content_type: "text/plain",
                bytes,
            };
            Ok(Answer {
                status: StatusCode::OK,
                headers: Vec::new(),
                body,
            })
        }
        _ => v3::route(call),
    }
}

fn revocations(call: &Call<'_>) -> Result<Answer, Fault> {
    let proof = call.header(feed::HEADER).unwrap_or("");
    let list = call.realm.verifier.revocations();
    let answer = call
        .realm
        .feed
        .answer(&call.target, proof, list, call.realm.now());
    let (proof, bytes) = answer.ok_or(Fault::Unauthorized)?;
    let body = AnswerBody::Bytes {
        content_type: "application/json",
        bytes,
    };
    Ok(Answer {
        status: StatusCode::OK,
        headers: vec![(feed::HEADER, proof)],
        body,
    })
}

impl Handler for Identity {
    async fn handle(&self, request: Request) -> Response {
        let request_id = format!("req-{}", self.realm.entropy.uuid());
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
        let base = base_url(request.headers(), &self.realm.options);
        let answer = self.answer(request).await.unwrap_or_else(|fault| {
            let mut answer = Answer::json(fault.status(), fault.body());
            if fault.status() == StatusCode::UNAUTHORIZED {
                answer
                    .headers
                    .push((WWW_AUTHENTICATE_NAME, format!("Keystone uri=\"{base}/v3\"")));
            }
            answer
        });
        if answer.status == StatusCode::UNAUTHORIZED {
            tracing::info!(%request_id, ?peer, %method, path = cut(&path), "refused for lack of valid credentials");
        }
        tracing::debug!(%request_id, ?peer, %method, path = cut(&path), status = answer.status.as_u16(), "answered");
        render(answer, &request_id, method == Method::HEAD)
    }
}

const WWW_AUTHENTICATE_NAME: &str = "www-authenticate";
/// Characters of a path that a log line repeats.
const LOGGED_CHARS_MAX: usize = 200;

fn cut(path: &str) -> &str {
    path.char_indices()
        .nth(LOGGED_CHARS_MAX)
        .map_or(path, |(end, _)| path.get(..end).unwrap_or(path))
}

fn render(answer: Answer, request_id: &str, is_head: bool) -> Response {
    let mut response = Response::new(empty());
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("X-Auth-Token"));
    for (name, value) in [("x-openstack-request-id", request_id.to_owned())]
        .into_iter()
        .chain(answer.headers)
    {
        match HeaderValue::try_from(value) {
            Ok(value) => drop(headers.insert(HeaderName::from_static(name), value)),
            Err(_) => tracing::error!(
                request_id,
                name,
                "a header of the answer was left out: its value is no header value"
            ),
        }
    }
    let (content_type, bytes) = match answer.body {
        AnswerBody::None => return response,
        AnswerBody::Json(value) => ("application/json", value.to_string().into_bytes()),
        AnswerBody::Bytes {
            content_type,
            bytes,
        } => (content_type, bytes),
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if !is_head {
        *response.body_mut() = full(bytes);
    }
    response
}
