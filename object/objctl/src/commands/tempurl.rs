//! `tempurl`: a URL that lets who has it do one thing for a while.

use crate::cli::{Digest, Tempurl};
use crate::output;
use crate::store::{Name, Store};
use crate::transfer::hex;
use anyhow::{Context as _, Result, bail};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, Method};
use onggi_object_model::path::{encode_rest, encode_segment};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a URL can be for.
const METHODS: [&str; 5] = ["GET", "HEAD", "PUT", "POST", "DELETE"];

pub(super) async fn run(store: &Store, asked: Tempurl, json: bool) -> Result<()> {
    let method = asked.method.to_ascii_uppercase();
    if !METHODS.contains(&method.as_str()) {
        bail!("{method}: a URL can be for {}", METHODS.join(", "));
    }
    let expires = if asked.absolute {
        asked.seconds
    } else {
        now()?.saturating_add(asked.seconds)
    };
    let key = key(
        store,
        asked.container_key.then_some(asked.container.as_str()),
    )
    .await?;
    let storage = &store.session().storage;
    let base = percent_encoding::percent_decode_str(&storage.path).decode_utf8()?;
    let message = message(&base, &method, expires, &asked);
    let signature = sign(asked.digest, key.as_bytes(), &message)?;
    let mut url = format!(
        "http://{}{}/{}/{}?temp_url_sig={signature}&temp_url_expires={expires}",
        storage.authority,
        storage.path,
        encode_segment(&asked.container),
        encode_rest(&asked.object)
    );
    if asked.prefix_based {
        url.push_str(&format!(
            "&temp_url_prefix={}",
            encode_segment(&asked.object)
        ));
    }
    if let Some(range) = &asked.ip_range {
        url.push_str(&format!("&temp_url_ip_range={}", encode_segment(range)));
    }
    if json {
        return output::json(&serde_json::json!({ "url": url, "expires": expires }));
    }
    output::line(&url)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a command line tool is its own edge"
)]
fn now() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(now
        .context("this machine's clock is before 1970")?
        .as_secs())
}

/// The account's key, or a container's.
async fn key(store: &Store, container: Option<&str>) -> Result<String> {
    let (name, prefix) = match container {
        Some(container) => (Name::Container(container.to_owned()), "x-container-meta-"),
        None => (Name::Account, "x-account-meta-"),
    };
    let answer = store.ask(Method::HEAD, &name, HeaderMap::new()).await?;
    let found = ["temp-url-key", "temp-url-key-2"]
        .iter()
        .find_map(|key| answer.header(&format!("{prefix}{key}")).map(str::to_owned));
    store.done_with(answer);
    found.with_context(|| {
        format!("{name} has no key: set one with objctl post -m Temp-URL-Key:… first")
    })
}

/// What the signature is over.
fn message(base: &str, method: &str, expires: u64, asked: &Tempurl) -> String {
    let range = asked
        .ip_range
        .as_ref()
        .map_or_else(String::new, |range| format!("ip={range}\n"));
    let prefix = if asked.prefix_based { "prefix:" } else { "" };
    let (container, object) = (&asked.container, &asked.object);
    format!("{range}{method}\n{expires}\n{prefix}{base}/{container}/{object}")
}

fn sign(digest: Digest, key: &[u8], message: &str) -> Result<String> {
    macro_rules! signed {
        ($hash:ty) => {{
            let mut mac = Hmac::<$hash>::new_from_slice(key)?;
            mac.update(message.as_bytes());
            hex(&mac.finalize().into_bytes())
        }};
    }
    Ok(match digest {
        Digest::Sha1 => signed!(Sha1),
        Digest::Sha256 => signed!(Sha256),
        Digest::Sha512 => signed!(Sha512),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Arguments, Command};
    use clap::Parser as _;

    fn asked(line: &str) -> Tempurl {
        let parsed = Arguments::try_parse_from(line.split(' ')).unwrap();
        match parsed.command {
            Command::Tempurl(asked) => asked,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_signature_is_over_method_moment_and_path() {
        let plain = asked("objctl tempurl GET 60 c a/b");
        assert_eq!(
            message("/v1/AUTH_x", "GET", 7, &plain),
            "GET\n7\n/v1/AUTH_x/c/a/b"
        );
        let bound = asked("objctl tempurl GET 60 c p/ --prefix-based --ip-range 10.0.0.0/8");
        assert_eq!(
            message("/v1/AUTH_x", "GET", 7, &bound),
            "ip=10.0.0.0/8\nGET\n7\nprefix:/v1/AUTH_x/c/p/"
        );
    }

    #[test]
    fn signatures_are_those_of_rfc_4231() {
        let signed = sign(Digest::Sha256, b"Jefe", "what do ya want for nothing?").unwrap();
        assert_eq!(
            signed,
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
