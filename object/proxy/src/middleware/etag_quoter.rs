//! Entity tags in quotes, as RFC 9110 has them, for accounts and containers that ask for it: the tags of this API have none.

use crate::fault::{set, set_named};
use crate::proxy::Asking;
use crate::subrequest::{is_true, text};
use http::{HeaderMap, header};
use onggi_common_service::http::Response;
use onggi_object_model::Resource;

/// The item of a container, as it is kept.
const OF_CONTAINER: &str = "x-container-sysmeta-rfc-compliant-etags";
/// The same of an account; a container's own word comes first.
const OF_ACCOUNT: &str = "x-account-sysmeta-rfc-compliant-etags";

/// The header users know, the one that removes it, and the item that is kept.
fn names(resource: &Resource) -> Option<[&'static str; 3]> {
    match resource {
        Resource::Account(_) => Some([
            "x-account-rfc-compliant-etags",
            "x-remove-account-rfc-compliant-etags",
            OF_ACCOUNT,
        ]),
        Resource::Container(_) => Some([
            "x-container-rfc-compliant-etags",
            "x-remove-container-rfc-compliant-etags",
            OF_CONTAINER,
        ]),
        Resource::Object(_) => None,
    }
}

/// Turns what users say into what is kept.
pub(crate) fn inbound(resource: &Resource, headers: &mut HeaderMap) {
    let Some([shown, removes, kept]) = names(resource) else {
        return;
    };
    let is_removed = text(headers, removes).is_some_and(|value| !value.is_empty());
    let value = match text(headers, shown) {
        _ if is_removed => "",
        None => return,
        Some("") => "",
        Some(value) if is_true(value) => "True",
        Some(_) => "False",
    };
    set_named(headers, kept, value);
}

fn outbound(resource: &Resource, headers: &mut HeaderMap) {
    if let Some([shown, _, kept]) = names(resource)
        && let Some(value) = text(headers, kept).map(str::to_owned)
    {
        set_named(headers, shown, &value);
    }
}

fn quote(headers: &mut HeaderMap) {
    let Some(etag) = text(headers, "etag") else {
        return;
    };
    let is_quoted = (etag.starts_with('"') || etag.starts_with("W/\"")) && etag.ends_with('"');
    if !is_quoted {
        let quoted = format!("\"{etag}\"");
        set(headers, header::ETAG, &quoted);
    }
}

impl Asking {
    /// Shows what is kept, and quotes the tag of an object where that is asked for.
    pub(crate) async fn with_quoted_etag(
        &self,
        resource: &Resource,
        mut response: Response,
    ) -> Response {
        outbound(resource, response.headers_mut());
        let Resource::Object(path) = resource else {
            return response;
        };
        // A request that was carried out is not made to fail by what its answer looks like.
        if response.headers().contains_key(header::ETAG) {
            let container = self.core.container_info(&path.container_path()).await;
            let container = container.ok().flatten();
            let own = container.and_then(|info| info.metadata.get(OF_CONTAINER).map(is_true));
            let is_wanted = match own {
                Some(own) => own,
                None => {
                    let account = self.core.account_info(&path.account).await.ok();
                    account.is_some_and(|info| info.metadata.get(OF_ACCOUNT).is_some_and(is_true))
                }
            };
            if is_wanted {
                quote(response.headers_mut());
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn kept(path: &str, name: &'static str, value: &'static str) -> Option<String> {
        let resource = Resource::parse(path).unwrap();
        let mut headers = HeaderMap::new();
        let name = HeaderName::from_static(name);
        headers.insert(name, HeaderValue::from_static(value));
        inbound(&resource, &mut headers);
        let found = [OF_CONTAINER, OF_ACCOUNT]
            .iter()
            .find_map(|name| text(&headers, name));
        found.map(str::to_owned)
    }

    #[test]
    fn what_users_say_is_kept_as_a_word_or_forgotten() {
        let container = "x-container-rfc-compliant-etags";
        assert_eq!(kept("/v1/a/c", container, "t").as_deref(), Some("True"));
        assert_eq!(kept("/v1/a/c", container, "no").as_deref(), Some("False"));
        assert_eq!(kept("/v1/a/c", container, "").as_deref(), Some(""));
        let removes = "x-remove-account-rfc-compliant-etags";
        assert_eq!(kept("/v1/a", removes, "x").as_deref(), Some(""));
        assert_eq!(kept("/v1/a", container, "t"), None);
        assert_eq!(kept("/v1/a/c/o", container, "t"), None);
    }

    #[test]
    fn a_tag_is_quoted_once() {
        for (tag, quoted) in [
            ("ab", "\"ab\""),
            ("\"ab\"", "\"ab\""),
            ("W/\"a\"", "W/\"a\""),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ETAG, HeaderValue::from_static(tag));
            quote(&mut headers);
            assert_eq!(text(&headers, "etag"), Some(quoted));
        }
    }
}
