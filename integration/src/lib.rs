//! Real daemons, foreign clients, crashes, guests, tidy: what the scenarios and `integration/serve` share.

pub mod bench;
pub mod exported;
pub mod guest;
mod http;
pub mod powercut;
pub mod relay;
pub mod serve;
pub mod serve_target;
pub mod system;

use onggi_common_units::{ByteCount, ByteCountError};

/// Reads a size: `2G`, `512M` and the forms of the configuration file.
///
/// # Errors
/// When it is no size.
pub fn parse_size(text: &str) -> Result<ByteCount, String> {
    let long = match text.as_bytes().last() {
        Some(b'K' | b'M' | b'G' | b'T') => format!("{text}iB"),
        _ => text.to_owned(),
    };
    long.parse()
        .map_err(|error: ByteCountError| error.to_string())
}
