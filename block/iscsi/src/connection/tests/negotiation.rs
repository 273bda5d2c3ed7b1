//! Text in all its forms: what is said in parts, what is refused, what is not understood; and who proves what.

use super::*;
use crate::login::ChapPolicy;
use crate::pdu::{LoginResponse, Reject, TextRequest, TextResponse};

fn login_request(stage: LoginStage, transit: Option<LoginStage>, text: &Text) -> Pdu {
    let Pdu::LoginRequest(request) = login_pdu(text.to_bytes(), false) else {
        panic!("a login request");
    };
    Pdu::LoginRequest(LoginRequest {
        stage,
        transit,
        ..request
    })
}

fn responses(pair: &mut Pair) -> Vec<LoginResponse> {
    let response = |pdu| match pdu {
        Pdu::LoginResponse(response) => response,
        other => panic!("{other:?}"),
    };
    pair.sent().into_iter().map(response).collect()
}

fn names() -> Text {
    Text::new()
        .with("InitiatorName", INITIATOR)
        .with("TargetName", TARGET)
}

fn fresh(accounts: Vec<ChapAccount>) -> Pair {
    let config = TargetConfig::default();
    Pair::new(options(), config, grant(accounts))
}

#[test]
fn the_first_answer_tells_the_portal_group_and_the_alias() {
    let mut login = fresh(vec![]);
    let operational = Some(LoginStage::Operational);
    login.send_raw(login_request(LoginStage::Security, operational, &names()));
    let [response] = &responses(&mut login)[..] else {
        panic!("one response");
    };
    let text = Text::parse(&response.data).unwrap();
    assert_eq!(text.get("TargetPortalGroupTag"), Some("1"));
    assert_eq!(text.get("TargetAlias"), Some("a jar"));
    assert_eq!(response.transit, operational);
}

#[test]
fn an_answer_longer_than_a_data_segment_comes_in_parts() {
    let mut login = fresh(vec![]);
    let full = Some(LoginStage::FullFeature);
    let mut text = names();
    for number in 0..120 {
        text.push(&format!("X-org.example.{number:03}.{}", "k".repeat(44)), "");
    }
    let Pdu::LoginRequest(whole) = login_request(LoginStage::Operational, full, &text) else {
        panic!("a login request");
    };
    // It is itself longer than a data segment only in what it is answered with.
    assert!(whole.data.len() <= 8192);
    login.send_raw(Pdu::LoginRequest(whole));
    let mut data = Vec::new();
    let first = responses(&mut login).remove(0);
    assert!(first.is_continued && first.transit.is_none() && first.data.len() == 8192);
    data.extend_from_slice(&first.data);
    assert!(login.logged_in.is_none(), "not before all is said");
    login.send_raw(login_request(LoginStage::Operational, full, &Text::new()));
    let last = responses(&mut login).remove(0);
    assert!(!last.is_continued && last.transit == full && last.tsih == Tsih(7));
    data.extend_from_slice(&last.data);
    let text = Text::parse(&data).unwrap();
    let unknown = text.iter().filter(|(_, value)| *value == "NotUnderstood");
    assert_eq!(unknown.count(), 120);
    assert!(login.logged_in.is_some());

    // Whoever says something else instead of asking for the rest breaks off the login.
    let mut login = fresh(vec![]);
    let mut long = names();
    for number in 0..120 {
        long.push(&format!("X-org.example.{number:03}.{}", "k".repeat(44)), "");
    }
    login.send_raw(login_request(LoginStage::Operational, full, &long));
    let more = Text::new().with("DataDigest", "None");
    login.send_raw(login_request(LoginStage::Operational, full, &more));
    assert!(matches!(
        login.target_end,
        Some(CloseReason::LoginRefused { class: 2, .. })
    ));
}

#[test]
fn every_key_of_the_security_stage_is_answered_and_answers_are_no_proposals() {
    let mut login = fresh(vec![]);
    let text = names()
        .with("AuthMethod", "None")
        .with("InitiatorAlias", "host")
        .with("HeaderDigest", "CRC32C")
        .with("X-org.example.key", "1");
    login.send_raw(login_request(LoginStage::Security, None, &text));
    let response = responses(&mut login).remove(0);
    let answer = Text::parse(&response.data).unwrap();
    assert_eq!(answer.get("AuthMethod"), Some("None"));
    assert_eq!(answer.get("HeaderDigest"), Some("Reject"));
    assert_eq!(answer.get("X-org.example.key"), Some("NotUnderstood"));
    assert_eq!(answer.get("InitiatorAlias"), None);
    for value in ["Reject", "Irrelevant", "NotUnderstood"] {
        let mut login = fresh(vec![]);
        let text = names().with("MaxBurstLength", value);
        login.send_raw(login_request(LoginStage::Operational, None, &text));
        assert!(matches!(
            login.target_end,
            Some(CloseReason::LoginRefused {
                class: 2,
                detail: 0,
                ..
            })
        ));
    }
}

