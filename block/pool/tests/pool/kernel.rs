//! The same pool where the kernel has device-mapper: volumes are activated, and those made without are still right.

use crate::harness::{Jar, SOON, id, is_zero, labels, mib, operator, pattern, read, write};
use onggi_block_medium::MediumKind;
use onggi_block_pool::lvm::Activation;
use onggi_block_pool::{LvmPool, Pool, PoolKind};
use onggi_common_host::run::Run;
use std::fs::File;

fn jar(activation: Activation, size_mib: u64) -> Option<Jar> {
    if Run::new("dmsetup").arg("version").output().is_err() {
        println!("skipped, because the kernel has no device-mapper");
        return None;
    }
    let mut jar = Jar::new(size_mib)?;
    jar.options.activation = activation;
    Some(jar)
}

/// Takes all volumes out of the kernel, so that the loop device can be detached.
fn end(jar: &Jar, pool: LvmPool) {
    drop(pool);
    jar.lvm(&["vgchange", "-an", jar.group()]);
}

#[test]
fn volumes_made_without_device_mapper_have_the_same_bytes_in_the_kernel_and_back() {
    let Some(mut jar) = jar(Activation::Never, 256) else {
        return;
    };
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    pool.create(id(2), mib(8), &labels()).unwrap();
    pool.extend(id(1), mib(20)).unwrap();
    let mapped = pool.open(id(1)).unwrap();
    assert_eq!(mapped.extents.extents().len(), 2, "not contiguous");
    write(&mapped, 0, &pattern(mib(20)));
    drop(pool);
    jar.options.activation = Activation::Auto;
    let pool = jar.open();
    assert_eq!(
        pool.kind(),
        PoolKind::LvmThick,
        "a group with volumes stays thick"
    );
    let medium = pool.open(id(1)).unwrap();
    assert_eq!((medium.kind, medium.size()), (MediumKind::Device, mib(20)));
    assert!(
        medium
            .path
            .ends_with(format!("{}/volume-{}", jar.group(), id(1)))
    );
    assert!(
        read(&medium) == pattern(mib(20)),
        "the kernel sees other bytes"
    );
    let table = operator(&["dmsetup", "table"]);
    assert!(table.contains("linear"), "{table}");
    write(&medium, 4 << 20, &vec![9; 8 << 20]);
    end(&jar, pool);
    jar.options.activation = Activation::Never;
    let pool = jar.open();
    let bytes = read(&pool.open(id(1)).unwrap());
    assert!(bytes[..4 << 20] == pattern(mib(20))[..4 << 20]);
    assert!(bytes[4 << 20..12 << 20].iter().all(|byte| *byte == 9));
    assert!(is_zero(&read(&pool.open(id(2)).unwrap())));
}

#[test]
fn thick_volumes_live_their_life() {
    let Some(jar) = jar(Activation::Thick, 256) else {
        return;
    };
    let pool = jar.open();
    let all = pool.capacity().unwrap().free;
    for _ in 0..2 {
        pool.create(id(1), all, &labels()).unwrap();
    }
    let medium = pool.open(id(1)).unwrap();
    write(&medium, 0, &pattern(all));
    for _ in 0..2 {
        pool.remove(id(1)).unwrap();
    }
    pool.create(id(2), mib(8), &labels()).unwrap();
    for _ in 0..2 {
        pool.extend(id(2), mib(64)).unwrap();
    }
    let medium = pool.open(id(2)).unwrap();
    assert_eq!(medium.size(), mib(64));
    assert!(is_zero(&read(&medium)), "bytes of the volume before");
    assert_eq!(pool.verify(id(2), &medium).unwrap().extents, medium.extents);
    pool.remove(id(2)).unwrap();
    assert!(pool.wait_reclaimed(SOON));
    assert_eq!(pool.capacity().unwrap().free, all);
    end(&jar, pool);
}

#[test]
fn thin_volumes_promise_more_than_there_is_and_take_only_what_is_written() {
    let Some(jar) = jar(Activation::Auto, 512) else {
        return;
    };
    let pool = jar.open();
    assert_eq!(
        pool.kind(),
        PoolKind::LvmThin,
        "an empty group becomes thin"
    );
    let empty = pool.capacity().unwrap();
    for _ in 0..2 {
        pool.create(id(1), mib(4_096), &labels()).unwrap();
    }
    let medium = pool.open(id(1)).unwrap();
    assert_eq!(medium.size(), mib(4_096));
    write(&medium, 1 << 30, &pattern(mib(64)));
    let used = pool.capacity().unwrap();
    assert_eq!(used.provisioned, mib(4_096));
    assert!(
        used.free.bytes() + (64 << 20) <= empty.free.bytes() + (1 << 20),
        "{used:?} {empty:?}"
    );
    pool.extend(id(1), mib(8_192)).unwrap();
    assert_eq!(pool.verify(id(1), &medium).unwrap().size(), mib(8_192));
    assert_eq!(pool.list().unwrap()[0].labels, labels());
    end(&jar, pool);
    let pool = jar.open();
    assert_eq!(pool.kind(), PoolKind::LvmThin);
    assert_eq!(
        pool.open(id(1)).unwrap().size(),
        mib(8_192),
        "activated again after a restart"
    );
    for _ in 0..2 {
        pool.remove(id(1)).unwrap();
    }
    assert_eq!(pool.capacity().unwrap().free, empty.free);
    end(&jar, pool);
}

#[test]
fn a_volume_the_kernel_has_open_is_not_removed() {
    let Some(jar) = jar(Activation::Thick, 128) else {
        return;
    };
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    let medium = pool.open(id(1)).unwrap();
    let user = File::open(&medium.path).unwrap();
    let error = pool.remove(id(1)).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    assert_eq!(pool.list().unwrap().len(), 1);
    drop(user);
    pool.remove(id(1)).unwrap();
    assert!(pool.wait_reclaimed(SOON));
    end(&jar, pool);
}

#[test]
fn no_volume_is_activated_by_itself() {
    let Some(mut jar) = jar(Activation::Never, 128) else {
        return;
    };
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    drop(pool);
    jar.options.activation = Activation::Thick;
    let pool = jar.open();
    // What the machine runs when a disk appears.
    jar.lvm(&["vgchange", "-aay", jar.group()]);
    let state = jar.lvm(&["lvs", "--noheadings", "-o", "lv_active", jar.group()]);
    assert_eq!(state.trim(), "");
    end(&jar, pool);
}
