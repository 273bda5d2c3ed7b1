//! Tests of the registry module.

use super::*;
use crate::export::ChapPair;
use onggi_block_medium::{ExtentMap, MediumKind};
use onggi_common_host::SystemEntropy;
use onggi_common_units::{ByteCount, Secret};
use std::path::Path;

/// A spec for a fresh 1 MiB file in `dir`, with one access by CHAP.
pub(crate) fn spec(dir: &Path, number: u8) -> ExportSpec {
    let path = dir.join(format!("volume-{number}"));
    std::fs::File::create(&path)
        .unwrap()
        .set_len(4 << 20)
        .unwrap();
    let mut volume = [number; 16];
    volume[6] = 0x40;
    volume[8] = 0x80;
    ExportSpec {
        iqn: format!("iqn.2026-11.org.onggi:volume-{number}"),
        lun: 1,
        volume: Uuid::from_bytes(volume),
        medium: medium(&path, 1),
        block_size: 512,
        read_only: false,
        access: vec![access(number)],
    }
}

fn medium(path: &Path, mib: u64) -> MediumSpec {
    let extents = ExtentMap::linear(ByteCount::from_mib(mib)).unwrap();
    MediumSpec {
        path: path.to_owned(),
        kind: MediumKind::File,
        extents,
        fence: None,
    }
}

fn access(number: u8) -> Access {
    let pair = |what: &str| ChapPair {
        user: format!("user{number}"),
        secret: Secret::new(format!("{what}-secret-of-{number}")),
    };
    Access {
        attachment: Uuid::from_bytes([number; 16]),
        initiator: None,
        chap: Some(pair("chap")),
        mutual: Some(pair("mutual")),
    }
}

fn registry(dir: &Path) -> Registry {
    let store = Store::open(dir, &dir.join("key"), &SystemEntropy).unwrap();
    let surroundings = Surroundings {
        portal_groups: vec![1],
        threads: 2,
        sanitize_bytes_per_second: 1 << 30,
    };
    Registry::restore(store, Arc::default(), Arc::new(SystemEntropy), surroundings).unwrap()
}

#[test]
fn exports_survive_a_restart_and_repeated_requests() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), 1);
    {
        let registry = registry(dir.path());
        registry.put(spec.clone()).unwrap();
        registry.put(spec.clone()).unwrap();
        registry.grant(&spec.iqn, access(9)).unwrap();
        registry.grant(&spec.iqn, access(9)).unwrap();
    }
    let registry = registry(dir.path());
    let listed = registry.list();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        listed[0].attachments,
        [Uuid::from_bytes([1; 16]), Uuid::from_bytes([9; 16])]
    );
    registry
        .revoke(&spec.iqn, Uuid::from_bytes([9; 16]))
        .unwrap();
    registry
        .revoke(&spec.iqn, Uuid::from_bytes([9; 16]))
        .unwrap();
    assert_eq!(registry.list()[0].attachments.len(), 1);
    registry.remove(&spec.iqn).unwrap();
    registry.remove(&spec.iqn).unwrap();
    assert!(registry.list().is_empty());
    assert!(matches!(
        registry.revoke(&spec.iqn, Uuid::from_bytes([9; 16])),
        Err(RegistryError::NotFound { .. })
    ));
}

#[test]
fn specs_that_cannot_be_served_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let good = spec(dir.path(), 1);
    let refuse = |change: &dyn Fn(&mut ExportSpec), word: &str| {
        let mut bad = good.clone();
        change(&mut bad);
        let error = registry.put(bad).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refuse(&|spec| spec.iqn = "../../etc".to_owned(), "iSCSI name");
    refuse(
        &|spec| spec.iqn = "iqn.2026-11.org.ONGGI:x".to_owned(),
        "normal form",
    );
    refuse(&|spec| spec.lun = 0x4000, "LUN");
    refuse(&|spec| spec.block_size = 520, "520");
    refuse(&|spec| spec.medium.path = "/nowhere".into(), "/nowhere");
    refuse(
        &|spec| spec.medium.extents = ExtentMap::linear(ByteCount::new(700)).unwrap(),
        "700",
    );
    refuse(
        &|spec| spec.medium.extents = ExtentMap::linear(ByteCount::from_mib(9)).unwrap(),
        "9MiB",
    );
    refuse(&|spec| spec.access.push(access(1)), "same attachment");
    refuse(
        &|spec| spec.access[0].mutual = spec.access[0].chap.clone(),
        "must differ",
    );
    refuse(&|spec| spec.access[0].chap = None, "mutual");
    refuse(
        &|spec| spec.access[0].initiator = Some("host".to_owned()),
        "iSCSI name",
    );
    refuse(
        &|spec| {
            spec.access[0].chap = Some(ChapPair {
                user: "u".to_owned(),
                secret: Secret::new("short"),
            })
        },
        "12 bytes",
    );
    assert!(registry.list().is_empty());
    registry.put(good.clone()).unwrap();
    refuse(
        &|spec| spec.volume = Uuid::from_bytes([9; 16]),
        "remove that export first",
    );
}

#[test]
fn a_volume_grows_in_place_and_does_not_shrink() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let spec = spec(dir.path(), 1);
    registry.put(spec.clone()).unwrap();
    let unit = registry.unit(&registry.find(&spec.iqn).unwrap()).unwrap();
    registry
        .resize(&spec.iqn, medium(&spec.medium.path, 3))
        .unwrap();
    assert_eq!(unit.capacity().size(), ByteCount::from_mib(3));
    assert_eq!(registry.list()[0].size, ByteCount::from_mib(3));
    let shrunk = registry.resize(&spec.iqn, medium(&spec.medium.path, 1));
    assert!(matches!(shrunk, Err(RegistryError::Shrinks { .. })));
}

#[test]
fn an_export_in_trouble_is_listed_and_served_once_its_medium_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), 1);
    registry(dir.path()).put(spec.clone()).unwrap();
    let away = dir.path().join("away");
    std::fs::hard_link(&spec.medium.path, &away).unwrap();
    std::fs::remove_file(&spec.medium.path).unwrap();
    let registry = registry(dir.path());
    assert!(
        registry.list()[0]
            .trouble
            .as_ref()
            .unwrap()
            .contains("volume-1")
    );
    let export = registry.find(&spec.iqn).unwrap();
    assert!(registry.unit(&export).is_err());
    std::fs::hard_link(&away, &spec.medium.path).unwrap();
    assert!(registry.unit(&export).is_ok());
    assert_eq!(registry.list()[0].trouble, None);
}

#[test]
fn discovery_asks_for_proof_where_there_is_something_to_prove() {
    let dir = tempfile::tempdir().unwrap();
    let registry = registry(dir.path());
    let (one, mut two) = (spec(dir.path(), 1), spec(dir.path(), 2));
    two.access[0].initiator = Some("iqn.2026-11.org.onggi:host".to_owned());
    registry.put(one).unwrap();
    registry.put(two.clone()).unwrap();
    let host = "iqn.2026-11.org.onggi:host";
    let user = two.access[0].chap.clone().unwrap().user;
    assert!(registry.is_discovery_by_proof("iqn.x") && registry.is_discovery_by_proof(host));
    let found = |initiator| registry.discovery_claims(initiator, &user).len();
    assert_eq!((found("iqn.x"), found(host)), (0, 1));
    assert!(registry.discovery_claims(host, "nobody").is_empty());
    let proven = two.access[0].chap.clone();
    let seeker = Seeker {
        initiator: "iqn.2026-11.org.onggi:host".to_owned(),
        proven,
    };
    assert_eq!(registry.visible(&seeker), [two.iqn.parse().unwrap()]);
}
