//! Container sync: realms of clusters that copy containers to one another, and how a request between them is signed.
//!
//! The file, the header values and the signature are those of Swift, so that either side of a pair can be one:
//!
//! - `container-sync-realms.conf`: `[DEFAULT] mtime_check_interval`, and a section for each realm with `key`, `key2`
//!   and `cluster_NAME = https://host/v1/`. Names of realms and clusters are the same in any case.
//! - `X-Container-Sync-To: //realm/cluster/account/container`.
//! - `X-Container-Sync-Auth: realm nonce signature`, where the signature is the HMAC-SHA1 under the realm's key, in
//!   hexadecimal digits, over method, path, `X-Timestamp`, nonce and the container's own key, one a line.

mod file;

use core::time::Duration;
use hmac::{Hmac, KeyInit, Mac};
use onggi_common_units::Secret;
use onggi_object_model::path::{decode_segment, encode_rest, encode_segment};
use sha1::Sha1;
use std::collections::BTreeMap;
use subtle::{Choice, ConstantTimeEq};

pub use file::{FILE_BYTES_MAX, RealmsError};

/// Bytes of an `X-Container-Sync-Auth` that is looked at.
pub const AUTH_BYTES_MAX: usize = 1_024;
/// How often the file is looked at unless it says otherwise.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(300);

/// All realms an operator has configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Realms {
    check_interval: Duration,
    realms: BTreeMap<String, Realm>,
}

impl Default for Realms {
    fn default() -> Self {
        Self {
            check_interval: CHECK_INTERVAL,
            realms: BTreeMap::new(),
        }
    }
}

/// Clusters that trust one another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Realm {
    key: Secret,
    /// An older or newer key that is accepted as well.
    key2: Option<Secret>,
    clusters: BTreeMap<String, Endpoint>,
}

/// Where a cluster is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Whether it is spoken to over TLS.
    pub is_secure: bool,
    /// The host: a name or an address; one of IPv6 without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// `host[:port]` as the `Host` header has it.
    pub authority: String,
    /// What comes before the account, without a slash at its end: `/v1`.
    pub path: String,
}

/// Where a container is copied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The realm, in capitals.
    pub realm: String,
    /// The cluster.
    pub endpoint: Endpoint,
    /// The container's path there, percent-encoded.
    pub path: String,
}

/// An `X-Container-Sync-To` that leads nowhere. The words are Swift's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// Not `//realm/cluster/account/container`.
    #[error("Invalid X-Container-Sync-To format '{value}'")]
    Format {
        /// The value.
        value: String,
    },
    /// A URL of its own, which would send the container's key in clear text.
    #[error(
        "Full URLs are not allowed for X-Container-Sync-To values. Only realm values of the format //realm/cluster/account/container are allowed.\n"
    )]
    FullUrl,
    /// No such realm.
    #[error("No realm key for '{realm}'")]
    NoRealm {
        /// The name as given.
        realm: String,
    },
    /// No such cluster in the realm.
    #[error("No cluster endpoint for '{realm}' '{cluster}'")]
    NoCluster {
        /// The realm as given.
        realm: String,
        /// The cluster as given.
        cluster: String,
    },
}

/// What a signature is over, the container's key apart.
#[derive(Debug, Clone, Copy)]
pub struct SyncRequest<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, percent-encoded, without a query.
    pub path: &'a str,
    /// The value of `X-Timestamp`; `0` when there is none.
    pub timestamp: &'a str,
}

/// Why a signature is not taken. It goes to the log, never to the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SyncRefusal {
    /// Not three words.
    #[error("not \"realm nonce signature\"")]
    Malformed,
    /// A realm that is not in the file.
    #[error("the realm has no key here")]
    NoRealmKey,
    /// The container was given no `X-Container-Sync-Key`.
    #[error("the container has no key")]
    NoContainerKey,
    /// Signed with other keys, or over something else.
    #[error("the signature does not fit")]
    Forged,
}

fn signature(
    realm_key: &Secret,
    request: &SyncRequest<'_>,
    nonce: &str,
    container_key: &Secret,
) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(realm_key.expose().as_bytes())
        .expect("HMAC takes a key of any length");
    for part in [request.method, request.path, request.timestamp, nonce] {
        mac.update(part.as_bytes());
        mac.update(b"\n");
    }
    mac.update(container_key.expose().as_bytes());
    crate::head::to_hex(&mac.finalize().into_bytes())
}

