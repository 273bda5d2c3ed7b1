//! The manager with a real file pool and a target that is told what it is told.

use crate::*;
use onggi_block_pool::Pool;
use onggi_block_target::RefusalCode;
use onggi_block_volume::{
    AccessMode, AttachmentState, Connector, NewAttachment, NewVolume, QuotaResource, QuotaUsage,
    Scope, SizeGib, VolumeChange, VolumeId, VolumeState,
};
use onggi_common_meta::control::{At, Embedded};
use onggi_common_meta::{KeyRange, TableName};
use onggi_common_units::{ByteCount, Uuid};

mod crash;
mod extend;
mod fixture;
mod real;

use fixture::World;

fn gib(gib: u32) -> SizeGib {
    SizeGib::try_from(gib).unwrap()
}

fn connector() -> Connector {
    let mut connector = Connector::new("iqn.1993-08.org.debian:01:abc").unwrap();
    connector.host = Some("compute1".to_owned());
    connector
}

fn new_attachment(volume: VolumeId) -> NewAttachment {
    NewAttachment {
        volume,
        instance: Some(Uuid::from_random([5; 16])),
        mode: AccessMode::ReadWrite,
        connector: None,
    }
}

#[test]
fn a_volume_becomes_available_and_is_in_its_pool_and_goes_again() {
    let world = World::new();
    let manager = world.start();
    let mut new = NewVolume::new(gib(1));
    new.name = Some("jar".to_owned());
    let volume = manager.create_volume(&world.owner(), new).unwrap();
    assert_eq!(volume.state, VolumeState::Creating);
    assert_eq!(volume.pool.to_string(), "node1@file#jars");
    manager.wait_idle();
    let detail = manager.volume(&world.scope(), volume.id).unwrap();
    assert_eq!(
        (detail.volume.state, detail.attachments.len()),
        (VolumeState::Available, 0)
    );
    let stored = world.pool.list().unwrap();
    assert_eq!(
        (stored[0].id, stored[0].size),
        (volume.id.0, ByteCount::from_gib(1))
    );
    assert_eq!(
        (
            stored[0].labels.name.as_str(),
            stored[0].labels.project.as_str()
        ),
        ("jar", "p1")
    );
    assert_eq!(manager.pools()[0].volume_count, 1);
    manager.delete_volume(&world.scope(), volume.id).unwrap();
    manager.wait_idle();
    assert!(
        manager.volumes(&Scope::All).unwrap().is_empty() && world.pool.list().unwrap().is_empty()
    );
    let error = manager
        .delete_volume(&world.scope(), volume.id)
        .unwrap_err();
    assert!(matches!(error, VolumeError::NotFound { .. }), "{error}");
}

#[test]
fn another_projects_volume_is_not_there() {
    let world = World::new();
    let manager = world.start();
    let volume = world.available(&manager, 1);
    let detail = manager
        .attachment_create(&world.scope(), &world.owner().user, new_attachment(volume))
        .unwrap();
    let other = Scope::Project("p2".parse().unwrap());
    let missing =
        |error: VolumeError| assert!(matches!(error, VolumeError::NotFound { .. }), "{error}");
    missing(manager.volume(&other, volume).unwrap_err());
    missing(manager.delete_volume(&other, volume).unwrap_err());
    missing(manager.extend_volume(&other, volume, gib(2)).unwrap_err());
    missing(
        manager
            .change_volume(&other, volume, VolumeChange::Bootable(true))
            .unwrap_err(),
    );
    let id = detail.attachment.id;
    for error in [
        manager.attachment(&other, id).map(|_| ()).unwrap_err(),
        manager
            .attachment_delete(&other, id)
            .map(|_| ())
            .unwrap_err(),
        manager
            .attachment_update(&other, id, connector())
            .map(|_| ())
            .unwrap_err(),
        manager.attachment_complete(&other, id).unwrap_err(),
    ] {
        assert!(matches!(error, AttachmentError::NotFound { .. }), "{error}");
    }
    assert!(
        manager.volumes(&other).unwrap().is_empty()
            && manager.attachments(&other).unwrap().is_empty()
    );
    assert_eq!(manager.volumes(&Scope::All).unwrap().len(), 1);
}

