//! Structured logs on standard error.

use core::fmt;
use tokio::task::futures::TaskLocalFuture;
use tracing::{Dispatch, Event, Subscriber, dispatcher};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FmtSpan, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A log filter that does not parse.
#[derive(Debug, thiserror::Error)]
#[error("log level {level:?}: {source}; write error, warn, info, debug or trace")]
pub struct LevelError {
    /// What was configured.
    pub level: String,
    /// Why.
    pub source: tracing_subscriber::filter::ParseError,
}

tokio::task_local! {
    /// The request that a task works for.
    static REQUEST: String;
}

/// Does some work of a request: the lines that its task logs meanwhile name the request. That costs nothing where nothing is
/// logged, which a span does. The id must need no quotes.
pub fn of_request<F: Future>(id: String, work: F) -> TaskLocalFuture<String, F> {
    REQUEST.scope(id, work)
}

/// Lines that end with the request they are of.
struct OfRequest<F> {
    line: F,
    format: LogFormat,
}

impl<S, N, F> FormatEvent<S, N> for OfRequest<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Ok(id) = REQUEST.try_with(String::clone) else {
            return self.line.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.line
            .format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end();
        match (self.format, line.strip_suffix('}')) {
            (LogFormat::Json, Some(open)) => {
                writeln!(writer, "{open},\"request_id\":\"{id}\"}}")
            }
            (LogFormat::Json, None) | (LogFormat::Text, _) => {
                writeln!(writer, "{line} request_id={id}")
            }
        }
    }
}

fn lines(
    filter: EnvFilter,
    format: LogFormat,
    out: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
) -> Dispatch {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(out)
        .with_ansi(false)
        .with_span_events(FmtSpan::NONE);
    match format {
        LogFormat::Text => lines
            .map_event_format(|line| OfRequest { line, format })
            .finish()
            .into(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .map_event_format(|line| OfRequest { line, format })
            .finish()
            .into(),
    }
}

/// Sends log lines of `level` and above to standard error. Later calls in one process change nothing.
///
/// # Errors
/// When `level` is no filter.
pub fn start(level: &str, format: LogFormat) -> Result<(), LevelError> {
    let filter = EnvFilter::try_new(level).map_err(|source| LevelError {
        level: level.to_owned(),
        source,
    })?;
    // A second start happens only in tests; the first subscriber stays.
    drop(dispatcher::set_global_default(lines(
        filter,
        format,
        std::io::stderr,
    )));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat) -> Vec<String> {
        let kept = Kept::default();
        let out = kept.clone();
        let subscriber = lines(EnvFilter::new("info"), format, move || out.clone());
        dispatcher::with_default(&subscriber, || {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime
                .unwrap()
                .block_on(of_request("tx1-a".to_owned(), async {
                    tracing::info!(device = "d1", "within");
                    tokio::task::yield_now().await;
                    tracing::debug!("nobody wants to know");
                }));
            tracing::info!("afterwards");
        });
        let bytes = kept.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_of_a_request_name_it() {
        let lines = logged(LogFormat::Text);
        let [within, after] = lines.as_slice() else {
            panic!("{lines:?}");
        };
        let end =
            "INFO onggi_common_service::telemetry::tests: within device=\"d1\" request_id=tx1-a";
        assert!(within.ends_with(end), "{within}");
        assert!(after.ends_with(": afterwards"), "{after}");
    }

    #[test]
    fn so_do_objects_of_json() {
        let lines = logged(LogFormat::Json);
        let [within, after] = lines.as_slice() else {
            panic!("{lines:?}");
        };
        let end = ",\"device\":\"d1\",\"target\":\"onggi_common_service::telemetry::tests\",\"request_id\":\"tx1-a\"}";
        assert!(within.starts_with('{') && within.ends_with(end), "{within}");
        assert!(!after.contains("request_id"), "{after}");
    }
}
