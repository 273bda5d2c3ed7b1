//! Commands whose work is done by more than one thread or unit.

use crate::harness::{HOST, MIB, Served, Session, Who, access, cdb10, chap, spec};
use onggi_block_target::{Access, ExportSpec, Options, Target};

const MISSING_TARGET: (u8, u8, u8) = (0x0a, 0x08, 0x04);
const SANITIZE_IN_PROGRESS: (u8, u8, u8) = (0x02, 0x04, 0x1b);
const SANITIZE_FAILED: (u8, u8, u8) = (0x03, 0x31, 0x03);

fn login(portal: std::net::SocketAddr, spec: &ExportSpec, isid: u8) -> Session {
    let who = Who {
        isid,
        ..Who::default()
    };
    let mut session = Session::open(portal, who, Some(&spec.iqn)).unwrap();
    assert_eq!(
        session
            .run(&[0x03, 0, 0, 0, 18, 0], &[], 18)
            .unwrap()
            .status,
        0
    );
    session
}

// Status GOOD as no sense at all.
fn sense_of(session: &mut Session, cdb: &[u8], data: &[u8]) -> Option<(u8, u8, u8)> {
    let outcome = session.run(cdb, data, 0).unwrap();
    (outcome.status != 0).then(|| {
        (
            outcome.sense[2] & 0x0f,
            outcome.sense[12],
            outcome.sense[13],
        )
    })
}

fn copy_list(from: &ExportSpec, to: &ExportSpec, blocks: u16) -> Vec<u8> {
    let target = |spec: &ExportSpec| {
        let mut descriptor = vec![0xe4, 0, 0, 0, 1, 0x0a, 0, 18, 0x10, 0];
        descriptor.extend(spec.volume.as_bytes());
        descriptor.resize(30, 0);
        descriptor.extend([2, 0]);
        descriptor
    };
    let mut list = vec![1, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 28, 0, 0, 0, 0];
    list.extend(target(from));
    list.extend(target(to));
    list.extend([2, 0, 0, 24, 0, 0, 0, 1, 0, 0]);
    list.extend(blocks.to_be_bytes());
    list.extend(8u64.to_be_bytes());
    list.extend(16u64.to_be_bytes());
    list
}

fn extended_copy(session: &mut Session, list: &[u8]) -> Option<(u8, u8, u8)> {
    let length = u8::try_from(list.len()).unwrap();
    let cdb = [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, length, 0, 0];
    sense_of(session, &cdb, list)
}

fn named(number: u8) -> Access {
    Access {
        initiator: Some(HOST.to_owned()),
        chap: Some(chap()),
        ..access(number)
    }
}

fn two_volumes(served: &Served, accesses: [Access; 2]) -> (ExportSpec, ExportSpec) {
    let (mut one, mut two) = (spec(served.dir.path(), 1), spec(served.dir.path(), 2));
    [one.access, two.access] = accesses.map(|access| vec![access]);
    served.client.put_export(&one).unwrap();
    served.client.put_export(&two).unwrap();
    (one, two)
}

