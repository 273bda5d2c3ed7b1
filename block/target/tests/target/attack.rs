//! Bytes that no initiator sends: what comes back, and that sessions beside them notice nothing.

use crate::harness::{HOST, Served, Session, Who, cdb10, spec};
use bytes::Bytes;
use onggi_block_iscsi::name::{InitiatorTaskTag, TargetTransferTag};
use onggi_block_iscsi::pdu::{
    CdbBytes, DataOut, Framing, LoginRequest, LoginStage, RequestSn, ScsiCommand, TaskAttribute,
};
use onggi_block_iscsi::text::Text;
use onggi_block_iscsi::{
    Cid, CmdSn, DataSn, Isid, LunField, Pdu, PduDecoder, PduEncoder, StatSn, Tsih,
};
use onggi_block_target::ExportSpec;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A client that says what it likes.
struct Raw {
    socket: TcpStream,
    decoder: PduDecoder,
    encoder: PduEncoder,
}

const WIDE: Framing = Framing {
    has_header_digest: false,
    has_data_digest: false,
    data_segment_bytes_max: 0x00ff_ffff,
};

impl Raw {
    fn connect(served: &Served) -> Self {
        let socket = TcpStream::connect(served.portal).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self {
            socket,
            decoder: PduDecoder::new(WIDE),
            encoder: PduEncoder::new(WIDE),
        }
    }

    /// The target may have closed before it has taken everything.
    fn send(&mut self, pdu: Pdu) {
        drop(self.socket.write_all(&self.encoder.encode(pdu).to_vec()));
    }

    /// The next PDU; `None` when the target has closed.
    fn next(&mut self) -> Option<Pdu> {
        loop {
            if let Some(pdu) = self.decoder.next_pdu().unwrap() {
                return Some(pdu);
            }
            let mut bytes = [0; 8192];
            match self.socket.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.decoder.push(&bytes[..count]),
            }
        }
    }

    fn login(served: &Served, spec: &ExportSpec) -> Self {
        let mut raw = Self::connect(served);
        let text = Text::new()
            .with("InitiatorName", HOST)
            .with("TargetName", spec.iqn.as_str())
            .with("InitialR2T", "No")
            .with("MaxOutstandingR2T", "4");
        raw.send(login(text.to_bytes()));
        let answer = raw.next();
        assert!(
            matches!(&answer, Some(Pdu::LoginResponse(response)) if response.status_class == 0),
            "{answer:?}"
        );
        raw
    }
}

fn login(data: Bytes) -> Pdu {
    Pdu::LoginRequest(LoginRequest {
        transit: Some(LoginStage::FullFeature),
        is_continued: false,
        stage: LoginStage::Operational,
        version_max: 0,
        version_min: 0,
        isid: Isid([0x80, 0, 0, 0, 0, 0x66]),
        tsih: Tsih(0),
        tag: InitiatorTaskTag(0),
        cid: Cid(0),
        cmd_sn: CmdSn::new(1),
        exp_stat_sn: StatSn::new(0),
        data,
    })
}

fn write(tag: u32, cmd_sn: u32, expected_bytes: u32) -> Pdu {
    let blocks = usize::try_from(expected_bytes).unwrap();
    Pdu::ScsiCommand(ScsiCommand {
        sn: RequestSn {
            is_immediate: false,
            cmd_sn: CmdSn::new(cmd_sn),
            exp_stat_sn: StatSn::new(0),
        },
        is_final: true,
        is_read: false,
        is_write: true,
        attribute: TaskAttribute::Simple,
        lun: LunField::from_number(1).unwrap(),
        tag: InitiatorTaskTag(tag),
        expected_bytes,
        bidirectional_read_bytes: None,
        cdb: CdbBytes::new(&cdb10(0x2a, 0, blocks)).unwrap(),
        data: Bytes::new(),
    })
}

/// A target whose one volume is open to all.
fn open() -> (Served, ExportSpec) {
    let served = Served::start_with(|options| {
        options.limits.login_time_max = Duration::from_secs(2);
    });
    let mut spec = spec(served.dir.path(), 1);
    spec.access[0].chap = None;
    served.client.put_export(&spec).unwrap();
    (served, spec)
}