#[test]
fn a_login_in_parts_that_were_cut_anywhere_is_the_same_login() {
    let text = names().with("AuthMethod", "None").to_bytes();
    for at in 1..text.len() {
        let mut login = fresh(vec![]);
        login.send_raw(login_pdu(text.slice(..at), true));
        let part = responses(&mut login).remove(0);
        assert!(part.data.is_empty() && part.transit.is_none() && part.status_class == 0);
        login.send_raw(login_pdu(text.slice(at..), false));
        let answer = responses(&mut login).remove(0);
        let answer = Text::parse(&answer.data).unwrap();
        assert_eq!(answer.get("AuthMethod"), Some("None"), "cut at {at}");
    }
}

/// Where a login with these CHAP algorithms comes to: what CHAP_A is answered with.
fn chosen(policy: ChapPolicy, offered: &str) -> Result<String, (u8, u8)> {
    let config = TargetConfig {
        chap: policy,
        ..TargetConfig::default()
    };
    let accounts = vec![account("host", "secretsecret11")];
    let mut login = Pair::new(options(), config, grant(accounts));
    let method = names().with("AuthMethod", "CHAP");
    login.send_raw(login_request(LoginStage::Security, None, &method));
    let algorithms = Text::new().with("CHAP_A", offered);
    login.send_raw(login_request(LoginStage::Security, None, &algorithms));
    let last = responses(&mut login).pop().unwrap();
    let text = Text::parse(&last.data).unwrap();
    match text.get("CHAP_A") {
        Some(algorithm) => Ok(algorithm.to_owned()),
        None => Err((last.status_class, last.status_detail)),
    }
}

#[test]
fn the_best_hash_is_chosen_and_md5_can_be_forbidden() {
    let both = ChapPolicy::Sha256OrMd5;
    // open-iscsi with all its algorithms: SHA3-256, SHA-256, SHA-1, MD5.
    assert_eq!(chosen(both, "8,7,6,5").as_deref(), Ok("7"));
    assert_eq!(chosen(both, "5").as_deref(), Ok("5"));
    assert_eq!(chosen(both, "6,8"), Err((2, 1)));
    assert_eq!(chosen(ChapPolicy::Sha256, "5,7").as_deref(), Ok("7"));
    assert_eq!(chosen(ChapPolicy::Sha256, "5"), Err((2, 1)));
}

#[test]
fn who_skips_the_security_stage_or_a_step_of_it_has_proven_nothing() {
    let accounts = || vec![account("host", "secretsecret11")];
    let full = Some(LoginStage::FullFeature);
    for (stage, text) in [
        (LoginStage::Operational, names()),
        (LoginStage::Security, names().with("AuthMethod", "None")),
        (LoginStage::Security, names()),
    ] {
        let mut login = fresh(accounts());
        login.send_raw(login_request(stage, full, &text));
        assert!(matches!(
            login.target_end,
            Some(CloseReason::LoginRefused {
                class: 2,
                detail: 1,
                ..
            })
        ));
    }
    let mut login = fresh(accounts());
    let method = names().with("AuthMethod", "CHAP");
    login.send_raw(login_request(LoginStage::Security, full, &method));
    let proof = Text::new()
        .with("CHAP_N", "host")
        .with("CHAP_R", "0x00000000000000000000000000000000");
    login.send_raw(login_request(LoginStage::Security, full, &proof));
    assert!(login.logged_in.is_none() && login.target.is_closed());
}

fn text_request(data: Bytes, flags: (bool, bool), transfer_tag: TargetTransferTag) -> Pdu {
    let (is_final, is_continued) = flags;
    Pdu::TextRequest(TextRequest {
        sn: RequestSn {
            is_immediate: true,
            cmd_sn: CmdSn::new(1),
            exp_stat_sn: StatSn::new(0),
        },
        is_final,
        is_continued,
        lun: LunField::default(),
        tag: InitiatorTaskTag(3),
        transfer_tag,
        data,
    })
}