#[test]
fn what_cannot_be_made_is_refused_at_once_and_leaves_nothing() {
    let world = World::new();
    let manager = world.start();
    let create = |new: NewVolume| manager.create_volume(&world.owner(), new).unwrap_err();
    let huge = NewVolume::new(gib(onggi_block_volume::volume::SIZE_GIB_MAX));
    assert!(matches!(create(huge), VolumeError::NoPool(_)));
    let quota = create(NewVolume::new(gib(2_000)));
    assert!(
        matches!(&quota, VolumeError::Quota(quota) if quota.resource == QuotaResource::Gigabytes),
        "{quota}"
    );
    let mut typed = NewVolume::new(gib(1));
    typed.volume_type = Some("gold".to_owned());
    assert!(matches!(create(typed), VolumeError::UnknownType { .. }));
    let mut zoned = NewVolume::new(gib(1));
    zoned.availability_zone = Some("mars".to_owned());
    assert!(matches!(create(zoned), VolumeError::UnknownZone { .. }));
    assert!(manager.volumes(&Scope::All).unwrap().is_empty());
    assert_eq!(
        manager.quota(&world.owner().project).unwrap().1,
        QuotaUsage::default()
    );
}

#[test]
fn many_who_create_at_once_stay_within_the_quota() {
    let world = World::new();
    let manager = world.start();
    let made = std::thread::scope(|scope| {
        let creators: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    manager
                        .create_volume(&world.owner(), NewVolume::new(gib(1)))
                        .is_ok()
                })
            })
            .collect();
        creators
            .into_iter()
            .map(|creator| creator.join().unwrap())
            .filter(|is_made| *is_made)
            .count()
    });
    manager.wait_idle();
    assert_eq!(made, 10);
    let (limits, usage) = manager.quota(&world.owner().project).unwrap();
    assert_eq!((limits.volumes, usage.volumes), (Some(10), 10));
    assert_eq!(world.pool.list().unwrap().len(), 10);
}

#[test]
fn an_attachment_goes_from_reserved_to_connected_and_away() {
    let world = World::new();
    let manager = world.start();
    let volume = world.available(&manager, 1);
    let (scope, user) = (world.scope(), world.owner().user);
    let state = || manager.volume(&scope, volume).unwrap().volume.state;
    let reserved = manager
        .attachment_create(&scope, &user, new_attachment(volume))
        .unwrap();
    assert_eq!(
        (reserved.attachment.state, state()),
        (AttachmentState::Reserved, VolumeState::Reserved)
    );
    assert_eq!(reserved.connection, None);
    let id = reserved.attachment.id;
    let early = manager.attachment_complete(&scope, id).unwrap_err();
    assert!(matches!(early, AttachmentError::Transition(_)), "{early}");

    let connected = manager.attachment_update(&scope, id, connector()).unwrap();
    assert_eq!(
        (connected.attachment.state, state()),
        (AttachmentState::Attaching, VolumeState::Attaching)
    );
    manager.attachment_complete(&scope, id).unwrap();
    manager.attachment_complete(&scope, id).unwrap();
    assert_eq!(state(), VolumeState::InUse);
    let second = manager
        .attachment_create(&scope, &user, new_attachment(volume))
        .unwrap_err();
    assert!(
        matches!(second, AttachmentError::Volume(VolumeError::Transition(_))),
        "{second}"
    );
    let refused = manager.delete_volume(&scope, volume).unwrap_err();
    assert!(matches!(refused, VolumeError::Transition(_)), "{refused}");

    assert!(manager.attachment_delete(&scope, id).unwrap().is_empty());
    assert_eq!(state(), VolumeState::Available);
    assert!(world.target.is_empty());
    assert!(matches!(
        manager.attachment(&scope, id),
        Err(AttachmentError::NotFound { .. })
    ));
}

