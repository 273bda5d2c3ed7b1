//! What lies under the group: made once, never over something else, and missed when it is gone.

use crate::harness::{Jar, detach, id, is_detached, labels, mib, operator, pattern};
use onggi_block_pool::lvm::{Backing, LvmError};
use onggi_block_pool::{Pool, PoolError};
use onggi_common_host::loopback::Attach;
use std::fs::File;
use std::os::unix::fs::FileExt;

fn make_file(jar: &Jar, size_mib: u64) -> File {
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(jar.backing())
        .unwrap();
    file.set_len(size_mib << 20).unwrap();
    file
}

fn lvm_error(outcome: Result<onggi_block_pool::LvmPool, PoolError>) -> LvmError {
    match outcome {
        Err(PoolError::Lvm(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_backing_file_is_told_and_not_made_again() {
    let Some(jar) = Jar::new(128) else { return };
    jar.open().release().unwrap();
    let away = jar.dir.path().join("elsewhere.img");
    std::fs::hard_link(jar.backing(), &away).unwrap();
    std::fs::remove_file(jar.backing()).unwrap();
    let error = lvm_error(jar.try_open());
    assert!(matches!(error, LvmError::BackingMissing { .. }), "{error}");
    assert!(!jar.backing().exists());
    std::fs::hard_link(&away, jar.backing()).unwrap();
    drop(jar.open());
}

#[test]
fn a_truncated_backing_file_is_told() {
    let Some(jar) = Jar::new(128) else { return };
    jar.open().release().unwrap();
    let file = File::options().write(true).open(jar.backing()).unwrap();
    file.set_len(100 << 20).unwrap();
    let error = lvm_error(jar.try_open());
    assert!(
        matches!(error, LvmError::BackingTruncated { .. }),
        "{error}"
    );
    assert_eq!(
        file.metadata().unwrap().len(),
        100 << 20,
        "nothing was changed"
    );
}

#[test]
fn a_file_with_something_else_in_it_is_refused_and_left_as_it_is() {
    let Some(jar) = Jar::new(128) else { return };
    let file = make_file(&jar, 100);
    file.write_all_at(b"my photographs", 50 << 20).unwrap();
    let error = lvm_error(jar.try_open());
    assert!(matches!(error, LvmError::BackingForeign { .. }), "{error}");
    assert_eq!(file.metadata().unwrap().len(), 100 << 20);
    assert!(is_detached(&jar.backing()), "a loop device stays behind");
    let mut bytes = [0; 14];
    file.read_exact_at(&mut bytes, 50 << 20).unwrap();
    assert_eq!(&bytes, b"my photographs");
}

#[test]
fn a_group_of_somebody_elses_is_refused_even_on_our_file() {
    let Some(jar) = Jar::new(128) else { return };
    drop(make_file(&jar, 128));
    let device = Attach::new(jar.backing()).attach().unwrap();
    operator(&["vgcreate", jar.group(), &device.path().to_string_lossy()]);
    let error = lvm_error(jar.try_open());
    assert!(matches!(error, LvmError::GroupForeign { .. }), "{error}");
    assert!(
        operator(&["vgs", "--noheadings", "-o", "vg_tags", jar.group()])
            .trim()
            .is_empty()
    );
}

#[test]
fn a_name_that_is_taken_on_another_device_is_refused_and_that_group_untouched() {
    let Some(jar) = Jar::new(128) else { return };
    let other = jar.dir.path().join("other.img");
    File::create(&other).unwrap().set_len(128 << 20).unwrap();
    let device = Attach::new(&other).attach().unwrap();
    operator(&["vgcreate", jar.group(), &device.path().to_string_lossy()]);
    let before = operator(&["vgs", "--noheadings", "-o", "vg_uuid,vg_seqno", jar.group()]);
    let outcome = jar.try_open();
    let after = operator(&["vgs", "--noheadings", "-o", "vg_uuid,vg_seqno", jar.group()]);
    detach(&other);
    let error = lvm_error(outcome);
    assert!(matches!(error, LvmError::GroupForeign { .. }), "{error}");
    assert_eq!(before, after);
    drop(jar.open());
}

#[test]
fn an_unrelated_group_of_the_machine_is_never_seen_or_changed() {
    let Some(jar) = Jar::new(128) else { return };
    let Some(other) = Jar::new(128) else { return };
    drop(make_file(&other, 128));
    let device = Attach::new(other.backing()).attach().unwrap();
    operator(&["vgcreate", other.group(), &device.path().to_string_lossy()]);
    let state = || {
        operator(&[
            "vgs",
            "--noheadings",
            "-o",
            "vg_uuid,vg_seqno,vg_free_count",
            other.group(),
        ])
    };
    let before = state();
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    pool.remove(id(1)).unwrap();
    assert!(
        !jar.lvm(&["vgs", "--noheadings", "-o", "vg_name"])
            .contains(other.group())
    );
    assert_eq!(before, state());
}

#[test]
fn an_empty_file_somebody_prepared_is_used() {
    let Some(jar) = Jar::new(128) else { return };
    drop(make_file(&jar, 64));
    let pool = jar.open();
    assert_eq!(
        pool.capacity().unwrap().total,
        mib(108),
        "grown to the size that is configured"
    );
}

#[test]
fn a_start_cut_short_before_the_group_was_made_goes_on() {
    let Some(jar) = Jar::new(128) else { return };
    let pool = jar.open();
    let marker = jar.dir.path().join("state/group.json");
    let text = std::fs::read_to_string(&marker).unwrap();
    assert!(text.contains(r#""size":"128MiB""#), "{text}");
    drop(pool);
    let making = format!(
        "{{\"version\":1,\"group\":\"{}\",\"size\":\"0B\",\"group_uuid\":null}}",
        jar.group()
    );
    File::create(&marker)
        .unwrap()
        .write_all_at(making.as_bytes(), 0)
        .unwrap();
    let pool = jar.open();
    assert_eq!(
        std::fs::read_to_string(&marker).unwrap(),
        text,
        "the group that was made is found"
    );
    pool.release().unwrap();
    std::fs::remove_file(jar.backing()).unwrap();
    File::create(&marker)
        .unwrap()
        .write_all_at(making.as_bytes(), 0)
        .unwrap();
    drop(jar.open());
}

#[test]
fn a_group_whose_metadata_is_gone_is_not_made_again() {
    let Some(jar) = Jar::new(128) else { return };
    jar.open().release().unwrap();
    let file = File::options().write(true).open(jar.backing()).unwrap();
    file.write_all_at(&vec![0; 17 << 20], 0).unwrap();
    let error = lvm_error(jar.try_open());
    assert!(matches!(error, LvmError::GroupLost { .. }), "{error}");
}

#[test]
fn a_damaged_marker_is_named() {
    let Some(jar) = Jar::new(128) else { return };
    drop(jar.open());
    let marker = jar.dir.path().join("state/group.json");
    File::create(&marker)
        .unwrap()
        .write_all_at(b"{\"version\":1", 0)
        .unwrap();
    let error = lvm_error(jar.try_open());
    assert!(error.to_string().contains("group.json"), "{error}");
}

#[test]
fn a_larger_size_in_the_configuration_grows_file_device_and_group() {
    let Some(mut jar) = Jar::new(128) else { return };
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    let medium = pool.open(id(1)).unwrap();
    crate::harness::write(&medium, 0, &pattern(mib(8)));
    let before = pool.capacity().unwrap().total;
    drop(pool);
    jar.options.backing = Backing::LoopFile {
        path: jar.backing(),
        size: mib(256),
    };
    let pool = jar.open();
    assert_eq!(
        pool.capacity().unwrap().total.bytes(),
        before.bytes() + (128 << 20)
    );
    assert!(crate::harness::read(&pool.verify(id(1), &medium).unwrap()) == pattern(mib(8)));
}

#[test]
fn a_second_process_is_kept_out() {
    let Some(jar) = Jar::new(128) else { return };
    let pool = jar.open();
    let error = lvm_error(jar.try_open());
    assert!(matches!(error, LvmError::InUse { .. }), "{error}");
    drop(pool);
    drop(jar.open());
}

#[test]
fn a_whole_block_device_can_carry_the_group() {
    let Some(mut jar) = Jar::new(128) else { return };
    drop(make_file(&jar, 128));
    let device = Attach::new(jar.backing()).attach().unwrap();
    jar.options.backing = Backing::Disk(device.path().to_owned());
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    let medium = pool.open(id(1)).unwrap();
    assert_eq!(
        (medium.path.as_path(), medium.kind),
        (device.path(), onggi_block_medium::MediumKind::Device)
    );
    crate::harness::write(&medium, 0, &pattern(mib(8)));
    pool.remove(id(1)).unwrap();
    assert!(pool.wait_reclaimed(crate::harness::SOON));
    assert!(crate::harness::is_zero(&crate::harness::read(&medium)));
}

#[test]
fn a_disk_that_is_not_blank_is_refused() {
    let Some(mut jar) = Jar::new(128) else { return };
    let file = make_file(&jar, 128);
    file.write_all_at(b"GPT", 512).unwrap();
    let device = Attach::new(jar.backing()).attach().unwrap();
    jar.options.backing = Backing::Disk(device.path().to_owned());
    let error = lvm_error(jar.try_open());
    assert!(matches!(error, LvmError::BackingForeign { .. }), "{error}");
    jar.options.backing = Backing::Disk(jar.backing());
    assert!(matches!(
        lvm_error(jar.try_open()),
        LvmError::BackingUnfit { .. }
    ));
}

#[test]
fn ground_that_is_too_small_or_no_file_is_refused() {
    let Some(mut jar) = Jar::new(16) else { return };
    assert!(matches!(
        lvm_error(jar.try_open()),
        LvmError::BackingUnfit { .. }
    ));
    assert!(!jar.backing().exists());
    jar.options.backing = Backing::LoopFile {
        path: jar.dir.path().to_owned(),
        size: mib(128),
    };
    assert!(matches!(
        lvm_error(jar.try_open()),
        LvmError::BackingUnfit { .. }
    ));
}

#[test]
fn a_missing_worker_is_named_and_nothing_stays_behind() {
    let Some(mut jar) = Jar::new(128) else { return };
    jar.options.worker = "/nowhere/onggi-lvm-worker".into();
    let error = lvm_error(jar.try_open());
    assert!(
        error.to_string().contains("/nowhere/onggi-lvm-worker"),
        "{error}"
    );
    assert!(is_detached(&jar.backing()), "a loop device stays behind");
}
