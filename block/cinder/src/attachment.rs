//! Attachments: reserve, connect, complete, release (attachments API of 3.27 and later).

use crate::list::Filter;
use crate::microversion::since;
use crate::schema::{Fields, invalid, representation};
use crate::{Fault, Microversion};
use onggi_common_units::{UtcTime, Uuid};
use serde_json::{Map, Value, json};

/// Characters of an initiator name (RFC 7143 §4.2.7: at most 223 bytes).
pub const INITIATOR_CHARS_MAX: usize = 223;

/// Whether the attachment may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// Reads and writes.
    #[default]
    Rw,
    /// Reads only.
    Ro,
}

impl AttachMode {
    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rw => "rw",
            Self::Ro => "ro",
        }
    }

    fn parse(field: &str, value: &Value) -> Result<Self, Fault> {
        match value.as_str() {
            Some("rw") => Ok(Self::Rw),
            Some("ro") => Ok(Self::Ro),
            _ => {
                let problem = format!("{} is not one of ['rw', 'ro']", representation(value));
                Err(invalid(field, value, &problem))
            }
        }
    }
}

/// The host that connects, as os-brick describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connector {
    /// Its host name.
    pub host: Option<String>,
    /// Its iSCSI initiator name.
    pub initiator: Option<String>,
    /// Its address.
    pub ip: Option<String>,
    /// Whether it can use several paths.
    pub multipath: bool,
    /// The device it will be there.
    pub mountpoint: Option<String>,
    /// The mode asked for here, which counts below 3.54.
    pub mode: Option<AttachMode>,
    /// Everything, as it was given.
    pub raw: Map<String, Value>,
}

impl Connector {
    /// Reads a connector; an empty one is none.
    ///
    /// # Errors
    /// 400 when a field that is used has the wrong type or form.
    pub fn parse(value: &Value) -> Result<Option<Self>, Fault> {
        let Some(raw) = value.as_object() else {
            let problem = format!("{} is not of type 'object'", representation(value));
            return Err(invalid("connector", value, &problem));
        };
        if raw.is_empty() {
            return Ok(None);
        }
        let wrapped = json!({"connector": value});
        let fields = Fields::of(&wrapped, "connector")?;
        let initiator = fields.text("initiator")?;
        if let Some(name) = &initiator
            && !is_initiator_name(name)
        {
            return Err(invalid(
                "initiator",
                &json!(name),
                "it is no iSCSI name (iqn., eui. or naa.)",
            ));
        }
        Ok(Some(Self {
            host: fields
                .label("host", "host")?
                .filter(|host| !host.is_empty()),
            initiator,
            ip: fields.text("ip")?,
            multipath: fields.boolean("multipath")?.unwrap_or(false),
            mountpoint: fields.label("mountpoint", "mountpoint")?,
            mode: fields
                .get("mode")
                .map(|mode| AttachMode::parse("mode", mode))
                .transpose()?,
            raw: raw.clone(),
        }))
    }

    /// The connector as JSON for a request.
    #[must_use]
    pub fn to_value(&self) -> Value {
        Value::Object(self.raw.clone())
    }
}

fn is_initiator_name(name: &str) -> bool {
    let prefixed = ["iqn.", "eui.", "naa."]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    // RFC 3722: the prepared form has no upper case, but initiators in the field do send it.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:".contains(&byte) || byte >= 0x80;
    prefixed && name.len() <= INITIATOR_CHARS_MAX && name.bytes().all(plain)
}

/// A parsed `POST /attachments`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateAttachment {
    /// The volume.
    pub volume: Uuid,
    /// The server, when one is known.
    pub instance: Option<Uuid>,
    /// The host, when the client connects in the same call.
    pub connector: Option<Connector>,
    /// What it may do.
    pub mode: Option<AttachMode>,
}

impl CreateAttachment {
    /// Reads a request body.
    ///
    /// # Errors
    /// 400 with Cinder's message when a field is not what the schema allows.
    pub fn parse(body: &Value, version: Microversion) -> Result<Self, Fault> {
        let fields = Fields::of(body, "attachment")?;
        let with_mode = version >= since::ATTACH_MODE;
        let keys = ["volume_uuid", "instance_uuid", "connector", "mode"];
        fields.only(if with_mode { &keys } else { &keys[..3] })?;
        fields.required("volume_uuid")?;
        let volume = fields
            .uuid("volume_uuid")?
            .ok_or_else(|| Fault::bad_request("Must specify 'volume_uuid'"))?;
        let connector = fields
            .get("connector")
            .map(Connector::parse)
            .transpose()?
            .flatten();
        // The cinder client says 'null' for "no wish".
        let mode = fields
            .get("mode")
            .filter(|mode| mode.as_str() != Some("null"));
        let mode = mode
            .map(|mode| AttachMode::parse("mode", mode))
            .transpose()?;
        let from_connector = connector.as_ref().and_then(|connector| connector.mode);
        Ok(Self {
            volume,
            instance: fields.uuid("instance_uuid")?,
            mode: if with_mode { mode } else { from_connector },
            connector,
        })
    }
}

