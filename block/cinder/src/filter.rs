//! `GET /resource_filters`: which filters each listing has.

use serde_json::{Value, json};

const FILTERS: [(&str, &[&str]); 9] = [
    (
        "volume",
        &[
            "name",
            "status",
            "metadata",
            "bootable",
            "migration_status",
            "availability_zone",
            "group_id",
            "size",
            "created_at",
            "updated_at",
            "consumes_quota",
        ],
    ),
    ("backup", &["name", "status", "volume_id"]),
    (
        "snapshot",
        &[
            "name",
            "status",
            "volume_id",
            "metadata",
            "availability_zone",
            "consumes_quota",
        ],
    ),
    ("group", &["name"]),
    ("group_snapshot", &["name", "status", "group_id"]),
    ("attachment", &crate::attachment::FILTERS),
    (
        "message",
        &[
            "resource_uuid",
            "resource_type",
            "event_id",
            "request_id",
            "message_level",
        ],
    ),
    ("pool", &["name", "volume_type"]),
    ("volume_type", &["is_public", "extra_specs"]),
];

/// The body, for one resource or for all.
#[must_use]
pub fn body(resource: Option<&str>) -> Value {
    let wanted = FILTERS
        .iter()
        .filter(|(name, _)| resource.is_none_or(|resource| resource == *name));
    let entries: Vec<_> = wanted
        .map(|(name, filters)| json!({"resource": name, "filters": filters}))
        .collect();
    json!({"resource_filters": entries})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_listed_for_all_or_one() {
        assert_eq!(body(None)["resource_filters"].as_array().unwrap().len(), 9);
        assert_eq!(
            body(Some("pool"))["resource_filters"][0]["filters"],
            json!(["name", "volume_type"])
        );
        assert_eq!(body(Some("x"))["resource_filters"], json!([]));
    }
}