#[test]
fn a_connector_is_told_how_to_connect_and_the_target_whom_to_let_in() {
    let world = World::new();
    let manager = world.start();
    let volume = world.available(&manager, 1);
    let (scope, user) = (world.scope(), world.owner().user);
    let connect = || {
        let new = NewAttachment {
            connector: Some(connector()),
            ..new_attachment(volume)
        };
        manager.attachment_create(&scope, &user, new).unwrap()
    };
    let detail = connect();
    let (id, info) = (detail.attachment.id, detail.connection.unwrap());
    assert_eq!(
        info.iqn,
        format!("iqn.2010-10.org.openstack:volume-{volume}")
    );
    assert_eq!(
        (info.lun, info.portals.len(), info.mode),
        (0, 1, AccessMode::ReadWrite)
    );
    assert_eq!(
        (info.chap_user.len(), info.chap_secret.expose().len()),
        (20, 16)
    );
    let export = world.target.export(&info.iqn).unwrap();
    let chap = export.access[0].chap.clone().unwrap();
    assert_eq!(
        (chap.user, chap.secret),
        (info.chap_user.clone(), info.chap_secret.clone())
    );
    assert_eq!(
        export.access[0].initiator.as_deref(),
        Some("iqn.1993-08.org.debian:01:abc")
    );
    // The same question has the same answer, and it can be looked up.
    let again = manager.attachment_update(&scope, id, connector()).unwrap();
    assert_eq!(again.connection.as_ref(), Some(&info));
    manager.attachment_complete(&scope, id).unwrap();
    assert_eq!(
        manager.attachment(&scope, id).unwrap().connection.as_ref(),
        Some(&info)
    );
    // The next attachment has a secret of its own.
    manager.attachment_delete(&scope, id).unwrap();
    assert_ne!(connect().connection.unwrap().chap_secret, info.chap_secret);
}

#[test]
fn an_attachment_that_cannot_be_exported_leaves_everything_as_it_was() {
    let world = World::new();
    let manager = world.start();
    let volume = world.available(&manager, 1);
    let scope = world.scope();
    let with_connector = || NewAttachment {
        connector: Some(connector()),
        ..new_attachment(volume)
    };
    let reserved = manager
        .attachment_create(&scope, &world.owner().user, new_attachment(volume))
        .unwrap();
    for refusal in [Some(RefusalCode::Medium), Some(RefusalCode::Invalid), None] {
        match refusal {
            Some(code) => world.target.refuse_exports(Some(code)),
            None => world.target.stop(),
        }
        let error = manager
            .attachment_update(&scope, reserved.attachment.id, connector())
            .unwrap_err();
        assert!(
            matches!(error, AttachmentError::Connection { .. }),
            "{error}"
        );
        let detail = manager.volume(&scope, volume).unwrap();
        assert_eq!(
            (detail.volume.state, detail.volume.exported),
            (VolumeState::Reserved, false)
        );
        assert_eq!(detail.attachments[0].state, AttachmentState::Reserved);
        assert_eq!(detail.attachments[0].connector, None);
    }
    // It never had access, so taking it away does not need the target.
    manager
        .attachment_delete(&scope, reserved.attachment.id)
        .unwrap();
    let error = manager
        .attachment_create(&scope, &world.owner().user, with_connector())
        .unwrap_err();
    assert!(
        matches!(error, AttachmentError::Connection { .. }),
        "{error}"
    );
    let detail = manager.volume(&scope, volume).unwrap();
    assert_eq!(
        (detail.volume.state, detail.attachments.len()),
        (VolumeState::Available, 0)
    );
}

#[test]
fn a_detachment_waits_for_the_target_and_then_happens_by_itself() {
    let world = World::new();
    let manager = world.start();
    let volume = world.available(&manager, 1);
    let scope = world.scope();
    let new = NewAttachment {
        connector: Some(connector()),
        ..new_attachment(volume)
    };
    let id = manager
        .attachment_create(&scope, &world.owner().user, new)
        .unwrap()
        .attachment
        .id;
    world.target.stop();
    let error = manager.attachment_delete(&scope, id).unwrap_err();
    assert!(matches!(error, AttachmentError::Pending { .. }), "{error}");
    let error = manager.delete_volume(&scope, volume).unwrap_err();
    assert!(
        matches!(
            error,
            VolumeError::Busy {
                operation: "detach",
                ..
            }
        ),
        "{error}"
    );
    world.target.go_on();
    world.until(|| manager.volume(&scope, volume).unwrap().volume.state == VolumeState::Available);
    assert!(world.target.is_empty());
}

