//! Structured logs on standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

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

/// Sends log lines of `level` and above to standard error. Later calls in one process change nothing.
///
/// # Errors
/// When `level` is no filter.
pub fn start(level: &str, format: LogFormat) -> Result<(), LevelError> {
    let filter = EnvFilter::try_new(level).map_err(|source| LevelError {
        level: level.to_owned(),
        source,
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_span_events(FmtSpan::NONE);
    // A second start happens only in tests; the first subscriber stays.
    drop(match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    });
    Ok(())
}
