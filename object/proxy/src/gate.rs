//! What may come in and go out: names of headers that are the system's own business.

use http::{HeaderMap, HeaderName};

/// Beginnings of header names that no client can send or see.
const OURS: [&str; 6] = [
    "x-account-sysmeta-",
    "x-container-sysmeta-",
    "x-object-sysmeta-",
    "x-object-transient-sysmeta-",
    "x-backend-",
    "x-onggi-",
];
/// Names no client can send: identity headers that other services believe, and what only the system says of an object.
const NOT_FROM_CLIENTS: [&str; 8] = [
    "x-static-large-object",
    "x-timestamp",
    "x-roles",
    "x-user-id",
    "x-user-name",
    "x-project-id",
    "x-is-admin-project",
    "x-identity-status",
];

fn is_ours(name: &HeaderName) -> bool {
    OURS.iter().any(|prefix| name.as_str().starts_with(prefix))
}

fn strip(headers: &mut HeaderMap, is_stripped: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_stripped(name))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Takes away what a client has no right to say.
pub(crate) fn inbound(headers: &mut HeaderMap) {
    strip(headers, |name| {
        is_ours(name) || NOT_FROM_CLIENTS.contains(&name.as_str())
    });
}

/// Takes away what is no client's business.
pub(crate) fn outbound(headers: &mut HeaderMap) {
    strip(headers, is_ours);
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn system_headers_pass_in_neither_direction_whatever_their_case() {
        let names = [
            "X-Object-Sysmeta-Slo-Etag",
            "x-container-sysmeta-versions",
            "X-Backend-Storage-Policy-Index",
        ];
        let mut headers = HeaderMap::new();
        for name in names.iter().chain(&["X-Object-Meta-A", "X-Roles"]) {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.insert(name, HeaderValue::from_static("x"));
        }
        let mut out = headers.clone();
        inbound(&mut headers);
        assert_eq!(headers.len(), 1);
        outbound(&mut out);
        assert_eq!(out.len(), 2);
    }
}
