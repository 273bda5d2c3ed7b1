//! The codec's properties: decode∘encode is the identity, any split gives the same PDUs, no bytes panic.

use super::*;
use crate::digest;
use crate::name::{Cid, InitiatorTaskTag, Isid, LunField, TargetTransferTag, Tsih};
use crate::serial::{CmdSn, DataSn, StatSn};
use proptest::collection::vec;
use proptest::prelude::*;

fn data() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..80).prop_map(Bytes::from)
}

fn cmd_sn() -> impl Strategy<Value = CmdSn> {
    any::<u32>().prop_map(CmdSn::new)
}

fn stat_sn() -> impl Strategy<Value = StatSn> {
    any::<u32>().prop_map(StatSn::new)
}

fn data_sn() -> impl Strategy<Value = DataSn> {
    any::<u32>().prop_map(DataSn::new)
}

fn request_sn() -> impl Strategy<Value = RequestSn> {
    (any::<bool>(), cmd_sn(), stat_sn()).prop_map(|(is_immediate, cmd_sn, exp_stat_sn)| RequestSn {
        is_immediate,
        cmd_sn,
        exp_stat_sn,
    })
}

fn response_sn() -> impl Strategy<Value = ResponseSn> {
    (stat_sn(), cmd_sn(), cmd_sn()).prop_map(|(stat_sn, exp_cmd_sn, max_cmd_sn)| ResponseSn {
        stat_sn,
        exp_cmd_sn,
        max_cmd_sn,
    })
}

fn lun() -> impl Strategy<Value = LunField> {
    any::<[u8; 8]>().prop_map(LunField)
}

fn tag() -> impl Strategy<Value = InitiatorTaskTag> {
    any::<u32>().prop_map(InitiatorTaskTag)
}

fn transfer_tag() -> impl Strategy<Value = TargetTransferTag> {
    any::<u32>().prop_map(TargetTransferTag)
}

fn residual() -> impl Strategy<Value = Residual> {
    prop_oneof![
        Just(Residual::None),
        any::<u32>().prop_map(Residual::Overflow),
        any::<u32>().prop_map(Residual::Underflow),
    ]
}

fn stage() -> impl Strategy<Value = LoginStage> {
    prop_oneof![
        Just(LoginStage::Security),
        Just(LoginStage::Operational),
        Just(LoginStage::FullFeature)
    ]
}

fn cdb() -> impl Strategy<Value = CdbBytes> {
    prop_oneof![vec(any::<u8>(), 6..=16), vec(any::<u8>(), 17..=260)]
        .prop_map(|bytes| CdbBytes::new(&bytes).unwrap())
}

fn scsi_command() -> impl Strategy<Value = Pdu> {
    let bits = (any::<bool>(), any::<bool>(), any::<bool>(), 0u8..8);
    let numbers = (any::<u32>(), proptest::option::of(any::<u32>()));
    (request_sn(), bits, numbers, lun(), tag(), cdb(), data()).prop_map(
        |(
            sn,
            (is_final, is_read, is_write, attribute),
            (expected_bytes, read),
            lun,
            tag,
            cdb,
            data,
        )| {
            let attribute = match attribute {
                0 => TaskAttribute::Untagged,
                1 => TaskAttribute::Simple,
                2 => TaskAttribute::Ordered,
                3 => TaskAttribute::HeadOfQueue,
                4 => TaskAttribute::Aca,
                other => TaskAttribute::Reserved(other),
            };
            Pdu::ScsiCommand(ScsiCommand {
                sn,
                is_final,
                is_read,
                is_write,
                attribute,
                lun,
                tag,
                expected_bytes,
                bidirectional_read_bytes: read,
                cdb,
                data,
            })
        },
    )
}

