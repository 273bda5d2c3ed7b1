//! Tests of the file module.

use super::*;
use std::os::unix::fs::FileExt;

const ID: &str = "6f0cf2d4-45b0-4f25-9c21-6d1c6a4d6f6a";

fn pool(dir: &tempfile::TempDir) -> FilePool {
    let directory = dir.path().join("volumes");
    FilePool::open(FileOptions {
        name: "files".to_owned(),
        directory,
        reserve: ByteCount::from_mib(1),
    })
    .unwrap()
}

fn id() -> Uuid {
    ID.parse().unwrap()
}

fn labels() -> Labels {
    Labels {
        name: "demo v1".to_owned(),
        project: "p".to_owned(),
    }
}

#[test]
fn a_volume_is_made_listed_opened_grown_and_removed_and_each_may_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(&dir);
    for _ in 0..2 {
        pool.create(id(), ByteCount::from_gib(1), &labels())
            .unwrap();
    }
    let before = pool.open(id()).unwrap();
    assert_eq!(
        (before.kind, before.size()),
        (MediumKind::File, ByteCount::from_gib(1))
    );
    for _ in 0..2 {
        pool.extend(id(), ByteCount::from_gib(2)).unwrap();
    }
    assert_eq!(
        pool.verify(id(), &before).unwrap().size(),
        ByteCount::from_gib(2)
    );
    let listed = pool.list().unwrap();
    let expected = StoredVolume {
        id: id(),
        size: ByteCount::from_gib(2),
        labels: labels(),
        is_complete: true,
    };
    assert_eq!(listed, [expected]);
    assert_eq!(pool.capacity().unwrap().provisioned, ByteCount::from_gib(2));
    assert!(
        pool.allocated(id()).unwrap() < ByteCount::from_mib(1),
        "sparse"
    );
    for _ in 0..2 {
        pool.remove(id()).unwrap();
    }
    assert_eq!(pool.list().unwrap(), []);
    assert!(matches!(pool.open(id()), Err(PoolError::NotFound { .. })));
    assert!(matches!(
        pool.verify(id(), &before),
        Err(PoolError::Fenced { .. })
    ));
    assert_eq!(
        std::fs::read_dir(dir.path().join("volumes"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn only_the_owner_can_read_a_volume() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(&dir);
    pool.create(id(), ByteCount::from_mib(1), &labels())
        .unwrap();
    let mode = pool.open(id()).unwrap().path.metadata().unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_removed_volumes_bytes_are_not_in_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(&dir);
    pool.create(id(), ByteCount::from_mib(1), &labels())
        .unwrap();
    let path = pool.open(id()).unwrap().path;
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all_at(&[7; 4_096], 0)
        .unwrap();
    pool.remove(id()).unwrap();
    pool.create(id(), ByteCount::from_mib(1), &labels())
        .unwrap();
    assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn sizes_that_cannot_be_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(&dir);
    let create = |size| pool.create(id(), size, &labels());
    assert!(matches!(
        create(ByteCount::ZERO),
        Err(PoolError::InvalidSize { .. })
    ));
    assert!(matches!(
        create(ByteCount::new(u64::MAX)),
        Err(PoolError::InvalidSize { .. })
    ));
    let error = create(VOLUME_SIZE_MAX).unwrap_err();
    assert!(
        matches!(error, PoolError::InsufficientSpace { needed, .. } if needed == VOLUME_SIZE_MAX),
        "{error}"
    );
    assert!(pool.list().unwrap().is_empty(), "nothing is left behind");
    create(ByteCount::from_mib(2)).unwrap();
    assert!(matches!(
        create(ByteCount::from_mib(3)),
        Err(PoolError::Exists { .. })
    ));
    assert!(matches!(
        pool.extend(id(), ByteCount::from_mib(1)),
        Err(PoolError::Shrink { .. })
    ));
}

#[test]
fn a_size_is_rounded_up_to_whole_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(&dir);
    pool.create(id(), ByteCount::new(1), &labels()).unwrap();
    assert_eq!(pool.open(id()).unwrap().size(), SIZE_UNIT);
}

#[test]
fn what_a_crash_left_without_a_size_is_incomplete_until_it_is_made_again_or_removed() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(&dir);
    File::create(pool.path(id())).unwrap();
    assert!(!pool.list().unwrap()[0].is_complete);
    assert!(matches!(pool.open(id()), Err(PoolError::Incomplete { .. })));
    assert!(matches!(
        pool.extend(id(), SIZE_UNIT),
        Err(PoolError::Incomplete { .. })
    ));
    pool.create(id(), SIZE_UNIT, &labels()).unwrap();
    assert_eq!(pool.open(id()).unwrap().size(), SIZE_UNIT);
}

#[test]
fn a_link_in_a_volumes_place_is_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(&dir);
    let secret = dir.path().join("secret");
    File::create(&secret).unwrap().set_len(4_096).unwrap();
    std::os::unix::fs::symlink(&secret, pool.path(id())).unwrap();
    for error in [pool.open(id()).unwrap_err(), pool.remove(id()).unwrap_err()] {
        assert!(error.to_string().contains("symbolic link"), "{error}");
    }
    assert!(secret.exists());
}

#[test]
fn labels_can_be_changed_and_damaged_ones_do_not_hide_the_volume() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(&dir);
    assert!(matches!(
        pool.label(id(), &labels()),
        Err(PoolError::NotFound { .. })
    ));
    pool.create(id(), SIZE_UNIT, &Labels::default()).unwrap();
    pool.label(id(), &labels()).unwrap();
    assert_eq!(pool.list().unwrap()[0].labels, labels());
    File::create(pool.labels_path(id()))
        .unwrap()
        .write_all_at(b"{", 0)
        .unwrap();
    assert_eq!(pool.list().unwrap()[0].labels, Labels::default());
}

#[test]
fn other_files_in_the_directory_are_no_volumes() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(&dir);
    for name in [
        "notes",
        "volume-x",
        &format!("volume-{}", ID.to_uppercase()),
        "volume-..",
    ] {
        File::create(pool.directory.join(name)).unwrap();
    }
    assert_eq!(pool.list().unwrap(), []);
}
