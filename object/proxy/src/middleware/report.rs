//! What a request that did many things answers: totals, and what went wrong with which name; as text, JSON or XML.

use crate::fault::Fault;
use crate::subrequest::text;
use bytes::Bytes;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use onggi_common_service::http::{BodyError, Response, full};
use onggi_object_model::ListingFormat;
use onggi_object_model::listing::escape_xml;
use tokio::sync::mpsc;

/// How often a space says that the work goes on.
const BEAT_EVERY: Duration = Duration::from_secs(10);

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
    Xml,
}

impl Format {
    /// What a request accepts.
    pub(crate) fn of(head: &Head) -> Self {
        match text(&head.headers, "accept") {
            Some(accept) if accept.contains("application/json") => Self::Json,
            Some(accept) if accept.contains("application/xml") || accept.contains("text/xml") => {
                Self::Xml
            }
            Some(_) | None => Self::Text,
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain",
            Self::Json => "application/json",
            Self::Xml => "application/xml",
        }
    }
}

/// A status as Swift names it.
pub(crate) fn status_text(status: StatusCode) -> String {
    let reason = match status.as_u16() {
        413 => "Request Entity Too Large",
        416 => "Requested Range Not Satisfiable",
        498 => "Rate Limited",
        499 => "Client Disconnect",
        _ => return status.to_string(),
    };
    format!("{} {reason}", status.as_u16())
}

/// Why nothing is begun, which is told in a report as well: no body was announced, or the report can be in no form the
/// client accepts.
pub(crate) fn refused(head: &Head, has_body: bool) -> Option<StatusCode> {
    let is_accepted = ListingFormat::negotiate("", text(&head.headers, "accept")).is_ok();
    if !is_accepted {
        return Some(StatusCode::NOT_ACCEPTABLE);
    }
    (!has_body).then_some(StatusCode::LENGTH_REQUIRED)
}

/// What was done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) deleted: usize,
    pub(crate) not_found: usize,
    /// Files made from an archive; `None` when it was no archive.
    pub(crate) created: Option<usize>,
    /// Whether it is about a manifest that was put: no totals then.
    pub(crate) is_put: bool,
    /// 200 when nothing else is said and nothing went wrong.
    pub(crate) status: Option<StatusCode>,
    pub(crate) body: String,
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
    pub(crate) problems: Vec<(String, String)>,
}

impl Report {
    /// A manifest that was refused, as its answer says it.
    pub(crate) fn failed(status: StatusCode, problems: Vec<(String, String)>) -> Self {
        Self {
            is_put: true,
            status: Some(status),
            problems,
            ..Self::default()
        }
    }

    /// A manifest that was put, or refused.
    pub(crate) fn of_put(response: &Response, problems: Vec<(String, String)>) -> Self {
        let status = response.status();
        let header = |name: &str| text(response.headers(), name).map(str::to_owned);
        if !status.is_success() {
            return Self {
                body: page_text(status),
                ..Self::failed(status, problems)
            };
        }
        Self {
            is_put: true,
            status: Some(status),
            etag: header("etag"),
            last_modified: header("last-modified"),
            problems,
            ..Self::default()
        }
    }

    /// The same of a request that failed as a whole.
    pub(crate) fn of_fault(fault: &Fault) -> Self {
        Self {
            body: page_text(fault.status()),
            ..Self::failed(fault.status(), Vec::new())
        }
    }

    fn outcome(&self) -> StatusCode {
        let usual = if self.problems.is_empty() {
            StatusCode::OK
        } else {
            StatusCode::BAD_REQUEST
        };
        self.status.unwrap_or(usual)
    }

    fn fields(&self, with_status: bool) -> Vec<(&'static str, Result<usize, String>)> {
        let mut fields = Vec::new();
        if let Some(etag) = &self.etag {
            fields.push(("Etag", Err(etag.clone())));
        }
        if let Some(modified) = &self.last_modified {
            fields.push(("Last Modified", Err(modified.clone())));
        }
        if let Some(created) = self.created {
            fields.push(("Number Files Created", Ok(created)));
        } else if !self.is_put {
            fields.push(("Number Deleted", Ok(self.deleted)));
            fields.push(("Number Not Found", Ok(self.not_found)));
        }
        if with_status {
            fields.push(("Response Body", Err(self.body.clone())));
            fields.push(("Response Status", Err(status_text(self.outcome()))));
        }
        fields
    }

    fn render(&self, format: Format, with_status: bool) -> String {
        let fields = self.fields(with_status);
        match format {
            Format::Text => {
                let mut out = String::new();
                for (name, value) in fields {
                    let value = value.map_or_else(|text| text, |count| count.to_string());
                    out.push_str(&format!("{name}: {value}\n"));
                }
                out.push_str("Errors:\n");
                for (name, what) in &self.problems {
                    out.push_str(&format!("{name}, {what}\n"));
                }
                out
            }
            Format::Json => {
                let mut map = serde_json::Map::new();
                for (name, value) in fields {
                    let value = value.map_or_else(serde_json::Value::from, serde_json::Value::from);
                    map.insert(name.to_owned(), value);
                }
                let problems: Vec<_> = self
                    .problems
                    .iter()
                    .map(|(name, what)| serde_json::json!([name, what]))
                    .collect();
                map.insert("Errors".to_owned(), problems.into());
                serde_json::Value::Object(map).to_string()
            }
            Format::Xml => self.render_xml(fields),
        }
    }

