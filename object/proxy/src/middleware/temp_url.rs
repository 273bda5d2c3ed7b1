//! Signed URLs: who has one may do what it says to one object, or to all with a prefix, until a moment.
//!
//! The signature is an HMAC over `method`, `expires` and `path`, one a line, with an `ip=RANGE` line before them when the
//! URL is bound to addresses, and `prefix:` before the path when it is for all objects that begin so.

use crate::fault::{Fault, set};
use crate::proxy::Asking;
use crate::subrequest::parameter;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::request::Parts as Head;
use http::{HeaderName, Method, header};
use onggi_common_service::http::{Peer, Response};
use onggi_object_model::path::{encode_header, encode_rest, encode_segment};
use onggi_object_model::{AccountName, ContainerPath, Resource, StampedMetadata};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use std::net::IpAddr;
use subtle::{Choice, ConstantTimeEq as _};

/// Headers that would make more of a signed PUT than bytes under a name.
const REFUSED: [&str; 3] = ["X-Object-Manifest", "X-Symlink-Target", "X-Copy-From"];
/// What a signed URL can be for.
const METHODS: [Method; 5] = [
    Method::GET,
    Method::HEAD,
    Method::PUT,
    Method::POST,
    Method::DELETE,
];
/// Bytes of a signature's text.
const SIGNATURE_BYTES_MAX: usize = 256;

/// What the key of a signature opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    Account(AccountName),
    Container(ContainerPath),
}

impl Scope {
    /// Whether a thing is within.
    pub(crate) fn covers(&self, resource: &Resource) -> bool {
        match (self, resource) {
            (Self::Account(account), Resource::Container(path)) => {
                path.account == *account && !path.container.is_reserved()
            }
            (Self::Account(account), Resource::Object(path)) => {
                path.account == *account && !path.container.is_reserved()
            }
            (Self::Container(container), Resource::Container(path)) => path == container,
            (Self::Container(container), Resource::Object(path)) => {
                path.container_path() == *container
            }
            (_, Resource::Account(_)) => false,
        }
    }
}

/// A signature as the URL has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    digest: Digest,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digest {
    Sha1,
    Sha256,
    Sha512,
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let pair = |pair: &[u8]| Some((digit(*pair.first()?)? << 4) | digit(*pair.last()?)?);
    text.as_bytes().chunks(2).map(pair).collect()
}

impl Signature {
    /// `digest:base64`, or hexadecimal digits whose number tells the digest.
    pub(super) fn parse(text: &str) -> Option<Self> {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD, URL_SAFE};
        if text.len() > SIGNATURE_BYTES_MAX {
            return None;
        }
        if let Some((name, encoded)) = text.split_once(':') {
            let digest = match name {
                "sha1" => Digest::Sha1,
                "sha256" => Digest::Sha256,
                "sha512" => Digest::Sha512,
                _ => return None,
            };
            let missing = (4 - encoded.len() % 4) % 4;
            let padded = format!("{encoded}{}", "=".repeat(missing));
            let bytes = STANDARD
                .decode(&padded)
                .or_else(|_| URL_SAFE.decode(&padded));
            return Some(Self {
                digest,
                bytes: bytes.ok()?,
            });
        }
        let bytes = hex(text)?;
        let digest = match bytes.len() {
            20 => Digest::Sha1,
            32 => Digest::Sha256,
            64 => Digest::Sha512,
            _ => return None,
        };
        Some(Self { digest, bytes })
    }

    /// Whether it is the message's under a key. Takes the same time whatever the bytes are.
    pub(super) fn holds(&self, key: &[u8], message: &str) -> Choice {
        macro_rules! compare {
            ($hash:ty) => {
                match Hmac::<$hash>::new_from_slice(key) {
                    Ok(mut mac) => {
                        mac.update(message.as_bytes());
                        mac.finalize().into_bytes().as_slice().ct_eq(&self.bytes)
                    }
                    Err(_) => Choice::from(0),
                }
            };
        }
        match self.digest {
            Digest::Sha1 => compare!(Sha1),
            Digest::Sha256 => compare!(Sha256),
            Digest::Sha512 => compare!(Sha512),
        }
    }
}

