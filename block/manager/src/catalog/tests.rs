//! The rows' golden files, and what the catalogue refuses.

use super::*;
use onggi_block_volume::{
    AccessMode, AttachmentState, Connector, Fault, Operation, Plan, PlanId, Step, VolumeState,
};
use onggi_common_host::{SystemClock, SystemEntropy};
use onggi_common_meta::control::Embedded;
use onggi_common_meta::table::decode;
use onggi_common_units::UtcTime;

fn uuid(byte: u8) -> Uuid {
    Uuid::from_random([byte; 16])
}

fn volume() -> Volume {
    Volume {
        id: VolumeId(uuid(1)),
        project: "p1".parse().unwrap(),
        user: "u1".parse().unwrap(),
        name: Some("jar".to_owned()),
        description: None,
        size: SizeGib::try_from(3).unwrap(),
        state: VolumeState::ErrorDeleting,
        pool: "h@b#p".parse().unwrap(),
        availability_zone: "nova".to_owned(),
        volume_type: "__DEFAULT__".to_owned(),
        metadata: [("k".to_owned(), "v".to_owned())].into(),
        bootable: false,
        multiattach: false,
        exported: true,
        fault: Some(Fault {
            operation: "delete".to_owned(),
            message: "busy".to_owned(),
            at: UtcTime::from_seconds(9),
        }),
        created_at: UtcTime::from_seconds(7),
        updated_at: Some(UtcTime::from_seconds(8)),
    }
}

fn attachment() -> AttachmentRow {
    let mut connector = Connector::new("iqn.1993-08.org.debian:01:abc").unwrap();
    connector.host = Some("compute1".to_owned());
    AttachmentRow {
        attachment: Attachment {
            id: AttachmentId(uuid(2)),
            volume: VolumeId(uuid(1)),
            project: "p1".parse().unwrap(),
            user: "u1".parse().unwrap(),
            instance: Some(uuid(3)),
            mode: AccessMode::ReadWrite,
            state: AttachmentState::Attaching,
            connector: Some(connector),
            created_at: UtcTime::from_seconds(7),
            updated_at: None,
            attached_at: None,
        },
        chap: Some(ChapRow {
            user: "user".to_owned(),
            secret: from_json(br#"{"nonce":"00","sealed":"11"}"#).unwrap(),
        }),
        portals: vec!["127.0.0.1:3260".parse().unwrap()],
    }
}

fn plan() -> PlanRow {
    let (id, volume, pool) = (PlanId(uuid(4)), VolumeId(uuid(1)), "h@b#p".parse().unwrap());
    let mut plan = Plan::create(id, volume, pool, SizeGib::try_from(3).unwrap());
    plan.operation = Operation::Connect {
        attachment: AttachmentId(uuid(2)),
    };
    plan.steps.push(Step::Withdraw {
        volume,
        attachment: AttachmentId(uuid(2)),
    });
    let mut journal = Journal::new(plan);
    journal.advance();
    PlanRow(journal)
}

/// With `ONGGI_GOLDEN=write` makes the files of rows that have none.
fn check_golden<R: Record + PartialEq + core::fmt::Debug>(file: &str, row: &R) {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    let path = std::path::Path::new(&here).join("golden").join(file);
    if std::env::var("ONGGI_GOLDEN").is_ok_and(|word| word == "write") && !path.exists() {
        let visibility = onggi_common_host::durable::Visibility::World;
        onggi_common_host::durable::replace(&path, &encode(row), visibility).unwrap();
    }
    let golden = std::fs::read(&path).unwrap();
    assert_eq!(&decode::<R>(&golden).unwrap(), row, "{file}");
    assert_eq!(encode(row), golden, "{file}");
}

#[test]
fn version_1_rows_are_still_read_and_still_written_the_same() {
    check_golden("volume.v1", &VolumeRow(volume()));
    check_golden(
        "usage.v1",
        &UsageRow {
            size: SizeGib::try_from(3).unwrap(),
        },
    );
    check_golden("attachment.v1", &attachment());
    check_golden("plan.v1", &plan());
    check_golden("seal.v1", &SealRow(attachment().chap.unwrap().secret));
}

fn catalog() -> Catalog {
    let store = Embedded::in_memory(Arc::new(SystemClock::new()));
    Catalog::new(Arc::new(store), Arc::new(SystemEntropy))
}

#[test]
fn b4_a_volume_that_changed_meanwhile_is_not_overwritten() {
    let catalog = catalog();
    catalog
        .commit(&catalog.edit().add_volume(&volume()))
        .unwrap();
    let read = catalog.volume(volume().id).unwrap().unwrap();
    let mut changed = volume();
    changed.state = VolumeState::Deleting;
    catalog
        .commit(&catalog.edit().set_volume(&changed, read.revision))
        .unwrap();
    let stale = catalog.commit(&catalog.edit().set_volume(&volume(), read.revision));
    assert!(matches!(stale, Err(CatalogError::Conflict)));
    let stale = catalog.commit(&catalog.edit().remove_volume(&volume(), read.revision));
    assert!(matches!(stale, Err(CatalogError::Conflict)));
    assert_eq!(
        catalog.volume(volume().id).unwrap().unwrap().record.0,
        changed
    );
}

#[test]
fn a_volume_has_one_plan_at_a_time() {
    let catalog = catalog();
    let PlanRow(journal) = plan();
    catalog
        .commit(&catalog.edit().begin_plan(&journal))
        .unwrap();
    let second = catalog.commit(&catalog.edit().begin_plan(&journal));
    assert!(matches!(second, Err(CatalogError::Conflict)));
}

#[test]
fn usage_counts_the_rows_of_the_project_and_no_other() {
    let catalog = catalog();
    let mut other = volume();
    other.id = VolumeId(uuid(9));
    other.project = "p11".parse().unwrap();
    catalog
        .commit(&catalog.edit().add_volume(&volume()).add_volume(&other))
        .unwrap();
    let (usage, _) = catalog.usage(&volume().project).unwrap();
    assert_eq!(
        usage,
        QuotaUsage {
            volumes: 1,
            gigabytes: 3
        }
    );
}