#[expect(
    clippy::too_many_lines,
    reason = "one strategy per opcode, side by side"
)]
fn requests() -> impl Strategy<Value = Pdu> {
    let nop = (request_sn(), lun(), tag(), transfer_tag(), data()).prop_map(
        |(sn, lun, tag, transfer_tag, data)| {
            Pdu::NopOut(NopOut {
                sn,
                lun,
                tag,
                transfer_tag,
                data,
            })
        },
    );
    let task_management = (request_sn(), lun(), tag(), tag(), cmd_sn(), data_sn()).prop_map(
        |(sn, lun, tag, referenced_tag, ref_cmd_sn, exp_data_sn)| {
            let function = TaskManagementFunction::AbortTask;
            Pdu::TaskManagementRequest(TaskManagementRequest {
                sn,
                function,
                lun,
                tag,
                referenced_tag,
                ref_cmd_sn,
                exp_data_sn,
            })
        },
    );
    let login_form = (
        proptest::option::of(stage()),
        any::<bool>(),
        stage(),
        any::<(u8, u8)>(),
    );
    let login = (
        login_form,
        any::<([u8; 6], u16, u16)>(),
        tag(),
        cmd_sn(),
        stat_sn(),
        data(),
    )
        .prop_map(
            |((transit, is_continued, stage, versions), ids, tag, cmd_sn, exp_stat_sn, data)| {
                Pdu::LoginRequest(LoginRequest {
                    transit,
                    is_continued,
                    stage,
                    version_max: versions.0,
                    version_min: versions.1,
                    isid: Isid(ids.0),
                    tsih: Tsih(ids.1),
                    tag,
                    cid: Cid(ids.2),
                    cmd_sn,
                    exp_stat_sn,
                    data,
                })
            },
        );
    let text = (
        request_sn(),
        any::<(bool, bool)>(),
        lun(),
        tag(),
        transfer_tag(),
        data(),
    )
        .prop_map(
            |(sn, (is_final, is_continued), lun, tag, transfer_tag, data)| {
                Pdu::TextRequest(TextRequest {
                    sn,
                    is_final,
                    is_continued,
                    lun,
                    tag,
                    transfer_tag,
                    data,
                })
            },
        );
    let data_out = (
        any::<(bool, u32)>(),
        lun(),
        tag(),
        transfer_tag(),
        stat_sn(),
        data_sn(),
        data(),
    )
        .prop_map(
            |((is_final, offset), lun, tag, transfer_tag, exp_stat_sn, data_sn, data)| {
                Pdu::DataOut(DataOut {
                    is_final,
                    lun,
                    tag,
                    transfer_tag,
                    exp_stat_sn,
                    data_sn,
                    offset,
                    data,
                })
            },
        );
    let logout = (request_sn(), 0u8..3, tag(), any::<u16>()).prop_map(|(sn, reason, tag, cid)| {
        let reason = match reason {
            0 => LogoutReason::CloseSession,
            1 => LogoutReason::CloseConnection,
            _ => LogoutReason::RemoveForRecovery,
        };
        Pdu::LogoutRequest(LogoutRequest {
            sn,
            reason,
            tag,
            cid: Cid(cid),
        })
    });
    let snack = (
        0u8..16,
        lun(),
        tag(),
        transfer_tag(),
        stat_sn(),
        any::<(u32, u32)>(),
    )
        .prop_map(
            |(kind, lun, tag, transfer_tag, exp_stat_sn, (first, count))| {
                Pdu::SnackRequest(SnackRequest {
                    kind,
                    lun,
                    tag,
                    transfer_tag,
                    exp_stat_sn,
                    first,
                    count,
                })
            },
        );
    prop_oneof![
        scsi_command(),
        nop,
        task_management,
        login,
        text,
        data_out,
        logout,
        snack
    ]
}

