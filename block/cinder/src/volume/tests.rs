//! Tests of the volume module.

use super::*;

fn view() -> VolumeView {
    VolumeView {
        id: Uuid::from_random([1; 16]),
        status: "available".to_owned(),
        size: 3,
        name: Some("v1".to_owned()),
        description: None,
        project_id: "p".repeat(32),
        user_id: "u".repeat(32),
        availability_zone: "nova".to_owned(),
        created_at: UtcTime::from_micros(1_700_000_000_123_456),
        updated_at: None,
        volume_type: Some("__DEFAULT__".to_owned()),
        volume_type_id: Some(Uuid::from_random([2; 16])),
        snapshot_id: None,
        source_volid: None,
        metadata: BTreeMap::from([("tier".to_owned(), "gold".to_owned())]),
        bootable: false,
        multiattach: false,
        attachments: vec![AttachedView {
            attachment_id: Uuid::from_random([3; 16]),
            server_id: Some(Uuid::from_random([4; 16])),
            host_name: Some("compute1".to_owned()),
            device: Some("/dev/vdb".to_owned()),
            attached_at: None,
        }],
        host: Some("h@lvm#lvm".to_owned()),
        service_uuid: None,
        message: None,
    }
}

fn rendering(minor: u16, is_admin: bool) -> Rendering {
    Rendering {
        version: Microversion::new(minor),
        is_admin,
        links: Links::new("http", "h", None),
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

fn filter(key: &str, value: &str) -> Filter {
    Filter {
        key: key.to_owned(),
        like: false,
        value: value.to_owned(),
    }
}

#[test]
fn the_newest_admin_view_has_exactly_the_captured_fields() {
    let expected = "attachments availability_zone bootable cluster_name consistencygroup_id consumes_quota \
        created_at description encrypted group_id id links metadata migration_status multiattach name \
        os-vol-host-attr:host os-vol-mig-status-attr:migstat os-vol-mig-status-attr:name_id \
        os-vol-tenant-attr:tenant_id provider_id replication_status service_uuid shared_targets size \
        snapshot_id source_volid status updated_at user_id volume_type volume_type_id";
    let shown = view().detail(&rendering(71, true));
    assert_eq!(
        keys(&shown),
        expected.split_whitespace().collect::<Vec<_>>()
    );
    assert_eq!(shown["bootable"], "false");
    assert_eq!(shown["created_at"], "2023-11-14T22:13:20.123456");
    assert_eq!(shown["shared_targets"], json!(false));
    assert_eq!(shown["attachments"][0]["id"], shown["id"]);
}

#[test]
fn the_oldest_view_of_a_member_has_only_the_first_fields() {
    let expected = "attachments availability_zone bootable consistencygroup_id created_at description encrypted id \
        links metadata multiattach name os-vol-tenant-attr:tenant_id replication_status size snapshot_id \
        source_volid status updated_at user_id volume_type";
    let shown = view().detail(&rendering(0, false));
    assert_eq!(
        keys(&shown),
        expected.split_whitespace().collect::<Vec<_>>()
    );
    assert_eq!(shown["attachments"][0]["host_name"], Value::Null);
}

#[test]
fn each_field_appears_at_its_revision() {
    for (key, minor) in [
        ("group_id", 13),
        ("provider_id", 21),
        ("shared_targets", 48),
        ("service_uuid", 48),
        ("cluster_name", 61),
        ("volume_type_id", 63),
        ("consumes_quota", 65),
    ] {
        let before = view().detail(&rendering(minor - 1, true));
        let after = view().detail(&rendering(minor, true));
        assert!(
            before.get(key).is_none() && after.get(key).is_some(),
            "{key}"
        );
    }
}

#[test]
fn a_request_reads_into_what_is_asked_for() {
    let body = json!({"volume": {"size": "2", "name": " v1 ", "metadata": {"a": "b"}, "volume_type": null,
        "imageRef": null, "snapshot_id": null, "multiattach": false, "consistencygroup_id": null}});
    let parsed = CreateVolume::parse(&body, Microversion::MAX).unwrap();
    assert_eq!((parsed.size, parsed.name.as_deref()), (Some(2), Some("v1")));
    assert_eq!((parsed.volume_type, parsed.source), (None, None));
}

#[test]
fn a_request_without_size_or_source_is_refused() {
    let fault = CreateVolume::parse(&json!({"volume": {}}), Microversion::MAX).unwrap_err();
    assert!(
        fault
            .message()
            .starts_with("Invalid input received: Invalid volume size provided"),
        "{fault}"
    );
    let id = Uuid::from_random([9; 16]);
    let body = json!({"volume": {"source_volid": id}});
    let parsed = CreateVolume::parse(&body, Microversion::MAX).unwrap();
    assert_eq!(parsed.source, Some(VolumeSource::Volume(id)));
    let both = json!({"volume": {"source_volid": id, "snapshot_id": id}});
    assert_eq!(
        CreateVolume::parse(&both, Microversion::MAX)
            .unwrap_err()
            .code(),
        400
    );
}

#[test]
fn unknown_keys_are_refused_from_3_53_and_ignored_before() {
    let body = json!({"volume": {"size": 1, "colour": "red"}});
    assert!(CreateVolume::parse(&body, Microversion::new(52)).is_ok());
    let fault = CreateVolume::parse(&body, Microversion::new(53)).unwrap_err();
    assert!(
        fault.message().contains("('colour' was unexpected)"),
        "{fault}"
    );
}

#[test]
fn multiattach_and_groups_are_refused() {
    let body = json!({"volume": {"size": 1, "multiattach": true}});
    assert_eq!(
        CreateVolume::parse(&body, Microversion::MAX)
            .unwrap_err()
            .code(),
        400
    );
    let body = json!({"volume": {"size": 1, "group_id": "g"}});
    assert_eq!(
        CreateVolume::parse(&body, Microversion::MAX)
            .unwrap_err()
            .code(),
        404
    );
}

#[test]
fn an_update_says_what_changes_and_what_goes() {
    let body = json!({"volume": {"name": null, "description": "d"}});
    let update = UpdateVolume::parse(&body, Microversion::MAX).unwrap();
    assert_eq!(
        (update.name, update.description),
        (Some(None), Some(Some("d".to_owned())))
    );
    assert_eq!(update.metadata, None);
    assert_eq!(
        UpdateVolume::parse(&json!({"volume": {}}), Microversion::MAX)
            .unwrap_err()
            .code(),
        400
    );
}

#[test]
fn filters_compare_fields() {
    let volume = view();
    for (key, value, passes) in [
        ("name", "v1", true),
        ("name", "v", false),
        ("size", "3", true),
        ("bootable", "true", false),
        ("status", "error", false),
        ("metadata", "{'tier': 'gold'}", true),
        ("metadata", "{\"tier\": \"tin\"}", false),
        ("created_at", "gt:2023-11-14T22:13:20", true),
    ] {
        assert_eq!(
            volume.passes(&filter(key, value)).unwrap(),
            passes,
            "{key}={value}"
        );
    }
    let like = Filter {
        like: true,
        ..filter("name", "v")
    };
    assert!(volume.passes(&like).unwrap());
    assert_eq!(
        volume.passes(&filter("metadata", "x")).unwrap_err().code(),
        400
    );
}

#[test]
fn the_summary_counts_and_collects_metadata() {
    let body = summary_body(&[view(), view()], Microversion::MAX);
    let expected = json!({"total_count": 2, "total_size": 6, "metadata": {"tier": ["gold"]}});
    assert_eq!(body["volume-summary"], expected);
    assert!(
        summary_body(&[], Microversion::new(35))["volume-summary"]
            .get("metadata")
            .is_none()
    );
}
