//! The target machine against the initiator machine, in memory: every byte they exchange is real.

mod negotiation;

use super::*;
use crate::chap::{Challenge, ChapAccount, ChapPair};
use crate::initiator::{
    CommandOutcome, Initiator, InitiatorError, InitiatorEvent, InitiatorTimes, LoginError,
    LoginOptions, Submission,
};
use crate::login::DigestPreference;
use crate::name::{Cid, TargetTransferTag, Tsih};
use crate::pdu::{
    CdbBytes, DataOut, LoginStage, NopOut, PduEncoder, RequestSn, Residual, ScsiCommand,
    TaskAttribute, TaskManagementFunction, TaskManagementRequest,
};
use crate::serial::{DataSn, StatSn};
use crate::text::Text;
use bytes::Bytes;
use onggi_common_units::Secret;
use proptest::prelude::*;

const TARGET: &str = "iqn.2026-01.org.example:vol1";
const INITIATOR: &str = "iqn.2026-01.org.example:host1";
const START: Duration = Duration::from_secs(1000);

fn pair(user: &str, secret: &str) -> ChapPair {
    ChapPair {
        user: user.to_owned(),
        secret: Secret::new(secret),
    }
}

fn account(user: &str, secret: &str) -> ChapAccount {
    ChapAccount {
        user: user.to_owned(),
        secret: Secret::new(secret),
        mutual: None,
    }
}

fn options() -> LoginOptions {
    LoginOptions {
        initiator: INITIATOR.parse().unwrap(),
        kind: SessionKind::Normal {
            target: TARGET.parse().unwrap(),
        },
        isid: Isid::from_random([1, 2, 3], 4),
        credentials: None,
        target_credentials: None,
        challenge: Challenge::new([9; 33]),
        offer: Offer::default(),
    }
}

/// What the target's shell says about who may log in.
struct Access {
    answer: AccessAnswer,
    accounts: Vec<ChapAccount>,
}

impl From<AccessAnswer> for Access {
    fn from(answer: AccessAnswer) -> Self {
        let accounts = Vec::new();
        Self { answer, accounts }
    }
}

fn grant(accounts: Vec<ChapAccount>) -> Access {
    let answer = AccessAnswer::Allow(Grant {
        tsih: Tsih(7),
        portal_group: 1,
        alias: Some("a jar".to_owned()),
        is_proof_wanted: !accounts.is_empty(),
        challenge: Challenge::new([5; 33]),
    });
    Access { answer, accounts }
}

/// Both machines, a disk of bytes behind the target, and what they said.
struct Pair {
    target: Connection,
    initiator: Initiator,
    access: Access,
    disk: Vec<u8>,
    outcomes: Vec<CommandOutcome>,
    logged_in: Option<LoggedIn>,
    target_end: Option<CloseReason>,
    initiator_end: Option<InitiatorError>,
    targets: Option<Vec<TargetRecord>>,
    task_management: Vec<TaskManagementResponseCode>,
    /// Commands that the target's shell holds instead of carrying them out.
    held: Option<Vec<Command>>,
    step_bytes: usize,
    has_logged_out: bool,
}

impl Pair {
    fn new(options: LoginOptions, config: TargetConfig, access: impl Into<Access>) -> Self {
        Self {
            target: Connection::new(config, START),
            initiator: Initiator::new(options, InitiatorTimes::default(), START),
            access: access.into(),
            disk: vec![0; 5 << 20],
            outcomes: Vec::new(),
            logged_in: None,
            target_end: None,
            initiator_end: None,
            targets: None,
            task_management: Vec::new(),
            held: None,
            step_bytes: 1 << 20,
            has_logged_out: false,
        }
    }

    fn connected() -> Self {
        let mut pair = Self::new(options(), TargetConfig::default(), grant(vec![]));
        pair.run();
        assert!(pair.logged_in.is_some());
        pair
    }

    /// Carries bytes both ways until nothing moves.
    fn run(&mut self) {
        loop {
            let mut has_moved = false;
            while let Some(pdu) = self.initiator.poll_transmit() {
                has_moved = true;
                for part in pdu.to_vec().chunks(self.step_bytes) {
                    self.target.receive(part, START);
                }
            }
            has_moved |= self.serve();
            while let Some(pdu) = self.target.poll_transmit() {
                has_moved = true;
                for part in pdu.to_vec().chunks(self.step_bytes) {
                    self.initiator.receive(part, START);
                }
            }
            has_moved |= self.listen();
            if !has_moved {
                return;
            }
        }
    }

