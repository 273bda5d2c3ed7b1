//! Growing that fails, and pools that do not answer for a while.

use super::*;
use onggi_block_pool::PoolError;
use onggi_block_pool::lvm::LvmError;
use onggi_block_volume::Volume;

fn full() -> PoolError {
    PoolError::InsufficientSpace {
        pool: "jars".to_owned(),
        needed: ByteCount::from_gib(2),
        free: ByteCount::from_gib(1),
        reclaiming: ByteCount::ZERO,
    }
}

fn attached(world: &World, manager: &Manager, volume: VolumeId) {
    let new = NewAttachment {
        connector: Some(connector()),
        ..new_attachment(volume)
    };
    let detail = manager
        .attachment_create(&world.scope(), &world.owner().user, new)
        .unwrap();
    manager
        .attachment_complete(&world.scope(), detail.attachment.id)
        .unwrap();
}

fn extended(world: &World, manager: &Manager, volume: VolumeId, size: u32) -> Volume {
    manager
        .extend_volume(&world.scope(), volume, gib(size))
        .unwrap();
    manager.wait_idle();
    manager.volume(&world.scope(), volume).unwrap().volume
}

#[test]
fn a_volume_the_pool_refused_to_grow_is_as_it_was_and_says_why() {
    let world = World::new();
    let manager = world.start();
    let (free, used) = (world.available(&manager, 1), world.available(&manager, 1));
    attached(&world, &manager, used);
    for (volume, state) in [(free, VolumeState::Available), (used, VolumeState::InUse)] {
        world.pool.failures.lock().unwrap().push_back(full());
        let found = extended(&world, &manager, volume, 3);
        assert_eq!((found.state, found.size), (state, gib(1)));
        let fault = found.fault.unwrap();
        assert_eq!(fault.operation, "extend");
        assert!(fault.message.contains("needed"), "{}", fault.message);
    }
    assert!(manager.reconcile().unwrap().is_empty());
    let usage = || manager.quota(&world.owner().project).unwrap().1.gigabytes;
    assert_eq!(usage(), 2);
    for (volume, state) in [(free, VolumeState::Available), (used, VolumeState::InUse)] {
        let found = extended(&world, &manager, volume, 3);
        assert_eq!(
            (found.state, found.size, found.fault),
            (state, gib(3), None)
        );
    }
    assert_eq!(usage(), 6);
}

#[test]
fn growing_that_failed_half_way_begins_again() {
    let world = World::new();
    let manager = world.start();
    let volume = world.available(&manager, 1);
    attached(&world, &manager, volume);
    world.target.refuse_exports(Some(RefusalCode::Medium));
    let found = extended(&world, &manager, volume, 3);
    assert_eq!(
        (found.state, found.size),
        (VolumeState::ErrorExtending, gib(1))
    );
    world.target.refuse_exports(None);
    let found = extended(&world, &manager, volume, 3);
    assert_eq!(
        (found.state, found.size, found.fault),
        (VolumeState::InUse, gib(3), None)
    );
    let size = world.target.export(&volume.iqn()).unwrap().medium.size();
    assert_eq!(size, ByteCount::from_gib(3));
}

#[test]
fn a_pool_whose_worker_died_is_asked_again() {
    let world = World::new();
    let manager = world.start();
    let fail = || {
        let error = PoolError::Lvm(LvmError::Stopped);
        world.pool.failures.lock().unwrap().push_back(error);
    };
    let state = |id| {
        let volume = manager.volume(&world.scope(), id).unwrap().volume;
        (volume.state, volume.size, volume.fault)
    };
    fail();
    let new = NewVolume::new(gib(1));
    let id = manager.create_volume(&world.owner(), new).unwrap().id;
    world.until(|| state(id) == (VolumeState::Available, gib(1), None));
    fail();
    manager.extend_volume(&world.scope(), id, gib(2)).unwrap();
    world.until(|| state(id) == (VolumeState::Available, gib(2), None));
    assert_eq!(world.pool.list().unwrap()[0].size, ByteCount::from_gib(2));
}