/// The second a URL expires: a number, or a moment as ISO 8601 has it.
fn expiry(text: &str) -> Option<u64> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(seconds);
    }
    let date = text.trim_end_matches('Z');
    let (day, time) = date.split_once('T').unwrap_or((date, "00:00:00"));
    let mut numbers = day.split('-').chain(time.split(':')).map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (year, month, day) = (next()?, next()?, next()?);
    let (hour, minute, second) = (next()?, next()?, next()?);
    let in_range = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    if !in_range {
        return None;
    }
    Some(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days from 1 January 1970 (the civil calendar's rule with the year begun in March).
const fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let shifted = (month + 9) % 12;
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

/// Whether an address is in `address` or `address/bits`.
fn ip_within(range: &str, address: IpAddr) -> bool {
    let (base, bits) = range.split_once('/').unwrap_or((range, ""));
    let (Ok(base), Ok(bits)) = (
        base.parse::<IpAddr>(),
        if bits.is_empty() {
            Ok(128)
        } else {
            bits.parse::<u32>()
        },
    ) else {
        return false;
    };
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            let bits = if bits == 128 { 32 } else { bits };
            let mask = u32::MAX
                .checked_shl(32u32.saturating_sub(bits))
                .unwrap_or(0);
            bits <= 32 && base.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            let mask = u128::MAX
                .checked_shl(128u32.saturating_sub(bits))
                .unwrap_or(0);
            bits <= 128 && base.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn keys<'a>(metadata: &'a StampedMetadata, prefix: &str) -> Vec<&'a str> {
    ["temp-url-key", "temp-url-key-2"]
        .iter()
        .filter_map(|name| metadata.get(&format!("{prefix}{name}")))
        .collect()
}

impl Asking {
    /// The keys of an account and of a container, with what each opens.
    pub(crate) async fn signing_keys(
        &self,
        container: &ContainerPath,
    ) -> Result<Vec<(String, Scope)>, Fault> {
        let account = self.core.account_info(&container.account).await?;
        let scope = Scope::Account(container.account.clone());
        let mut found: Vec<(String, Scope)> = keys(&account.metadata, "x-account-meta-")
            .into_iter()
            .map(|key| (key.to_owned(), scope.clone()))
            .collect();
        if let Some(info) = self.core.container_info(container).await? {
            let scope = Scope::Container(container.clone());
            let own = keys(&info.metadata, "x-container-meta-").into_iter();
            found.extend(own.map(|key| (key.to_owned(), scope.clone())));
        }
        Ok(found)
    }

    /// What a signed URL allows; `None` for a request that has no signature. A wrong one is 401.
    pub(crate) async fn signed(
        &self,
        resource: &Resource,
        request: &mut Head,
    ) -> Result<Option<Scope>, Fault> {
        let (signature, expires) = (
            parameter(request, "temp_url_sig"),
            parameter(request, "temp_url_expires"),
        );
        if signature.is_none() && expires.is_none() {
            return Ok(None);
        }
        let refused = |_reason: ()| Fault::InvalidTempUrl {
            realm: resource.account().to_string(),
        };
        let place = place(resource, request).ok_or(()).map_err(refused)?;
        let signature = signature.as_deref().and_then(Signature::parse);
        let expires = expires.as_deref().and_then(expiry);
        let (Some(signature), Some(expires)) = (signature, expires) else {
            return Err(refused(()));
        };
        let is_over = expires <= self.core.cluster.clock.now().to_utc().seconds();
        let messages = messages(&place, request, expires)
            .ok_or(())
            .map_err(refused)?;
        if is_over || !METHODS.contains(&request.method) {
            return Err(refused(()));
        }
        let mut scope = None;
        for (key, opens) in self.signing_keys(&place.container).await? {
            // Every key and message is tried: how long it takes tells nothing.
            let mut holds = Choice::from(0);
            for message in &messages {
                holds |= signature.holds(key.as_bytes(), message);
            }
            if bool::from(holds) && scope.is_none() {
                scope = Some(opens);
            }
        }
        let scope = scope.ok_or(()).map_err(refused)?;
        let writes = matches!(request.method, Method::PUT | Method::POST);
        for name in REFUSED {
            if writes && request.headers.contains_key(name) {
                return Err(Fault::BadRequest(format!(
                    "The header '{name}' is not allowed in this tempurl"
                )));
            }
        }
        request.headers.remove(header::AUTHORIZATION);
        request.extensions.insert(TempUrl {
            expires,
            disposition: disposition(&place.object, request),
            is_root: place.object.is_empty(),
            links: links(request),
        });
        // What is not signed changes nothing: neither a version nor a manifest can be asked for.
        request.uri = request.uri.path().parse().unwrap_or_default();
        Ok(Some(scope))
    }
}

/// What a signed URL is for: an object, or the root of a container as a website when it is for all names.
struct Place {
    container: ContainerPath,
    /// Empty for the root.
    object: String,
}

fn place(resource: &Resource, request: &Head) -> Option<Place> {
    match resource {
        Resource::Account(_) => None,
        Resource::Container(path) => {
            let reads = matches!(request.method, Method::GET | Method::HEAD);
            let is_for_all = parameter(request, "temp_url_prefix").as_deref() == Some("");
            (reads && is_for_all).then(|| Place {
                container: path.clone(),
                object: String::new(),
            })
        }
        Resource::Object(path) => Some(Place {
            container: path.container_path(),
            object: path.object.as_str().to_owned(),
        }),
    }
}

/// Carries the signature of all names with a prefix on to the links of a page that is made below it.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    /// The prefix that is signed.
    pub(crate) prefix: String,
    /// The query, percent-encoded, its parameters apart by `&`.
    pub(crate) query: String,
}