#[test]
fn a_pool_that_fails_half_way_leaves_a_volume_in_error_that_can_be_deleted() {
    let world = World::new();
    let manager = world.start();
    let mut new = NewVolume::new(gib(1));
    new.name = Some(fixture::BAD_NAME.to_owned());
    let volume = manager.create_volume(&world.owner(), new).unwrap().id;
    manager.wait_idle();
    let detail = manager.volume(&world.scope(), volume).unwrap();
    assert_eq!(detail.volume.state, VolumeState::Error);
    let fault = detail.volume.fault.unwrap();
    assert_eq!(fault.operation, "create");
    assert!(fault.message.contains("planted"), "{}", fault.message);
    assert!(world.pool.list().unwrap().is_empty());
    assert!(manager.reconcile().unwrap().is_empty());
    manager.delete_volume(&world.scope(), volume).unwrap();
    manager.wait_idle();
    assert!(manager.volumes(&Scope::All).unwrap().is_empty());
    assert_eq!(
        manager.quota(&world.owner().project).unwrap().1,
        QuotaUsage::default()
    );
}

#[test]
fn a_volume_grows_and_its_attachment_sees_it() {
    let world = World::new();
    let manager = world.start();
    let volume = world.available(&manager, 1);
    let scope = world.scope();
    let new = NewAttachment {
        connector: Some(connector()),
        ..new_attachment(volume)
    };
    let id = manager
        .attachment_create(&scope, &world.owner().user, new)
        .unwrap()
        .attachment
        .id;
    manager.attachment_complete(&scope, id).unwrap();
    let error = manager.extend_volume(&scope, volume, gib(1)).unwrap_err();
    assert!(matches!(error, VolumeError::Shrink { .. }), "{error}");
    assert!(matches!(
        manager.extend_volume(&scope, volume, gib(1_001)),
        Err(VolumeError::Quota(_))
    ));
    manager.extend_volume(&scope, volume, gib(3)).unwrap();
    manager.wait_idle();
    let detail = manager.volume(&scope, volume).unwrap();
    assert_eq!(
        (detail.volume.state, detail.volume.size),
        (VolumeState::InUse, gib(3))
    );
    assert_eq!(world.pool.list().unwrap()[0].size, ByteCount::from_gib(3));
    let size = world.target.export(&volume.iqn()).unwrap().medium.size();
    assert_eq!(size, ByteCount::from_gib(3));
    assert_eq!(
        manager.quota(&world.owner().project).unwrap().1.gigabytes,
        3
    );
}

#[test]
fn a_restart_tells_the_target_what_it_exports_and_nothing_else() {
    let world = World::new();
    let manager = world.start();
    let (volume, other) = (world.available(&manager, 1), world.available(&manager, 1));
    let scope = world.scope();
    let user = world.owner().user;
    let new = NewAttachment {
        connector: Some(connector()),
        ..new_attachment(volume)
    };
    let before = manager
        .attachment_create(&scope, &user, new)
        .unwrap()
        .connection
        .unwrap();
    let new = NewAttachment {
        connector: Some(connector()),
        ..new_attachment(other)
    };
    let stray = manager
        .attachment_create(&scope, &user, new)
        .unwrap()
        .attachment
        .id;
    let stray_export = world.target.export(&other.iqn()).unwrap();
    manager.attachment_delete(&scope, stray).unwrap();
    drop(manager);
    world.target.set(vec![stray_export]);
    world.target.stop();
    let manager = world.start();
    // A volume can be made and listed while the target is away.
    world.available(&manager, 1);
    world.target.go_on();
    world.until_target(|target| {
        target.export(&volume.iqn()).is_some() && target.export(&other.iqn()).is_none()
    });
    let after = world.target.export(&volume.iqn()).unwrap();
    assert_eq!(
        after.access[0].chap.as_ref().unwrap().secret,
        before.chap_secret
    );
}

