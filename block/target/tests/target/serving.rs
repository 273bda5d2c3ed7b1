//! What a served volume does, and who may reach it.

use crate::harness::{HOST, MIB, SECRET, Served, Session, Who, access, cdb10, medium, spec};
use onggi_block_target::Access;
use onggi_common_units::Uuid;

#[test]
fn what_is_written_is_read_back_and_is_in_the_file() {
    let (served, spec) = Served::with_volume();
    let mut session = served.login(&spec);
    assert_eq!(session.attentions(), [(0x29, 0)]);
    let large: Vec<u8> = (0..3u32 << 20)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    session.write(8, &large);
    assert!(session.read(8, large.len()) == large);
    assert_eq!(session.run(&cdb10(0x35, 0, 0), &[], 0).unwrap().status, 0);
    let file = std::fs::read(&spec.medium.path).unwrap();
    assert!(file[4_096..][..large.len()] == large);
    let mut fua = cdb10(0x2a, 0, 512);
    fua[1] = 0x08;
    assert_eq!(session.run(&fua, &[9; 512], 0).unwrap().status, 0);
    session.logout();
}

#[test]
fn many_commands_at_once_are_all_answered() {
    let (served, spec) = Served::with_volume();
    let mut session = served.login(&spec);
    session.attentions();
    for round in 0..20u32 {
        for at in 0..64 {
            session.submit(
                &cdb10(0x2a, (round * 64 + at) * 8, 4_096),
                &[u8::try_from(at).unwrap(); 4_096],
                0,
            );
        }
        for _ in 0..64 {
            assert!(
                matches!(session.next(), onggi_block_iscsi::initiator::InitiatorEvent::Completed(outcome) if outcome.status == 0)
            );
        }
    }
    for at in 0..64u32 {
        assert_eq!(
            session.read(at * 8, 4_096),
            vec![u8::try_from(at).unwrap(); 4_096]
        );
    }
}

#[test]
fn a_wrong_secret_no_secret_and_an_unknown_target_are_refused() {
    let (served, spec) = Served::with_volume();
    for who in [
        Who {
            secret: Some("another-secret-of-no-use"),
            ..Who::default()
        },
        Who {
            secret: None,
            ..Who::default()
        },
    ] {
        let refused = Session::open(served.portal, who, Some(&spec.iqn))
            .err()
            .unwrap();
        assert!(refused.to_string().contains("02"), "{refused}");
    }
    let unknown = Session::open(
        served.portal,
        Who::default(),
        Some("iqn.2026-11.org.onggi:none"),
    );
    assert!(unknown.err().unwrap().to_string().contains("0203"));
    assert!(served.client.sessions().unwrap().is_empty());
}

#[test]
fn the_initiator_name_and_discovery_follow_the_access_list() {
    let (served, mut spec) = Served::with_volume();
    spec.access = vec![Access {
        initiator: Some(HOST.to_owned()),
        chap: None,
        ..access(1)
    }];
    served.client.put_export(&spec).unwrap();
    let named = || Who {
        secret: None,
        ..Who::default()
    };
    let stranger = || Who {
        secret: None,
        initiator: "iqn.2026-11.org.onggi:stranger",
        isid: 9,
    };
    assert!(Session::open(served.portal, named(), Some(&spec.iqn)).is_ok());
    assert!(Session::open(served.portal, stranger(), Some(&spec.iqn)).is_err());
    let seen = Session::open(served.portal, named(), None)
        .unwrap()
        .discover();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].portals, [(served.portal.to_string(), 1)]);
    assert!(
        Session::open(served.portal, stranger(), None)
            .unwrap()
            .discover()
            .is_empty()
    );
}

#[test]
fn discovery_under_chap_shows_what_the_proof_reaches() {
    let (served, first) = Served::with_volume();
    let mut second = spec(served.dir.path(), 2);
    second.access[0].chap.as_mut().unwrap().user = "somebody-else".to_owned();
    served.client.put_export(&second).unwrap();
    let seen = Session::open(served.portal, Who::default(), None)
        .unwrap()
        .discover();
    assert_eq!(
        seen.iter()
            .map(|record| record.name.as_str())
            .collect::<Vec<_>>(),
        [first.iqn]
    );
    let unproven = Who {
        secret: None,
        ..Who::default()
    };
    assert!(Session::open(served.portal, unproven, None).is_err());
}

