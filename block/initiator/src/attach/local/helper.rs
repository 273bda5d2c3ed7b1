//! What a helper is told on its standard input.

use crate::spec::{ChapCredentials, ConnectionSpec};
use onggi_common_units::{Secret, Uuid};
use std::path::{Path, PathBuf};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HelperSpec {
    volume: Uuid,
    attachment: Uuid,
    portals: Vec<String>,
    iqn: String,
    lun: u16,
    initiator_name: String,
    chap: Option<HelperChap>,
    mutual_chap: Option<HelperChap>,
    is_read_only: bool,
    mount: PathBuf,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct HelperChap {
    user: String,
    secret: Secret,
}

impl HelperSpec {
    pub(super) fn new(spec: &ConnectionSpec, mount: &Path) -> Self {
        let chap = |credentials: &ChapCredentials| HelperChap {
            user: credentials.user.clone(),
            secret: credentials.secret.clone(),
        };
        Self {
            volume: spec.volume,
            attachment: spec.attachment,
            portals: spec.portals.clone(),
            iqn: spec.iqn.clone(),
            lun: spec.lun,
            initiator_name: spec.initiator_name.clone(),
            chap: spec.chap.as_ref().map(chap),
            mutual_chap: spec.mutual_chap.as_ref().map(chap),
            is_read_only: spec.is_read_only,
            mount: mount.to_owned(),
        }
    }

    /// The text that goes through the pipe, secrets included: a `Secret` does not write itself.
    pub(super) fn to_json(&self) -> String {
        let chap = |chap: &Option<HelperChap>| {
            let chap = chap.as_ref();
            chap.map(|chap| serde_json::json!({"user": chap.user, "secret": chap.secret.expose()}))
        };
        serde_json::json!({
            "volume": self.volume,
            "attachment": self.attachment,
            "portals": self.portals,
            "iqn": self.iqn,
            "lun": self.lun,
            "initiator_name": self.initiator_name,
            "chap": chap(&self.chap),
            "mutual_chap": chap(&self.mutual_chap),
            "is_read_only": self.is_read_only,
            "mount": self.mount,
        })
        .to_string()
    }

    pub(super) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    pub(super) fn into_parts(self) -> (ConnectionSpec, PathBuf) {
        let chap = |chap: HelperChap| ChapCredentials {
            user: chap.user,
            secret: chap.secret,
        };
        let spec = ConnectionSpec {
            volume: self.volume,
            attachment: self.attachment,
            portals: self.portals,
            iqn: self.iqn,
            lun: self.lun,
            initiator_name: self.initiator_name,
            chap: self.chap.map(chap),
            mutual_chap: self.mutual_chap.map(chap),
            is_read_only: self.is_read_only,
        };
        (spec, self.mount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_helper_is_told_is_what_was_meant() {
        let spec = ConnectionSpec {
            volume: Uuid::from_bytes([1; 16]),
            attachment: Uuid::from_bytes([2; 16]),
            portals: vec!["[::1]:3260".to_owned()],
            iqn: "iqn.2026-01.org.example:vol".to_owned(),
            lun: 1,
            initiator_name: "iqn.2026-01.org.example:host".to_owned(),
            chap: Some(ChapCredentials {
                user: "u".to_owned(),
                secret: Secret::new("secret \" 12"),
            }),
            mutual_chap: None,
            is_read_only: true,
        };
        let told = HelperSpec::new(&spec, Path::new("/run/x")).to_json();
        let (heard, mount) = HelperSpec::parse(&told).unwrap().into_parts();
        assert_eq!((heard, mount), (spec, PathBuf::from("/run/x")));
        assert!(HelperSpec::parse("{}").is_err());
    }
}