    fn listen(&mut self) -> bool {
        let mut has_moved = false;
        while let Some(event) = self.initiator.poll_event() {
            has_moved = true;
            match event {
                InitiatorEvent::Completed(outcome) => self.outcomes.push(outcome),
                InitiatorEvent::Targets(targets) => self.targets = Some(targets),
                InitiatorEvent::Failed(error) => self.initiator_end = Some(error),
                InitiatorEvent::TaskManagement(code) => self.task_management.push(code),
                InitiatorEvent::LoggedOut => self.has_logged_out = true,
                InitiatorEvent::LoggedIn(_) | InitiatorEvent::LogoutRequested { .. } => {}
            }
        }
        has_moved
    }

    /// The target's shell.
    fn serve(&mut self) -> bool {
        let mut has_moved = false;
        while let Some(event) = self.target.poll_event() {
            has_moved = true;
            match event {
                Event::AccessRequest(_) => {
                    let answer = self.access.answer.clone();
                    self.target.answer_access(answer, START);
                }
                Event::Claim { user } => {
                    let accounts = self.access.accounts.iter();
                    let meant = accounts.filter(|account| account.user == user).cloned();
                    self.target.answer_claim(meant.collect(), START);
                }
                Event::LoggedIn(logged_in) => self.logged_in = Some(logged_in),
                Event::Command(command) => match &mut self.held {
                    Some(held) => held.push(command),
                    None => self.carry_out(&command),
                },
                Event::TaskManagement(request) => self
                    .target
                    .answer_task_management(request.id, TaskManagementResponseCode::Complete),
                Event::SendTargets(request) => {
                    let name: crate::name::IscsiName = TARGET.parse().unwrap();
                    let portals = vec![
                        ("127.0.0.1:3260".to_owned(), 1),
                        ("[::1]:3260".to_owned(), 2),
                    ];
                    let count = if request.filter == TargetFilter::All {
                        300
                    } else {
                        1
                    };
                    let targets = vec![TargetRecord { name, portals }; count];
                    self.target.answer_send_targets(request.id, &targets);
                }
                Event::Logout => {}
                Event::Closed(reason) => self.target_end = Some(reason),
            }
        }
        has_moved
    }

    /// A disk with commands of its own: 01h reads and 02h writes, at the offset in bytes 4–7, as much as in 8–11.
    fn carry_out(&mut self, command: &Command) {
        let cdb = command.cdb.as_slice();
        let number = |at: usize| u32::from_be_bytes(cdb[at..at + 4].try_into().unwrap()) as usize;
        let (offset, bytes) = (number(4), number(8));
        let completion = match cdb[0] {
            1 => Completion::data(Bytes::copy_from_slice(&self.disk[offset..offset + bytes])),
            2 => {
                let moved = bytes.min(command.data.len());
                self.disk[offset..offset + moved].copy_from_slice(&command.data[..moved]);
                Completion::taken(bytes as u64)
            }
            _ => Completion::failed(2, Bytes::from_static(b"sense")),
        };
        self.target.complete(command.task, completion);
    }

    fn cdb(opcode: u8, offset: usize, bytes: usize) -> CdbBytes {
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        cdb[4..8].copy_from_slice(&u32::try_from(offset).unwrap().to_be_bytes());
        cdb[8..12].copy_from_slice(&u32::try_from(bytes).unwrap().to_be_bytes());
        CdbBytes::Fixed(cdb)
    }

    fn submit(&mut self, cdb: CdbBytes, read_bytes: usize, data: Bytes) {
        let read_bytes = u32::try_from(read_bytes).unwrap();
        let submission = Submission {
            lun: LunField::default(),
            cdb,
            read_bytes,
            data,
        };
        self.initiator.submit(submission).unwrap();
    }

    fn write(&mut self, offset: usize, data: &Bytes) -> CommandOutcome {
        self.submit(Self::cdb(2, offset, data.len()), 0, data.clone());
        self.run();
        self.outcomes.pop().unwrap()
    }

    fn read(&mut self, offset: usize, bytes: usize) -> CommandOutcome {
        self.submit(Self::cdb(1, offset, bytes), bytes, Bytes::new());
        self.run();
        self.outcomes.pop().unwrap()
    }

    fn send_raw(&mut self, pdu: Pdu) {
        self.target.receive_pdu(pdu, START);
        self.serve();
    }