/// A parsed `PUT /attachments/{id}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateAttachment {
    /// The host that connects.
    pub connector: Connector,
}

impl UpdateAttachment {
    /// Reads a request body.
    ///
    /// # Errors
    /// 400 with Cinder's message when a field is not what the schema allows.
    pub fn parse(body: &Value) -> Result<Self, Fault> {
        let fields = Fields::of(body, "attachment")?;
        fields.only(&["connector"])?;
        let value = fields.required("connector")?;
        let empty = || invalid("connector", value, "{} does not have enough properties");
        Ok(Self {
            connector: Connector::parse(value)?.ok_or_else(empty)?,
        })
    }
}

/// Everything the API can show of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentView {
    /// Its id.
    pub id: Uuid,
    /// The volume.
    pub volume_id: Uuid,
    /// The server.
    pub instance: Option<Uuid>,
    /// `reserved`, `attaching`, `attached`, …
    pub status: String,
    /// What it may do.
    pub mode: Option<AttachMode>,
    /// Since when it is attached.
    pub attached_at: Option<UtcTime>,
    /// Since when it is not any more.
    pub detached_at: Option<UtcTime>,
    /// How to connect; empty until there is a connector.
    pub connection_info: Map<String, Value>,
}

/// The filters of attachment listings.
pub const FILTERS: [&str; 4] = ["volume_id", "status", "instance_id", "attach_status"];

impl AttachmentView {
    /// The short form of listings.
    #[must_use]
    pub fn summary(&self) -> Value {
        json!({"id": self.id, "instance": self.instance, "volume_id": self.volume_id, "status": self.status})
    }

    /// The long form.
    #[must_use]
    pub fn detail(&self) -> Value {
        let moment = |time: Option<UtcTime>| time.map_or_else(String::new, UtcTime::iso_naive);
        json!({
            "id": self.id,
            "instance": self.instance,
            "volume_id": self.volume_id,
            "status": self.status,
            "attached_at": moment(self.attached_at),
            "detached_at": moment(self.detached_at),
            "attach_mode": self.mode.map(AttachMode::name),
            "connection_info": self.connection_info,
        })
    }

    /// Whether the attachment passes a filter.
    #[must_use]
    pub fn passes(&self, filter: &Filter) -> bool {
        match filter.key.as_str() {
            "volume_id" => filter.matches_text(Some(&self.volume_id.to_string())),
            "instance_id" => filter.matches_text(self.instance.map(|id| id.to_string()).as_deref()),
            "status" | "attach_status" => filter.matches_text(Some(&self.status)),
            _ => true,
        }
    }
}

/// One iSCSI path of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// `address:port`.
    pub portal: String,
    /// The target's name.
    pub iqn: String,
    /// The unit.
    pub lun: u64,
}

/// The facts of an iSCSI connection that go into `connection_info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IscsiConnection {
    /// The volume.
    pub volume_id: Uuid,
    /// The attachment.
    pub attachment_id: Uuid,
    /// Its paths; the first is the one for clients that use one.
    pub paths: Vec<Path>,
    /// CHAP user and secret.
    pub chap: Option<(String, onggi_common_units::Secret)>,
    /// What it may do.
    pub mode: AttachMode,
    /// Whether the plural lists are shown even for one path.
    pub multipath: bool,
}

