//! `/info`: what this service can do. Only what works is named.

use crate::middleware::bulk::DELETES_MAX;
use crate::middleware::extract;
use crate::middleware::filters::Filters;
use crate::middleware::symlink::LOOPS_MAX;
use onggi_object_model::{Policy, limits, manifest};

/// The document.
pub(crate) fn document(
    policies: &[Policy],
    remaps_domains: bool,
    encrypts: bool,
    filters: &Filters,
) -> serde_json::Value {
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
    let mut document = serde_json::json!({
        "swift": {
            "version": concat!("onggi-", env!("CARGO_PKG_VERSION")),
            "account_autocreate": true,
            "account_listing_limit": limits::ACCOUNT_LISTING_MAX,
            "allow_account_management": true,
            "strict_cors_mode": true,
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
        "account_quotas": {},
        "container_quotas": {},
        "bulk_upload": {
            "max_containers_per_extraction": extract::CONTAINERS_MAX,
            "max_failed_extractions": extract::FAILURES_MAX,
        },
        "bulk_delete": {
            "max_deletes_per_request": DELETES_MAX,
            "max_failed_deletes": 1000,
        },
        "copy": {},
        "crossdomain": {},
        "etag_quoter": { "enable_by_default": false },
        "formpost": {
            "allowed_digests": ["sha1", "sha256", "sha512"],
            "deprecated_digests": ["sha1"],
        },
        "staticweb": {},
        "object_versioning": {},
        "versioned_writes": { "allowed_flags": ["x-versions-location", "x-history-location"] },
        "slo": {
            "max_manifest_segments": manifest::SEGMENTS_MAX,
            "max_manifest_size": manifest::MANIFEST_BYTES_MAX,
            "min_segment_size": 1,
            "yield_frequency": 10,
        },
        "symlink": { "symloop_max": LOOPS_MAX, "static_links": true },
        "tempauth": { "account_acls": true },
        "tempurl": signed_urls(),
    });
    if remaps_domains {
        document["domain_remap"] = serde_json::json!({ "default_reseller_prefix": null });
    }
    if encrypts {
        document["encryption"] = serde_json::json!({ "enabled": true });
    }
    filters.tell(&mut document);
    document
}

/// What a signed URL may be for, and which headers pass with one.
fn signed_urls() -> serde_json::Value {
    serde_json::json!({
        "methods": ["GET", "HEAD", "PUT", "POST", "DELETE"],
        "allowed_digests": ["sha1", "sha256", "sha512"],
        "deprecated_digests": ["sha1"],
        "incoming_remove_headers": ["x-timestamp"],
        "incoming_allow_headers": [],
        "outgoing_remove_headers": ["x-object-meta-*"],
        "outgoing_allow_headers": ["x-object-meta-public-*"],
    })
}