fn links(request: &Head) -> Option<Links> {
    let prefix = parameter(request, "temp_url_prefix")?;
    let mut parts = vec![format!("temp_url_prefix={}", encode_rest(&prefix))];
    for name in ["temp_url_expires", "temp_url_sig", "temp_url_ip_range"] {
        if let Some(value) = parameter(request, name) {
            parts.push(format!("{name}={}", encode_segment(&value)));
        }
    }
    if parameter(request, "inline").is_some() {
        parts.push("inline".to_owned());
    }
    let query = parts.join("&");
    Some(Links { prefix, query })
}

/// Beside an answer: a page of a website, made for a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DirectoryPage;

/// Beside a request that came by a signed URL.
#[derive(Debug, Clone)]
pub(crate) struct TempUrl {
    expires: u64,
    /// The `Content-Disposition` of the answer; without one what the object has stays.
    disposition: Option<String>,
    /// Whether it is for a container's root.
    is_root: bool,
    pub(crate) links: Option<Links>,
}

impl TempUrl {
    /// Stands beside a request that asks for a page, as its query has it.
    #[cfg(test)]
    pub(crate) fn for_page(request: &Head) -> Option<Self> {
        Some(Self {
            expires: 0,
            disposition: None,
            is_root: false,
            links: Some(links(request)?),
        })
    }

    /// What a signed URL changes in an answer. The root of a container answers as a website only.
    pub(crate) fn finish(
        &self,
        mut response: Response,
        resource: &Resource,
    ) -> Result<Response, Fault> {
        if !response.status().is_success() {
            return Ok(response);
        }
        let is_page = response.extensions().get::<DirectoryPage>().is_some();
        if self.is_root && !is_page {
            return Err(Fault::InvalidTempUrl {
                realm: resource.account().to_string(),
            });
        }
        let headers = response.headers_mut();
        let private: Vec<HeaderName> = headers
            .keys()
            .filter(|name| {
                let name = name.as_str();
                name.starts_with("x-object-meta-") && !name.starts_with("x-object-meta-public-")
            })
            .cloned()
            .collect();
        for name in private {
            headers.remove(name);
        }
        let disposition = self.disposition.as_deref();
        if let Some(disposition) = disposition.map(|own| if is_page { "inline" } else { own }) {
            set(headers, header::CONTENT_DISPOSITION, disposition);
        }
        // What is read has a disposition, and may be kept for so long.
        if disposition.is_some() {
            let expires = onggi_object_model::precondition::http_date(self.expires);
            set(headers, header::EXPIRES, &expires);
        }
        Ok(response)
    }
}