impl Realms {
    /// Reads the file's text.
    ///
    /// # Errors
    /// When it is not of the form, names something twice, or a realm has no key. No error has a key in it.
    pub fn parse(text: &str) -> Result<Self, RealmsError> {
        file::parse(text)
    }

    /// How often the file is to be looked at for a newer one.
    #[must_use]
    pub const fn check_interval(&self) -> Duration {
        self.check_interval
    }

    /// The realms that have clusters, and those, in capitals.
    pub fn clusters(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &str>)> {
        let with_clusters = self.realms.iter().filter(|(_, it)| !it.clusters.is_empty());
        with_clusters.map(|(name, it)| (name.as_str(), it.clusters.keys().map(String::as_str)))
    }

    fn realm(&self, name: &str) -> Option<&Realm> {
        self.realms.get(&name.to_uppercase())
    }

    /// Where an `X-Container-Sync-To` leads; `None` for an empty one.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub fn destination(&self, value: &str) -> Result<Option<Destination>, DestinationError> {
        let bare = value.trim_end_matches('/');
        if bare.is_empty() {
            return Ok(None);
        }
        let format = || DestinationError::Format {
            value: value.to_owned(),
        };
        let Some(rest) = bare.strip_prefix("//") else {
            let is_url = bare.starts_with("http://") || bare.starts_with("https://");
            return Err(if is_url {
                DestinationError::FullUrl
            } else {
                format()
            });
        };
        let parts: Vec<&str> = rest.split('/').collect();
        let &[realm, cluster, account, container] = parts.as_slice() else {
            return Err(format());
        };
        let known = self.realm(realm).ok_or_else(|| DestinationError::NoRealm {
            realm: realm.to_owned(),
        })?;
        let endpoint = known.clusters.get(&cluster.to_uppercase());
        let endpoint = endpoint.ok_or_else(|| DestinationError::NoCluster {
            realm: realm.to_owned(),
            cluster: cluster.to_owned(),
        })?;
        // Whether it was given encoded or not, what is sent and signed is the one encoded form.
        let encoded = |part: &str| {
            let decoded = decode_segment(part).ok_or_else(format)?;
            let is_dots = matches!(decoded.as_str(), "" | "." | "..");
            if is_dots || decoded.contains(['/', '\0']) {
                return Err(format());
            }
            Ok(encode_segment(&decoded))
        };
        let (account, container) = (encoded(account)?, encoded(container)?);
        Ok(Some(Destination {
            realm: realm.to_uppercase(),
            path: format!("{}/{account}/{container}", endpoint.path),
            endpoint: endpoint.clone(),
        }))
    }

    /// The value of `X-Container-Sync-Auth` for a request. `None` when the realm is not there any more.
    #[must_use]
    pub fn sign(
        &self,
        realm: &str,
        request: &SyncRequest<'_>,
        nonce: &str,
        container_key: &Secret,
    ) -> Option<String> {
        let key = &self.realm(realm)?.key;
        let signature = signature(key, request, nonce, container_key);
        Some(format!("{realm} {nonce} {signature}"))
    }

    /// Judges the value of an `X-Container-Sync-Auth` by the key of the container the request is for.
    ///
    /// # Errors
    /// When the request is not to be taken.
    pub fn verify(
        &self,
        auth: &str,
        request: &SyncRequest<'_>,
        container_key: Option<&Secret>,
    ) -> Result<(), SyncRefusal> {
        if auth.len() > AUTH_BYTES_MAX {
            return Err(SyncRefusal::Malformed);
        }
        let words: Vec<&str> = auth.split_whitespace().collect();
        let &[realm, nonce, given] = words.as_slice() else {
            return Err(SyncRefusal::Malformed);
        };
        let realm = self.realm(realm).ok_or(SyncRefusal::NoRealmKey)?;
        let container_key = container_key
            .filter(|key| !key.expose().is_empty())
            .ok_or(SyncRefusal::NoContainerKey)?;
        let fits = |key: &Secret| -> Choice {
            let expected = signature(key, request, nonce, container_key);
            expected.as_bytes().ct_eq(given.as_bytes())
        };
        let second = realm.key2.as_ref().map_or(Choice::from(0), fits);
        if (fits(&realm.key) | second).into() {
            Ok(())
        } else {
            Err(SyncRefusal::Forged)
        }
    }
}

impl Destination {
    /// The path of an object there, percent-encoded.
    #[must_use]
    pub fn object(&self, name: &str) -> String {
        format!("{}/{}", self.path, encode_rest(name))
    }
}

#[cfg(test)]
mod tests;
