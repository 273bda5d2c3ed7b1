//! Accounts and containers as host names: `container.account.example.com` is `/v1/account/container`.

use crate::fault::Fault;
use crate::subrequest::text;
use http::Uri;
use http::request::Parts as Head;

/// The path a client asked for, before it became that of an account.
#[derive(Debug, Clone)]
pub(crate) struct AskedPath(pub(crate) String);

/// Names of DNS know no case and no underscore: what an account's name may begin with instead.
const PREFIX: &str = "AUTH";

/// What stands before the domain in a host's name; `None` when the host is none of ours.
fn labels<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let host = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    let labels = host.strip_suffix(domain)?.strip_suffix('.')?;
    Some(labels.trim_matches('.'))
}

/// The path that a host's name and a path mean; `None` when they stay as they are.
fn remap(labels: &str, path: &str) -> Option<String> {
    let (container, account) = match labels.rsplit_once('.') {
        Some((container, account)) => (Some(container), account),
        None => (None, labels),
    };
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

/// Rewrites a request to a host of the storage domain; refuses one that names more than a container and an account.
pub(crate) fn apply(request: &mut Head, domain: Option<&str>) -> Result<(), Fault> {
    let (Some(domain), Some(host)) = (domain, text(&request.headers, "host")) else {
        return Ok(());
    };
    let Some(labels) = labels(host, domain) else {
        return Ok(());
    };
    if labels.split('.').count() > 2 {
        return Err(Fault::BadRequest("Bad domain in host header".to_owned()));
    }
    let asked = request.uri.path().to_owned();
    let Some(path) = remap(labels, &asked) else {
        return Ok(());
    };
    let target = match request.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    if let Ok(uri) = target.parse::<Uri>() {
        request.uri = uri;
        request.extensions.insert(AskedPath(asked));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_the_domain_name_accounts_and_containers() {
        let to = |host, path| {
            let request = http::Request::get(path).header("host", host);
            let mut head = request.body(()).unwrap().into_parts().0;
            apply(&mut head, Some("example.com")).unwrap();
            (head.uri.path() != path).then(|| head.uri.path().to_owned())
        };
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
            "AUTH_aexample.com",
            "AUTH_a.example.org",
            "c.a.example.com",
            "-.example.com",
        ] {
            assert_eq!(to(other, "/"), None, "{other}");
        }
        assert_eq!(
            to(".AUTH_a.example.com", "/").as_deref(),
            Some("/v1/AUTH_a/")
        );
        let request = http::Request::get("/").header("host", "x.c.AUTH_a.example.com");
        let mut head = request.body(()).unwrap().into_parts().0;
        let refused = apply(&mut head, Some("example.com"));
        assert!(matches!(refused, Err(Fault::BadRequest(_))), "{refused:?}");
    }
}
