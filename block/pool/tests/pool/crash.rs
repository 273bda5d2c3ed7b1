//! What a crash leaves at each step, made by hand, and the same call again.

use crate::harness::{Jar, SOON, id, is_detached, is_zero, labels, mib, pattern, read, write};
use onggi_block_pool::{Pool, PoolError};

fn lv(jar: &Jar) -> String {
    format!("{}/volume-{}", jar.group(), id(1))
}

#[test]
fn after_a_restart_and_after_a_reboot_everything_is_there() {
    let Some(jar) = Jar::new(128) else { return };
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    let medium = pool.open(id(1)).unwrap();
    write(&medium, 0, &pattern(mib(8)));
    let device = pool.device().to_owned();
    drop(pool);
    let pool = jar.open();
    assert_eq!(
        pool.device(),
        device,
        "a restart finds the loop device attached"
    );
    assert_eq!(pool.open(id(1)).unwrap(), medium);
    pool.release().unwrap();
    assert!(is_detached(&jar.backing()), "as after a reboot");
    let pool = jar.open();
    assert_eq!(pool.verify(id(1), &medium).unwrap(), medium);
    assert!(read(&medium) == pattern(mib(8)));
}

#[test]
fn a_volume_cut_short_in_the_making_is_cleared_before_it_is_complete() {
    let Some(jar) = Jar::new(128) else { return };
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    let medium = pool.open(id(1)).unwrap();
    write(&medium, 0, &pattern(mib(8)));
    jar.lvm(&["lvchange", "--addtag", "onggi.unready", &lv(&jar)]);
    assert!(!pool.list().unwrap()[0].is_complete);
    assert!(matches!(
        pool.open(id(1)),
        Err(PoolError::Incomplete { .. })
    ));
    assert!(matches!(
        pool.extend(id(1), mib(16)),
        Err(PoolError::Incomplete { .. })
    ));
    pool.create(id(1), mib(8), &labels()).unwrap();
    assert!(pool.list().unwrap()[0].is_complete);
    assert!(is_zero(&read(&pool.open(id(1)).unwrap())));
}

#[test]
fn a_complete_volume_is_not_cleared_when_its_making_is_repeated() {
    let Some(jar) = Jar::new(128) else { return };
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    write(&pool.open(id(1)).unwrap(), 0, &pattern(mib(8)));
    pool.create(id(1), mib(8), &labels()).unwrap();
    assert!(read(&pool.open(id(1)).unwrap()) == pattern(mib(8)));
}

#[test]
fn a_growth_cut_short_before_or_after_it_happened_is_ended_and_keeps_the_old_bytes() {
    let Some(jar) = Jar::new(128) else { return };
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    write(&pool.open(id(1)).unwrap(), 0, &pattern(mib(8)));
    jar.lvm(&["lvchange", "--addtag", "onggi.growing=2", &lv(&jar)]);
    pool.extend(id(1), mib(16)).unwrap();
    let medium = pool.open(id(1)).unwrap();
    assert_eq!(medium.size(), mib(16));
    // Old bytes in the new extents, and the tag still there: the crash came between the two commands.
    write(&medium, 8 << 20, &pattern(mib(8)));
    jar.lvm(&["lvchange", "--addtag", "onggi.growing=2", &lv(&jar)]);
    assert_eq!(
        pool.open(id(1)).unwrap().size(),
        mib(8),
        "the new bytes are not shown"
    );
    assert_eq!(pool.list().unwrap()[0].size, mib(8));
    pool.extend(id(1), mib(16)).unwrap();
    let bytes = read(&pool.open(id(1)).unwrap());
    assert!(bytes[..8 << 20] == pattern(mib(8)) && is_zero(&bytes[8 << 20..]));
}

#[test]
fn what_was_being_zeroed_is_zeroed_at_the_next_start() {
    let Some(jar) = Jar::new(128) else { return };
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    let medium = pool.open(id(1)).unwrap();
    write(&medium, 0, &pattern(mib(8)));
    drop(pool);
    jar.lvm(&[
        "lvrename",
        jar.group(),
        &format!("volume-{}", id(1)),
        "onggi-zeroing-left",
    ]);
    let pool = jar.open();
    assert!(pool.wait_reclaimed(SOON));
    assert_eq!(pool.capacity().unwrap().reclaiming, mib(0));
    assert!(is_zero(&read(&medium)));
    assert!(!jar.lvm(&["lvs", jar.group()]).contains("zeroing"));
    pool.remove(id(1)).unwrap();
}

#[test]
fn closing_the_pool_does_not_wait_for_slow_zeroing() {
    let Some(mut jar) = Jar::new(512) else { return };
    jar.options.reclaim_per_second = mib(1);
    let pool = jar.open();
    pool.create(id(1), mib(64), &labels()).unwrap();
    // Only data is slow to clear.
    write(&pool.open(id(1)).unwrap(), 0, &pattern(mib(64)));
    pool.remove(id(1)).unwrap();
    assert_eq!(pool.capacity().unwrap().reclaiming, mib(64));
    drop(pool);
    assert!(jar.lvm(&["lvs", jar.group()]).contains("onggi-zeroing-"));
    jar.options.reclaim_per_second = mib(10_240);
    let pool = jar.open();
    assert!(pool.wait_reclaimed(SOON));
    assert_eq!(pool.capacity().unwrap().reclaiming, mib(0));
}

#[test]
fn a_killed_worker_is_replaced() {
    let Some(jar) = Jar::new(128) else { return };
    let pool = jar.open();
    pool.create(id(1), mib(8), &labels()).unwrap();
    // The kernel keeps the first 15 bytes of a name.
    let children = children_of(std::process::id(), "onggi-lvm-worke", &jar);
    assert_eq!(children.len(), 1, "{children:?}");
    let pid = rustix::process::Pid::from_raw(children[0]).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // It may die before, in or after the next command; a command it dies in fails, the one after that works.
    let first = pool.extend(id(1), mib(16));
    if first.is_err() {
        pool.extend(id(1), mib(16)).unwrap();
    }
    assert_eq!(pool.open(id(1)).unwrap().size(), mib(16));
}

/// The children of a process with this name whose LVM configuration is the test's own.
fn children_of(parent: u32, name: &str, jar: &Jar) -> Vec<i32> {
    let state = jar.dir.path().join("state/lvm");
    let is_child = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let wanted = format!("LVM_SYSTEM_DIR={}", state.display());
        stat.contains(&format!("({name})"))
            && stat
                .rsplit(") ")
                .next()
                .is_some_and(|rest| rest.split(' ').nth(1) == Some(&parent.to_string()))
            && environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == wanted.as_bytes())
    };
    let processes = std::fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(is_child).collect()
}
