//! Volumes from their making to their end.

use crate::harness::{
    Jar, SOON, id, is_detached, is_zero, labels, mib, operator, pattern, read, write,
};
use onggi_block_pool::{Labels, Pool, PoolError, PoolKind};
use onggi_common_host::loopback::Attach;
use onggi_common_units::ByteCount;
use std::fs::File;
use std::io::Read;

#[test]
fn a_volume_lives_its_life_and_the_machines_own_tools_see_it() {
    let Some(jar) = Jar::new(512) else { return };
    let pool = jar.open();
    assert_eq!(
        (pool.name(), pool.kind()),
        (jar.group(), PoolKind::LvmMapped)
    );
    for _ in 0..2 {
        pool.create(id(1), mib(64), &labels()).unwrap();
    }
    let lv = format!("volume-{}", id(1));
    assert!(operator(&["vgs", "--noheadings", "-o", "vg_name"]).contains(jar.group()));
    assert!(
        operator(&["lvs", "--noheadings", "-o", "lv_name,lv_size", jar.group()])
            .contains(&format!("{lv} 64.00m"))
    );
    let device = pool.device().to_string_lossy().into_owned();
    assert!(
        operator(&["pvs", "--noheadings", "-o", "pv_name,vg_name"])
            .contains(&format!("{device} {}", jar.group()))
    );
    let loops = operator(&["losetup", "-a"]);
    assert!(
        loops
            .lines()
            .any(|line| line.starts_with(&device) && line.contains("pool.img")),
        "{loops}"
    );
    let tags = operator(&["lvs", "--noheadings", "-o", "lv_tags", jar.group()]);
    assert_eq!(
        tags.trim(),
        "onggi,onggi.name=demo+20v1+2c+20gr+c3+b6+c3+9fer,onggi.project=7b2c"
    );

    let listed = pool.list().unwrap();
    assert_eq!(
        (listed.len(), listed[0].id, listed[0].size),
        (1, id(1), mib(64))
    );
    assert_eq!(
        (&listed[0].labels, listed[0].is_complete),
        (&labels(), true)
    );
    let capacity = pool.capacity().unwrap();
    assert_eq!(
        (capacity.total, capacity.free, capacity.provisioned),
        (mib(492), mib(428), mib(64))
    );

    let medium = pool.open(id(1)).unwrap();
    assert_eq!(
        (medium.path.clone(), medium.size()),
        (jar.backing().canonicalize().unwrap(), mib(64))
    );
    assert!(is_zero(&read(&medium)));
    for _ in 0..2 {
        pool.extend(id(1), mib(96)).unwrap();
    }
    assert_eq!(pool.verify(id(1), &medium).unwrap().size(), mib(96));
    for _ in 0..2 {
        pool.remove(id(1)).unwrap();
    }
    assert!(pool.wait_reclaimed(SOON));
    assert_eq!(pool.list().unwrap(), []);
    assert_eq!(operator(&["lvs", "--noheadings", jar.group()]).trim(), "");
    assert_eq!(pool.capacity().unwrap().free, mib(492));
    pool.release().unwrap();
    assert!(is_detached(&jar.backing()));
}

#[test]
fn the_machines_tools_see_a_group_made_after_they_looked() {
    let (Some(one), Some(other)) = (Jar::new(64), Jar::new(64)) else {
        return;
    };
    let first = one.open();
    // What this finds is remembered; devices it did not find are not read again unless somebody says so.
    assert!(operator(&["vgs", "--noheadings", "-o", "vg_name"]).contains(one.group()));
    let second = other.open();
    let device = second.device().to_string_lossy().into_owned();
    let group = operator(&["pvs", "--noheadings", "-o", "vg_name", &device]);
    assert_eq!(group.trim(), other.group());
    second.release().unwrap();
    first.release().unwrap();
}

