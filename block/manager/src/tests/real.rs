//! The manager with a real target, and libiscsi's `iscsi-inq` as the initiator (Debian: `libiscsi-bin`).

use super::fixture::{TestPool, options};
use super::*;
use onggi_block_target::Target;
use onggi_block_volume::Owner;
use onggi_common_host::SystemClock;
use onggi_common_host::run::Run;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

const INITIATOR: &str = "iqn.2026-11.org.onggi:test";

fn start_target(directory: &Path, portal: SocketAddr) -> Target {
    let mut options = onggi_block_target::Options::new(vec![portal], directory.join("target"));
    options.socket = directory.join("target.sock");
    Target::start(&options).unwrap()
}

/// Whether a stock initiator can log in and ask what the unit is.
fn can_connect(info: &ConnectionInfo, secret: &str) -> bool {
    let url = format!("iscsi://{}/{}/{}", info.portals[0], info.iqn, info.lun);
    Run::new("iscsi-inq")
        .args(["--initiator-name", INITIATOR, &url])
        .env("LIBISCSI_CHAP_USERNAME", &info.chap_user)
        .env("LIBISCSI_CHAP_PASSWORD", secret)
        .output()
        .is_ok()
}

#[test]
fn a_stock_initiator_gets_in_with_its_secret_until_it_is_detached() {
    let dir = tempfile::tempdir().unwrap();
    let target = start_target(dir.path(), "127.0.0.1:0".parse().unwrap());
    let store = Arc::new(Embedded::in_memory(Arc::new(SystemClock::new())));
    let pool = Arc::new(TestPool::open(&dir.path().join("pool")));
    let manager = Manager::start(options(dir.path(), store.clone(), pool.clone())).unwrap();
    let owner = Owner {
        project: "p1".parse().unwrap(),
        user: "u1".parse().unwrap(),
    };
    let volume = manager
        .create_volume(&owner, NewVolume::new(gib(1)))
        .unwrap()
        .id;
    manager.wait_idle();
    let connector = Some(Connector::new(INITIATOR).unwrap());
    let new = NewAttachment {
        connector,
        ..new_attachment(volume)
    };
    let detail = manager
        .attachment_create(&Scope::All, &owner.user, new)
        .unwrap();
    let (id, info) = (detail.attachment.id, detail.connection.unwrap());
    assert!(can_connect(&info, info.chap_secret.expose()));
    assert!(!can_connect(&info, "sixteen-wrong-by"));
    // The control side may come and go, and so may the target.
    drop(manager);
    assert!(can_connect(&info, info.chap_secret.expose()));
    target.stop();
    let target = start_target(dir.path(), info.portals[0]);
    assert!(can_connect(&info, info.chap_secret.expose()));
    let manager = Manager::start(options(dir.path(), store, pool)).unwrap();
    manager.attachment_complete(&Scope::All, id).unwrap();
    manager.extend_volume(&Scope::All, volume, gib(2)).unwrap();
    manager.wait_idle();
    assert_eq!(
        manager.volume(&Scope::All, volume).unwrap().volume.fault,
        None
    );
    assert!(can_connect(&info, info.chap_secret.expose()));
    manager.attachment_delete(&Scope::All, id).unwrap();
    assert!(!can_connect(&info, info.chap_secret.expose()));
    manager.delete_volume(&Scope::All, volume).unwrap();
    manager.wait_idle();
    assert!(manager.volumes(&Scope::All).unwrap().is_empty());
    target.stop();
}
