//! `POST /volumes/{id}/action` and the action of an attachment.

use crate::Fault;
use crate::schema::{Fields, representation};
use serde_json::Value;

/// What is to be done with a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeAction {
    /// Make it larger.
    Extend {
        /// GiB.
        new_size: u64,
    },
    /// Change whether servers may start from it.
    SetBootable {
        /// Whether they may.
        bootable: bool,
    },
    /// An action of the API that this service does not have.
    Unavailable {
        /// Its name in words.
        operation: &'static str,
    },
}

/// What the actions older than the attachments API do.
const RESERVING: &str = "attach volumes by actions: use /attachments, of microversion 3.27;";

/// Actions of the API that need parts this service does not have, and what they would do.
const UNAVAILABLE: [(&str, &str); 25] = [
    ("os-reserve", RESERVING),
    ("os-unreserve", RESERVING),
    ("os-begin_detaching", RESERVING),
    ("os-roll_detaching", RESERVING),
    ("os-initialize_connection", RESERVING),
    ("os-terminate_connection", RESERVING),
    ("os-attach", RESERVING),
    ("os-detach", RESERVING),
    ("os-update_readonly_flag", "make volumes read-only"),
    (
        "os-extend_volume_completion",
        "complete the extension of volumes by their server",
    ),
    ("os-force_detach", "detach volumes by force"),
    ("os-retype", "change the type of volumes"),
    ("os-reset_status", "reset the status of volumes"),
    ("os-force_delete", "delete volumes by force"),
    ("os-migrate_volume", "migrate volumes"),
    ("os-migrate_volume_completion", "migrate volumes"),
    (
        "os-volume_upload_image",
        "upload volumes to an image service",
    ),
    ("os-reimage", "write images to volumes"),
    ("os-set_image_metadata", "keep image metadata"),
    ("os-show_image_metadata", "keep image metadata"),
    ("os-unset_image_metadata", "keep image metadata"),
    ("revert", "revert volumes to snapshots"),
    ("os-unmanage", "give volumes out of its care"),
    ("os-promote-replica", "replicate volumes"),
    ("os-reenable-replica", "replicate volumes"),
];

impl VolumeAction {
    /// Reads a request body: an object whose one key is the action.
    ///
    /// # Errors
    /// 400 when there is not exactly one known action, or its body is not what the schema allows.
    pub fn parse(body: &Value) -> Result<Self, Fault> {
        let name = the_action(body)?;
        if let Some((_, operation)) = UNAVAILABLE.iter().find(|(known, _)| *known == name) {
            return Ok(Self::Unavailable { operation });
        }
        let fields = || Fields::of(body, name);
        match name {
            "os-extend" => {
                let fields = fields()?;
                fields.required("new_size")?;
                let missing =
                    || Fault::bad_request("New volume size must be specified as an integer.");
                Ok(Self::Extend {
                    new_size: fields.size("new_size")?.ok_or_else(missing)?,
                })
            }
            "os-set_bootable" => Ok(Self::SetBootable {
                bootable: required_truth(&fields()?, "bootable")?,
            }),
            _ => Err(no_such_action(name)),
        }
    }
}

fn no_such_action(name: &str) -> Fault {
    let name: String = name.chars().take(64).collect();
    Fault::bad_request(format!("There is no such action: {name}"))
}

fn the_action(body: &Value) -> Result<&str, Fault> {
    let wrong = || Fault::bad_request("Malformed request body: name exactly one action");
    let map = body
        .as_object()
        .filter(|map| map.len() == 1)
        .ok_or_else(wrong)?;
    map.keys().next().map(String::as_str).ok_or_else(wrong)
}

fn required_truth(fields: &Fields<'_>, key: &str) -> Result<bool, Fault> {
    let value = fields.required(key)?;
    let problem = || Fault::bad_request(format!("{} is no value of {key}", representation(value)));
    fields.boolean(key)?.ok_or_else(problem)
}

/// Reads the body of `POST /attachments/{id}/action`, whose one action is `os-complete`.
///
/// # Errors
/// 400 when it is something else.
pub fn parse_attachment_action(body: &Value) -> Result<(), Fault> {
    match the_action(body)? {
        "os-complete" => Ok(()),
        other => Err(no_such_action(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn actions_of_stock_clients_are_read() {
        let extend = json!({"os-extend": {"new_size": 3}});
        assert_eq!(
            VolumeAction::parse(&extend),
            Ok(VolumeAction::Extend { new_size: 3 })
        );
        let body = json!({"os-set_bootable": {"bootable": "True"}});
        assert_eq!(
            VolumeAction::parse(&body),
            Ok(VolumeAction::SetBootable { bootable: true })
        );
    }

    #[test]
    fn an_action_this_service_lacks_is_named_in_words() {
        let body = json!({"os-retype": {"new_type": "x", "migration_policy": "never"}});
        let expected = VolumeAction::Unavailable {
            operation: "change the type of volumes",
        };
        assert_eq!(VolumeAction::parse(&body), Ok(expected));
        let reserve = VolumeAction::parse(&json!({"os-reserve": null}));
        assert!(matches!(reserve, Ok(VolumeAction::Unavailable { .. })));
    }

    #[test]
    fn wrong_actions_are_refused() {
        for body in [
            json!({}),
            json!({"os-reserve": null, "os-unreserve": null}),
            json!({"os-fly": {}}),
            json!({"os-extend": {}}),
            json!({"os-extend": {"new_size": 0}}),
            json!({"os-extend": null}),
            json!({"os-set_bootable": {"bootable": "perhaps"}}),
            json!("os-reserve"),
        ] {
            assert_eq!(
                VolumeAction::parse(&body).unwrap_err().code(),
                400,
                "{body}"
            );
        }
        assert!(parse_attachment_action(&json!({"os-complete": null})).is_ok());
        assert!(parse_attachment_action(&json!({"complete": {}})).is_err());
    }
}