#[test]
fn a_copy_reaches_only_units_the_same_initiator_is_logged_in_to() {
    let served = Served::start();
    let (one, two) = two_volumes(&served, [named(1), named(2)]);
    let mut session = login(served.portal, &one, 1);
    session.write(8, &[5; 8 * 512]);
    let list = copy_list(&one, &two, 8);
    assert_eq!(
        extended_copy(&mut session, &list),
        Some(MISSING_TARGET),
        "it is not logged in to the other unit"
    );
    let mut other = login(served.portal, &two, 2);
    assert_eq!(extended_copy(&mut session, &list), None);
    assert_eq!(other.read(16, 8 * 512), vec![5; 8 * 512]);
    let status = [0x84, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
    let told = session.run(&status, &[], 64).unwrap().data;
    assert_eq!(told[..], [0, 0, 0, 8, 1, 0, 1, 0, 0, 0, 0x10, 0]);
    assert!(
        sense_of(&mut session, &status, &[]).is_some(),
        "it is told once"
    );
    other.logout();
    assert_eq!(extended_copy(&mut session, &list), Some(MISSING_TARGET));
    // Within its own unit it needs nobody.
    assert_eq!(extended_copy(&mut session, &copy_list(&one, &one, 8)), None);
    assert_eq!(session.read(16, 8 * 512), vec![5; 8 * 512]);
}

#[test]
fn a_name_that_nothing_vouches_for_copies_nothing() {
    for accesses in [[access(1), named(2)], [named(1), access(2)]] {
        let served = Served::start();
        let (one, two) = two_volumes(&served, accesses);
        let mut session = login(served.portal, &one, 1);
        let _other = login(served.portal, &two, 2);
        for list in [copy_list(&one, &two, 8), copy_list(&two, &one, 8)] {
            assert_eq!(extended_copy(&mut session, &list), Some(MISSING_TARGET));
        }
    }
}

#[test]
fn a_copy_obeys_the_reservation_of_the_other_unit() {
    let served = Served::start();
    let (one, two) = two_volumes(&served, [named(1), named(2)]);
    let mut session = login(served.portal, &one, 1);
    let _other = login(served.portal, &two, 1);
    let mut holder = login(served.portal, &two, 2);
    assert_eq!(sense_of(&mut holder, &[0x16, 0, 0, 0, 0, 0], &[]), None);
    let refused = extended_copy(&mut session, &copy_list(&one, &two, 8));
    assert_eq!(refused, Some((0x0a, 0, 0)));
    assert_eq!(sense_of(&mut holder, &[0x17, 0, 0, 0, 0, 0], &[]), None);
    assert_eq!(extended_copy(&mut session, &copy_list(&one, &two, 8)), None);
    let beyond = extended_copy(&mut session, &copy_list(&one, &two, u16::MAX));
    assert_eq!(beyond, None, "it is within both");
}

fn overwrite(immediate: bool) -> ([u8; 10], [u8; 6]) {
    let flags = if immediate { 0xa1 } else { 0x01 };
    let list = [0x01, 0, 0, 2, 0xab, 0xcd];
    ([0x48, flags, 0, 0, 0, 0, 0, 0, 6, 0], list)
}

// A pace at which nothing is overwritten while a test looks.
fn hardly(options: &mut Options) {
    options.limits.sanitize_bytes_per_second = 1;
}

#[test]
fn while_a_unit_is_sanitized_it_says_so_to_everybody() {
    let served = Served::start_with(hardly);
    let spec = spec(served.dir.path(), 1);
    served.client.put_export(&spec).unwrap();
    let mut other = login(served.portal, &spec, 2);
    let mut session = login(served.portal, &spec, 1);
    let (cdb, list) = overwrite(true);
    assert_eq!(sense_of(&mut session, &cdb, &list), None, "it has begun");
    for session in [&mut session, &mut other] {
        assert_eq!(sense_of(session, &[0; 6], &[]), Some(SANITIZE_IN_PROGRESS));
        let asked = session.run(&[0x03, 0, 0, 0, 18, 0], &[], 18).unwrap().data;
        assert_eq!((asked[2], asked[12], asked[13]), SANITIZE_IN_PROGRESS);
        let write = sense_of(session, &cdb10(0x2a, 0, 512), &[1; 512]);
        assert_eq!(write, Some(SANITIZE_IN_PROGRESS));
        let inquiry = session.run(&[0x12, 0, 0, 0, 96, 0], &[], 96).unwrap();
        assert_eq!(inquiry.status, 0);
    }
    session.logout();
    let mut back = login(served.portal, &spec, 1);
    assert_eq!(
        sense_of(&mut back, &[0; 6], &[]),
        Some(SANITIZE_IN_PROGRESS)
    );
}

#[test]
fn a_sanitized_unit_holds_the_pattern_or_zeros() {
    let (served, spec) = Served::with_volume();
    let mut session = login(served.portal, &spec, 1);
    session.write(8, &[5; 512]);
    let (cdb, list) = overwrite(false);
    assert_eq!(sense_of(&mut session, &cdb, &list), None);
    assert_eq!(session.read(8, 512), [0xab, 0xcd].repeat(256));
    let last = u32::try_from((MIB << 20) / 512).unwrap() - 1;
    assert_eq!(session.read(last, 512), [0xab, 0xcd].repeat(256));
    let erase = [0x48, 2, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(sense_of(&mut session, &erase, &[]), None);
    assert_eq!(session.read(8, 512), vec![0; 512]);
    assert_eq!(session.read(last, 512), vec![0; 512]);
}

#[test]
fn a_sanitize_that_the_target_did_not_survive_is_a_failed_one() {
    let mut served = Served::start_with(hardly);
    let spec = spec(served.dir.path(), 1);
    served.client.put_export(&spec).unwrap();
    let mut session = login(served.portal, &spec, 1);
    let (cdb, list) = overwrite(true);
    assert_eq!(sense_of(&mut session, &cdb, &list), None, "it has begun");
    std::mem::forget(served.target.take());
    let mut options = Options::new(
        vec!["127.0.0.1:0".parse().unwrap()],
        served.dir.path().into(),
    );
    options.socket = served.dir.path().join("second.sock");
    let target = Target::start(&options).unwrap();
    let mut session = login(target.portals()[0].address, &spec, 1);
    assert_eq!(sense_of(&mut session, &[0; 6], &[]), Some(SANITIZE_FAILED));
    assert_eq!(
        sense_of(&mut session, &cdb10(0x28, 0, 0), &[]),
        Some(SANITIZE_FAILED)
    );
    // AUSE was set, so that the failure may be left as it is.
    assert_eq!(
        sense_of(&mut session, &[0x48, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0], &[]),
        None
    );
    assert_eq!(sense_of(&mut session, &[0; 6], &[]), None);
    drop(session);
    target.stop();
}

#[test]
fn removing_an_export_ends_its_sanitize_before_the_volume_can_be_anybody_elses() {
    let served = Served::start_with(|options| options.limits.sanitize_bytes_per_second = 16 << 20);
    let spec = spec(served.dir.path(), 1);
    served.client.put_export(&spec).unwrap();
    let mut session = login(served.portal, &spec, 1);
    let (cdb, list) = overwrite(true);
    assert_eq!(sense_of(&mut session, &cdb, &list), None);
    served.client.remove_export(&spec.iqn).unwrap();
    let path = &spec.medium.path;
    std::fs::File::create(path)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    served
        .client
        .put_export(&ExportSpec {
            medium: crate::harness::medium(path, 1),
            ..spec.clone()
        })
        .unwrap();
    let mut session = login(served.portal, &spec, 1);
    // Long enough for several steps of the old one.
    for round in 0..200u32 {
        session.write(round, &[u8::try_from(round).unwrap(); 512]);
    }
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(bytes.len(), 1 << 20);
    assert!(!bytes.windows(2).any(|pair| pair == [0xab, 0xcd]));
}

#[test]
fn an_atomic_write_is_there_and_the_log_tells_the_space() {
    let (served, spec) = Served::with_volume();
    let mut session = login(served.portal, &spec, 1);
    let mut cdb = [0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0];
    assert_eq!(sense_of(&mut session, &cdb, &[6; 8_192]), None);
    assert_eq!(session.read(8, 8_192), vec![6; 8_192]);
    cdb[11] = 8;
    let boundary = sense_of(&mut session, &cdb, &[6; 8_192]);
    assert_eq!(boundary, Some((5, 0x24, 0)));
    session.write(0, &vec![1; 3 << 20]);
    assert_eq!(sense_of(&mut session, &cdb10(0x35, 0, 0), &[]), None);
    let log = [0x4d, 0, 0x4c, 0, 0, 0, 0, 0, 64, 0];
    let told = session.run(&log, &[], 64).unwrap().data;
    let count = |at: usize| u32::from_be_bytes(told[at..at + 4].try_into().unwrap());
    assert_eq!((told[0], count(20)), (0x8c, 3), "{told:x?}");
    assert!(count(8) > 0, "some space is left");
}

#[test]
fn unmapping_gives_a_files_space_back_and_reads_as_zeros() {
    use std::os::unix::fs::MetadataExt;
    let (served, spec) = Served::with_volume();
    let mut session = login(served.portal, &spec, 1);
    session.write(0, &vec![7; 4 << 20]);
    assert_eq!(sense_of(&mut session, &cdb10(0x35, 0, 0), &[]), None);
    let used = || spec.medium.path.metadata().unwrap().blocks() * 512;
    let before = used();
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend(2_048u64.to_be_bytes());
    list.extend(4_096u32.to_be_bytes());
    list.extend([0; 4]);
    let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    assert_eq!(sense_of(&mut session, &unmap, &list), None);
    assert_eq!(before - used(), 2 << 20);
    assert_eq!(session.read(2_048, 2 << 20), vec![0; 2 << 20]);
    let status = [0x9e, 0x12, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 24, 0, 0];
    let told = session.run(&status, &[], 24).unwrap().data;
    assert_eq!((&told[16..20], told[20]), (&4_096u32.to_be_bytes()[..], 1));
    let mut ones = cdb10(0x41, 6_144, 512);
    ones[1] = 0x08;
    ones[7..9].copy_from_slice(&2_048u16.to_be_bytes());
    assert_eq!(sense_of(&mut session, &ones, &[0; 512]), None);
    assert_eq!(before - used(), 3 << 20);
    // What is copied from holes stays a hole.
    assert_eq!(
        extended_copy(&mut session, &copy_list(&spec, &spec, 8)),
        None
    );
}