#[expect(
    clippy::too_many_lines,
    reason = "one strategy per opcode, side by side"
)]
fn responses() -> impl Strategy<Value = Pdu> {
    let nop = (response_sn(), lun(), tag(), transfer_tag(), data()).prop_map(
        |(sn, lun, tag, transfer_tag, data)| {
            Pdu::NopIn(NopIn {
                sn,
                lun,
                tag,
                transfer_tag,
                data,
            })
        },
    );
    let scsi = (
        response_sn(),
        tag(),
        any::<(u8, u8)>(),
        residual(),
        data_sn(),
        data(),
    )
        .prop_map(
            |(sn, tag, (response, status), residual, exp_data_sn, sense)| {
                Pdu::ScsiResponse(ScsiResponse {
                    sn,
                    tag,
                    response,
                    status,
                    residual,
                    exp_data_sn,
                    sense,
                })
            },
        );
    let task_management = (response_sn(), tag(), 8u8..255).prop_map(|(sn, tag, code)| {
        let response = TaskManagementResponseCode::Other(code);
        Pdu::TaskManagementResponse(TaskManagementResponse { sn, tag, response })
    });
    let login_form = (
        proptest::option::of(stage()),
        any::<bool>(),
        stage(),
        any::<(u8, u8, u8, u8)>(),
    );
    let login = (
        login_form,
        any::<([u8; 6], u16)>(),
        tag(),
        response_sn(),
        data(),
    )
        .prop_map(
            |((transit, is_continued, stage, bytes), ids, tag, sn, data)| {
                Pdu::LoginResponse(LoginResponse {
                    transit,
                    is_continued,
                    stage,
                    version_max: bytes.0,
                    version_active: bytes.1,
                    isid: Isid(ids.0),
                    tsih: Tsih(ids.1),
                    tag,
                    sn,
                    status_class: bytes.2,
                    status_detail: bytes.3,
                    data,
                })
            },
        );
    let text = (
        response_sn(),
        any::<(bool, bool)>(),
        lun(),
        tag(),
        transfer_tag(),
        data(),
    )
        .prop_map(
            |(sn, (is_final, is_continued), lun, tag, transfer_tag, data)| {
                Pdu::TextResponse(TextResponse {
                    sn,
                    is_final,
                    is_continued,
                    lun,
                    tag,
                    transfer_tag,
                    data,
                })
            },
        );
    let status =
        (stat_sn(), any::<u8>(), residual()).prop_map(|(stat_sn, status, residual)| DataInStatus {
            stat_sn,
            status,
            residual,
        });
    let data_in_names = (lun(), tag(), transfer_tag(), data_sn());
    let data_in = (
        (cmd_sn(), cmd_sn()),
        any::<(bool, bool, u32)>(),
        proptest::option::of(status),
        data_in_names,
        data(),
    )
        .prop_map(|(window, (is_final, wants, offset), status, names, data)| {
            Pdu::DataIn(DataIn {
                exp_cmd_sn: window.0,
                max_cmd_sn: window.1,
                is_final,
                wants_acknowledgement: wants,
                status,
                lun: names.0,
                tag: names.1,
                transfer_tag: names.2,
                data_sn: names.3,
                offset,
                data,
            })
        });
    let logout = (response_sn(), tag(), any::<(u16, u16)>()).prop_map(|(sn, tag, times)| {
        let response = LogoutResponseCode::Closed;
        let (time_to_wait, time_to_retain) = times;
        Pdu::LogoutResponse(LogoutResponse {
            sn,
            tag,
            response,
            time_to_wait,
            time_to_retain,
        })
    });
    let r2t = (
        response_sn(),
        lun(),
        tag(),
        transfer_tag(),
        data_sn(),
        any::<(u32, u32)>(),
    )
        .prop_map(
            |(sn, lun, tag, transfer_tag, r2t_sn, (offset, desired_bytes))| {
                Pdu::R2t(R2t {
                    sn,
                    lun,
                    tag,
                    transfer_tag,
                    r2t_sn,
                    offset,
                    desired_bytes,
                })
            },
        );
    let message = (response_sn(), lun(), any::<(u16, u16, u16)>(), data()).prop_map(
        |(sn, lun, (cid, time_to_wait, time_to_retain), data)| {
            let event = AsyncEvent::DropConnection {
                cid,
                time_to_wait,
                time_to_retain,
            };
            Pdu::AsyncMessage(AsyncMessage {
                sn,
                lun,
                event,
                data,
            })
        },
    );
    let reject = (response_sn(), data_sn(), data()).prop_map(|(sn, data_sn, header)| {
        Pdu::Reject(Reject {
            sn,
            reason: RejectReason::InvalidField,
            data_sn,
            header,
        })
    });
    prop_oneof![
        nop,
        scsi,
        task_management,
        login,
        text,
        data_in,
        logout,
        r2t,
        message,
        reject
    ]
}

/// Any PDU there is.
pub(crate) fn pdus() -> impl Strategy<Value = Pdu> {
    prop_oneof![requests(), responses()]
}

fn framing() -> impl Strategy<Value = Framing> {
    any::<(bool, bool)>().prop_map(|(has_header_digest, has_data_digest)| Framing {
        has_header_digest,
        has_data_digest,
        data_segment_bytes_max: 8192,
    })
}