fn guest(served: &Served, spec: &ExportSpec) -> Session {
    let who = Who {
        secret: None,
        ..Who::default()
    };
    let mut session = Session::open(served.portal, who, Some(&spec.iqn)).unwrap();
    session.attentions();
    session
}

struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.to_le_bytes()[0]
    }
}

/// Reads and writes until told to stop: how many, and that each was right.
fn work(session: &mut Session, stop: &AtomicBool) -> u32 {
    let mut rounds = 0;
    while rounds < 50 || !stop.load(Ordering::Relaxed) {
        let byte = u8::try_from(rounds % 251).unwrap();
        session.write(64, &[byte; 8_192]);
        assert_eq!(session.read(64, 8_192), vec![byte; 8_192]);
        rounds += 1;
    }
    rounds
}

#[test]
fn a_storm_of_malformed_pdus_and_a_thousand_half_open_logins_leave_a_session_served() {
    let (served, spec) = open();
    let mut session = guest(&served, &spec);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| work(&mut session, &stop));
        let mut half_open = Vec::new();
        for number in 0..1_000u32 {
            let mut stranger = Raw::connect(&served);
            if number % 2 == 0 {
                // Half a login request.
                let whole = stranger
                    .encoder
                    .encode(login(Bytes::from(vec![b'a'; 400])))
                    .to_vec();
                drop(stranger.socket.write_all(&whole[..200]));
            }
            half_open.push(stranger);
        }
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        for _ in 0..200 {
            // Logged in, so that the full feature phase takes the storm.
            let mut stranger = Raw::login(&served, &spec);
            let mut bytes = Vec::new();
            for _ in 0..8 {
                let mut header: [u8; 48] = std::array::from_fn(|_| dice.throw());
                header[0] &= 0x7f;
                header[4] &= dice.throw() & 1;
                header[5] = 0;
                header[6] &= 1;
                bytes.extend(header);
                bytes.extend((0..u16::from(dice.throw())).map(|_| dice.throw()));
            }
            drop(stranger.socket.write_all(&bytes));
            drop(stranger.socket.shutdown(std::net::Shutdown::Write));
            while stranger.next().is_some() {}
        }
        for mut stranger in half_open {
            assert!(stranger.next().is_none(), "a half-open login is cut");
        }
        stop.store(true, Ordering::Relaxed);
        assert!(worker.join().unwrap() >= 50);
    });
    session.logout();
}

#[test]
fn before_login_nothing_but_a_login_is_heard_and_nothing_is_answered() {
    let (served, spec) = open();
    let nop = {
        let mut bytes = [0u8; 48];
        bytes[0] = 0x40;
        bytes[16] = 1;
        bytes
    };
    let mut long = [0u8; 48];
    // A login whose text would be 16 MiB, one with additional headers, an opcode that does not exist.
    long[..8].copy_from_slice(&[0x43, 0x87, 0, 0, 0, 0xff, 0xff, 0xff]);
    let mut stray = [0u8; 48];
    stray[..8].copy_from_slice(&[0x43, 0x87, 0, 0, 255, 0, 0, 0]);
    let mut unknown = [0u8; 48];
    unknown[0] = 0x1f;
    for header in [nop, long, stray, unknown] {
        let mut stranger = Raw::connect(&served);
        stranger.socket.write_all(&header).unwrap();
        assert!(stranger.next().is_none(), "{:x?}", &header[..8]);
    }
    let mut command = Raw::connect(&served);
    command.send(write(1, 1, 512));
    assert!(command.next().is_none());
    let mut keys = Raw::connect(&served);
    let many: Vec<u8> = (0..200)
        .flat_map(|n| format!("X-{n}=\0").into_bytes())
        .collect();
    keys.send(login(Bytes::from(many)));
    assert!(
        matches!(keys.next(), Some(Pdu::LoginResponse(response)) if response.status_class == 2)
    );
    assert!(keys.next().is_none());
    guest(&served, &spec).logout();
}

