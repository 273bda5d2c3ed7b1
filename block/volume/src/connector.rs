//! A connector: what a host says about itself before it connects.

use serde::{Deserialize, Serialize};

/// RFC 7143 §4.2.7.1: an iSCSI name has at most 223 bytes.
const INITIATOR_NAME_BYTES_MAX: usize = 223;

/// Who connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connector {
    /// Its iSCSI name.
    pub initiator: String,
    /// Its host name.
    pub host: Option<String>,
    /// Its address.
    pub ip: Option<String>,
    /// Whether it wants every portal.
    pub multipath: bool,
    /// Where the volume will be seen there: `/dev/vdb`.
    pub mountpoint: Option<String>,
    /// Its machine: `x86_64`.
    pub platform: Option<String>,
    /// Its system: `linux`.
    pub os_type: Option<String>,
}

/// A connector that cannot be let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectorError {
    /// It has no iSCSI name.
    #[error("the connector has no initiator: an iSCSI name is needed")]
    NoInitiator,
    /// Its iSCSI name is none.
    #[error(
        "{name:?} is no iSCSI name: one begins with iqn., eui. or naa. and has at most 223 characters"
    )]
    BadInitiator {
        /// What was given, cut to 64 characters.
        name: String,
    },
}

impl Connector {
    /// A connector of this iSCSI name.
    ///
    /// # Errors
    /// When the name is missing or none.
    pub fn new(initiator: &str) -> Result<Self, ConnectorError> {
        if initiator.is_empty() {
            return Err(ConnectorError::NoInitiator);
        }
        let has_kind = ["iqn.", "eui.", "naa."]
            .iter()
            .any(|kind| initiator.starts_with(kind));
        let is_printable = initiator
            .chars()
            .all(|c| !c.is_control() && !c.is_whitespace());
        if !has_kind || !is_printable || initiator.len() > INITIATOR_NAME_BYTES_MAX {
            let name = initiator.chars().take(64).collect();
            return Err(ConnectorError::BadInitiator { name });
        }
        Ok(Self {
            initiator: initiator.to_owned(),
            host: None,
            ip: None,
            multipath: false,
            mountpoint: None,
            platform: None,
            os_type: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connector_needs_an_iscsi_name() {
        assert_eq!(Connector::new(""), Err(ConnectorError::NoInitiator));
        for bad in [
            "compute1",
            "iqn.a b",
            "iqn.\n",
            &format!("iqn.{}", "x".repeat(220)),
        ] {
            assert!(
                matches!(
                    Connector::new(bad),
                    Err(ConnectorError::BadInitiator { .. })
                ),
                "{bad:?}"
            );
        }
        assert!(Connector::new("iqn.1993-08.org.debian:01:abc").is_ok());
    }
}
