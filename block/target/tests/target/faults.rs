//! Peers that misbehave: what they must not be able to do.

use crate::harness::{Served, cdb10};
use onggi_block_target::{ClientError, Options, RefusalCode, Target, TargetError};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

#[test]
fn a_thousand_half_open_connections_leave_a_session_and_new_logins_served() {
    let (served, spec) = Served::with_volume();
    let mut session = served.login(&spec);
    session.attentions();
    let strangers: Vec<TcpStream> = (0..1_000)
        .map(|_| TcpStream::connect(served.portal).unwrap())
        .collect();
    session.write(0, &[4; 4_096]);
    assert_eq!(session.read(0, 4_096), vec![4; 4_096]);
    session.logout();
    let mut another = served.login(&spec);
    another.attentions();
    assert_eq!(another.read(0, 4_096), vec![4; 4_096]);
    drop(strangers);
}

#[test]
fn garbage_is_answered_by_closing_and_harms_nobody() {
    let (served, spec) = Served::with_volume();
    let mut session = served.login(&spec);
    session.attentions();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..300u32 {
        let mut stranger = TcpStream::connect(served.portal).unwrap();
        stranger
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let bytes: Vec<u8> = (0..512)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed.to_le_bytes()[0]
            })
            .collect();
        let mut bytes = bytes;
        if round % 2 == 0 {
            // Looks like a login, with lengths from the dice.
            bytes[0] = 0x43;
            bytes[4] = 0;
        }
        // The target may close before it has taken everything.
        drop(stranger.write_all(&bytes));
        drop(stranger.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        drop(stranger.read_to_end(&mut answer));
    }
    session.write(0, &[6; 512]);
    assert_eq!(session.read(0, 512), vec![6; 512]);
}

#[test]
fn a_login_that_never_ends_is_given_up() {
    let served =
        Served::start_with(|options| options.limits.login_time_max = Duration::from_millis(200));
    let mut stranger = TcpStream::connect(served.portal).unwrap();
    stranger
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    assert_eq!(stranger.read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn a_client_that_takes_no_answers_costs_bounded_memory_and_harms_nobody() {
    let (served, spec) = Served::with_volume();
    let mut deaf = served.login(&spec);
    deaf.attentions();
    for _ in 0..100 {
        deaf.submit(&cdb10(0x28, 0, 4 << 20), &[], 4 << 20);
    }
    let other = crate::harness::Who {
        isid: 2,
        ..Default::default()
    };
    let mut session = crate::harness::Session::open(served.portal, other, Some(&spec.iqn)).unwrap();
    session.attentions();
    session.write(0, &[8; 512]);
    assert_eq!(session.read(0, 512), vec![8; 512]);
    served.client.remove_export(&spec.iqn).unwrap();
}

#[test]
fn control_lines_that_are_no_requests_are_refused_and_the_socket_goes_on() {
    let (served, spec) = Served::with_volume();
    let socket = served.dir.path().join("target.sock");
    let mut stream = UnixStream::connect(&socket).unwrap();
    for line in ["\n", "{}\n", "{\"request\":\"put_export\"}\n", "nonsense\n"] {
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = [0; 512];
        let count = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
        assert!(answer.contains("\"code\":\"invalid\""), "{answer}");
    }
    let unknown = served
        .client
        .grant("iqn.2026-11.org.onggi:none", &spec.access[0])
        .unwrap_err();
    assert!(unknown.is_not_found());
    let mut bad = spec;
    bad.block_size = 1;
    assert!(matches!(
        served.client.put_export(&bad),
        Err(ClientError::Refused {
            code: RefusalCode::Invalid,
            ..
        })
    ));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        socket.metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_port_in_use_is_named() {
    let (served, _) = Served::with_volume();
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(vec![served.portal], dir.path().to_owned());
    let error = Target::start(&options).unwrap_err();
    assert!(matches!(error, TargetError::Portal { .. }));
    assert!(
        error.to_string().contains(&served.portal.to_string()),
        "{error}"
    );
}
