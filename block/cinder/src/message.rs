//! User messages: why something that was accepted did not come to be.

use crate::Links;
use onggi_common_units::{UtcTime, Uuid};
use serde_json::{Value, json};

/// What last went wrong with a volume. There is one message per volume, and it carries the volume's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageView {
    /// The volume, and the message.
    pub volume: Uuid,
    /// What was being done: `create`, `delete`, `extend`.
    pub operation: String,
    /// What went wrong, for whoever runs the service: it may name devices and files.
    pub reason: String,
    /// When.
    pub created_at: UtcTime,
}

impl MessageView {
    /// The message as `GET /messages` shows it (Cinder API, microversion 3.3). Admins read the reason, others whom to
    /// ask.
    #[must_use]
    pub fn detail(&self, links: &Links, is_admin: bool) -> Value {
        let (operation, id) = (&self.operation, self.volume.to_string());
        let user_message = if is_admin {
            format!("{operation} volume: {}", self.reason)
        } else {
            format!(
                "{operation} volume: it failed. Ask your administrator, who sees the reason in this message."
            )
        };
        json!({
            "id": id,
            "event_id": self.event_id(),
            "user_message": user_message,
            "message_level": "ERROR",
            "resource_type": "VOLUME",
            "resource_uuid": id,
            "request_id": null,
            "created_at": self.created_at.iso_naive(),
            "guaranteed_until": null,
            "links": links.of("messages", &id),
        })
    }

    // Cinder numbers what was being done (cinder.message.message_field); 001 is "unknown error".
    fn event_id(&self) -> &'static str {
        match self.operation.as_str() {
            "create" => "VOLUME_VOLUME_008_001",
            "extend" => "VOLUME_VOLUME_007_001",
            _ => "VOLUME_VOLUME_000_001",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_admins_read_what_may_name_the_machines_files() {
        let message = MessageView {
            volume: Uuid::from_random([7; 16]),
            operation: "create".to_owned(),
            reason: "/var/lib/x: no space".to_owned(),
            created_at: UtcTime::EPOCH,
        };
        let links = Links::new("http", "127.0.0.1:8776", Some("p"));
        let (admin, other) = (message.detail(&links, true), message.detail(&links, false));
        assert_eq!(admin["user_message"], "create volume: /var/lib/x: no space");
        assert_eq!(admin["resource_uuid"], message.volume.to_string());
        assert!(!other.to_string().contains("/var/lib"), "{other}");
        assert_eq!(other["event_id"], admin["event_id"]);
    }
}
