//! Portals and their groups, limits, draining, and task management over real connections.

use crate::harness::{Served, Session, Who, access, cdb10, spec};
use onggi_block_iscsi::initiator::{InitiatorError, InitiatorEvent, LoginError};
use onggi_block_iscsi::login::ChapPolicy;
use onggi_block_iscsi::pdu::{TaskManagementFunction, TaskManagementResponseCode};
use onggi_block_target::{
    Client, ClientError, Options, PortalGroup, RefusalCode, Target, TargetError,
};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

fn who(isid: u8) -> Who {
    Who {
        isid,
        ..Who::default()
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn status(error: InitiatorError) -> (u8, u8) {
    match error {
        InitiatorError::Login(LoginError::Refused { class, detail, .. }) => (class, detail),
        other => panic!("{other:?}"),
    }
}

#[test]
fn portals_of_several_groups_lead_to_the_same_volume_and_discovery_tells_them_all() {
    let hidden: SocketAddr = "192.0.2.1:3260".parse().unwrap();
    let served = Served::start_with(|options| {
        options.portals.push(any_port());
        options.other_groups = vec![
            PortalGroup {
                tag: 7,
                portals: vec![any_port()],
                advertised: Vec::new(),
            },
            PortalGroup {
                tag: 9,
                portals: vec![any_port()],
                advertised: vec![hidden],
            },
        ];
    });
    let spec = spec(served.dir.path(), 1);
    served.client.put_export(&spec).unwrap();
    let portals = served.client.portals().unwrap();
    let groups: Vec<u16> = portals.iter().map(|portal| portal.group).collect();
    assert_eq!(groups, [1, 1, 7, 9]);
    let mut sessions = Vec::new();
    for (number, portal) in (1..).zip(&portals) {
        let mut session = Session::open(portal.address, who(number), Some(&spec.iqn)).unwrap();
        session.attentions();
        session.write(u32::from(number) * 8, &[number; 512]);
        sessions.push(session);
    }
    for session in &mut sessions {
        assert_eq!(session.read(8, 512), vec![1; 512]);
        assert_eq!(session.read(32, 512), vec![4; 512]);
    }
    let told = sessions[2].discover_own();
    let mut wanted: Vec<(String, u16)> = portals
        .iter()
        .take(3)
        .map(|portal| (portal.address.to_string(), portal.group))
        .collect();
    wanted.push((hidden.to_string(), 9));
    assert_eq!(told[0].portals, wanted);
    let mut discovery = Session::open(portals[3].address, who(9), None).unwrap();
    assert_eq!(discovery.discover()[0].portals, wanted);
}

#[test]
fn two_portal_groups_of_one_tag_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(vec![any_port()], dir.path().to_owned());
    options.other_groups.push(PortalGroup {
        tag: 1,
        portals: vec![any_port()],
        advertised: Vec::new(),
    });
    assert!(matches!(
        Target::start(&options),
        Err(TargetError::PortalGroup { tag: 1 })
    ));
}

#[test]
fn a_target_that_forbids_md5_is_logged_in_to_with_sha256() {
    let served = Served::start_with(|options| options.chap = ChapPolicy::Sha256);
    let spec = spec(served.dir.path(), 1);
    served.client.put_export(&spec).unwrap();
    // Our initiator offers both.
    served.login(&spec).attentions();
}

#[test]
fn sessions_are_limited_by_target_and_by_initiator_and_a_returning_one_has_its_place() {
    let served = Served::start_with(|options| {
        options.limits.sessions_per_target_max = 2;
        options.limits.sessions_per_initiator_max = 3;
    });
    let (one, two) = (spec(served.dir.path(), 1), spec(served.dir.path(), 2));
    served.client.put_export(&one).unwrap();
    served.client.put_export(&two).unwrap();
    let open = |isid, iqn: &str| Session::open(served.portal, who(isid), Some(iqn));
    let (mut first, _second) = (open(1, &one.iqn).unwrap(), open(2, &one.iqn).unwrap());
    assert_eq!(status(open(3, &one.iqn).err().unwrap()), (3, 2));
    let _third = open(4, &two.iqn).unwrap();
    assert_eq!(status(open(5, &two.iqn).err().unwrap()), (3, 2));
    // Who comes again takes its own place, not another one.
    let mut again = open(1, &one.iqn).unwrap();
    assert!(first.is_cut());
    again.attentions();
    assert_eq!(served.client.sessions().unwrap().len(), 3);
}

#[test]
fn connections_are_limited_by_portal() {
    let served = Served::start_with(|options| {
        options.portals.push(any_port());
        options.limits.connections_per_portal_max = 3;
    });
    let spec = spec(served.dir.path(), 1);
    served.client.put_export(&spec).unwrap();
    let portals = served.client.portals().unwrap();
    let full: Vec<TcpStream> = (0..3)
        .map(|_| TcpStream::connect(portals[0].address).unwrap())
        .collect();
    let mut fourth = TcpStream::connect(portals[0].address).unwrap();
    fourth
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let closed = std::io::Read::read(&mut fourth, &mut [0; 1]);
    assert!(!matches!(closed, Ok(1..)), "{closed:?}");
    let mut other = Session::open(portals[1].address, who(1), Some(&spec.iqn)).unwrap();
    other.attentions();
    drop(full);
}

#[test]
fn with_little_memory_everybody_is_still_served() {
    let served = Served::start_with(|options| {
        options.limits.bytes_max = 0;
        options.limits.connection_bytes_min = 4_096;
    });
    let spec = spec(served.dir.path(), 1);
    served.client.put_export(&spec).unwrap();
    let mut sessions: Vec<Session> = (1..=4)
        .map(|isid| Session::open(served.portal, who(isid), Some(&spec.iqn)).unwrap())
        .collect();
    for session in &mut sessions {
        session.attentions();
    }
    let data = |session: usize, at: u32| {
        let byte = u8::try_from(session).unwrap() * 16 + u8::try_from(at).unwrap();
        vec![byte; 1 << 20]
    };
    let lba = |session: usize, at: u32| (u32::try_from(session).unwrap() * 4 + at) * 2_048;
    for at in 0..4 {
        for (number, session) in sessions.iter_mut().enumerate() {
            let bytes = data(number, at);
            session.submit(&cdb10(0x2a, lba(number, at), bytes.len()), &bytes, 0);
        }
    }
    for session in &mut sessions {
        for _ in 0..4 {
            let event = session.next();
            assert!(
                matches!(&event, InitiatorEvent::Completed(outcome) if outcome.status == 0),
                "{event:?}"
            );
        }
    }
    for (number, session) in sessions.iter_mut().enumerate() {
        for at in 0..4 {
            assert!(session.read(lba(number, at), 1 << 20) == data(number, at));
        }
    }
}

#[test]
fn a_drained_target_sends_its_initiators_to_another() {
    let (served, spec) = Served::with_volume();
    let other = Served::start();
    let mut moved = spec.clone();
    moved.medium.path.clone_from(&spec.medium.path);
    other.client.put_export(&moved).unwrap();
    let mut session = served.login(&spec);
    session.attentions();
    let client: Client = served.client.clone();
    let (iqn, to) = (spec.iqn.clone(), other.portal.to_string());
    let drained = std::thread::spawn(move || {
        client.drain(
            Some(&iqn),
            Some(&format!("{to},1")),
            Duration::from_secs(20),
        )
    });
    assert!(matches!(
        session.next(),
        InitiatorEvent::LogoutRequested { within } if within == Duration::from_secs(20)
    ));
    // Work under way goes on until the initiator takes its leave.
    session.write(0, &[5; 512]);
    session.logout();
    drained.join().unwrap().unwrap();
    let refused = Session::open(served.portal, who(1), Some(&spec.iqn)).err();
    assert_eq!(
        refused,
        Some(InitiatorError::Login(LoginError::Redirected {
            address: format!("{},1", other.portal),
            is_permanent: false
        }))
    );
    let mut session = other.login(&moved);
    session.attentions();
    assert_eq!(session.read(0, 512), vec![5; 512]);
    served.client.serve(Some(&spec.iqn)).unwrap();
    served.login(&spec).attentions();
}

#[test]
fn who_does_not_log_out_of_a_drained_target_is_cut() {
    let (served, spec) = Served::with_volume();
    let mut session = served.login(&spec);
    session.attentions();
    served
        .client
        .drain(None, None, Duration::from_secs(1))
        .unwrap();
    assert!(matches!(
        session.next(),
        InitiatorEvent::LogoutRequested { .. }
    ));
    assert!(session.is_cut());
    let refused = Session::open(served.portal, who(1), Some(&spec.iqn)).err();
    assert_eq!(status(refused.unwrap()), (3, 1));
    served.client.serve(None).unwrap();
    served.login(&spec).attentions();
    for (iqn, to) in [
        (Some("iqn.2026-11.org.onggi:none"), None),
        (None, Some("nowhere")),
    ] {
        let refused = served.client.drain(iqn, to, Duration::ZERO).unwrap_err();
        assert!(matches!(
            refused,
            ClientError::Refused {
                code: RefusalCode::NotFound | RefusalCode::Invalid,
                ..
            }
        ));
    }
    served.login(&spec).attentions();
}

#[test]
fn stopping_asks_for_a_logout_and_tells_who_stays_that_the_session_is_dropped() {
    let (mut served, spec) = Served::with_volume();
    let mut session = served.login(&spec);
    session.attentions();
    let target = served.target.take().unwrap();
    let stopped = std::thread::spawn(move || target.stop());
    assert!(matches!(
        session.next(),
        InitiatorEvent::LogoutRequested { .. }
    ));
    assert!(matches!(
        session.next(),
        InitiatorEvent::Failed(InitiatorError::Dropped)
    ));
    stopped.join().unwrap();
}

fn answer(session: &mut Session) -> TaskManagementResponseCode {
    loop {
        match session.next() {
            InitiatorEvent::TaskManagement(code) => return code,
            InitiatorEvent::Completed(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn resets_are_told_to_everybody_and_a_cold_one_ends_all_sessions() {
    use TaskManagementFunction as Function;
    let (served, spec) = Served::with_volume();
    let mut one = Session::open(served.portal, who(1), Some(&spec.iqn)).unwrap();
    let mut two = Session::open(served.portal, who(2), Some(&spec.iqn)).unwrap();
    one.attentions();
    two.attentions();
    for function in [Function::LogicalUnitReset, Function::TargetWarmReset] {
        for at in 0..32 {
            two.submit(&cdb10(0x2a, at * 8, 4_096), &[7; 4_096], 0);
        }
        one.task_management(function);
        assert_eq!(answer(&mut one), TaskManagementResponseCode::Complete);
        // Every reset is one unit attention, whether it is noticed with a command or asked for.
        assert_eq!(one.attentions().len(), 1, "{function:?}");
        let mut said = 0;
        while said == 0 {
            two.submit(&[0; 6], &[], 0);
            let InitiatorEvent::Completed(outcome) = two.next() else {
                panic!("the other session must live");
            };
            said += usize::from(outcome.status == 2 && outcome.sense[12] == 0x29);
        }
        two = Session::open(served.portal, who(2), Some(&spec.iqn)).unwrap();
        two.attentions();
    }
    for function in [
        Function::ClearAca,
        Function::QueryTask,
        Function::QueryTaskSet,
        Function::NexusReset,
        Function::QueryAsynchronousEvent,
    ] {
        one.task_management(function);
        assert_eq!(answer(&mut one), TaskManagementResponseCode::NotSupported);
    }
    for function in [Function::AbortTaskSet, Function::ClearTaskSet] {
        one.task_management(function);
        assert_eq!(answer(&mut one), TaskManagementResponseCode::Complete);
    }
    one.attentions();
    one.write(0, &[1; 512]);
    one.task_management(Function::TargetColdReset);
    assert_eq!(answer(&mut one), TaskManagementResponseCode::Complete);
    assert!(one.is_cut() && two.is_cut());
    let mut again = Session::open(served.portal, who(1), Some(&spec.iqn)).unwrap();
    again.attentions();
    assert_eq!(again.read(0, 512), vec![1; 512]);
}

#[test]
fn a_discovery_session_without_an_export_is_an_empty_list() {
    let served = Served::start();
    let mut stranger = Session::open(
        served.portal,
        Who {
            secret: None,
            ..Who::default()
        },
        None,
    )
    .unwrap();
    assert!(stranger.discover().is_empty());
    let mut shown = spec(served.dir.path(), 3);
    shown.access = vec![access(3)];
    shown.access[0].chap = None;
    served.client.put_export(&shown).unwrap();
    assert_eq!(stranger.discover().len(), 1);
}