/// A name as `Content-Disposition` holds it.
fn quoted(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if c == '"' || c.is_control() { '_' } else { c })
        .collect();
    let plain = encode_header(&plain).replace("%20", " ");
    let encoded = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC)
        .to_string()
        .replace("%2D", "-")
        .replace("%2E", ".")
        .replace("%5F", "_");
    format!(
        "filename=\"{}\"; filename*=UTF-8''{encoded}",
        plain.replace('"', "%22")
    )
}

fn disposition(object: &str, request: &Head) -> Option<String> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return None;
    }
    let name = parameter(request, "filename").filter(|name| !name.is_empty());
    let is_inline = parameter(request, "inline").is_some();
    match (is_inline, name) {
        (true, None) => Some("inline".to_owned()),
        (true, Some(name)) => Some(format!("inline; {}", quoted(&name))),
        (false, Some(name)) => Some(format!("attachment; {}", quoted(&name))),
        (false, None) => {
            let name = object.trim_end_matches('/');
            let last = name.rsplit('/').next().unwrap_or(name);
            Some(format!("attachment; {}", quoted(last)))
        }
    }
}

/// The texts a signature may be over: a HEAD is allowed by what allows a GET, PUT or POST as well.
fn messages(at: &Place, request: &Head, expires: u64) -> Option<Vec<String>> {
    let place = format!("/v1{}/", at.container);
    let signed_path = match parameter(request, "temp_url_prefix") {
        Some(prefix) if at.object.starts_with(&prefix) => {
            format!("prefix:{place}{prefix}")
        }
        Some(_) => return None,
        None => format!("{place}{}", at.object),
    };
    let range = match parameter(request, "temp_url_ip_range") {
        Some(range) => {
            let address = request.extensions.get::<Peer>()?.0.ip();
            if !ip_within(&range, address) {
                return None;
            }
            format!("ip={range}\n")
        }
        None => String::new(),
    };
    let methods: &[&str] = match request.method {
        Method::HEAD => &["HEAD", "GET", "PUT", "POST"],
        Method::GET => &["GET"],
        Method::PUT => &["PUT"],
        Method::POST => &["POST"],
        Method::DELETE => &["DELETE"],
        _ => &[],
    };
    let raw = parameter(request, "temp_url_expires")?;
    let seconds = if raw.parse::<u64>().is_ok() {
        raw
    } else {
        expires.to_string()
    };
    let message = |method: &&str| format!("{range}{method}\n{seconds}\n{signed_path}");
    Some(methods.iter().map(message).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_signed(text: &str, key: &str, message: &str) -> bool {
        Signature::parse(text)
            .is_some_and(|signature| bool::from(signature.holds(key.as_bytes(), message)))
    }

    #[test]
    fn signatures_are_read_in_both_forms_and_compared_with_their_digest() {
        // RFC 4231 test case 2.
        let hex = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let message = "what do ya want for nothing?";
        assert!(is_signed(hex, "Jefe", message));
        assert!(!is_signed(hex, "jefe", message) && !is_signed(hex, "Jefe", "what"));
        let encoded = "sha256:W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM=";
        assert!(is_signed(encoded, "Jefe", message));
        assert!(is_signed(encoded.trim_end_matches('='), "Jefe", message));
        for bad in ["", "x", "sha3:AAAA", "5bdc", "sha256:", &"a".repeat(1000)] {
            assert!(!is_signed(bad, "Jefe", message), "{bad}");
        }
    }

    #[test]
    fn moments_are_seconds_or_iso_8601() {
        assert_eq!(expiry("1400000000"), Some(1_400_000_000));
        assert_eq!(expiry("2014-05-13T16:53:20Z"), Some(1_400_000_000));
        assert_eq!(expiry("2000-02-29T00:00:00Z"), Some(951_782_400));
        for bad in ["", "soon", "-1", "2014-13-01T00:00:00Z", "2014-05-13T"] {
            assert_eq!(expiry(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_are_held_against_ranges() {
        let within = |range, address: &str| ip_within(range, address.parse().unwrap());
        assert!(within("127.0.0.1", "127.0.0.1") && !within("127.0.0.1", "127.0.0.2"));
        assert!(within("10.0.0.0/8", "10.9.9.9") && !within("10.0.0.0/8", "11.0.0.0"));
        assert!(within("0.0.0.0/0", "1.2.3.4") && within("fe80::/16", "fe80::1"));
        for bad in ["", "10.0.0.0/33", "x/8", "10.0.0.0/-1", "::/0"] {
            assert!(!within(bad, "10.0.0.1"), "{bad}");
        }
    }

    #[test]
    fn a_key_opens_its_own_account_or_container_and_nothing_of_the_systems() {
        let account = Scope::Account("AUTH_a".parse().unwrap());
        let covers = |scope: &Scope, path: &str| scope.covers(&Resource::parse(path).unwrap());
        assert!(covers(&account, "/v1/AUTH_a/c/o") && covers(&account, "/v1/AUTH_a/c"));
        assert!(!covers(&account, "/v1/AUTH_a") && !covers(&account, "/v1/AUTH_b/c/o"));
        let own = ContainerPath {
            account: "AUTH_a".parse().unwrap(),
            container: "c".parse().unwrap(),
        };
        let container = Scope::Container(own.clone());
        assert!(covers(&container, "/v1/AUTH_a/c/o"));
        assert!(!covers(&container, "/v1/AUTH_a/d/o") && !covers(&container, "/v1/AUTH_b/c/o"));
        let hidden = Resource::Container(crate::middleware::versions::hidden(&own).unwrap());
        assert!(!account.covers(&hidden) && !container.covers(&hidden));
    }

    #[test]
    fn the_root_of_a_container_is_signed_for_readers_of_all_names_and_links_carry_the_signature_on()
    {
        let ask = |method: Method, target: &str| {
            let request = http::Request::builder().method(method).uri(target);
            let request = request.body(()).unwrap().into_parts().0;
            let resource = Resource::parse(request.uri.path()).unwrap();
            let object = place(&resource, &request).map(|place| place.object);
            (object, links(&request).map(|links| links.query))
        };
        let query = "temp_url_sig=ab&temp_url_expires=2026-01-01T00%3A00%3A00Z&temp_url_prefix=";
        let (object, links) = ask(Method::GET, &format!("/v1/a/c?{query}&inline"));
        assert_eq!(object.as_deref(), Some(""));
        assert_eq!(
            links.unwrap(),
            "temp_url_prefix=&temp_url_expires=2026-01-01T00%3A00%3A00Z&temp_url_sig=ab&inline"
        );
        assert_eq!(ask(Method::PUT, &format!("/v1/a/c?{query}")).0, None);
        assert_eq!(ask(Method::GET, &format!("/v1/a/c?{query}x")).0, None);
        assert_eq!(ask(Method::GET, "/v1/a/c?temp_url_sig=ab"), (None, None));
        assert_eq!(ask(Method::GET, "/v1/a?temp_url_prefix=").0, None);
        assert_eq!(ask(Method::PUT, "/v1/a/c/o").0.as_deref(), Some("o"));
    }

    #[test]
    fn a_file_name_cannot_end_the_header() {
        let quoted = quoted("a\"b\r\nSet-Cookie: x");
        assert!(!quoted.contains(['\r', '\n']), "{quoted}");
        assert_eq!(quoted.matches('"').count(), 2, "{quoted}");
    }
}
