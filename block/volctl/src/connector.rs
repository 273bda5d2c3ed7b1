//! How this host describes itself to the volume service.

use anyhow::{Context as _, Result};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::{Entropy, SystemEntropy};
use serde_json::{Value, json};
use std::path::Path;

/// Where open-iscsi keeps this host's name.
const SYSTEM_INITIATOR: &str = "/etc/iscsi/initiatorname.iscsi";
/// The file of the name we make when the system has none.
const OWN_INITIATOR: &str = "initiatorname.iscsi";

/// This host's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The connector of this host.
pub(crate) fn of_this_host(state: &Path) -> Result<Value> {
    Ok(json!({
        "platform": std::env::consts::ARCH,
        "os_type": "linux",
        "ip": "127.0.0.1",
        "host": host_name(),
        "multipath": false,
        "enforce_multipath": false,
        "initiator": initiator_name(Path::new(SYSTEM_INITIATOR), state, &SystemEntropy)?,
        "do_local_attach": false,
    }))
}

/// This host's initiator name: open-iscsi's, or one that is made once and kept in the state directory.
pub(crate) fn initiator_name(system: &Path, state: &Path, entropy: &dyn Entropy) -> Result<String> {
    let own = state.join(OWN_INITIATOR);
    for path in [system, &own] {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if let Some(name) = parse(&text) {
            return Ok(name);
        }
    }
    let name = format!("iqn.2026-11.io.onggi:{}", entropy.hex_id());
    durable::create_dir_all(state).context("making the state directory")?;
    durable::replace(
        &own,
        format!("InitiatorName={name}\n").as_bytes(),
        Visibility::World,
    )
    .context("keeping this host's initiator name")?;
    Ok(name)
}

fn parse(text: &str) -> Option<String> {
    let names = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("InitiatorName="));
    names
        .map(str::trim)
        .find(|name| name.starts_with("iqn.") || name.starts_with("eui."))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_name_is_used_when_there_is_one() {
        let text = "## comment\nInitiatorName=iqn.1993-08.org.debian:01:abc\n";
        assert_eq!(
            parse(text).as_deref(),
            Some("iqn.1993-08.org.debian:01:abc")
        );
        // Debian writes this until the first start.
        assert_eq!(parse("GenerateName=yes\n"), None);
    }

    #[test]
    fn a_made_name_stays_the_same() {
        let state = tempfile::tempdir().unwrap();
        let none = state.path().join("none");
        let first = initiator_name(&none, &state.path().join("deep"), &SystemEntropy).unwrap();
        let second = initiator_name(&none, &state.path().join("deep"), &SystemEntropy).unwrap();
        assert_eq!(first, second);
        assert!(first.starts_with("iqn.2026-11.io.onggi:"));
    }
}
