//! Storage pools: what a backend has and what of it is promised.

use onggi_common_units::{ByteCount, UtcTime};
use serde_json::{Value, json};

/// Everything the API can show of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    /// `host@backend#pool`.
    pub name: String,
    /// The backend's name.
    pub backend_name: String,
    /// What it has.
    pub total: ByteCount,
    /// What of it is free.
    pub free: ByteCount,
    /// The sum of its volumes' sizes.
    pub provisioned: ByteCount,
    /// The sum of the sizes of the volumes the service made in it.
    pub allocated: ByteCount,
    /// How many volumes it holds.
    pub volume_count: u64,
    /// Whether volumes take space only as they are written.
    pub thin: bool,
    /// How many times its capacity may be promised, when thin, in hundredths.
    pub oversubscription_percent: u64,
    /// Share of it kept free.
    pub reserved_percentage: u8,
    /// Whether it works.
    pub up: bool,
    /// When these figures were taken.
    pub measured_at: UtcTime,
}

/// GiB with two decimals, as Cinder's drivers report capacity.
#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "figures for people: two decimals of a GiB fit a double up to 2^53 bytes and are close enough above"
)]
fn gib(bytes: ByteCount) -> f64 {
    let hundredths = bytes.bytes() / ((1 << 30) / 100);
    hundredths as f64 / 100.0
}

/// `20.0` for 2,000 hundredths: clients read a text here.
fn ratio(percent: u64) -> String {
    format!("{}.{}", percent / 100, percent % 100 / 10)
}

impl PoolView {
    /// The pool in `GET /scheduler-stats/get_pools`.
    #[must_use]
    pub fn render(&self, with_detail: bool) -> Value {
        if !with_detail {
            return json!({"name": self.name});
        }
        let pool_name = self
            .name
            .rsplit_once('#')
            .map_or(self.name.as_str(), |(_, pool)| pool);
        json!({"name": self.name, "capabilities": {
            "pool_name": pool_name,
            "volume_backend_name": self.backend_name,
            "total_capacity_gb": gib(self.total),
            "free_capacity_gb": gib(self.free),
            "provisioned_capacity_gb": gib(self.provisioned),
            "allocated_capacity_gb": gib(self.allocated),
            "reserved_percentage": self.reserved_percentage,
            "max_over_subscription_ratio": ratio(self.oversubscription_percent),
            "thin_provisioning_support": self.thin,
            "thick_provisioning_support": !self.thin,
            "total_volumes": self.volume_count,
            "multiattach": false,
            "QoS_support": false,
            "location_info": format!("OnggiPool:{}", self.name),
            "filter_function": null,
            "goodness_function": null,
            "backend_state": if self.up { "up" } else { "down" },
            "cacheable": false,
            "storage_protocol": "iSCSI",
            "vendor_name": "Onggi",
            "driver_version": env!("CARGO_PKG_VERSION"),
            "timestamp": self.measured_at.iso_naive(),
        }})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_is_in_gib_with_two_decimals() {
        assert!((gib(ByteCount::from_mib(1_536)) - 1.5).abs() < 0.011);
        assert!((gib(ByteCount::from_gib(20)) - 20.0).abs() < 0.011);
        assert!(gib(ByteCount::ZERO).abs() < f64::EPSILON);
    }

    #[test]
    fn the_short_form_is_the_name() {
        let pool = PoolView {
            name: "h@lvm#lvm".to_owned(),
            backend_name: "lvm".to_owned(),
            total: ByteCount::from_gib(10),
            free: ByteCount::from_gib(9),
            provisioned: ByteCount::from_gib(1),
            allocated: ByteCount::from_gib(1),
            volume_count: 1,
            thin: false,
            oversubscription_percent: 2_000,
            reserved_percentage: 0,
            up: true,
            measured_at: UtcTime::EPOCH,
        };
        assert_eq!(pool.render(false), json!({"name": "h@lvm#lvm"}));
        let capabilities = &pool.render(true)["capabilities"];
        assert_eq!(capabilities["max_over_subscription_ratio"], "20.0");
        assert_eq!(capabilities["pool_name"], "lvm");
    }
}
