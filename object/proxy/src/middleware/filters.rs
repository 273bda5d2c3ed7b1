//! What is refused before anything is looked at: names an operator does not want, and writes where there are none.

use super::rate_limit::RateLimits;
use crate::fault::Fault;
use crate::proxy::Asking;
use crate::subrequest::{is_true, text};
use http::request::Parts as Head;
use http::{HeaderValue, Method, StatusCode, header};
use onggi_common_service::config::{Filters as Config, NameCheck};
use onggi_common_service::http::{Response, full};
use onggi_object_model::{AccountName, Resource};
use regex::Regex;

/// Where an account says for itself whether it can only be read.
pub(crate) const READ_ONLY: &str = "x-account-sysmeta-read-only";
/// What the policy file of old browser plug-ins allows: they may go anywhere the ACLs let them.
const CROSS_DOMAIN: &str = "<allow-access-from domain=\"*\" secure=\"false\" />";
/// Bytes a compiled expression may take.
const REGEXP_BYTES_MAX: usize = 1 << 20;

/// The filters an operator has set.
pub(crate) struct Filters {
    config: Config,
    names: Option<Names>,
    pub(crate) rate_limits: Option<RateLimits>,
}

struct Names {
    check: NameCheck,
    forbidden: Option<Regex>,
}

impl Names {
    fn new(check: NameCheck) -> Result<Self, regex::Error> {
        let text = &check.forbidden_regexp;
        let forbidden = (!text.is_empty())
            .then(|| {
                regex::RegexBuilder::new(text)
                    .size_limit(REGEXP_BYTES_MAX)
                    .build()
            })
            .transpose()?;
        Ok(Self { check, forbidden })
    }

    /// Why a decoded path is refused; `None` when it is not.
    fn refuse(&self, path: &str) -> Option<String> {
        let chars = &self.check.forbidden_chars;
        if path.contains(|c| chars.contains(c)) {
            return Some(format!(
                "Object/Container/Account name contains forbidden chars from {chars}"
            ));
        }
        let length = self.check.maximum_length;
        if path.len() > length {
            return Some(format!(
                "Object/Container/Account name longer than the allowed maximum {length}"
            ));
        }
        let forbidden = self.forbidden.as_ref()?;
        forbidden.is_match(path).then(|| {
            format!(
                "Object/Container/Account name contains a forbidden substring from regular expression {forbidden}"
            )
        })
    }
}

impl Filters {
    pub(crate) fn new(config: Config) -> Result<Self, regex::Error> {
        Ok(Self {
            names: config.name_check.clone().map(Names::new).transpose()?,
            rate_limits: config.rate_limit.clone().map(RateLimits::new),
            config,
        })
    }

    /// Refuses paths an operator does not want.
    pub(crate) fn check_name(&self, request: &Head) -> Result<(), Fault> {
        let Some(names) = &self.names else {
            return Ok(());
        };
        let path = percent_encoding::percent_decode_str(request.uri.path()).decode_utf8_lossy();
        names
            .refuse(&path)
            .map_or(Ok(()), |words| Err(Fault::BadRequest(words)))
    }

    pub(crate) const fn lists_endpoints(&self) -> bool {
        self.config.list_endpoints
    }

    pub(crate) fn cross_domain(&self) -> String {
        let policy = self.config.cross_domain_policy.as_deref();
        let policy = policy.unwrap_or(CROSS_DOMAIN);
        format!(
            "<?xml version=\"1.0\"?>\n<!DOCTYPE cross-domain-policy SYSTEM \"http://www.adobe.com/xml/dtds/cross-domain-policy.dtd\" >\n<cross-domain-policy>\n{policy}\n</cross-domain-policy>"
        )
    }

    /// Adds to `/info` what the filters are.
    pub(crate) fn tell(&self, document: &mut serde_json::Value) {
        if self.config.read_only {
            document["read_only"] = serde_json::json!({});
        }
        if let Some(names) = &self.names {
            document["name_check"] = serde_json::json!({
                "forbidden_chars": names.check.forbidden_chars,
                "maximum_length": names.check.maximum_length,
                "forbidden_regexp": names.check.forbidden_regexp,
            });
        }
        if let Some(lookup) = &self.config.cname_lookup {
            document["cname_lookup"] = serde_json::json!({ "lookup_depth": lookup.lookup_depth });
        }
        if let Some(limits) = &self.rate_limits {
            document["ratelimit"] = limits.capabilities();
        }
    }