    fn sent(&mut self) -> Vec<Pdu> {
        let mut decoder = PduDecoder::new(Framing {
            data_segment_bytes_max: 1 << 20,
            ..Framing::LOGIN
        });
        while let Some(encoded) = self.target.poll_transmit() {
            decoder.push(&encoded.to_vec());
        }
        core::iter::from_fn(|| decoder.next_pdu().unwrap()).collect()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder fits")]
fn pattern(bytes: usize) -> Bytes {
    (0..bytes)
        .map(|n| ((n * 7 + n / 251) % 256) as u8)
        .collect()
}

#[test]
fn login_without_chap_and_a_write_read_back() {
    let mut pair = Pair::connected();
    let logged_in = pair.logged_in.clone().unwrap();
    assert_eq!(logged_in.initiator.as_str(), INITIATOR);
    assert_eq!((logged_in.tsih, logged_in.account), (Tsih(7), None));
    let data = pattern(100_000);
    let outcome = pair.write(4096, &data);
    assert_eq!((outcome.status, outcome.residual), (0, Residual::None));
    assert_eq!(pair.read(4096, 100_000).data, data);
    pair.initiator.logout();
    pair.run();
    assert!(pair.has_logged_out && pair.target.is_closed());
    assert_eq!(pair.target_end, Some(CloseReason::Logout));
}

#[test]
fn chap_finds_the_account_by_user_and_secret() {
    let mut options = options();
    options.credentials = Some(pair("second", "secretsecret22"));
    let accounts = vec![
        account("first", "secretsecret11"),
        account("second", "secretsecret21"),
        account("second", "secretsecret22"),
    ];
    let mut pair = Pair::new(options, TargetConfig::default(), grant(accounts));
    pair.step_bytes = 7;
    pair.run();
    assert_eq!(pair.logged_in.unwrap().account, Some(1));
}

#[test]
fn mutual_chap_proves_both() {
    let mut options = options();
    options.credentials = Some(pair("host", "secretsecret11"));
    options.target_credentials = Some(pair("jar", "secretsecret22"));
    let mut both = account("host", "secretsecret11");
    both.mutual = Some(pair("jar", "secretsecret22"));
    let mut login = Pair::new(
        options.clone(),
        TargetConfig::default(),
        grant(vec![both.clone()]),
    );
    login.run();
    assert!(login.logged_in.is_some());

    both.mutual = Some(pair("jar", "secretsecret33"));
    let mut login = Pair::new(
        options.clone(),
        TargetConfig::default(),
        grant(vec![both.clone()]),
    );
    login.run();
    assert_eq!(
        login.initiator_end,
        Some(InitiatorError::Login(LoginError::TargetNotProven))
    );

    both.mutual = Some(pair("jar", "secretsecret11"));
    let mut login = Pair::new(options, TargetConfig::default(), grant(vec![both]));
    login.run();
    assert!(
        login.logged_in.is_none(),
        "one secret both ways must be refused"
    );
}

fn refusal(options: LoginOptions, access: impl Into<Access>) -> (u8, u8) {
    let mut pair = Pair::new(options, TargetConfig::default(), access);
    pair.run();
    assert!(pair.logged_in.is_none() && pair.target.is_closed());
    match pair.initiator_end {
        Some(InitiatorError::Login(LoginError::Refused { class, detail, .. })) => (class, detail),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wrong_secret_an_unknown_user_and_no_proof_are_refused_alike() {
    let accounts = || grant(vec![account("host", "secretsecret11")]);
    let mut wrong = options();
    wrong.credentials = Some(pair("host", "secretsecret12"));
    assert_eq!(refusal(wrong, accounts()), (2, 1));
    let mut unknown = options();
    unknown.credentials = Some(pair("nobody", "secretsecret11"));
    assert_eq!(refusal(unknown, accounts()), (2, 1));
    assert_eq!(refusal(options(), accounts()), (2, 1));
    let mut discovery = options();
    discovery.kind = SessionKind::Discovery;
    assert_eq!(refusal(discovery, accounts()), (2, 1));
}

#[test]
fn the_shells_refusals_have_their_status() {
    assert_eq!(refusal(options(), AccessAnswer::NotFound), (2, 3));
    assert_eq!(refusal(options(), AccessAnswer::Forbidden), (2, 2));
    assert_eq!(refusal(options(), AccessAnswer::Busy), (3, 2));
    assert_eq!(refusal(options(), AccessAnswer::Unavailable), (3, 1));
}

#[test]
fn a_redirect_names_the_other_portal() {
    let address = "127.0.0.2:3260".to_owned();
    let answer = AccessAnswer::Redirect {
        address: address.clone(),
        is_permanent: false,
    };
    let mut pair = Pair::new(options(), TargetConfig::default(), answer);
    pair.run();
    let redirected = LoginError::Redirected {
        address,
        is_permanent: false,
    };
    assert_eq!(pair.initiator_end, Some(InitiatorError::Login(redirected)));
}

#[test]
fn a_reflected_challenge_is_refused() {
    let mut options = options();
    options.credentials = Some(pair("host", "secretsecret11"));
    options.target_credentials = Some(pair("jar", "secretsecret22"));
    // The challenge that the target's grant holds too.
    options.challenge = Challenge::new([5; 33]);
    let mut both = account("host", "secretsecret11");
    both.mutual = Some(pair("jar", "secretsecret22"));
    let mut login = Pair::new(options, TargetConfig::default(), grant(vec![both]));
    login.run();
    assert!(login.logged_in.is_none());
}

#[test]
fn discovery_lists_more_targets_than_a_data_segment_holds() {
    let mut options = options();
    options.kind = SessionKind::Discovery;
    options.offer.recv_data_segment_bytes_max = 512;
    let mut pair = Pair::new(options, TargetConfig::default(), grant(vec![]));
    pair.initiator.discover();
    // The request went out before login: it is only allowed after it.
    pair.run();
    assert!(pair.target.is_closed());

    let mut options = self::options();
    options.kind = SessionKind::Discovery;
    options.offer.recv_data_segment_bytes_max = 512;
    let mut pair = Pair::new(options, TargetConfig::default(), grant(vec![]));
    pair.run();
    pair.initiator.discover();
    pair.run();
    let targets = pair.targets.unwrap();
    assert_eq!(targets.len(), 300);
    assert_eq!(targets[299].portals[1], ("[::1]:3260".to_owned(), 2));
}

fn offers() -> impl Strategy<Value = Offer> {
    let digest = prop_oneof![
        Just(DigestPreference::Accept),
        Just(DigestPreference::Prefer),
        Just(DigestPreference::Require)
    ];
    (
        digest.clone(),
        digest,
        512u32..100_000,
        512u32..300_000,
        512u32..300_000,
        any::<(bool, bool)>(),
        1u32..9,
    )
        .prop_map(
            |(header_digest, data_digest, segment, burst, first, (r2t, immediate), outstanding)| {
                Offer {
                    header_digest,
                    data_digest,
                    recv_data_segment_bytes_max: segment,
                    burst_bytes_max: burst,
                    first_burst_bytes_max: first,
                    has_initial_r2t: r2t,
                    has_immediate_data: immediate,
                    outstanding_r2t_max: outstanding,
                    ..Offer::default()
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_written_is_read_whatever_was_negotiated(
        mine in offers(),
        theirs in offers(),
        // Apart from each other: tasks in flight at a time are in no order.
        lengths in proptest::collection::vec(1usize..400_000, 1..5),
        write_bytes_max in 400_000u64..1_000_000,
        step_bytes in 500usize..100_000,
    ) {
        let config = TargetConfig { offer: theirs, write_bytes_max, ..TargetConfig::default() };
        let login = LoginOptions { offer: mine, ..options() };
        let mut pair = Pair::new(login, config, grant(vec![]));
        pair.step_bytes = step_bytes;
        pair.run();
        prop_assert!(pair.logged_in.is_some());
        let writes: Vec<_> = lengths.into_iter().zip(0..).map(|(bytes, n)| (n * 1_000_003, bytes)).collect();
        for (offset, bytes) in &writes {
            // All at once: several writes share the memory.
            pair.submit(Pair::cdb(2, *offset, *bytes), 0, pattern(*bytes));
        }
        pair.held = Some(Vec::new());
        pair.run();
        // They come as memory allows.
        let mut done = 0;
        while done < writes.len() {
            let held = pair.held.take().unwrap();
            prop_assert!(!held.is_empty());
            done += held.len();
            for command in &held {
                pair.carry_out(command);
            }
            pair.held = Some(Vec::new());
            pair.run();
        }
        pair.held = None;
        prop_assert_eq!(pair.outcomes.len(), writes.len());
        prop_assert!(pair.outcomes.iter().all(|outcome| outcome.status == 0));
        pair.outcomes.clear();
        for (offset, bytes) in &writes {
            let outcome = pair.read(*offset, *bytes);
            prop_assert!(outcome.data == pattern(*bytes), "{bytes} bytes at {offset} differ");
        }
    }

    #[test]
    fn any_sequence_of_pdus_leaves_the_target_standing(
        sequence in proptest::collection::vec(crate::pdu::tests::pdus(), 1..40),
        is_logged_in in any::<bool>(),
    ) {
        let mut pair = Pair::new(options(), TargetConfig::default(), grant(vec![]));
        if is_logged_in {
            pair.run();
        }
        pair.held = Some(Vec::new());
        for pdu in sequence {
            pair.send_raw(pdu);
            pair.target.handle_timeout(START);
            prop_assert!(pair.is_bounded());
        }
    }

    #[test]
    fn any_bytes_leave_both_standing(bytes in proptest::collection::vec(any::<u8>(), 1..4000)) {
        let mut pair = Pair::connected();
        pair.target.receive(&bytes, START);
        pair.initiator.receive(&bytes, START);
        pair.serve();
    }
}

impl Pair {
    fn is_bounded(&self) -> bool {
        self.target.transmit_backlog_bytes() < 1 << 20
    }
}

#[test]
fn a_pdu_before_login_ends_the_connection_without_a_word() {
    let mut pair = Pair::new(options(), TargetConfig::default(), grant(vec![]));
    pair.send_raw(command_pdu(1, 2, 0, Bytes::new()));
    assert!(matches!(
        pair.target_end,
        Some(CloseReason::Protocol { .. })
    ));
    assert!(pair.target.poll_transmit().is_none());
}

fn login_pdu(text: Bytes, is_continued: bool) -> Pdu {
    Pdu::LoginRequest(LoginRequest {
        transit: None,
        is_continued,
        stage: LoginStage::Security,
        version_max: 0,
        version_min: 0,
        isid: Isid::default(),
        tsih: Tsih(0),
        tag: InitiatorTaskTag(0),
        cid: Cid(0),
        cmd_sn: CmdSn::new(1),
        exp_stat_sn: StatSn::new(0),
        data: text,
    })
}

#[test]
fn a_login_key_beyond_8_kib_is_refused_before_it_is_buffered() {
    let long = Text::new()
        .with("InitiatorName", "i".repeat(9000))
        .to_bytes();
    let framing = Framing {
        data_segment_bytes_max: 1 << 20,
        ..Framing::LOGIN
    };
    let bytes = PduEncoder::new(framing)
        .encode(login_pdu(long, false))
        .to_vec();
    let mut pair = Pair::new(options(), TargetConfig::default(), grant(vec![]));
    pair.target.receive(&bytes[..48], START);
    pair.serve();
    assert!(matches!(
        pair.target_end,
        Some(CloseReason::Pdu(PduError::DataSegmentTooLong { .. }))
    ));
}

#[test]
fn an_endless_login_text_is_refused() {
    let mut pair = Pair::new(options(), TargetConfig::default(), grant(vec![]));
    let part = Bytes::from(vec![b'a'; 8000]);
    for _ in 0..4 {
        pair.send_raw(login_pdu(part.clone(), true));
    }
    assert!(matches!(
        pair.target_end,
        Some(CloseReason::LoginRefused { class: 2, .. })
    ));
    let mut pair = Pair::new(options(), TargetConfig::default(), grant(vec![]));
    for _ in 0..40 {
        pair.send_raw(login_pdu(Bytes::new(), true));
    }
    assert!(matches!(
        pair.target_end,
        Some(CloseReason::LoginRefused { class: 2, .. })
    ));
}

#[test]
fn a_login_that_lacks_names_or_asks_for_the_impossible_is_refused() {
    let name = || Text::new().with("InitiatorName", INITIATOR);
    let rows = [
        (Text::new(), 7),
        (name(), 7),
        (name().with("TargetName", "not a name"), 3),
        (name().with("SessionType", "Other"), 9),
        (
            Text::new()
                .with("InitiatorName", "not a name")
                .with("SessionType", "Discovery"),
            0,
        ),
    ];
    for (text, detail) in rows {
        let mut pair = Pair::new(options(), TargetConfig::default(), grant(vec![]));
        pair.send_raw(login_pdu(text.to_bytes(), false));
        let Some(CloseReason::LoginRefused {
            class,
            detail: found,
            ..
        }) = pair.target_end
        else {
            panic!("{text:?}");
        };
        assert_eq!((class, found), (2, detail), "{text:?}");
    }
}

#[test]
fn login_and_silence_run_out_of_time() {
    let config = TargetConfig::default();
    let mut pair = Pair::new(options(), config.clone(), grant(vec![]));
    assert_eq!(
        pair.target.poll_timeout(),
        Some(START + config.login_time_max)
    );
    pair.target.handle_timeout(START + config.login_time_max);
    pair.serve();
    assert_eq!(
        pair.target_end,
        Some(CloseReason::TimedOut { what: "login" })
    );

    let mut pair = Pair::connected();
    let pinged = START + config.ping_after;
    pair.target.handle_timeout(pinged);
    let Some(ping) = pair.target.poll_transmit() else {
        panic!("no ping")
    };
    pair.initiator.receive(&ping.to_vec(), pinged);
    let answer = pair.initiator.poll_transmit().unwrap();
    pair.target.receive(&answer.to_vec(), pinged);
    assert!(!pair.target.is_closed());
    let later = pinged + config.ping_after;
    pair.target.handle_timeout(later);
    pair.target.handle_timeout(later + config.answer_time_max);
    assert!(pair.target.is_closed());
}

fn command_pdu(tag: u32, opcode: u8, cmd_sn: u32, data: Bytes) -> Pdu {
    let expected_bytes = if opcode == 2 { 4096 } else { 0 };
    Pdu::ScsiCommand(ScsiCommand {
        sn: RequestSn {
            is_immediate: false,
            cmd_sn: CmdSn::new(cmd_sn),
            exp_stat_sn: StatSn::new(0),
        },
        is_final: true,
        is_read: false,
        is_write: opcode == 2,
        attribute: TaskAttribute::Simple,
        lun: LunField::default(),
        tag: InitiatorTaskTag(tag),
        expected_bytes,
        bidirectional_read_bytes: None,
        cdb: Pair::cdb(opcode, 0, 4096),
        data,
    })
}

#[test]
fn b2_a_command_outside_the_window_never_executes() {
    let mut pair = Pair::connected();
    pair.held = Some(Vec::new());
    for outside in [0, 129, 130, u32::MAX] {
        pair.send_raw(command_pdu(1, 0, outside, Bytes::new()));
    }
    assert!(pair.held.as_ref().unwrap().is_empty() && pair.sent().is_empty());
    // One that is early waits for its turn; a repeated one is outside.
    pair.send_raw(command_pdu(2, 0, 2, Bytes::new()));
    assert!(pair.held.as_ref().unwrap().is_empty());
    pair.send_raw(command_pdu(1, 0, 1, Bytes::new()));
    pair.send_raw(command_pdu(3, 0, 1, Bytes::new()));
    let order: Vec<_> = pair
        .held
        .as_ref()
        .unwrap()
        .iter()
        .map(|c| c.cmd_sn.value())
        .collect();
    assert_eq!(order, [1, 2]);
}

#[test]
fn the_window_closes_when_too_much_is_running() {
    let mut pair = Pair::connected();
    pair.held = Some(Vec::new());
    for _ in 0..300 {
        pair.submit(Pair::cdb(1, 0, 512), 512, Bytes::new());
    }
    pair.run();
    assert_eq!(pair.held.as_ref().unwrap().len(), 128);
    while pair.outcomes.len() < 300 {
        for command in pair.held.replace(Vec::new()).unwrap() {
            pair.carry_out(&command);
        }
        pair.run();
        assert!(pair.held.as_ref().unwrap().len() <= 128);
    }
}

fn data_out(
    tag: u32,
    transfer_tag: u32,
    data_sn: u32,
    offset: u32,
    data: Bytes,
    is_final: bool,
) -> Pdu {
    Pdu::DataOut(DataOut {
        is_final,
        lun: LunField::default(),
        tag: InitiatorTaskTag(tag),
        transfer_tag: TargetTransferTag(transfer_tag),
        exp_stat_sn: StatSn::new(0),
        data_sn: DataSn::new(data_sn),
        offset,
        data,
    })
}

#[test]
fn data_out_of_order_or_beyond_what_was_asked_fails_the_command_and_not_the_session() {
    // DataSN, offset, length, F; the R2T asks for 4096 bytes.
    let rows = [
        (1, 0, 4096, true),
        (27, 0, 4096, true),
        (u32::MAX, 0, 4096, true),
        (0, 512, 512, true),
        (0, 0, 8192, true),
        (0, 0, 2048, true),
        (0, 0, 4096, false),
        (0, u32::MAX, 4096, true),
    ];
    let mut pair = Pair::connected();
    for (row, cmd_sn) in rows.into_iter().zip(1..) {
        let (data_sn, offset, length, is_final) = row;
        pair.send_raw(command_pdu(cmd_sn, 2, cmd_sn, Bytes::new()));
        let sent = pair.sent();
        let [Pdu::R2t(r2t)] = sent.as_slice() else {
            panic!("{sent:?}")
        };
        assert_eq!(r2t.desired_bytes, 4096);
        pair.send_raw(data_out(
            cmd_sn,
            r2t.transfer_tag.0,
            data_sn,
            offset,
            pattern(length),
            is_final,
        ));
        let sent = pair.sent();
        let [Pdu::ScsiResponse(response)] = sent.as_slice() else {
            panic!("{row:?}: {sent:?}")
        };
        assert_eq!((response.status, response.sense[2]), (2, 0x0b), "{row:?}");
        // What still comes for it is dropped.
        pair.send_raw(data_out(
            cmd_sn,
            r2t.transfer_tag.0,
            0,
            0,
            pattern(4096),
            true,
        ));
        assert!(pair.sent().is_empty());
    }
    assert!(!pair.target.is_closed());
}

#[test]
fn unsolicited_data_that_was_not_agreed_on_fails_the_command() {
    let mut login = options();
    login.offer.has_immediate_data = false;
    login.offer.has_initial_r2t = true;
    let mut pair = Pair::new(login, TargetConfig::default(), grant(vec![]));
    pair.run();
    pair.send_raw(command_pdu(1, 2, 1, pattern(512)));
    let sent = pair.sent();
    let [Pdu::ScsiResponse(response)] = sent.as_slice() else {
        panic!("{sent:?}")
    };
    assert_eq!((response.sense[12], response.sense[13]), (0x0c, 0x0c));
}

#[test]
fn a_write_longer_than_allowed_is_refused_and_not_buffered() {
    let config = TargetConfig {
        transfer_bytes_max: 2048,
        ..TargetConfig::default()
    };
    let mut pair = Pair::new(options(), config, grant(vec![]));
    pair.run();
    let outcome = pair.write(0, &pattern(4096));
    assert_eq!((outcome.status, outcome.sense[12]), (2, 0x24));
    assert_eq!(pair.write(0, &pattern(2048)).status, 0);
}

#[test]
fn residuals_tell_what_was_not_moved() {
    let mut pair = Pair::connected();
    pair.submit(Pair::cdb(1, 0, 512), 1024, Bytes::new());
    pair.submit(Pair::cdb(1, 0, 2048), 1024, Bytes::new());
    pair.submit(Pair::cdb(2, 0, 512), 0, pattern(1024));
    pair.submit(Pair::cdb(2, 0, 2048), 0, pattern(1024));
    pair.submit(Pair::cdb(9, 0, 0), 1024, Bytes::new());
    pair.run();
    let residuals: Vec<_> = pair
        .outcomes
        .iter()
        .map(|outcome| outcome.residual)
        .collect();
    assert_eq!(
        residuals,
        [
            Residual::Underflow(512),
            Residual::Overflow(1024),
            Residual::Underflow(512),
            Residual::Overflow(1024),
            Residual::Underflow(1024)
        ]
    );
    assert_eq!(pair.outcomes[1].data.len(), 1024);
    assert_eq!(
        (pair.outcomes[4].status, &*pair.outcomes[4].sense),
        (2, &b"sense"[..])
    );
}

#[test]
fn the_last_data_in_carries_the_status() {
    let mut pair = Pair::connected();
    pair.held = Some(Vec::new());
    pair.submit(Pair::cdb(1, 0, 600_000), 600_000, Bytes::new());
    while let Some(pdu) = pair.initiator.poll_transmit() {
        pair.target.receive(&pdu.to_vec(), START);
    }
    pair.serve();
    let command = pair.held.take().unwrap().remove(0);
    pair.carry_out(&command);
    let sent = pair.sent();
    assert_eq!(sent.len(), 3);
    let flags: Vec<_> = sent
        .iter()
        .map(|pdu| match pdu {
            Pdu::DataIn(data) => (data.is_final, data.status.is_some(), data.data_sn.value()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        flags,
        [(false, false, 0), (false, false, 1), (true, true, 2)]
    );
}

fn task_management(function: TaskManagementFunction, referenced: u32, ref_cmd_sn: u32) -> Pdu {
    Pdu::TaskManagementRequest(TaskManagementRequest {
        sn: RequestSn {
            is_immediate: true,
            cmd_sn: CmdSn::new(9),
            exp_stat_sn: StatSn::new(0),
        },
        function,
        lun: LunField::default(),
        tag: InitiatorTaskTag(99),
        referenced_tag: InitiatorTaskTag(referenced),
        ref_cmd_sn: CmdSn::new(ref_cmd_sn),
        exp_data_sn: DataSn::default(),
    })
}

fn task_management_code(sent: &[Pdu]) -> TaskManagementResponseCode {
    match sent {
        [Pdu::TaskManagementResponse(response)] => response.response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_aborted_task_is_never_answered() {
    use TaskManagementFunction::{AbortTask, LogicalUnitReset};
    let mut pair = Pair::connected();
    pair.held = Some(Vec::new());
    pair.send_raw(command_pdu(1, 0, 1, Bytes::new()));
    pair.send_raw(command_pdu(2, 2, 2, Bytes::new()));
    pair.sent();
    // One that runs, one whose data is coming, one that is not there, one that has not come yet.
    pair.send_raw(task_management(AbortTask, 1, 1));
    assert_eq!(
        task_management_code(&pair.sent()),
        TaskManagementResponseCode::Complete
    );
    pair.send_raw(task_management(AbortTask, 2, 2));
    assert_eq!(
        task_management_code(&pair.sent()),
        TaskManagementResponseCode::Complete
    );
    pair.send_raw(task_management(AbortTask, 77, 1));
    assert_eq!(
        task_management_code(&pair.sent()),
        TaskManagementResponseCode::TaskDoesNotExist
    );
    pair.send_raw(task_management(AbortTask, 3, 3));
    assert_eq!(
        task_management_code(&pair.sent()),
        TaskManagementResponseCode::Complete
    );
    pair.send_raw(command_pdu(3, 0, 3, Bytes::new()));
    let held = pair.held.take().unwrap();
    assert_eq!(
        held.len(),
        1,
        "the aborted one must not execute when it comes"
    );
    pair.target.complete(held[0].task, Completion::default());
    assert!(pair.sent().is_empty());

    pair.held = Some(Vec::new());
    pair.send_raw(command_pdu(4, 0, 4, Bytes::new()));
    pair.send_raw(task_management(LogicalUnitReset, 0, 0));
    pair.send_raw(command_pdu(5, 0, 5, Bytes::new()));
    pair.sent();
    for command in pair.held.take().unwrap() {
        pair.target.complete(command.task, Completion::default());
    }
    assert_eq!(
        pair.sent().len(),
        1,
        "only the command after the reset is answered"
    );
}

#[test]
fn pings_are_echoed_and_snacks_refused() {
    let mut pair = Pair::connected();
    let sn = RequestSn {
        is_immediate: true,
        cmd_sn: CmdSn::new(1),
        exp_stat_sn: StatSn::new(0),
    };
    let nop = NopOut {
        sn,
        lun: LunField::default(),
        tag: InitiatorTaskTag(5),
        transfer_tag: TargetTransferTag::NONE,
        data: Bytes::from_static(b"echo"),
    };
    pair.send_raw(Pdu::NopOut(nop));
    assert!(matches!(pair.sent().as_slice(), [Pdu::NopIn(nop)] if &*nop.data == b"echo"));
    let snack = crate::pdu::SnackRequest {
        kind: 0,
        lun: LunField::default(),
        tag: InitiatorTaskTag(1),
        transfer_tag: TargetTransferTag::NONE,
        exp_stat_sn: StatSn::new(0),
        first: 0,
        count: 0,
    };
    pair.send_raw(Pdu::SnackRequest(snack));
    assert!(
        matches!(pair.sent().as_slice(), [Pdu::Reject(reject)] if reject.reason == RejectReason::Snack)
    );
    assert!(!pair.target.is_closed());
}

#[test]
fn a_logout_request_reaches_the_initiator() {
    let mut pair = Pair::connected();
    pair.target.request_logout(Duration::from_secs(10));
    let sent = pair.target.poll_transmit().unwrap();
    pair.initiator.receive(&sent.to_vec(), START);
    let event = pair.initiator.poll_event().unwrap();
    assert!(matches!(event, InitiatorEvent::LogoutRequested { within } if within.as_secs() == 10));
}
