//! What the fuzz targets feed and what must hold. The ordinary tests replay the committed corpus through the same
//! functions, so nothing in here knows the fuzzer.

use bytes::Bytes;
use core::time::Duration;
use onggi_block_iscsi::chap::{Challenge, ChapAccount, ChapPair};
use onggi_block_iscsi::connection::{SendTargets, TargetRecord};
use onggi_block_iscsi::initiator::{InitiatorEvent, InitiatorTimes, LoginOptions, Submission};
use onggi_block_iscsi::login::Offer;
use onggi_block_iscsi::pdu::{CdbBytes as PduCdb, EncodedPdu, Framing, TaskManagementResponseCode};
use onggi_block_iscsi::text::{self, Text, TextAssembly};
use onggi_block_iscsi::{
    AccessAnswer, Command, Completion, Connection, Event, Grant, Initiator, Isid, LunField,
    PduDecoder, PduEncoder, SessionKind, TargetConfig, TaskId, Tsih,
};
use onggi_block_scsi::{
    BlockSize, Capacity, CdbBytes, Identity, LogicalUnit, Lun, MediaOp, MediaResult, MissingUnit,
    Nexus, Outcome, Provisioning, Settings,
};
use onggi_common_units::{ByteCount, Secret, Uuid};
use std::sync::Arc;

const TARGET: &str = "iqn.2026-01.org.example:t";
const HOST: &str = "iqn.2026-01.org.example:i";
const USER: &str = "user";
const SECRET: &str = "a-secret-of-sixteen";

/// Takes bytes from the front of the input; zeros when there are none left.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// The PDU decoder: whatever comes, however it is cut, it says the same, and what it takes is what it would send.
pub(crate) fn pdu(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (digests, cut) = (input.byte(), usize::from(input.byte()).max(1));
    let framing = Framing {
        has_header_digest: digests & 1 != 0,
        has_data_digest: digests & 2 != 0,
        data_segment_bytes_max: 8192,
    };
    let decode = |cut: usize| {
        let mut decoder = PduDecoder::new(framing);
        let (mut pdus, mut end) = (Vec::new(), None);
        for part in input.0.chunks(cut) {
            decoder.push(part);
            while end.is_none() {
                match decoder.next_pdu() {
                    Ok(Some(pdu)) => pdus.push(pdu),
                    Ok(None) => break,
                    Err(error) => end = Some(error),
                }
            }
        }
        (pdus, end)
    };
    let (pdus, end) = decode(usize::MAX);
    assert_eq!(decode(cut), (pdus.clone(), end));
    let encoder = PduEncoder::new(framing);
    for pdu in pdus {
        let mut decoder = PduDecoder::new(framing);
        decoder.push(&encoder.encode(pdu.clone()).to_vec());
        assert_eq!(decoder.next_pdu(), Ok(Some(pdu)));
    }
}

/// Text: what is parsed is what it would be written as; numbers and binary values are what their forms say.
pub(crate) fn text(bytes: &[u8]) {
    if let Ok(text) = Text::parse(bytes) {
        assert_eq!(Text::parse(&text.to_bytes()), Ok(text.clone()));
        for (_, value) in text.iter() {
            let is_number = text::parse_number(value).is_some();
            assert!(!is_number || text::parse_boolean(value).is_none());
            if let Some(binary) = text::parse_binary(value, 1024) {
                assert!(binary.len() <= 1024);
                assert_eq!(text::parse_binary(&text::hex(&binary), 1024), Some(binary));
            }
        }
    }
    let mut assembly = TextAssembly::default();
    let is_short = bytes.chunks(100).all(|part| assembly.push(part).is_ok());
    assert!(!is_short || assembly.finish() == Text::parse(bytes));
    // A whole login says what the text says, in either stage.
    for stage in [0x00, 0x04, 0x81, 0x87] {
        let mut pair = Pair::new(Grants::Freely, Offer::default());
        let mut request = vec![0; 48];
        request[0] = 0x43;
        request[1] = stage;
        let mut said = format!("InitiatorName={HOST}\0TargetName={TARGET}\0").into_bytes();
        said.extend(&bytes[..bytes.len().min(7_000)]);
        request[5..8]
            .copy_from_slice(&u32::try_from(said.len()).expect("short").to_be_bytes()[1..]);
        request.extend(&said);
        request.resize(request.len().next_multiple_of(4), 0);
        pair.target.receive(&request, Duration::ZERO);
        pair.serve();
        pair.discard();
    }
}