impl IscsiConnection {
    /// The flat form of the attachments API. It holds the CHAP secret: it is for the answer to whoever connects.
    #[must_use]
    pub fn flat(&self) -> Map<String, Value> {
        let Some(first) = self.paths.first() else {
            return Map::new();
        };
        let mut info = Map::new();
        let mut put = |key: &str, value: Value| drop(info.insert(key.to_owned(), value));
        put("driver_volume_type", json!("iscsi"));
        put("target_discovered", json!(false));
        put("target_portal", json!(first.portal));
        put("target_iqn", json!(first.iqn));
        put("target_lun", json!(first.lun));
        if self.multipath || self.paths.len() > 1 {
            put(
                "target_portals",
                self.paths.iter().map(|path| path.portal.clone()).collect(),
            );
            put(
                "target_iqns",
                self.paths.iter().map(|path| path.iqn.clone()).collect(),
            );
            put(
                "target_luns",
                self.paths.iter().map(|path| path.lun).collect(),
            );
        }
        if let Some((user, secret)) = &self.chap {
            put("auth_method", json!("CHAP"));
            put("auth_username", json!(user));
            put("auth_password", json!(secret.expose()));
        }
        put("volume_id", json!(self.volume_id));
        put("attachment_id", json!(self.attachment_id));
        put("encrypted", json!(false));
        put("qos_specs", Value::Null);
        put("access_mode", json!(self.mode.name()));
        put("cacheable", json!(false));
        put("enforce_multipath", json!(false));
        info
    }
}

/// A `connection_info` a client cannot use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// It is of another kind than iSCSI.
    #[error("the service offers a connection of kind {kind:?}, and only iscsi can be used")]
    OtherKind {
        /// The kind, cut to 32 characters.
        kind: String,
    },
    /// A field is missing or has the wrong type.
    #[error("the service's connection_info has no usable {field}")]
    Missing {
        /// The field.
        field: &'static str,
    },
}

impl IscsiConnection {
    /// Reads the flat form back: what a client does with the answer.
    ///
    /// # Errors
    /// When it is of another kind, or a field is missing.
    pub fn parse(info: &Value) -> Result<Self, ConnectionError> {
        let kind = info["driver_volume_type"].as_str().unwrap_or("");
        if kind != "iscsi" {
            return Err(ConnectionError::OtherKind {
                kind: kind.chars().take(32).collect(),
            });
        }
        let text = |field: &'static str| {
            info[field]
                .as_str()
                .ok_or(ConnectionError::Missing { field })
        };
        let uuid = |field| {
            text(field)?
                .parse()
                .ok()
                .ok_or(ConnectionError::Missing { field })
        };
        let first = Path {
            portal: text("target_portal")?.to_owned(),
            iqn: text("target_iqn")?.to_owned(),
            lun: info["target_lun"]
                .as_u64()
                .ok_or(ConnectionError::Missing {
                    field: "target_lun",
                })?,
        };
        let chap = match info["auth_method"].as_str() {
            Some("CHAP") => {
                let secret = onggi_common_units::Secret::new(text("auth_password")?);
                Some((text("auth_username")?.to_owned(), secret))
            }
            Some(_) | None => None,
        };
        Ok(Self {
            volume_id: uuid("volume_id")?,
            attachment_id: uuid("attachment_id")?,
            paths: all_paths(info).unwrap_or_else(|| vec![first]),
            chap,
            mode: if info["access_mode"] == "ro" {
                AttachMode::Ro
            } else {
                AttachMode::Rw
            },
            multipath: info.get("target_portals").is_some(),
        })
    }
}

