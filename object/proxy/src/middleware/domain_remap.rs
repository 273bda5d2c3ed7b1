//! Accounts and containers as host names: `container.account.example.com` is `/v1/account/container`.

use crate::subrequest::text;
use http::Uri;
use http::request::Parts as Head;

/// The path a client asked for, before it became that of an account.
#[derive(Debug, Clone)]
pub(crate) struct AskedPath(pub(crate) String);

/// Names of DNS know no case and no underscore: what an account's name may begin with instead.
const PREFIX: &str = "AUTH";

/// The path that a host's name and a path mean; `None` when the host is none of ours.
fn remap(host: &str, path: &str, domain: &str) -> Option<String> {
    let host = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    let labels = host.strip_suffix(domain)?.strip_suffix('.')?;
    let (container, account) = match labels.rsplit_once('.') {
        Some((container, account)) => (Some(container), account),
        None => (None, labels),
    };
    if account.is_empty() || container.is_some_and(|name| name.is_empty() || name.contains('.')) {
        return None;
    }
    let (prefix, rest) = account.split_at_checked(PREFIX.len())?;
    let rest = rest.strip_prefix(['_', '-'])?;
    if !prefix.eq_ignore_ascii_case(PREFIX) {
        return None;
    }
    let mut whole = format!("/v1/{PREFIX}_{rest}");
    if let Some(container) = container {
        whole.push('/');
        whole.push_str(container);
    }
    // The client's path stays as it is encoded; its first slash is kept.
    whole.push_str(path);
    Some(whole)
}

/// Rewrites a request to a host of the storage domain.
pub(crate) fn apply(request: &mut Head, domain: Option<&str>) {
    let (Some(domain), Some(host)) = (domain, text(&request.headers, "host")) else {
        return;
    };
    let asked = request.uri.path().to_owned();
    let Some(path) = remap(host, &asked, domain) else {
        return;
    };
    let target = match request.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    if let Ok(uri) = target.parse::<Uri>() {
        request.uri = uri;
        request.extensions.insert(AskedPath(asked));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_the_domain_name_accounts_and_containers() {
        let to = |host, path| remap(host, path, "example.com");
        assert_eq!(
            to("AUTH_a.example.com", "/c/o").as_deref(),
            Some("/v1/AUTH_a/c/o")
        );
        assert_eq!(
            to("auth-a.example.com:80", "/").as_deref(),
            Some("/v1/AUTH_a/")
        );
        assert_eq!(
            to("c.AUTH_a.example.com", "/o").as_deref(),
            Some("/v1/AUTH_a/c/o")
        );
        for other in [
            "example.com",
            "a.example.com",
            "x.c.AUTH_a.example.com",
            "AUTH_aexample.com",
            ".AUTH_a.example.com",
        ] {
            assert_eq!(to(other, "/"), None, "{other}");
        }
    }
}
