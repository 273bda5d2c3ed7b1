//! Services and availability zones.

use crate::Microversion;
use crate::microversion::since;
use onggi_common_units::UtcTime;
use serde_json::{Value, json};

/// Everything the API can show of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceView {
    /// `cinder-volume`, `cinder-scheduler`, …
    pub binary: String,
    /// `host` or `host@backend`.
    pub host: String,
    /// Its zone.
    pub zone: String,
    /// Whether it takes new work.
    pub enabled: bool,
    /// Whether it was heard of lately.
    pub up: bool,
    /// When it was last heard of.
    pub updated_at: Option<UtcTime>,
    /// Why it takes no new work.
    pub disabled_reason: Option<String>,
    /// Whether its backend works; only volume services have one.
    pub backend_up: Option<bool>,
}

const fn up_or_down(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

impl ServiceView {
    /// The service as admins see it.
    #[must_use]
    pub fn detail(&self, version: Microversion) -> Value {
        let mut shown = json!({
            "binary": self.binary,
            "host": self.host,
            "zone": self.zone,
            "status": if self.enabled { "enabled" } else { "disabled" },
            "state": up_or_down(self.up),
            "updated_at": self.updated_at.map(UtcTime::iso_naive),
            "disabled_reason": self.disabled_reason,
        });
        if version >= since::SERVICE_CLUSTER {
            shown["cluster"] = Value::Null;
        }
        if let Some(backend_up) = self.backend_up {
            shown["replication_status"] = json!("disabled");
            shown["active_backend_id"] = Value::Null;
            shown["frozen"] = json!(false);
            if version >= since::BACKEND_STATE {
                shown["backend_state"] = json!(up_or_down(backend_up));
            }
        }
        shown
    }
}

/// The body of `GET /os-availability-zone`.
#[must_use]
pub fn availability_zones_body<'a>(zones: impl IntoIterator<Item = (&'a str, bool)>) -> Value {
    let zone = |(name, available)| json!({"zoneName": name, "zoneState": {"available": available}});
    json!({"availabilityZoneInfo": zones.into_iter().map(zone).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_service_shows_its_backend_from_3_49() {
        let service = ServiceView {
            binary: "cinder-volume".to_owned(),
            host: "h@lvm".to_owned(),
            zone: "nova".to_owned(),
            enabled: true,
            up: true,
            updated_at: None,
            disabled_reason: None,
            backend_up: Some(true),
        };
        assert!(
            service
                .detail(Microversion::new(48))
                .get("backend_state")
                .is_none()
        );
        assert_eq!(service.detail(Microversion::new(49))["backend_state"], "up");
        let scheduler = ServiceView {
            backend_up: None,
            ..service
        };
        assert!(scheduler.detail(Microversion::MAX).get("frozen").is_none());
    }

    #[test]
    fn zones_are_listed_with_their_state() {
        let body = availability_zones_body([("nova", true)]);
        let expected = json!([{"zoneName": "nova", "zoneState": {"available": true}}]);
        assert_eq!(body["availabilityZoneInfo"], expected);
    }
}