/// The paths of the plural lists, when they are there and of one length.
fn all_paths(info: &Value) -> Option<Vec<Path>> {
    let list = |field: &str| info[field].as_array();
    let (portals, iqns, luns) = (
        list("target_portals")?,
        list("target_iqns")?,
        list("target_luns")?,
    );
    if portals.len() != iqns.len() || iqns.len() != luns.len() || portals.is_empty() {
        return None;
    }
    let path = |((portal, iqn), lun): ((&Value, &Value), &Value)| {
        Some(Path {
            portal: portal.as_str()?.to_owned(),
            iqn: iqn.as_str()?.to_owned(),
            lun: lun.as_u64()?,
        })
    };
    portals.iter().zip(iqns).zip(luns).map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_units::Secret;

    fn id(byte: u8) -> Uuid {
        Uuid::from_random([byte; 16])
    }

    #[test]
    fn a_reservation_and_a_connection_in_one_call_are_read() {
        let body = json!({"attachment": {"volume_uuid": id(1), "instance_uuid": id(2), "mode": "ro",
            "connector": {"host": "h", "initiator": "iqn.1993-08.org.debian:01:abc", "multipath": true, "x": [1]}}});
        let parsed = CreateAttachment::parse(&body, Microversion::MAX).unwrap();
        assert_eq!(
            (parsed.volume, parsed.instance, parsed.mode),
            (id(1), Some(id(2)), Some(AttachMode::Ro))
        );
        let connector = parsed.connector.unwrap();
        assert!(connector.multipath && connector.raw.contains_key("x"));
    }

    #[test]
    fn the_mode_of_old_clients_is_in_the_connector() {
        let body =
            json!({"attachment": {"volume_uuid": id(1), "connector": {"host": "h", "mode": "ro"}}});
        let parsed = CreateAttachment::parse(&body, Microversion::new(27)).unwrap();
        assert_eq!(parsed.mode, Some(AttachMode::Ro));
        let body = json!({"attachment": {"volume_uuid": id(1), "mode": "ro"}});
        assert_eq!(
            CreateAttachment::parse(&body, Microversion::new(53))
                .unwrap_err()
                .code(),
            400
        );
    }

    #[test]
    fn wrong_requests_are_refused() {
        for body in [
            json!({}),
            json!({"attachment": {}}),
            json!({"attachment": {"volume_uuid": "x"}}),
            json!({"attachment": {"volume_uuid": id(1), "mode": "wr"}}),
            json!({"attachment": {"volume_uuid": id(1), "connector": "x"}}),
            json!({"attachment": {"volume_uuid": id(1), "instance_uuid": "vm1"}}),
            json!({"attachment": {"volume_uuid": id(1), "connector": {"initiator": "../etc"}}}),
            json!({"attachment": {"volume_uuid": id(1), "connector": {"initiator": "iqn.x,CHAP=None"}}}),
            json!({"attachment": {"volume_uuid": id(1), "more": 1}}),
        ] {
            assert_eq!(
                CreateAttachment::parse(&body, Microversion::MAX)
                    .unwrap_err()
                    .code(),
                400,
                "{body}"
            );
        }
        for body in [
            json!({"attachment": {}}),
            json!({"attachment": {"connector": {}}}),
            json!([]),
        ] {
            assert_eq!(
                UpdateAttachment::parse(&body).unwrap_err().code(),
                400,
                "{body}"
            );
        }
    }

    #[test]
    fn connection_info_has_the_captured_fields() {
        let path = |portal: &str| Path {
            portal: portal.to_owned(),
            iqn: "iqn.x".to_owned(),
            lun: 0,
        };
        let connection = IscsiConnection {
            volume_id: id(1),
            attachment_id: id(2),
            paths: vec![path("127.0.0.1:3260")],
            chap: Some(("user".to_owned(), Secret::new("secret"))),
            mode: AttachMode::Rw,
            multipath: false,
        };
        let info = connection.flat();
        assert_eq!(info["target_portal"], "127.0.0.1:3260");
        assert_eq!(info["auth_password"], "secret");
        assert!(!info.contains_key("target_portals"));
        let two = IscsiConnection {
            paths: vec![path("a:1"), path("b:2")],
            multipath: true,
            ..connection.clone()
        };
        assert_eq!(two.flat()["target_portals"], json!(["a:1", "b:2"]));
        assert!(!format!("{two:?}").contains("\"secret\""));
        assert_eq!(
            IscsiConnection::parse(&Value::Object(info)),
            Ok(connection.clone())
        );
        assert_eq!(
            IscsiConnection::parse(&Value::Object(two.flat()))
                .unwrap()
                .paths
                .len(),
            2
        );
    }

    #[test]
    fn connection_info_of_another_kind_is_refused() {
        let other = json!({"driver_volume_type": "rbd"});
        assert!(matches!(
            IscsiConnection::parse(&other),
            Err(ConnectionError::OtherKind { .. })
        ));
        let broken = json!({"driver_volume_type": "iscsi", "target_portal": "a:1"});
        assert_eq!(
            IscsiConnection::parse(&broken),
            Err(ConnectionError::Missing {
                field: "target_iqn"
            })
        );
        assert!(IscsiConnection::parse(&Value::Null).is_err());
    }

    #[test]
    fn an_attachment_shows_empty_texts_for_moments_it_has_not() {
        let view = AttachmentView {
            id: id(1),
            volume_id: id(2),
            instance: None,
            status: "reserved".to_owned(),
            mode: None,
            attached_at: None,
            detached_at: None,
            connection_info: Map::new(),
        };
        let expected = json!({"id": id(1), "volume_id": id(2), "instance": null, "status": "reserved",
            "attached_at": "", "detached_at": "", "attach_mode": null, "connection_info": {}});
        assert_eq!(view.detail(), expected);
    }
}