fn settings() -> Settings {
    let size = ByteCount::from_mib(1);
    let block_size = BlockSize::new(512).expect("512 is a block length");
    let lun = Lun::new(1).expect("1 is a LUN");
    Settings {
        identity: Identity {
            volume: Uuid::from_bytes([7; 16]),
            target: Arc::from(TARGET),
            portal_groups: vec![1],
        },
        capacity: Capacity::new(size, block_size).expect("a capacity"),
        provisioning: Provisioning::Thin,
        read_only: false,
        inventory: vec![lun],
    }
}

/// Commands of two nexuses, from their bytes; what is asked of the medium lies inside it.
pub(crate) fn cdb(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut unit = LogicalUnit::new(settings());
    let nexuses = [Nexus::new(HOST, [1; 6], 1), Nexus::new(HOST, [2; 6], 1)];
    for nexus in &nexuses {
        unit.attach(nexus);
    }
    while !input.0.is_empty() {
        let control = input.byte();
        let nexus = &nexuses[usize::from(control & 1)];
        match control >> 4 {
            0xf => unit.reset(),
            0xe => {
                unit.detach(nexus);
                unit.attach(nexus);
            }
            _ => {}
        }
        let cdb = CdbBytes::new(input.take(usize::from(control >> 1 & 1) * 6 + 10));
        let length = usize::from(input.byte());
        let data = input.take(length);
        let view = unit
            .view(nexus)
            .begin(cdb, data.len().try_into().expect("short"));
        let outcome = unit.begin(nexus, cdb, data);
        // The part of the unit that the data path holds must not say anything else than the unit.
        assert!(view.is_none_or(|view| view == outcome));
        judge(&outcome);
        let inventory = [Lun::new(1).expect("1 is a LUN")];
        judge(
            &MissingUnit {
                inventory: &inventory,
            }
            .begin(cdb),
        );
    }
}

fn judge(outcome: &Outcome) {
    let Outcome::Media { op, .. } = outcome else {
        return;
    };
    let ranges = match op {
        MediaOp::Unmap { ranges } => ranges.clone(),
        MediaOp::Read { range }
        | MediaOp::Write { range, .. }
        | MediaOp::WriteAndVerify { range, .. }
        | MediaOp::WriteSame { range, .. }
        | MediaOp::CompareAndWrite { range, .. }
        | MediaOp::OrWrite { range, .. }
        | MediaOp::Verify { range }
        | MediaOp::Compare { range, .. }
        | MediaOp::Prefetch { range }
        | MediaOp::Status { range, .. } => vec![*range],
        _ => Vec::new(),
    };
    for range in ranges {
        let end = range.byte_offset() + range.byte_length();
        assert!(end <= settings().capacity.size().bytes(), "{op:?}");
    }
    drop(op.finish(&MediaResult::Done, false));
    drop(op.finish(&MediaResult::Miscompare { offset: 1 }, true));
}

#[derive(Clone, Copy)]
enum Grants {
    Freely,
    ByProof,
}

/// A target and an initiator, and the bytes between them, which are tampered with.
struct Pair {
    target: Connection,
    initiator: Initiator,
    grants: Grants,
    unit: LogicalUnit,
    nexus: Nexus,
    running: Vec<TaskId>,
    holds: bool,
    now: Duration,
}

impl Pair {
    fn new(grants: Grants, offer: Offer) -> Self {
        let config = TargetConfig {
            commands_max: 8,
            transfer_bytes_max: 64 << 10,
            write_bytes_max: 128 << 10,
            ..TargetConfig::default()
        };
        let pair = |user: &str, secret: &str| ChapPair {
            user: user.to_owned(),
            secret: Secret::new(secret),
        };
        let options = LoginOptions {
            initiator: HOST.parse().expect("a name"),
            kind: SessionKind::Normal {
                target: TARGET.parse().expect("a name"),
            },
            isid: Isid::default(),
            credentials: Some(pair(USER, SECRET)),
            target_credentials: None,
            challenge: Challenge::new([9; 33]),
            offer,
        };
        let mut unit = LogicalUnit::new(settings());
        let nexus = Nexus::new(HOST, [0; 6], 1);
        unit.attach(&nexus);
        Self {
            target: Connection::new(config, Duration::ZERO),
            initiator: Initiator::new(options, InitiatorTimes::default(), Duration::ZERO),
            grants,
            unit,
            nexus,
            running: Vec::new(),
            holds: false,
            now: Duration::ZERO,
        }
    }