fn decode_all(decoder: &mut PduDecoder) -> Vec<Pdu> {
    core::iter::from_fn(|| decoder.next_pdu().unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn decoding_what_was_encoded_gives_the_same_pdu(pdu in pdus(), framing in framing()) {
        let encoded = PduEncoder::new(framing).encode(pdu.clone());
        prop_assert_eq!(encoded.len() % 4, 0);
        let mut decoder = PduDecoder::new(framing);
        decoder.push(&encoded.to_vec());
        prop_assert_eq!(decoder.next_pdu(), Ok(Some(pdu)));
        prop_assert_eq!(decoder.next_pdu(), Ok(None));
        prop_assert!(decoder.buffer().is_empty());
    }

    #[test]
    fn a_split_at_any_byte_gives_the_same_pdus(
        pdus in vec(pdus(), 1..5),
        framing in framing(),
        cuts in vec(1usize..200, 1..60),
    ) {
        let encoder = PduEncoder::new(framing);
        let bytes: Vec<u8> = pdus.iter().flat_map(|pdu| encoder.encode(pdu.clone()).to_vec()).collect();
        let mut decoder = PduDecoder::new(framing);
        let mut decoded = Vec::new();
        let (mut rest, mut cuts) = (bytes.as_slice(), cuts.into_iter().cycle());
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            decoder.push(part);
            decoded.extend(decode_all(&mut decoder));
            rest = behind;
        }
        prop_assert_eq!(decoded, pdus);
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..2000), framing in framing()) {
        let mut decoder = PduDecoder::new(framing);
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.next_pdu() {}
    }

    #[test]
    fn a_damaged_pdu_is_noticed_with_digests(
        pdu in pdus(),
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let framing = Framing { has_header_digest: true, has_data_digest: true, ..Framing::LOGIN };
        let mut bytes = PduEncoder::new(framing).encode(pdu).to_vec();
        let index = at.index(bytes.len());
        *bytes.get_mut(index).unwrap() ^= flip;
        let mut decoder = PduDecoder::new(framing);
        decoder.push(&bytes);
        // A flipped length may ask for more bytes; whatever comes of it, it is not a PDU.
        prop_assert!(!matches!(decoder.next_pdu(), Ok(Some(_))));
    }

    #[test]
    fn flipped_headers_do_not_panic(pdu in pdus(), flips in vec((0usize..48, any::<u8>()), 1..6)) {
        let mut bytes = PduEncoder::new(Framing::LOGIN).encode(pdu).to_vec();
        for (at, flip) in flips {
            *bytes.get_mut(at).unwrap() ^= flip;
        }
        let mut decoder = PduDecoder::new(Framing::LOGIN);
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.next_pdu() {}
    }
}

fn header(opcode: u8, ahs_words: u8, data_bytes: u32) -> [u8; BHS_BYTES] {
    Bhs {
        opcode,
        ahs_words,
        data_bytes,
        ..Bhs::default()
    }
    .to_bytes()
}

#[test]
fn a_header_is_judged_before_its_data_is_buffered() {
    let mut decoder = PduDecoder::new(Framing::LOGIN);
    decoder.push(&header(opcode::LOGIN_REQUEST, 0, 8193));
    let refused = PduError::DataSegmentTooLong {
        bytes: 8193,
        bytes_max: 8192,
    };
    assert_eq!(decoder.next_pdu(), Err(refused));
}

#[test]
fn unknown_opcodes_and_stray_header_segments_are_refused() {
    let refused = |bytes: &[u8]| {
        let mut decoder = PduDecoder::new(Framing::LOGIN);
        decoder.push(bytes);
        decoder.next_pdu()
    };
    for unknown in [0x07, 0x0f, 0x11, 0x1f, 0x27, 0x30, 0x33, 0x3e] {
        let error = PduError::UnknownOpcode { opcode: unknown };
        assert_eq!(refused(&header(unknown, 0, 0)), Err(error));
    }
    assert_eq!(
        refused(&header(opcode::NOP_OUT, 1, 0)),
        Err(PduError::BadAhs)
    );
    // A segment that says it is longer than all of them.
    let mut bytes = header(opcode::SCSI_COMMAND, 1, 0).to_vec();
    bytes.extend_from_slice(&[0, 200, 1, 0]);
    assert_eq!(refused(&bytes), Err(PduError::BadAhs));
}

#[test]
fn a_wrong_data_digest_is_told_from_a_wrong_header_digest() {
    let framing = Framing {
        has_header_digest: true,
        has_data_digest: true,
        ..Framing::LOGIN
    };
    let mut bytes = header(opcode::NOP_OUT, 0, 4).to_vec();
    bytes.extend_from_slice(&digest::crc32c([bytes.as_slice()]));
    bytes.extend_from_slice(b"dataXXXX");
    let mut decoder = PduDecoder::new(framing);
    decoder.push(&bytes);
    assert_eq!(decoder.next_pdu(), Err(PduError::DataDigest));
}

#[test]
fn payloads_are_not_copied() {
    let data = Bytes::from(vec![7; 4096]);
    let nop = NopOut {
        sn: RequestSn::default(),
        lun: LunField::default(),
        tag: InitiatorTaskTag(1),
        transfer_tag: TargetTransferTag::NONE,
        data: data.clone(),
    };
    let encoded = PduEncoder::new(Framing::LOGIN).encode(Pdu::NopOut(nop));
    assert_eq!(encoded.payload().as_ptr(), data.as_ptr());
}