fn text_response(pair: &mut Pair) -> TextResponse {
    match pair.sent().as_slice() {
        [Pdu::TextResponse(response)] => response.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_text_exchange_goes_on_until_the_initiator_says_it_is_over() {
    let mut pair = Pair::connected();
    let none = TargetTransferTag::NONE;
    let request = Text::new()
        .with("X-org.example.key", "1")
        .with("MaxBurstLength", "512")
        .with("MaxRecvDataSegmentLength", "1024")
        .with("InitiatorAlias", "host");
    pair.send_raw(text_request(request.to_bytes(), (false, false), none));
    let open = text_response(&mut pair);
    assert!(!open.is_final && !open.is_continued && open.transfer_tag != none);
    let text = Text::parse(&open.data).unwrap();
    assert_eq!(text.get("X-org.example.key"), Some("NotUnderstood"));
    assert_eq!(text.get("MaxBurstLength"), Some("Reject"));
    assert_eq!(text.iter().count(), 2);
    let targets = Text::new().with("SendTargets", "").to_bytes();
    let (head, tail) = (targets.slice(..7), targets.slice(7..));
    pair.send_raw(text_request(head, (false, true), open.transfer_tag));
    assert!(text_response(&mut pair).data.is_empty());
    pair.send_raw(text_request(tail, (true, false), open.transfer_tag));
    let last = text_response(&mut pair);
    assert!(last.is_final && last.transfer_tag == none);
    let text = String::from_utf8(last.data.to_vec()).unwrap();
    assert!(text.contains(TARGET) && text.contains("TargetAddress=127.0.0.1:3260,1"));
    assert!(text.contains("TargetAddress=[::1]:3260,2"));
    // The data segments of reads have the length that was declared meanwhile.
    pair.send_raw(text_request(Bytes::new(), (true, false), none));
    pair.sent();
    let data = pattern(4_000);
    pair.disk[..4_000].copy_from_slice(&data);
    let outcome = pair.read(0, 4_000);
    assert_eq!(outcome.data, data);
    assert_eq!(pair.target.transmit_backlog_bytes(), 0);
}

#[test]
fn a_normal_session_is_told_of_its_own_target_only() {
    let mut pair = Pair::connected();
    let all = Text::new().with("SendTargets", "All").to_bytes();
    let none = TargetTransferTag::NONE;
    pair.send_raw(text_request(all, (true, false), none));
    let response = text_response(&mut pair);
    let text = Text::parse(&response.data).unwrap();
    assert_eq!(text.get("SendTargets"), Some("Reject"));
}

#[test]
fn malformed_texts_are_rejected_and_the_session_goes_on() {
    let mut pair = Pair::connected();
    let none = TargetTransferTag::NONE;
    for (bytes, flags) in [
        (&b"no pair\0"[..], (true, false)),
        (b"A=1\0A=2\0", (true, false)),
        (b"MaxBurstLength=Reject\0", (true, false)),
        (b"A=1\0", (true, true)),
        (b"A=\xff\0", (true, false)),
    ] {
        pair.send_raw(text_request(Bytes::from_static(bytes), flags, none));
        let is_refused = matches!(
            pair.sent().as_slice(),
            [Pdu::Reject(Reject {
                reason: RejectReason::ProtocolError,
                ..
            })]
        );
        assert!(is_refused, "{bytes:?}");
    }
    assert!(!pair.target.is_closed());
    assert_eq!(pair.read(0, 512).status, 0);
}

#[test]
fn discovery_sessions_carry_no_commands() {
    let discovery = || {
        let mut options = options();
        options.kind = SessionKind::Discovery;
        let mut pair = Pair::new(options, TargetConfig::default(), grant(vec![]));
        pair.run();
        pair
    };
    for pdu in [
        command_pdu(1, 0, 1, Bytes::new()),
        task_management(TaskManagementFunction::LogicalUnitReset, 0, 0),
    ] {
        let mut pair = discovery();
        pair.held = Some(Vec::new());
        pair.send_raw(pdu);
        assert!(matches!(
            pair.target_end,
            Some(CloseReason::Protocol { .. })
        ));
        assert_eq!(pair.held.unwrap().len(), 0);
    }
}

#[test]
fn a_command_behind_an_aborted_one_is_not_lost() {
    let mut pair = Pair::connected();
    pair.held = Some(Vec::new());
    // The second and third have come, the first has not: it is aborted before it does.
    pair.send_raw(command_pdu(2, 0, 2, Bytes::new()));
    pair.send_raw(command_pdu(3, 0, 3, Bytes::new()));
    assert!(pair.held.as_ref().unwrap().is_empty());
    pair.send_raw(task_management(TaskManagementFunction::AbortTask, 1, 1));
    assert_eq!(
        task_management_code(&pair.sent()),
        TaskManagementResponseCode::Complete
    );
    let begun: Vec<u32> = pair.held.take().unwrap().iter().map(cmd_sn_of).collect();
    assert_eq!(begun, [2, 3]);
    pair.held = Some(Vec::new());
    pair.send_raw(command_pdu(1, 0, 1, Bytes::new()));
    assert!(pair.held.as_ref().unwrap().is_empty(), "it was aborted");
    pair.send_raw(command_pdu(4, 0, 4, Bytes::new()));
    assert_eq!(pair.held.unwrap().len(), 1);
}

fn cmd_sn_of(command: &Command) -> u32 {
    command.cmd_sn.value()
}

#[test]
fn an_abort_that_is_older_than_the_task_it_names_does_not_reach_it() {
    let mut pair = Pair::connected();
    pair.held = Some(Vec::new());
    // The request says it was made before command 20 was: so 20 cannot be meant.
    pair.send_raw(task_management(TaskManagementFunction::AbortTask, 20, 20));
    assert_eq!(
        task_management_code(&pair.sent()),
        TaskManagementResponseCode::TaskDoesNotExist
    );
}

#[test]
fn tasks_are_not_reassigned_without_error_recovery() {
    let mut pair = Pair::connected();
    pair.send_raw(task_management(TaskManagementFunction::TaskReassign, 1, 1));
    assert_eq!(
        task_management_code(&pair.sent()),
        TaskManagementResponseCode::ReassignNotSupported
    );
}

#[test]
fn a_write_larger_than_the_memory_of_its_connection_still_comes() {
    let config = TargetConfig {
        write_bytes_max: 64 << 10,
        ..TargetConfig::default()
    };
    let mut pair = Pair::new(options(), config, grant(vec![]));
    pair.run();
    let data = pattern(1 << 20);
    assert_eq!(pair.write(0, &data).status, 0);
    assert_eq!(pair.read(0, data.len()).data, data);
}

#[test]
fn data_with_a_write_of_nothing_and_data_that_was_not_agreed_on_fail_the_command() {
    let write = |expected_bytes: u32, bytes: usize| {
        let Pdu::ScsiCommand(command) = command_pdu(1, 2, 1, pattern(bytes)) else {
            panic!("a command");
        };
        Pdu::ScsiCommand(ScsiCommand {
            is_write: true,
            is_final: true,
            expected_bytes,
            ..command
        })
    };
    let failed = |options: LoginOptions, pdu: Pdu| {
        let mut pair = Pair::new(options, TargetConfig::default(), grant(vec![]));
        pair.run();
        pair.held = Some(Vec::new());
        pair.send_raw(pdu);
        assert!(pair.held.as_ref().unwrap().is_empty(), "it must not begin");
        matches!(pair.sent().as_slice(), [Pdu::ScsiResponse(response)] if response.status == 2)
    };
    assert!(failed(options(), write(0, 200)));
    let mut without = options();
    without.offer.has_immediate_data = false;
    assert!(failed(without, write(512, 512)));
    let mut short = options();
    short.offer.first_burst_bytes_max = 512;
    assert!(failed(short, write(1024, 1024)));
}

#[test]
fn a_dropped_session_is_told_so() {
    let mut pair = Pair::connected();
    pair.target.drop_session();
    pair.run();
    assert_eq!(pair.initiator_end, Some(InitiatorError::Dropped));
    assert_eq!(pair.target_end, Some(CloseReason::Ended));
}

#[test]
fn a_wrong_digest_ends_the_connection_and_only_a_data_digest_is_answered() {
    let with_digests = || {
        let mut options = options();
        options.offer.header_digest = DigestPreference::Require;
        options.offer.data_digest = DigestPreference::Require;
        let mut pair = Pair::new(options, TargetConfig::default(), grant(vec![]));
        pair.run();
        let framing = pair.logged_in.as_ref().unwrap().negotiated;
        let encoder = PduEncoder::new(framing.receive_framing());
        let pdu = command_pdu(1, 2, 1, Bytes::from_static(b"data"));
        (pair, encoder.encode(pdu).to_vec())
    };
    let (mut pair, mut bytes) = with_digests();
    bytes[4 + 16] ^= 1;
    pair.target.receive(&bytes, START);
    pair.serve();
    assert_eq!(
        pair.target_end,
        Some(CloseReason::Pdu(PduError::HeaderDigest))
    );
    assert!(pair.target.poll_transmit().is_none());

    let (mut pair, mut bytes) = with_digests();
    let at = bytes.len() - 5;
    bytes[at] ^= 1;
    pair.target.receive(&bytes, START);
    pair.serve();
    assert_eq!(
        pair.target_end,
        Some(CloseReason::Pdu(PduError::DataDigest))
    );
    let reject = pair.target.poll_transmit().unwrap().to_vec();
    assert_eq!((reject[0], reject[2]), (0x3f, 0x02));
    assert_eq!(pair.disk[..8], [0; 8], "nothing was carried out");
}
