//! The process is killed at every point of every plan; after a restart nothing is half-made.

use super::fixture::{FakeTarget, TestPool, options};
use super::*;
use onggi_block_volume::Owner;
use onggi_common_host::SystemClock;
use onggi_common_host::run::{Run, RunError};
use onggi_common_meta::control::rocks;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const VICTIM: &str = "ONGGI_TEST_MANAGER_VICTIM";

fn open(directory: &Path) -> (Arc<Embedded>, Arc<TestPool>) {
    let store = rocks::open(&directory.join("control"), Arc::new(SystemClock::new())).unwrap();
    (
        Arc::new(store),
        Arc::new(TestPool::open(&directory.join("pool"))),
    )
}

fn owner() -> Owner {
    Owner {
        project: "p1".parse().unwrap(),
        user: "u1".parse().unwrap(),
    }
}

/// Not a test of its own: the process that is killed at the point whose number it is given.
#[test]
fn victim() {
    let Ok(argument) = std::env::var(VICTIM) else {
        return;
    };
    let (directory, last) = argument.rsplit_once(':').unwrap();
    let last: usize = last.parse().unwrap();
    let (store, pool) = open(Path::new(directory));
    let mut options = options(Path::new(directory), store, pool);
    let passed = AtomicUsize::new(0);
    options.fail_point = Some(Arc::new(move |point: &str| {
        if passed.fetch_add(1, Ordering::SeqCst) + 1 == last {
            let line = format!("killed at {point}\n");
            std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).unwrap();
            let itself = rustix::process::getpid();
            rustix::process::kill_process(itself, rustix::process::Signal::KILL).unwrap();
        }
    }));
    play(&Manager::start(options).unwrap());
}

/// Every operation, with and without failure.
fn play(manager: &Manager) {
    let (owner, scope) = (owner(), Scope::All);
    let create = |name: &str| {
        let mut new = NewVolume::new(gib(1));
        new.name = Some(name.to_owned());
        let id = manager.create_volume(&owner, new).unwrap().id;
        manager.wait_idle();
        id
    };
    let volume = create("whole");
    let bad = create(fixture::BAD_NAME);
    let attach = |connector: Connector| {
        let new = NewAttachment {
            connector: Some(connector),
            ..new_attachment(volume)
        };
        manager.attachment_create(&scope, &owner.user, new)
    };
    attach(Connector::new("iqn.bad").unwrap()).unwrap_err();
    let id = attach(connector()).unwrap().attachment.id;
    manager.attachment_complete(&scope, id).unwrap();
    manager.extend_volume(&scope, volume, gib(2)).unwrap();
    manager.wait_idle();
    manager.attachment_delete(&scope, id).unwrap();
    for id in [volume, bad] {
        manager.delete_volume(&scope, id).unwrap();
    }
    manager.wait_idle();
}

/// What must hold whenever no plan is under way.
fn assert_whole(point: &str, manager: &Manager, pool: &TestPool, target: &FakeTarget) {
    assert_eq!(manager.inner.catalog.plans().unwrap(), [], "{point}");
    let differences = manager.reconcile().unwrap();
    assert!(differences.is_empty(), "{point}: {differences:?}");
    let details = manager.volumes(&Scope::All).unwrap();
    let mut stored: Vec<Uuid> = pool
        .list()
        .unwrap()
        .iter()
        .map(|stored| stored.id)
        .collect();
    let mut exported: Vec<String> = target
        .exports()
        .into_iter()
        .map(|export| export.iqn)
        .collect();
    for detail in details {
        let volume = &detail.volume;
        assert!(!volume.state.is_transient(), "{point}: {volume:?}");
        let states = detail.attachments.iter().map(|attachment| attachment.state);
        assert!(
            states
                .clone()
                .all(|state| state != AttachmentState::Detaching),
            "{point}"
        );
        assert_eq!(
            volume.state.settle(states.clone()),
            volume.state,
            "{point}: {detail:?}"
        );
        assert_eq!(
            states.clone().any(AttachmentState::has_access),
            volume.exported,
            "{point}"
        );
        let in_pool = stored
            .iter()
            .position(|id| *id == volume.id.0)
            .map(|index| stored.remove(index));
        assert_eq!(
            in_pool.is_some(),
            volume.state != VolumeState::Error,
            "{point}: {volume:?}"
        );
        let at_target = exported
            .iter()
            .position(|iqn| *iqn == volume.id.iqn())
            .map(|index| exported.remove(index));
        assert_eq!(at_target.is_some(), volume.exported, "{point}: {detail:?}");
    }
    assert_eq!((stored, exported), (Vec::new(), Vec::new()), "{point}");
}

#[test]
fn whatever_point_the_process_is_killed_at_a_restart_leaves_nothing_half_made() {
    let mut points = Vec::new();
    for last in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let target = FakeTarget::start(dir.path().join("target.sock"));
        let run = Run::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::crash::victim", "--nocapture"])
            .env(VICTIM, format!("{}:{last}", dir.path().display()));
        let point = match run.output() {
            Ok(_) => break,
            Err(RunError::Failed {
                code: None, stdout, ..
            }) => {
                let stdout = String::from_utf8(stdout).unwrap();
                stdout
                    .lines()
                    .find_map(|line| line.split_once("killed at "))
                    .unwrap()
                    .1
                    .to_owned()
            }
            Err(error) => panic!("{error}"),
        };
        let (store, pool) = open(dir.path());
        let manager = Manager::start(options(dir.path(), store, pool.clone())).unwrap();
        manager.wait_idle();
        assert_whole(&point, &manager, &pool, &target);
        points.push(point);
    }
    for operation in ["create", "attach", "extend", "detach", "delete"] {
        let count = points
            .iter()
            .filter(|point| point.starts_with(operation))
            .count();
        assert!(
            count >= 4,
            "only {count} points of {operation} in {points:?}"
        );
    }
    assert!(
        points.contains(&"create:release:before".to_owned()),
        "{points:?}"
    );
    assert!(
        points.contains(&"attach:withdraw:after".to_owned()),
        "{points:?}"
    );
}
