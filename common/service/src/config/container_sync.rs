//! `[object.container_sync]`: containers that are copied to other clusters, and taken from them.

use serde::Deserialize;
use std::path::PathBuf;

/// Objects of one container under way at a time, at most.
const CONCURRENCY_MAX: usize = 64;

/// `[object.container_sync]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSync {
    /// The realms, in a file of Swift's form (`container-sync-realms.conf`). It holds keys: not for everybody to read.
    pub realms: PathBuf,
    /// Which of their clusters this is, `//realm/cluster`, for `/info`.
    pub current: Option<String>,
    /// The pause between passes of the sender.
    #[serde(default = "default_interval_seconds")]
    pub interval_seconds: u32,
    /// How long one container is sent in a pass before others come.
    #[serde(default = "default_container_seconds")]
    pub container_seconds: u32,
    /// Objects of one container under way at a time.
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
    /// Where the nodes read what they send, `host:port` of a proxy of this cluster; default: `object.listen`.
    pub proxy: Option<String>,
    /// The certificates, as PEM, that clusters at `https://` are checked against.
    #[serde(default = "default_ca_file")]
    pub ca_file: PathBuf,
}

const fn default_interval_seconds() -> u32 {
    300
}
const fn default_container_seconds() -> u32 {
    60
}
const fn default_concurrency() -> usize {
    4
}
fn default_ca_file() -> PathBuf {
    PathBuf::from("/etc/ssl/certs/ca-certificates.crt")
}

impl ContainerSync {
    /// The realm and the cluster this is.
    #[must_use]
    pub fn current(&self) -> Option<(&str, &str)> {
        self.current.as_deref().and_then(parse_current)
    }

    pub(super) fn contradiction(&self) -> Option<(&'static str, String)> {
        if self.interval_seconds == 0 || self.container_seconds == 0 {
            let problem = "interval_seconds and container_seconds are at least 1".to_owned();
            return Some(("object.container_sync", problem));
        }
        if !(1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            let problem = format!(
                "{} is not between 1 and {CONCURRENCY_MAX}",
                self.concurrency
            );
            return Some(("object.container_sync.concurrency", problem));
        }
        let current = self.current.as_deref();
        current
            .filter(|text| parse_current(text).is_none())
            .map(|text| {
                let problem = format!("{text:?} is not of the form \"//realm/cluster\"");
                ("object.container_sync.current", problem)
            })
    }
}

fn parse_current(text: &str) -> Option<(&str, &str)> {
    let (realm, cluster) = text.strip_prefix("//")?.split_once('/')?;
    let is_name = |name: &str| !name.is_empty() && !name.contains('/');
    (is_name(realm) && is_name(cluster)).then_some((realm, cluster))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ContainerSync {
        toml::from_str(&format!("realms = \"/etc/realms\"\n{text}")).unwrap()
    }

    #[test]
    fn a_cluster_is_named_by_its_realm_and_what_cannot_work_is_told() {
        assert_eq!(parse("").current(), None);
        assert_eq!(parse("current = \"//r/c\"").current(), Some(("r", "c")));
        assert_eq!(parse("").contradiction(), None);
        for bad in [
            "current = \"r/c\"",
            "current = \"//r\"",
            "current = \"//r/c/a\"",
            "interval_seconds = 0",
            "concurrency = 0",
            "concurrency = 65",
        ] {
            assert!(parse(bad).contradiction().is_some(), "{bad}");
        }
    }
}