#[test]
fn bytes_lie_where_the_kernel_would_put_them() {
    let Some(jar) = Jar::new(256) else { return };
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    pool.create(id(2), mib(8), &labels()).unwrap();
    pool.extend(id(1), mib(20)).unwrap();
    let medium = pool.open(id(1)).unwrap();
    assert_eq!(medium.extents.extents().len(), 2, "not contiguous");
    let bytes = pattern(mib(20));
    write(&medium, 0, &bytes);
    // LVM's own numbers, and the kernel's own reading at them: an offset loop device for each segment.
    let start: u64 = operator(&[
        "pvs",
        "--noheadings",
        "--nosuffix",
        "--units",
        "b",
        "-o",
        "pe_start",
        &pool.device().to_string_lossy(),
    ])
    .trim()
    .parse()
    .unwrap();
    let lv = format!("{}/volume-{}", jar.group(), id(1));
    let segments = operator(&[
        "lvs",
        "--noheadings",
        "--segments",
        "-o",
        "seg_start_pe,seg_size_pe,seg_pe_ranges",
        &lv,
    ]);
    let mut seen = Vec::new();
    for line in segments.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let count: u64 = fields[1].parse().unwrap();
        let first: u64 = fields[2]
            .rsplit_once(':')
            .unwrap()
            .1
            .split_once('-')
            .unwrap()
            .0
            .parse()
            .unwrap();
        let (offset, length) = (start + first * (4 << 20), count * (4 << 20));
        let part = Attach::new(jar.backing())
            .part(ByteCount::new(offset), ByteCount::new(length))
            .read_only(true);
        let device = part.attach().unwrap();
        File::open(device.path())
            .unwrap()
            .read_to_end(&mut seen)
            .unwrap();
        device.detach().unwrap();
    }
    assert!(seen == bytes, "the bytes differ");
    assert!(
        is_zero(&read(&pool.open(id(2)).unwrap())),
        "the neighbour is untouched"
    );
}

#[test]
fn no_volume_ever_shows_the_bytes_of_one_before() {
    let Some(jar) = Jar::new(128) else { return };
    let pool = jar.open();
    let all = pool.capacity().unwrap().free;
    pool.create(id(1), all, &labels()).unwrap();
    write(&pool.open(id(1)).unwrap(), 0, &pattern(all));
    pool.remove(id(1)).unwrap();
    // The group is full of what is being zeroed: this waits for it rather than failing.
    pool.create(id(2), mib(32), &labels()).unwrap();
    assert!(is_zero(&read(&pool.open(id(2)).unwrap())));
    write(&pool.open(id(2)).unwrap(), 0, &pattern(mib(32)));
    pool.extend(id(2), all).unwrap();
    let bytes = read(&pool.open(id(2)).unwrap());
    assert!(bytes[..32 << 20] == pattern(mib(32)) && is_zero(&bytes[32 << 20..]));
}

#[test]
fn who_waits_for_room_keeps_nobody_else_from_working() {
    let Some(mut jar) = Jar::new(128) else { return };
    // Eight seconds for what is written below.
    jar.options.reclaim_per_second = mib(8);
    let pool = jar.open();
    pool.create(id(1), mib(64), &labels()).unwrap();
    pool.create(id(2), mib(8), &labels()).unwrap();
    write(&pool.open(id(1)).unwrap(), 0, &pattern(mib(64)));
    pool.remove(id(1)).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.create(id(3), mib(72), &labels()));
        for number in 4..8 {
            pool.create(id(number), mib(4), &labels()).unwrap();
            pool.remove(id(number)).unwrap();
        }
        pool.extend(id(2), mib(12)).unwrap();
        pool.remove(id(2)).unwrap();
        assert!(!waiter.is_finished(), "the others waited as well");
        waiter.join().unwrap().unwrap();
    });
    assert!(is_zero(&read(&pool.open(id(3)).unwrap())));
    // What no waiting can give is refused at once.
    pool.remove(id(3)).unwrap();
    assert!(matches!(
        pool.create(id(1), ByteCount::from_gib(1), &labels()),
        Err(PoolError::InsufficientSpace { .. })
    ));
}

#[test]
fn a_full_group_says_what_was_needed_and_what_is_free() {
    let Some(jar) = Jar::new(128) else { return };
    let pool = jar.open();
    let free = pool.capacity().unwrap().free;
    let error = pool
        .create(id(1), ByteCount::from_gib(1), &labels())
        .unwrap_err();
    let is_typed = matches!(&error, PoolError::InsufficientSpace { needed, free: found, .. }
        if *needed == ByteCount::from_gib(1) && *found == free);
    assert!(is_typed, "{error}");
    assert_eq!(pool.list().unwrap(), []);
    pool.create(id(1), mib(8), &labels()).unwrap();
    assert!(matches!(
        pool.extend(id(1), ByteCount::from_gib(1)),
        Err(PoolError::InsufficientSpace { .. })
    ));
    assert_eq!(pool.open(id(1)).unwrap().size(), mib(8));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let Some(jar) = Jar::new(128) else { return };
    let pool = jar.open();
    assert!(matches!(
        pool.create(id(1), ByteCount::ZERO, &labels()),
        Err(PoolError::InvalidSize { .. })
    ));
    assert!(matches!(
        pool.create(id(1), ByteCount::new(u64::MAX), &labels()),
        Err(PoolError::InvalidSize { .. })
    ));
    assert!(matches!(pool.open(id(1)), Err(PoolError::NotFound { .. })));
    assert!(matches!(
        pool.extend(id(1), mib(8)),
        Err(PoolError::NotFound { .. })
    ));
    assert!(matches!(
        pool.label(id(1), &labels()),
        Err(PoolError::NotFound { .. })
    ));
    pool.create(id(1), mib(8), &labels()).unwrap();
    assert!(matches!(
        pool.create(id(1), mib(16), &labels()),
        Err(PoolError::Exists { .. })
    ));
    assert!(matches!(
        pool.extend(id(1), mib(4)),
        Err(PoolError::Shrink { .. })
    ));
}

