//! What may come in and go out: names of headers that are the system's own business.

use crate::fault::Fault;
use crate::subrequest::{parameter, text};
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, Method, Version, header};
use onggi_object_model::limits::HEADER_VALUE_BYTES_MAX;
use onggi_object_model::metadata::STATIC_LARGE_OBJECT;

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

/// Refuses a request that does not say which host it is for, or says several (RFC 9112 §3.2), or has a header longer than
/// `/info` says.
pub(crate) fn check(request: &Head) -> Result<(), Fault> {
    let hosts = request.headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version >= Version::HTTP_11) {
        return Err(Fault::BadRequest("A request says its Host once".to_owned()));
    }
    let is_long = |value: &&http::HeaderValue| value.len() > HEADER_VALUE_BYTES_MAX;
    if request.headers.values().find(is_long).is_some() {
        return Err(Fault::BadRequest("Header Line Too Long".to_owned()));
    }
    Ok(())
}

/// Refuses words of a PUT that are the system's own. Another cluster that sends a container may say them.
pub(crate) fn check_put(request: &Head) -> Result<(), Fault> {
    if request.method != Method::PUT {
        return Ok(());
    }
    let kind = text(&request.headers, header::CONTENT_TYPE.as_str());
    let names_ours = |kind: &str| {
        let mut parameters = kind.split(';').skip(1);
        parameters.any(|parameter| parameter.trim_start().starts_with("swift_"))
    };
    if kind.is_some_and(names_ours) {
        let words = "Invalid Content-Type, swift_* is not a valid parameter name.";
        return Err(Fault::BadRequest(words.to_owned()));
    }
    let is_manifest = parameter(request, "multipart-manifest").as_deref() == Some("put");
    if request.headers.contains_key(STATIC_LARGE_OBJECT) && !is_manifest {
        let words = "X-Static-Large-Object is a reserved header. To create a static large object add query param multipart-manifest=put.";
        return Err(Fault::BadRequest(words.to_owned()));
    }
    Ok(())
}

/// Headers that say how the message is put together: they are not lists.
const FRAMING: [HeaderName; 4] = [
    header::HOST,
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
];

/// Makes one header of those that have a name in common, a list with commas (RFC 9110 §5.3): each is read as one text.
pub(crate) fn join_repeated(headers: &mut HeaderMap) {
    let repeated: Vec<HeaderName> = headers
        .keys()
        .filter(|name| !FRAMING.contains(name) && headers.get_all(*name).iter().nth(1).is_some())
        .cloned()
        .collect();
    for name in repeated {
        let values: Vec<&[u8]> = headers
            .get_all(&name)
            .iter()
            .map(http::HeaderValue::as_bytes)
            .collect();
        // Texts of headers with commas between are the text of a header.
        if let Ok(value) = http::HeaderValue::from_bytes(&values.join(&b',')) {
            headers.insert(name, value);
        }
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
    use http::{HeaderValue, Request};

    #[test]
    fn a_request_says_its_host_once_and_no_header_at_length() {
        let head = |hosts: usize, version: Version, longest: usize| {
            let mut request = Request::get("/v1/a").version(version);
            for _ in 0..hosts {
                request = request.header("host", "a");
            }
            request = request.header("x-object-meta-a", "a".repeat(longest));
            check(&request.body(()).unwrap().into_parts().0)
        };
        assert_eq!(head(1, Version::HTTP_11, HEADER_VALUE_BYTES_MAX), Ok(()));
        assert_eq!(head(0, Version::HTTP_10, 1), Ok(()));
        for refused in [
            head(0, Version::HTTP_11, 1),
            head(2, Version::HTTP_11, 1),
            head(2, Version::HTTP_10, 1),
            head(1, Version::HTTP_11, HEADER_VALUE_BYTES_MAX + 1),
        ] {
            assert!(matches!(refused, Err(Fault::BadRequest(_))), "{refused:?}");
        }
    }

    #[test]
    fn headers_of_one_name_are_one_list() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-object-meta-a", "one"),
            ("x-object-meta-b", "b"),
            ("x-object-meta-a", "two"),
            ("content-type", "a/b"),
            ("content-type", "c/d"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        join_repeated(&mut headers);
        assert_eq!(headers["x-object-meta-a"], "one,two");
        assert_eq!(headers["x-object-meta-b"], "b");
        assert_eq!(headers["content-type"], "a/b");
        assert_eq!(headers.len(), 4);
    }

    #[test]
    fn a_put_does_not_speak_for_the_system() {
        let put = |target: &str, name: &str, value: &str| {
            let request = Request::put(target).header("host", "a").header(name, value);
            check_put(&request.body(()).unwrap().into_parts().0)
        };
        let (plain, manifest) = ("/v1/a/c/o", "/v1/a/c/o?multipart-manifest=put");
        for fine in ["text/plain", "text/plain; charset=x", "swift_x/y;a=swift_b"] {
            assert_eq!(put(plain, "content-type", fine), Ok(()), "{fine}");
        }
        assert_eq!(put(manifest, "x-static-large-object", "true"), Ok(()));
        for (name, value) in [
            ("content-type", "text/plain; swift_bytes=5"),
            ("content-type", "a/b;c=d;swift_versions_deleted=1"),
            ("x-static-large-object", "true"),
        ] {
            let refused = put(plain, name, value);
            assert!(matches!(refused, Err(Fault::BadRequest(_))), "{value}");
        }
    }

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