#[test]
fn b6_what_pool_and_catalogue_disagree_about_is_reported() {
    let world = World::new();
    let manager = world.start();
    let (gone, kept) = (world.available(&manager, 1), world.available(&manager, 2));
    assert!(manager.reconcile().unwrap().is_empty());
    world.pool.remove(gone.0).unwrap();
    let stranger = Uuid::from_random([9; 16]);
    world
        .pool
        .create(
            stranger,
            ByteCount::from_gib(1),
            &onggi_block_pool::Labels::default(),
        )
        .unwrap();
    let differences = manager.reconcile().unwrap();
    let ids = |found: &[(onggi_block_volume::PoolAddress, VolumeId)]| {
        found.iter().map(|(_, id)| *id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&differences.missing), [gone]);
    assert_eq!(
        differences
            .unknown
            .iter()
            .map(|(_, id)| *id)
            .collect::<Vec<_>>(),
        [stranger]
    );
    assert!(differences.short.is_empty() && differences.incomplete.is_empty());
    // What is already gone from the pool can still be deleted.
    manager.delete_volume(&world.scope(), gone).unwrap();
    manager.wait_idle();
    assert!(manager.reconcile().unwrap().missing.is_empty());
    assert_eq!(
        manager.volume(&world.scope(), kept).unwrap().volume.state,
        VolumeState::Available
    );
}

#[test]
fn a_secret_is_nowhere_in_the_store_and_a_lost_key_is_named() {
    let world = World::new();
    let manager = world.start();
    let volume = world.available(&manager, 1);
    let new = NewAttachment {
        connector: Some(connector()),
        ..new_attachment(volume)
    };
    let detail = manager
        .attachment_create(&world.scope(), &world.owner().user, new)
        .unwrap();
    let secret = detail.connection.as_ref().unwrap().chap_secret.clone();
    assert!(!format!("{detail:?}").contains(secret.expose()));
    for table in ["volumes", "attachments", "plans", "block_seal"] {
        let page = world
            .store
            .scan(TableName::new(table), &KeyRange::all(), At::Now, 1_000)
            .unwrap();
        for row in page.rows {
            assert!(
                !row.value
                    .windows(16)
                    .any(|part| part == secret.expose().as_bytes()),
                "{table}"
            );
        }
    }
    drop(manager);
    std::fs::remove_file(world.key_file()).unwrap();
    let error = Manager::start(world.options()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("block.key"), "{error}");
    assert!(matches!(error, StartError::Seal(SealError::Missing { .. })));
}

#[test]
fn texts_and_notes_change_and_the_pool_learns_the_name() {
    let world = World::new();
    let manager = world.start();
    let volume = world.available(&manager, 1);
    let change = VolumeChange::Describe {
        name: Some(Some("lid".to_owned())),
        description: None,
        metadata: Some([("a".to_owned(), "1".to_owned())].into()),
    };
    manager
        .change_volume(&world.scope(), volume, change)
        .unwrap();
    let merge = VolumeChange::MergeMetadata([("b".to_owned(), "2".to_owned())].into());
    let changed = manager
        .change_volume(&world.scope(), volume, merge)
        .unwrap();
    assert_eq!(
        (changed.name.as_deref(), changed.metadata.len()),
        (Some("lid"), 2)
    );
    assert_eq!(world.pool.list().unwrap()[0].labels.name, "lid");
}

#[test]
fn services_say_what_does_not_work() {
    let world = World::new();
    let manager = world.start();
    assert!(manager.services().iter().all(|service| service.is_up));
    world.target.stop();
    let services = manager.services();
    let down: Vec<_> = services.iter().filter(|service| !service.is_up).collect();
    assert_eq!(
        (down.len(), down[0].binary, down[0].host.as_str()),
        (1, "cinder-volume", "node1@file")
    );
    assert!(
        down[0]
            .reason
            .as_ref()
            .unwrap()
            .contains("cannot be reached")
    );
}

#[test]
fn a_volume_whose_bytes_someone_else_moved_is_fenced_and_no_other() {
    let world = World::new();
    *world.pool.fence.lock().unwrap() = Some(false);
    let manager = world.start();
    let (scope, user) = (world.scope(), world.owner().user);
    let volume = world.available(&manager, 1);
    let new = NewAttachment {
        connector: Some(connector()),
        ..new_attachment(volume)
    };
    let id = manager
        .attachment_create(&scope, &user, new)
        .unwrap()
        .attachment
        .id;
    manager.inner.verify_served();
    assert!(world.target.fenced().is_empty());
    *world.pool.fence.lock().unwrap() = Some(true);
    manager.inner.verify_served();
    manager.inner.verify_served();
    assert_eq!(world.target.fenced(), [volume.iqn()]);
    manager.attachment_delete(&scope, id).unwrap();
    manager.inner.verify_served();
    assert_eq!(world.target.fenced().len(), 1);
}
