//! `/info`: what this service can do. Only what works is named.

use onggi_object_model::{Policy, limits};

/// The document, as JSON.
pub(crate) fn document(policies: &[Policy]) -> Vec<u8> {
    let policies: Vec<serde_json::Value> = policies
        .iter()
        .map(|policy| {
            let mut entry = serde_json::json!({ "name": policy.name, "aliases": policy.name });
            if policy.is_default {
                entry["default"] = true.into();
            }
            entry
        })
        .collect();
    let document = serde_json::json!({
        "swift": {
            "version": concat!("onggi-", env!("CARGO_PKG_VERSION")),
            "account_autocreate": true,
            "account_listing_limit": limits::ACCOUNT_LISTING_MAX,
            "allow_account_management": false,
            "container_listing_limit": limits::CONTAINER_LISTING_MAX,
            "max_account_name_length": limits::ACCOUNT_NAME_BYTES_MAX,
            "max_container_name_length": limits::CONTAINER_NAME_BYTES_MAX,
            "max_file_size": limits::OBJECT_BYTES_MAX,
            "max_header_size": limits::HEADER_VALUE_BYTES_MAX,
            "max_meta_count": limits::META_COUNT_MAX,
            "max_meta_name_length": limits::META_NAME_BYTES_MAX,
            "max_meta_overall_size": limits::META_OVERALL_BYTES_MAX,
            "max_meta_value_length": limits::META_VALUE_BYTES_MAX,
            "max_object_name_length": limits::OBJECT_NAME_BYTES_MAX,
            "policies": policies,
        },
        "copy": {},
    });
    document.to_string().into_bytes()
}