#[test]
fn revoking_cuts_the_attachments_sessions_and_no_others() {
    let (served, spec) = Served::with_volume();
    let other = Access {
        initiator: Some("iqn.2026-11.org.onggi:other".to_owned()),
        chap: None,
        ..access(7)
    };
    served.client.grant(&spec.iqn, &other).unwrap();
    let mut cut = served.login(&spec);
    cut.attentions();
    let who = Who {
        secret: None,
        initiator: "iqn.2026-11.org.onggi:other",
        isid: 2,
    };
    let mut kept = Session::open(served.portal, who, Some(&spec.iqn)).unwrap();
    kept.attentions();
    assert_eq!(served.client.sessions().unwrap().len(), 2);
    served
        .client
        .revoke(&spec.iqn, spec.access[0].attachment)
        .unwrap();
    assert!(cut.is_cut());
    let sessions = served.client.sessions().unwrap();
    assert_eq!(
        sessions
            .iter()
            .map(|session| session.attachment)
            .collect::<Vec<_>>(),
        [Uuid::from_bytes([7; 16])]
    );
    kept.write(0, &[1; 512]);
    assert!(Session::open(served.portal, Who::default(), Some(&spec.iqn)).is_err());
    served.client.remove_export(&spec.iqn).unwrap();
    assert!(kept.is_cut());
    assert!(served.client.exports().unwrap().is_empty());
}

#[test]
fn a_grown_volume_is_announced_and_usable_at_once() {
    let (served, spec) = Served::with_volume();
    let mut session = served.login(&spec);
    session.attentions();
    let beyond = u32::try_from((MIB << 20) / 512).unwrap();
    let refused = session.run(&cdb10(0x28, beyond, 512), &[], 512).unwrap();
    assert_eq!((refused.status, refused.sense[12]), (2, 0x21));
    served
        .client
        .resize(&spec.iqn, &medium(&spec.medium.path, 2 * MIB))
        .unwrap();
    assert_eq!(session.attentions(), [(0x2a, 9)]);
    session.write(beyond, &[5; 512]);
    assert_eq!(session.read(beyond, 512), vec![5; 512]);
}

#[test]
fn a_session_of_the_same_name_and_isid_replaces_the_old_one() {
    let (served, spec) = Served::with_volume();
    let mut old = served.login(&spec);
    old.attentions();
    assert_eq!(old.run(&[0x16, 0, 0, 0, 0, 0], &[], 0).unwrap().status, 0);
    let mut new = served.login(&spec);
    assert!(old.is_cut());
    assert_eq!(new.attentions(), [(0x29, 7)], "the nexus was lost");
    new.write(0, &[2; 512]);
    assert_eq!(served.client.sessions().unwrap().len(), 1);
}

#[test]
fn exports_are_back_before_the_restarted_target_listens() {
    let (mut served, spec) = Served::with_volume();
    served.login(&spec).logout();
    let mut options =
        onggi_block_target::Options::new(vec![served.portal], served.dir.path().to_owned());
    options.data_threads = 1;
    served.target.take().unwrap().stop();
    served.target = Some(onggi_block_target::Target::start(&options).unwrap());
    let mut session = served.login(&spec);
    assert_eq!(session.attentions(), [(0x29, 0)]);
    // A repeated request of the control plane changes nothing for who is logged in.
    served.client.put_export(&spec).unwrap();
    session.write(0, &[3; 512]);
    assert_eq!(served.client.exports().unwrap()[0].sessions, 1);
}

#[test]
fn a_fenced_volume_answers_no_io_until_it_is_put_again() {
    let (served, spec) = Served::with_volume();
    let mut session = served.login(&spec);
    session.attentions();
    served.client.fence(&spec.iqn).unwrap();
    for cdb in [cdb10(0x28, 0, 512), cdb10(0x2a, 0, 512), cdb10(0x35, 0, 0)] {
        let data = if cdb[0] == 0x2a {
            vec![0; 512]
        } else {
            Vec::new()
        };
        let refused = session
            .run(&cdb, &data, if cdb[0] == 0x28 { 512 } else { 0 })
            .unwrap();
        assert_eq!(refused.status, 2, "{cdb:x?}");
    }
    served.client.put_export(&spec).unwrap();
    session.write(0, &[1; 512]);
    assert_eq!(session.read(0, 512), vec![1; 512]);
}

#[test]
fn secrets_do_not_come_out_of_the_control_socket() {
    let (served, _) = Served::with_volume();
    let listed = format!("{:?}", served.client.exports().unwrap());
    assert!(!listed.contains(SECRET));
}
