//! What every daemon is: configuration, HTTP listeners and limits, logs, drain.

pub mod config;
pub mod drain;
pub mod http;
pub mod telemetry;

pub use config::{Config, ConfigError};
pub use drain::Drain;
