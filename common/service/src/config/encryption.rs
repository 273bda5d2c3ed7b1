//! `[object.encryption]`: what the front door encrypts before a storage node sees it.

use serde::Deserialize;
use std::path::PathBuf;

/// `[object.encryption]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encryption {
    /// Whether what is written is encrypted. What is encrypted is read either way.
    #[serde(default = "default_enabled")]
    pub enabled: bool,
    /// The file of the root secrets, a line `id secret` each; only its owner may read it.
    pub key_file: PathBuf,
    /// The id of the root secret that is used for what is written; default: the last one of the file.
    pub active: Option<String>,
}

const fn default_enabled() -> bool {
    true
}
