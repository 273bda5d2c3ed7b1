//! Answers: a status and a JSON body, or a fault, with the headers every response of the API has.

use bytes::Bytes;
use http::header::{
    ALLOW, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, StatusCode};
use onggi_block_cinder::microversion::HEADER as VERSION_HEADER;
use onggi_block_cinder::{Fault, FaultKind, Microversion};
use onggi_common_service::http::{Response, empty, full};
use onggi_common_units::Uuid;
use serde_json::Value;

/// What a handler answers.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    body: Content,
    headers: HeaderMap,
}

#[derive(Debug)]
enum Content {
    None,
    Json(Value),
    Html(&'static str),
}

const NOT_FOUND_PAGE: &str = "<html>\n <head>\n  <title>404 Not Found</title>\n </head>\n <body>\n  <h1>404 Not Found</h1>\n  \
     The resource could not be found.<br /><br />\n </body>\n</html>";

impl Answer {
    fn new(status: StatusCode, body: Content) -> Self {
        Self {
            status,
            body,
            headers: HeaderMap::new(),
        }
    }

    /// 200 with a body.
    pub(crate) fn ok(body: Value) -> Self {
        Self::new(StatusCode::OK, Content::Json(body))
    }

    /// A status with a body.
    pub(crate) fn json(status: StatusCode, body: Value) -> Self {
        Self::new(status, Content::Json(body))
    }

    /// A status without a body.
    pub(crate) fn status(status: StatusCode) -> Self {
        Self::new(status, Content::None)
    }

    /// 202 without a body.
    pub(crate) fn accepted() -> Self {
        Self::new(StatusCode::ACCEPTED, Content::None)
    }

    /// 204.
    pub(crate) fn no_content() -> Self {
        Self::new(StatusCode::NO_CONTENT, Content::None)
    }

    /// 302 to another address. It is absolute, because the SDK's sessions do not follow relative ones.
    pub(crate) fn redirect(location: &str) -> Self {
        let mut answer = Self::new(StatusCode::FOUND, Content::None);
        if let Ok(value) = HeaderValue::from_str(location) {
            answer.headers.insert(LOCATION, value);
        }
        answer
    }

    /// 404 for a path that leads nowhere, in HTML as the stock service has it.
    pub(crate) fn nowhere() -> Self {
        Self::new(StatusCode::NOT_FOUND, Content::Html(NOT_FOUND_PAGE))
    }

    /// 405 for a path that does not know the method.
    pub(crate) fn bad_method(allowed: &[Method]) -> Self {
        let names = allowed
            .iter()
            .map(Method::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        let fault = Fault::new(
            FaultKind::BadMethod,
            format!("This path knows {names} only."),
        );
        let mut answer = Self::from(fault);
        if let Ok(value) = HeaderValue::from_str(&names) {
            answer.headers.insert(ALLOW, value);
        }
        answer
    }

    /// The response, with the request's id and the microversion that was spoken.
    pub(crate) fn into_response(self, request_id: Uuid, version: Option<Microversion>) -> Response {
        let mut headers = self.headers;
        let body = match self.body {
            Content::None => empty(),
            Content::Json(value) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                full(serde_json::to_vec(&value).map_or_else(|_| Bytes::new(), Bytes::from))
            }
            Content::Html(page) => {
                headers.insert(
                    CONTENT_TYPE,
                    HeaderValue::from_static("text/html; charset=UTF-8"),
                );
                full(page)
            }
        };
        if let Ok(id) = HeaderValue::from_str(&format!("req-{request_id}")) {
            headers.insert("x-openstack-request-id", id.clone());
            headers.insert("x-compute-request-id", id);
        }
        if let Some(version) = version
            && let Ok(value) = HeaderValue::from_str(&version.header_value())
        {
            headers.insert(VERSION_HEADER, value);
            headers.insert(VARY, HeaderValue::from_static("OpenStack-API-Version"));
        }
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

impl From<Fault> for Answer {
    fn from(fault: Fault) -> Self {
        let status =
            StatusCode::from_u16(fault.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = Self::new(status, Content::Json(fault.body()));
        match fault.kind() {
            FaultKind::OverLimit => {
                answer
                    .headers
                    .insert(RETRY_AFTER, HeaderValue::from_static("0"));
            }
            FaultKind::Unauthorized => {
                answer
                    .headers
                    .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Keystone"));
            }
            FaultKind::BadRequest
            | FaultKind::Forbidden
            | FaultKind::ItemNotFound
            | FaultKind::BadMethod
            | FaultKind::NotAcceptable
            | FaultKind::ConflictingRequest
            | FaultKind::BadMediaType
            | FaultKind::ComputeFault
            | FaultKind::NotImplemented
            | FaultKind::ServiceUnavailable => {}
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_response_carries_the_requests_id_and_the_version() {
        let id = Uuid::from_random([1; 16]);
        let response = Answer::ok(json!({})).into_response(id, Some(Microversion::MAX));
        let headers = response.headers();
        assert_eq!(headers["x-openstack-request-id"], format!("req-{id}"));
        assert_eq!(headers["x-compute-request-id"], format!("req-{id}"));
        assert_eq!(headers["openstack-api-version"], "volume 3.71");
        assert_eq!(headers["vary"], "OpenStack-API-Version");
    }

    #[test]
    fn faults_keep_their_status_and_headers() {
        let quota = Answer::from(Fault::new(FaultKind::OverLimit, "full"));
        let response = quota.into_response(Uuid::from_random([1; 16]), None);
        assert_eq!(
            (
                response.status().as_u16(),
                &response.headers()["retry-after"]
            ),
            (413, &HeaderValue::from_static("0"))
        );
        let method = Answer::bad_method(&[Method::GET, Method::POST]);
        let response = method.into_response(Uuid::from_random([1; 16]), None);
        assert_eq!(
            (response.status().as_u16(), &response.headers()["allow"]),
            (405, &HeaderValue::from_static("GET, POST"))
        );
    }
}
