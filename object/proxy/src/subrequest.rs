//! Requests the proxy makes of itself: heads made from a client's, and what travels beside them.

use crate::fault::Fault;
use bytes::Bytes;
use core::pin::Pin;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use onggi_common_service::http::Response;
use onggi_common_units::Timestamp;
use onggi_object_model::ObjectPath;
use onggi_object_model::path::{encode_segment, query_pairs};

/// An answer on its way. Boxed, because the middleware asks itself.
pub(crate) type Answering<'a> = Pin<Box<dyn Future<Output = Result<Response, Fault>> + Send + 'a>>;

/// Beside a request: it was allowed already, whatever the caller's own rights are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trusted;

/// Beside a write: when it was made, in another cluster. It is not stamped anew, and changes nothing that is newer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamped(pub(crate) Timestamp);

/// Beside a write: what is under the name must have been put then, and nothing be there for `None`; 412 otherwise. It
/// stands in the place of conditions about something the name only leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expects(pub(crate) Option<Timestamp>);

/// Beside a request: conditions compare with the first of these system items the object has, instead of its own tag.
#[derive(Debug, Clone, Default)]
pub(crate) struct EtagAt(pub(crate) Vec<&'static str>);

/// Beside an answer: whose bytes it carries, when a link led elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct AnsweredBy(pub(crate) ObjectPath);

/// Headers that make a request depend on what is there.
pub(crate) const CONDITIONS: [http::HeaderName; 5] = [
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
];

/// The decoded value of a query parameter; empty when the parameter stands alone.
pub(crate) fn parameter(head: &Head, name: &str) -> Option<String> {
    let raw = head.uri.query()?;
    query_pairs(raw).find_map(|(key, value)| (key == name).then(|| value.unwrap_or_default()))
}

/// A request header's text, when it has one.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let value = headers.get(name)?;
    core::str::from_utf8(value.as_bytes()).ok()
}

/// Swift's words for yes.
pub(crate) fn is_true(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "1" | "yes" | "on" | "t" | "y"
    )
}

/// Puts these parameters in the place of a request's query.
pub(crate) fn set_query(head: &mut Head, pairs: &[(&str, &str)]) {
    let query: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", encode_segment(value)))
        .collect();
    head.uri = format!("/?{}", query.join("&")).parse().unwrap_or_default();
}

/// A bare request with what the client's says about its sender.
pub(crate) fn bare(from: &Head, method: Method) -> Head {
    let mut head = from.clone();
    head.method = method;
    head.uri = Uri::from_static("/");
    let kept = [header::REFERER, header::ORIGIN];
    let mut headers = HeaderMap::new();
    for name in kept {
        if let Some(value) = from.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    head.headers = headers;
    // What was allowed was this one thing: a request for another is judged by itself.
    head.extensions.remove::<Trusted>();
    head.extensions.remove::<EtagAt>();
    head.extensions.remove::<Stamped>();
    head.extensions.remove::<Expects>();
    head
}

/// The same request for all of the thing, whatever it is like.
pub(crate) fn unconditional(from: &Head) -> Head {
    let mut head = from.clone();
    for name in CONDITIONS {
        head.headers.remove(name);
    }
    head.headers.remove(header::RANGE);
    head
}

/// Announces a body of this length.
pub(crate) fn set_length(head: &mut Head, bytes: &Bytes) {
    head.headers.remove(header::TRANSFER_ENCODING);
    let length = HeaderValue::from(bytes.len());
    head.headers.insert(header::CONTENT_LENGTH, length);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(target: &str) -> Head {
        http::Request::get(target).body(()).unwrap().into_parts().0
    }

    #[test]
    fn parameters_are_decoded_and_replaced() {
        let mut asked = head("/v1/a/c/o?multipart-manifest=get&x=a%20b&alone");
        assert_eq!(
            parameter(&asked, "multipart-manifest").as_deref(),
            Some("get")
        );
        assert_eq!(parameter(&asked, "x").as_deref(), Some("a b"));
        assert_eq!(parameter(&asked, "alone").as_deref(), Some(""));
        assert_eq!(parameter(&asked, "y"), None);
        set_query(&mut asked, &[("format", "raw"), ("z", "&=")]);
        assert_eq!(parameter(&asked, "z").as_deref(), Some("&="));
        assert_eq!(parameter(&asked, "x"), None);
    }

    #[test]
    fn a_bare_request_says_who_sends_it_and_nothing_else() {
        let mut asked = head("/v1/a/c/o?a=b");
        asked
            .headers
            .insert(header::REFERER, HeaderValue::from_static("http://a/"));
        asked
            .headers
            .insert(header::IF_MATCH, HeaderValue::from_static("x"));
        asked.extensions.insert(Trusted);
        let bare = bare(&asked, Method::HEAD);
        assert_eq!((bare.headers.len(), bare.uri.query()), (1, None));
        assert!(bare.extensions.get::<Trusted>().is_none());
    }
}
