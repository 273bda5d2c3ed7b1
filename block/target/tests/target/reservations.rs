//! Persistent reservations where sessions, threads and restarts come in.

use crate::harness::{Served, Session, Who, cdb10};
use onggi_block_target::{ExportSpec, Options, Target};

const PREEMPT_AND_ABORT: u8 = 5;
const WRITE_EXCLUSIVE: u8 = 1;

fn persistent_out(
    session: &mut Session,
    (action, kind): (u8, u8),
    (key, service_key): (u64, u64),
    persists: bool,
) -> u8 {
    let mut list = [key.to_be_bytes(), service_key.to_be_bytes(), [0; 8]].concat();
    list[20] = u8::from(persists);
    let cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
    session.run(&cdb, &list, 0).unwrap().status
}

fn keys(session: &mut Session) -> usize {
    let data = session
        .run(&[0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[], 256)
        .unwrap()
        .data;
    usize::try_from(u32::from_be_bytes(data[4..8].try_into().unwrap())).unwrap() / 8
}

fn write_status(session: &mut Session) -> u8 {
    let outcome = session.run(&cdb10(0x2a, 0, 512), &[1; 512], 0).unwrap();
    outcome.status
}

fn login(portal: std::net::SocketAddr, spec: &ExportSpec, isid: u8) -> Session {
    let who = Who {
        isid,
        ..Who::default()
    };
    let mut session = Session::open(portal, who, Some(&spec.iqn)).unwrap();
    session.attentions();
    session
}

/// A second target over the state of the first, which is left as a killed one leaves it: nothing is said to it.
fn killed_and_started(served: &mut Served, socket: &str) -> Target {
    std::mem::forget(served.target.take());
    let mut options = Options::new(
        vec!["127.0.0.1:0".parse().unwrap()],
        served.dir.path().to_owned(),
    );
    options.socket = served.dir.path().join(socket);
    options.data_threads = 1;
    Target::start(&options).unwrap()
}

#[test]
fn a_reservation_with_aptpl_is_back_before_the_killed_target_listens_again() {
    let (mut served, spec) = Served::with_volume();
    let mut holder = login(served.portal, &spec, 1);
    let mut other = login(served.portal, &spec, 2);
    assert_eq!(persistent_out(&mut holder, (0, 0), (0, 0xa), true), 0);
    assert_eq!(
        persistent_out(&mut holder, (1, WRITE_EXCLUSIVE), (0xa, 0), true),
        0
    );
    assert_eq!(write_status(&mut other), 0x18);
    let target = killed_and_started(&mut served, "second.sock");
    let portal = target.portals()[0].address;
    let mut other = login(portal, &spec, 2);
    assert_eq!(write_status(&mut other), 0x18, "it is still shut out");
    let mut holder = login(portal, &spec, 1);
    assert_eq!(write_status(&mut holder), 0);
    assert_eq!(keys(&mut holder), 1);
    // What was asked to be forgotten is.
    assert_eq!(persistent_out(&mut holder, (0, 0), (0xa, 0xa), false), 0);
    served.target = Some(target);
    let target = killed_and_started(&mut served, "third.sock");
    let mut other = login(target.portals()[0].address, &spec, 2);
    assert_eq!((write_status(&mut other), keys(&mut other)), (0, 0));
    target.stop();
}

#[test]
fn reservations_that_do_not_open_keep_their_volume_from_being_served_and_are_named() {
    let (mut served, spec) = Served::with_volume();
    let mut holder = login(served.portal, &spec, 1);
    assert_eq!(persistent_out(&mut holder, (0, 0), (0, 0xa), true), 0);
    let path = served
        .dir
        .path()
        .join("reservations")
        .join(format!("{}.reservations", spec.iqn));
    let length = path.metadata().unwrap().len();
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(length - 1)
        .unwrap();
    let target = killed_and_started(&mut served, "second.sock");
    let client = onggi_block_target::Client::new(served.dir.path().join("second.sock"));
    let trouble = client.exports().unwrap()[0].trouble.clone().unwrap();
    assert!(trouble.contains(path.to_str().unwrap()), "{trouble}");
    let refused = Session::open(target.portals()[0].address, Who::default(), Some(&spec.iqn));
    assert!(refused.is_err());
    std::fs::remove_file(&path).unwrap();
    let mut session = login(target.portals()[0].address, &spec, 1);
    assert_eq!(keys(&mut session), 0);
    drop(session);
    target.stop();
}

#[test]
fn removing_an_export_forgets_its_reservations() {
    let (served, spec) = Served::with_volume();
    let mut holder = login(served.portal, &spec, 1);
    assert_eq!(persistent_out(&mut holder, (0, 0), (0, 0xa), true), 0);
    served.client.remove_export(&spec.iqn).unwrap();
    served.client.put_export(&spec).unwrap();
    let mut session = login(served.portal, &spec, 1);
    assert_eq!(keys(&mut session), 0);
}

#[test]
fn after_preempt_and_abort_no_write_of_the_victim_lands() {
    let (served, spec) = Served::with_volume();
    let mut survivor = login(served.portal, &spec, 1);
    assert_eq!(persistent_out(&mut survivor, (0, 0), (0, 0xa), false), 0);
    for round in 0..4u8 {
        let mut victim = login(served.portal, &spec, 2);
        let service_key = 0x100 + u64::from(round);
        assert_eq!(
            persistent_out(&mut victim, (6, 0), (0, service_key), false),
            0
        );
        assert_eq!(
            persistent_out(&mut victim, (1, WRITE_EXCLUSIVE), (service_key, 0), false),
            0
        );
        // WRITE SAME is work for the media threads, where most of these still wait when the preemption comes.
        for _ in 0..16 {
            victim.submit(&cdb10(0x41, 0, 16 << 20), &[0xee; 512], 0);
        }
        // The pool has them when an answer is there.
        drop(victim.next());
        let preempted = persistent_out(
            &mut survivor,
            (PREEMPT_AND_ABORT, WRITE_EXCLUSIVE),
            (0xa, service_key),
            false,
        );
        assert_eq!(preempted, 0);
        survivor.write(0, &vec![round; 1 << 20]);
        drop(victim);
        assert!(
            survivor.read(0, 1 << 20) == vec![round; 1 << 20],
            "round {round}"
        );
        assert_eq!(
            persistent_out(&mut survivor, (2, WRITE_EXCLUSIVE), (0xa, 0), false),
            0
        );
    }
}