    fn serve(&mut self) {
        while let Some(event) = self.target.poll_event() {
            match event {
                Event::AccessRequest(_) => {
                    let grant = Grant {
                        tsih: Tsih(7),
                        portal_group: 1,
                        alias: None,
                        is_proof_wanted: matches!(self.grants, Grants::ByProof),
                        challenge: Challenge::new([5; 33]),
                    };
                    self.target
                        .answer_access(AccessAnswer::Allow(grant), self.now);
                }
                Event::Claim { .. } => {
                    let account = ChapAccount {
                        user: USER.to_owned(),
                        secret: Secret::new(SECRET),
                        mutual: None,
                    };
                    self.target.answer_claim(vec![account], self.now);
                }
                Event::LoggedIn(session) => {
                    assert!(session.account.is_some() || matches!(self.grants, Grants::Freely));
                }
                Event::Command(command) => self.carry_out(command),
                Event::TaskManagement(request) => self
                    .target
                    .answer_task_management(request.id, TaskManagementResponseCode::Complete),
                Event::SendTargets(request) => self.list(&request),
                Event::Logout | Event::Closed(_) => {}
            }
        }
    }

    fn list(&mut self, request: &SendTargets) {
        let record = TargetRecord {
            name: TARGET.parse().expect("a name"),
            portals: vec![("127.0.0.1:3260".to_owned(), 1)],
        };
        self.target.answer_send_targets(request.id, &[record]);
    }

    fn carry_out(&mut self, command: Command) {
        assert_eq!(u32::try_from(command.data.len()), Ok(command.write_bytes));
        assert!(command.write_bytes <= 64 << 10);
        if self.holds {
            self.running.push(command.task);
            return;
        }
        let cdb = CdbBytes::new(command.cdb.as_slice());
        let outcome = self.unit.begin(&self.nexus, cdb, &command.data);
        judge(&outcome);
        let completion = match outcome {
            Outcome::Complete {
                response,
                wanted_bytes,
            } => Completion {
                status: response.status.code(),
                sense: Bytes::from(response.sense),
                data: Bytes::from(response.data_in),
                wanted_bytes,
            },
            Outcome::Media {
                op: MediaOp::Read { range },
                ..
            } => {
                let length = range.byte_length().min(1 << 20).try_into().expect("short");
                Completion::data(Bytes::from(vec![0; length]))
            }
            Outcome::Media { wanted_bytes, .. } => Completion::taken(wanted_bytes),
        };
        self.target.complete(command.task, completion);
    }

    fn discard(&mut self) {
        while self.target.poll_transmit().is_some() {}
        while self.initiator.poll_transmit().is_some() {}
        while self.initiator.poll_event().is_some() {}
    }

    /// Carries what the two have to say, each once.
    fn exchange(&mut self, tamper: &mut impl FnMut(Vec<u8>) -> Vec<u8>) {
        let bytes = |pdu: EncodedPdu| pdu.to_vec();
        let out: Vec<_> = core::iter::from_fn(|| self.initiator.poll_transmit()).collect();
        for pdu in out.into_iter().map(bytes) {
            self.target.receive(&tamper(pdu), self.now);
        }
        self.serve();
        let back: Vec<_> = core::iter::from_fn(|| self.target.poll_transmit()).collect();
        for pdu in back.into_iter().map(bytes) {
            self.initiator.receive(&tamper(pdu), self.now);
        }
        while let Some(event) = self.initiator.poll_event() {
            let is_own =
                matches!(event, InitiatorEvent::Targets(ref targets) if targets.len() > 64);
            assert!(!is_own);
        }
    }
}