#[test]
fn what_a_stranger_sends_before_login_is_not_kept() {
    let (served, spec) = open();
    let before = resident_bytes();
    let strangers: Vec<Raw> = (0..100)
        .map(|_| {
            let mut stranger = Raw::connect(&served);
            // As much as a login may say at all, and never its end.
            for _ in 0..2 {
                let Pdu::LoginRequest(request) = login(Bytes::from(vec![b'a'; 8_000])) else {
                    panic!("a login request");
                };
                stranger.send(Pdu::LoginRequest(LoginRequest {
                    transit: None,
                    is_continued: true,
                    ..request
                }));
                assert!(stranger.next().is_some());
            }
            stranger
        })
        .collect();
    let each = resident_bytes().saturating_sub(before) / 100;
    assert!(each < 1 << 20, "{each} bytes for each login");
    drop(strangers);
    guest(&served, &spec).logout();
}

/// What this process has in memory, the target with it.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[test]
fn a_command_outside_the_window_is_dropped_and_the_next_one_in_it_is_taken() {
    let (served, spec) = open();
    let mut raw = Raw::login(&served, &spec);
    for cmd_sn in [0, 1_000, u32::MAX, 0x8000_0000] {
        raw.send(write(cmd_sn | 1, cmd_sn, 0));
    }
    raw.send(write(7, 1, 0));
    let Some(Pdu::ScsiResponse(response)) = raw.next() else {
        panic!("an answer");
    };
    assert_eq!(response.tag, InitiatorTaskTag(7));
}

fn data_out(tag: u32, transfer_tag: TargetTransferTag, offset: u32, bytes: usize) -> Pdu {
    Pdu::DataOut(DataOut {
        is_final: true,
        lun: LunField::from_number(1).unwrap(),
        tag: InitiatorTaskTag(tag),
        transfer_tag,
        exp_stat_sn: StatSn::new(0),
        data_sn: DataSn::new(0),
        offset,
        data: Bytes::from(vec![0xdd; bytes]),
    })
}

#[test]
fn data_beyond_what_was_asked_for_fails_the_command_and_writes_nothing() {
    let (served, spec) = open();
    let mut raw = Raw::login(&served, &spec);
    for (number, (offset, bytes)) in [(0u32, 8_192usize), (4_096, 4_096), (u32::MAX - 100, 512)]
        .into_iter()
        .enumerate()
    {
        let tag = u32::try_from(number).unwrap() + 1;
        raw.send(write(tag, tag, 4_096));
        let response = loop {
            match raw.next() {
                Some(Pdu::R2t(r2t)) => {
                    assert_eq!((r2t.offset, r2t.desired_bytes), (0, 4_096));
                    raw.send(data_out(tag, r2t.transfer_tag, offset, bytes));
                }
                Some(Pdu::ScsiResponse(response)) => break response,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(response.status, 2, "{offset} {bytes}");
    }
    let mut session = guest(&served, &spec);
    assert_eq!(session.read(0, 4_096), vec![0; 4_096]);
}

#[test]
fn a_write_past_the_end_and_a_length_that_overflows_are_out_of_range() {
    let (served, spec) = open();
    let mut session = guest(&served, &spec);
    let mut cdb = vec![0x8a, 0];
    cdb.extend(u64::MAX.to_be_bytes());
    cdb.extend(1u32.to_be_bytes());
    cdb.extend([0, 0]);
    let outcome = session.run(&cdb, &[0; 512], 0).unwrap();
    assert_eq!(
        (outcome.status, outcome.sense[2], outcome.sense[12]),
        (2, 5, 0x21)
    );
    cdb[10..14].copy_from_slice(&u32::MAX.to_be_bytes());
    let outcome = session.run(&cdb, &[0; 512], 0).unwrap();
    assert_eq!(outcome.status, 2);
}

#[test]
fn a_peer_that_stops_in_the_middle_of_its_data_is_cut() {
    let served = Served::start_with(|options| {
        options.limits.answer_time_max = Duration::from_secs(1);
        options.limits.idle_time_max = Duration::from_secs(1);
    });
    let mut spec = spec(served.dir.path(), 1);
    spec.access[0].chap = None;
    served.client.put_export(&spec).unwrap();
    let mut raw = Raw::login(&served, &spec);
    raw.send(write(1, 1, 1 << 20));
    assert!(matches!(
        raw.next(),
        Some(Pdu::ScsiResponse(_) | Pdu::R2t(_))
    ));
    while raw.next().is_some() {}
    let mut silent = Raw::login(&served, &spec);
    assert!(matches!(silent.next(), Some(Pdu::NopIn(_))));
    while silent.next().is_some() {}
}