    /// Whether a method would write where only reading is allowed.
    fn refuses(&self, method: &Method) -> bool {
        let deletes = *method == Method::DELETE && !self.config.allow_deletes;
        deletes || matches!(*method, Method::PUT | Method::POST) || method.as_str() == "COPY"
    }
}

impl Asking {
    /// Refuses writes to what can only be read; then waits for the request's turn.
    pub(crate) async fn filtered(
        &self,
        request: &Head,
        resource: &Resource,
    ) -> Result<Option<Response>, Fault> {
        if let Some(response) = self.read_only(request, resource).await? {
            return Ok(Some(response));
        }
        self.throttled(&request.method, resource).await
    }

    /// Whether the caller sets what an account may.
    pub(crate) fn manages(&self, resource: &Resource) -> bool {
        let caller = self.caller.as_deref();
        matches!(resource, Resource::Account(_))
            && caller.is_some_and(onggi_common_identity::Caller::is_reseller_admin)
    }

    async fn read_only(
        &self,
        request: &Head,
        resource: &Resource,
    ) -> Result<Option<Response>, Fault> {
        let filters = &self.core.filters;
        if !filters.refuses(&request.method) {
            return Ok(None);
        }
        // The switch itself can be turned back by who may turn it.
        if self.manages(resource) {
            return Ok(None);
        }
        let target = (request.method.as_str() == "COPY")
            .then(|| text(&request.headers, "destination-account"))
            .flatten()
            .and_then(|raw| {
                let name = percent_encoding::percent_decode_str(raw)
                    .decode_utf8()
                    .ok()?;
                name.parse::<AccountName>().ok()
            });
        let account = target.as_ref().unwrap_or_else(|| resource.account());
        let info = self.core.account_info(account).await?;
        let own = info.metadata.get(READ_ONLY).filter(|own| !own.is_empty());
        if !own.map_or(filters.config.read_only, is_true) {
            return Ok(None);
        }
        let words = "Writes are disabled for this account.";
        let mut response = Response::new(full(words));
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("text/html; charset=UTF-8");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(words.len()));
        let allow = HeaderValue::from_static("GET, HEAD, OPTIONS");
        headers.insert(header::ALLOW, allow);
        Ok(Some(response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(chars: &str, length: usize, regexp: &str) -> Names {
        Names::new(NameCheck {
            forbidden_chars: chars.to_owned(),
            maximum_length: length,
            forbidden_regexp: regexp.to_owned(),
        })
        .unwrap()
    }

    #[test]
    fn names_are_refused_by_characters_length_and_expression() {
        let names = names("'\"`<>", 20, r"/\./|/\.\./|/\.$|/\.\.$");
        for good in ["/v1/a/c/o", "/v1/a/c/...", "/v1/a/c/.hidden"] {
            assert_eq!(names.refuse(good), None, "{good}");
        }
        for (bad, word) in [
            ("/v1/a/c/<o>", "chars"),
            ("/v1/a/c/0123456789012", "longer"),
            ("/v1/a/c/../o", "substring"),
            ("/v1/a/c/..", "substring"),
        ] {
            let said = names.refuse(bad).unwrap();
            assert!(said.contains(word), "{bad}: {said}");
        }
    }

    #[test]
    fn an_expression_that_is_none_is_an_error_and_none_is_free() {
        let check = NameCheck {
            forbidden_chars: String::new(),
            maximum_length: 255,
            forbidden_regexp: "(".to_owned(),
        };
        assert!(Names::new(check).is_err());
        assert_eq!(names("", 255, "").refuse("/v1/a/c/<.>/.."), None);
    }

    #[test]
    fn deletes_may_be_let_through() {
        let filters = |allow_deletes| {
            Filters::new(Config {
                allow_deletes,
                ..Config::default()
            })
            .unwrap()
        };
        assert!(filters(false).refuses(&Method::DELETE) && !filters(true).refuses(&Method::DELETE));
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert!(!filters(false).refuses(&method), "{method}");
        }
        let copy = Method::from_bytes(b"COPY").unwrap();
        assert!(filters(true).refuses(&copy) && filters(true).refuses(&Method::POST));
    }
}