/// Whole connections: both machines, with bytes changed, dropped and put in between, time passing, tasks held and
/// completed, sessions dropped.
pub(crate) fn connection(bytes: &[u8]) {
    let mut input = Input(bytes);
    let first = input.byte();
    let offer = Offer {
        recv_data_segment_bytes_max: if first & 2 == 0 { 512 } else { 8192 },
        burst_bytes_max: 4096 << (first >> 2 & 3),
        first_burst_bytes_max: 4096,
        has_initial_r2t: first & 16 != 0,
        has_immediate_data: first & 32 != 0,
        ..Offer::default()
    };
    let grants = if first & 1 == 0 {
        Grants::Freely
    } else {
        Grants::ByProof
    };
    let mut pair = Pair::new(grants, offer);
    for _ in 0..64 {
        if input.0.is_empty() {
            break;
        }
        let act = input.byte();
        step(&mut pair, act, &mut input);
        assert!(pair.target.transmit_backlog_bytes() < 4 << 20);
    }
    pair.target.close();
    pair.serve();
    pair.discard();
}

fn step(pair: &mut Pair, act: u8, input: &mut Input<'_>) {
    match act & 15 {
        // A command from the initiator's own hand.
        0..=2 => {
            let cdb = input.take(usize::from(input.0.first().copied().unwrap_or(0) % 17));
            let writes = usize::from(input.word() % 20_000);
            let submission = Submission {
                lun: LunField::from_number(u16::from(act >> 4)).expect("a small LUN"),
                cdb: PduCdb::new(cdb).unwrap_or(PduCdb::Fixed([0; 16])),
                read_bytes: u32::from(input.word()),
                data: Bytes::from(vec![act; if act & 16 == 0 { 0 } else { writes }]),
            };
            assert!(pair.initiator.submit(submission).is_ok(), "few wait");
        }
        3 => pair.exchange(&mut |pdu| pdu),
        // A byte of each PDU is changed.
        4 => {
            let (at, to) = (usize::from(input.word()), input.byte());
            pair.exchange(&mut |mut pdu| {
                let length = pdu.len();
                pdu[at % length] = to;
                pdu
            });
        }
        // PDUs are cut short or doubled.
        5 => {
            let at = usize::from(input.word());
            pair.exchange(&mut |mut pdu| {
                pdu.truncate(at % (pdu.len() + 1));
                pdu
            });
        }
        6 => pair.exchange(&mut |pdu| [&pdu[..], &pdu[..]].concat()),
        // A stranger's bytes, to either.
        7 | 8 => {
            let count = usize::from(input.word() % 400);
            let bytes = input.take(count);
            if act & 16 == 0 {
                pair.target.receive(bytes, pair.now);
                pair.serve();
            } else {
                pair.initiator.receive(bytes, pair.now);
            }
        }
        9 => send_header(pair, input),
        10 => {
            pair.now += Duration::from_secs(u64::from(input.byte()));
            pair.target.handle_timeout(pair.now);
            pair.initiator.handle_timeout(pair.now);
        }
        11 => pair.holds = act & 16 != 0,
        12 => {
            for task in std::mem::take(&mut pair.running) {
                pair.target.complete(task, Completion::taken(0));
            }
        }
        13 => pair.target.abort_tasks(|_| true),
        14 => match act >> 4 & 3 {
            0 => pair.target.request_logout(Duration::from_secs(1)),
            1 => pair.initiator.logout(),
            2 => pair.target.drop_session(),
            _ => pair.initiator.discover(),
        },
        _ => send_task_management(pair, input),
    }
}

/// A header that fits what the target expects next, with the rest from the input.
fn send_header(pair: &mut Pair, input: &mut Input<'_>) {
    let mut header = input.take(48).to_vec();
    header.resize(48, 0);
    header[0] &= 0x7f;
    header[4] = 0;
    let length = input.byte();
    header[5..8].copy_from_slice(&[0, 0, length]);
    let length = usize::from(length);
    let mut data = input.take(length).to_vec();
    data.resize(length.next_multiple_of(4), 0);
    header.extend(data);
    pair.target.receive(&header, pair.now);
    pair.serve();
}

fn send_task_management(pair: &mut Pair, input: &mut Input<'_>) {
    let function = input.byte() % 14;
    let mut request = vec![0; 48];
    request[0] = 0x42;
    request[1] = 0x80 | function;
    request[16..20].copy_from_slice(&[0, 0, 0, input.byte()]);
    request[20..24].copy_from_slice(&[0, 0, 0, input.byte()]);
    pair.target.receive(&request, pair.now);
    pair.serve();
}