#[test]
fn labels_follow_a_renamed_volume() {
    let Some(jar) = Jar::new(128) else { return };
    let pool = jar.open();
    pool.create(id(1), mib(4), &labels()).unwrap();
    let renamed = Labels {
        name: "other".to_owned(),
        ..labels()
    };
    for _ in 0..2 {
        pool.label(id(1), &renamed).unwrap();
    }
    assert_eq!(pool.list().unwrap()[0].labels, renamed);
    pool.label(id(1), &Labels::default()).unwrap();
    assert_eq!(pool.list().unwrap()[0].labels, Labels::default());
}

#[test]
fn a_changed_group_is_no_fence_but_a_changed_volume_is() {
    let Some(jar) = Jar::new(256) else { return };
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    let medium = pool.open(id(1)).unwrap();
    pool.create(id(2), mib(8), &labels()).unwrap();
    let now = pool.verify(id(1), &medium).unwrap();
    let seqno = |medium: &onggi_block_medium::MediumSpec| medium.fence.as_ref().unwrap().seqno;
    assert!(seqno(&now) > seqno(&medium));
    assert_eq!(now.extents, medium.extents);
    // An operator removes it and makes another of the same name.
    let lv = format!("{}/volume-{}", jar.group(), id(1));
    jar.lvm(&["lvremove", "--yes", &lv]);
    assert!(matches!(
        pool.verify(id(1), &medium),
        Err(PoolError::Fenced { .. })
    ));
    let name = format!("volume-{}", id(1));
    jar.lvm(&[
        "lvcreate",
        "-an",
        "-Zn",
        "-Wn",
        "-l",
        "2",
        "--addtag",
        "onggi",
        "-n",
        &name,
        jar.group(),
    ]);
    let error = pool.verify(id(1), &medium).unwrap_err();
    assert!(
        matches!(&error, PoolError::Fenced { reason, .. } if reason.contains("another volume")),
        "{error}"
    );
}

#[test]
fn a_volume_somebody_else_made_is_neither_listed_nor_touched() {
    let Some(jar) = Jar::new(128) else { return };
    let pool = jar.open();
    let name = format!("volume-{}", id(1));
    jar.lvm(&[
        "lvcreate",
        "-an",
        "-Zn",
        "-Wn",
        "-l",
        "2",
        "-n",
        &name,
        jar.group(),
    ]);
    assert_eq!(pool.list().unwrap(), []);
    assert!(matches!(
        pool.remove(id(1)),
        Err(PoolError::Unmappable { .. })
    ));
    assert!(matches!(
        pool.create(id(1), mib(8), &labels()),
        Err(PoolError::Unmappable { .. })
    ));
    assert!(operator(&["lvs", "--noheadings", "-o", "lv_name", jar.group()]).contains(&name));
}

#[test]
fn with_lvm_as_a_program_everything_is_the_same() {
    let Some(mut jar) = Jar::new(128) else { return };
    jar.options.lvm_as_program = true;
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    pool.extend(id(1), mib(16)).unwrap();
    let medium = pool.open(id(1)).unwrap();
    let error = pool
        .create(id(2), ByteCount::from_gib(1), &labels())
        .unwrap_err();
    assert!(
        matches!(error, PoolError::InsufficientSpace { .. }),
        "{error}"
    );
    drop(pool);
    jar.options.lvm_as_program = false;
    let pool = jar.open();
    assert_eq!(pool.open(id(1)).unwrap(), medium);
    pool.remove(id(1)).unwrap();
    assert!(pool.wait_reclaimed(SOON));
}

#[test]
fn many_callers_at_once_get_each_its_own_extents() {
    let Some(jar) = Jar::new(512) else { return };
    let pool = jar.open();
    std::thread::scope(|scope| {
        for number in 0..12 {
            let pool = &pool;
            scope.spawn(move || {
                pool.create(id(number), mib(8), &labels()).unwrap();
                pool.extend(id(number), mib(16)).unwrap();
            });
        }
    });
    let extents =
        (0..12).flat_map(|number| pool.open(id(number)).unwrap().extents.extents().to_vec());
    let mut taken: Vec<(u64, u64)> = extents
        .map(|e| (e.medium_offset, e.medium_offset + e.length))
        .collect();
    taken.sort_unstable();
    assert!(
        taken.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "{taken:?}"
    );
}
