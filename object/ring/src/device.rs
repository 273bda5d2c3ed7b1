//! Devices: the disks a ring spreads copies over.

use core::fmt;

/// A device's number in its ring.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct DeviceId(u16);

impl DeviceId {
    /// The device with this number.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Its place in a list by number.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A device and where it stands.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Device {
    /// Its number.
    pub id: DeviceId,
    /// The region it is in; copies go to different regions first.
    #[serde(default = "first_region")]
    pub region: u32,
    /// The zone in the region; then to different zones.
    pub zone: u32,
    /// The address of its node; then to different nodes.
    pub ip: String,
    /// The port of its node.
    pub port: u16,
    /// Its name on the node.
    pub device: String,
    /// How much of the data it takes, relative to the others.
    pub weight: f64,
    /// What its operator notes about it.
    #[serde(default)]
    pub meta: String,
    /// The address replication uses, where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_ip: Option<String>,
    /// The port replication uses, where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_port: Option<u16>,
}

const fn first_region() -> u32 {
    1
}

impl Device {
    /// `ip:port`, with brackets around an IPv6 address.
    #[must_use]
    pub fn address(&self) -> String {
        if self.ip.contains(':') && !self.ip.starts_with('[') {
            format!("[{}]:{}", self.ip, self.port)
        } else {
            format!("{}:{}", self.ip, self.port)
        }
    }
}

/// `r1z2-127.0.0.1:6200/d1`, as `swift-ring-builder` writes devices.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "r{}z{}-{}/{}",
            self.region,
            self.zone,
            self.address(),
            self.device
        )
    }
}