    fn render_xml(&self, fields: Vec<(&'static str, Result<usize, String>)>) -> String {
        let root = match (self.created, self.is_put) {
            (Some(_), _) => "extract",
            (None, true) => "upload",
            (None, false) => "delete",
        };
        let mut out = format!("<{root}>\n");
        for (name, value) in fields {
            let name = name.to_lowercase().replace(' ', "_");
            let value = value.map_or_else(|text| text, |count| count.to_string());
            out.push_str(&format!("<{name}>{}</{name}>\n", escape_xml(&value)));
        }
        out.push_str("<errors>\n");
        for (name, what) in &self.problems {
            let (name, what) = (escape_xml(name), escape_xml(what));
            out.push_str(&format!(
                "<object><name>{name}</name><status>{what}</status></object>\n"
            ));
        }
        out.push_str(&format!("</errors>\n</{root}>\n"));
        out
    }

    /// The report as an answer of its own.
    pub(crate) fn response(&self, format: Format, status: StatusCode) -> Response {
        let body = self.render(format, !self.is_put);
        let mut response = Response::new(full(body.clone()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(format.content_type()),
        );
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        response
    }
}

/// Swift's page for a status, as text.
pub(crate) fn page_text(status: StatusCode) -> String {
    let sentence = match status {
        StatusCode::BAD_REQUEST => {
            "The server could not comply with the request since it is either malformed or otherwise incorrect."
        }
        StatusCode::UNPROCESSABLE_ENTITY => "Unable to process the contained instructions",
        StatusCode::UNAUTHORIZED => {
            "This server could not verify that you are authorized to access the document you requested."
        }
        StatusCode::FORBIDDEN => "Access was denied to this resource.",
        StatusCode::NOT_FOUND => "The resource could not be found.",
        _ => return status.canonical_reason().unwrap_or_default().to_owned(),
    };
    format!(
        "{}\n{sentence}",
        status.canonical_reason().unwrap_or_default()
    )
}

/// A body whose length is not known before its end.
struct Trickle(mpsc::Receiver<Bytes>);

impl HttpBody for Trickle {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0
            .poll_recv(context)
            .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Answers 202 at once, sends a space now and then while the work goes on, and what came of it at the end.
pub(crate) fn heartbeat(
    format: Format,
    work: impl Future<Output = Report> + Send + 'static,
) -> Response {
    beating(format, BEAT_EVERY, work)
}

/// The same with the first space after so long.
fn beating(
    format: Format,
    first: Duration,
    work: impl Future<Output = Report> + Send + 'static,
) -> Response {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::pin!(work);
        let (mut gone, mut pause) = (false, first);
        let report = loop {
            tokio::select! {
                report = &mut work => break report,
                () = tokio::time::sleep(pause), if !gone => {
                    // The work is finished even when nobody waits for it.
                    gone = sender.send(Bytes::from_static(b" ")).await.is_err();
                    pause = BEAT_EVERY;
                }
            }
        };
        let text = format!("\r\n\r\n{}", report.render(format, true));
        drop(sender.send(text.into()).await);
    });
    let mut response = Response::new(Trickle(receiver).boxed_unsync());
    *response.status_mut() = StatusCode::ACCEPTED;
    let kind = HeaderValue::from_static(format.content_type());
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind);
    response
}

/// Answers 200 with the report of work that may take long: when it is done soon with its length, otherwise with spaces
/// before it that say that the work goes on.
pub(crate) async fn answered_in_time(
    format: Format,
    work: impl Future<Output = Report> + Send + 'static,
) -> Response {
    answered_within(format, BEAT_EVERY, work).await
}

async fn answered_within(
    format: Format,
    soon: Duration,
    work: impl Future<Output = Report> + Send + 'static,
) -> Response {
    // A task of its own: what was begun is finished even when the client is gone.
    let mut work = tokio::spawn(work);
    if let Ok(done) = tokio::time::timeout(soon, &mut work).await {
        return match done {
            Ok(report) => report.response(format, StatusCode::OK),
            Err(_panicked) => Fault::Unavailable.response(false),
        };
    }
    let waiting = async move {
        let broken = |_panicked| Report {
            status: Some(StatusCode::INTERNAL_SERVER_ERROR),
            ..Report::default()
        };
        work.await.unwrap_or_else(broken)
    };
    let mut response = beating(format, Duration::ZERO, waiting);
    *response.status_mut() = StatusCode::OK;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_read_as_swifts_do_and_escape_names() {
        let report = Report {
            deleted: 1,
            problems: vec![("c/<o>".to_owned(), "403 Forbidden".to_owned())],
            ..Report::default()
        };
        let text = report.render(Format::Text, true);
        assert_eq!(
            text,
            "Number Deleted: 1\nNumber Not Found: 0\nResponse Body: \nResponse Status: 400 Bad Request\nErrors:\nc/<o>, 403 Forbidden\n"
        );
        let xml = report.render(Format::Xml, true);
        assert!(xml.contains("<name>c/&lt;o&gt;</name>") && xml.contains("<number_deleted>1<"));
        let json: serde_json::Value =
            serde_json::from_str(&report.render(Format::Json, true)).unwrap();
        assert_eq!(json["Errors"][0][1], "403 Forbidden");
    }

    #[tokio::test]
    async fn what_takes_long_sends_spaces_and_what_does_not_has_a_length() {
        let soon = answered_in_time(Format::Text, async { Report::default() }).await;
        assert!(soon.headers().contains_key(header::CONTENT_LENGTH));
        // Work that goes on until its first space was seen.
        let (seen, wait) = tokio::sync::oneshot::channel::<()>();
        let work = async move {
            wait.await.unwrap();
            Report::default()
        };
        let late = answered_within(Format::Text, Duration::ZERO, work).await;
        assert_eq!(late.status(), StatusCode::OK);
        let mut body = late.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, " ");
        seen.send(()).unwrap();
        let rest = body.collect().await.unwrap().to_bytes();
        assert!(rest.starts_with(b"\r\n\r\nNumber Deleted: 0\n"), "{rest:?}");
    }
}
