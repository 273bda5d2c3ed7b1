//! Login Request and Login Response.

use super::bhs::{Bhs, halves, word};
use super::response::ResponseSn;
use super::{LoginStage, PduError, opcode};
use crate::name::{Cid, InitiatorTaskTag, Isid, Tsih};
use crate::serial::{CmdSn, StatSn};
use bytes::Bytes;

const FINAL: u8 = 0x80;
const CONTINUE: u8 = 0x40;

/// Login Request; always immediate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginRequest {
    /// NSG, when T says that the initiator is ready to go there.
    pub transit: Option<LoginStage>,
    /// C: the text goes on in the next request.
    pub is_continued: bool,
    /// CSG.
    pub stage: LoginStage,
    /// The highest version it speaks.
    pub version_max: u8,
    /// The lowest.
    pub version_min: u8,
    /// The initiator's part of the session identifier.
    pub isid: Isid,
    /// The session to join; zero for a new one.
    pub tsih: Tsih,
    /// Its tag.
    pub tag: InitiatorTaskTag,
    /// The connection's number.
    pub cid: Cid,
    /// CmdSN.
    pub cmd_sn: CmdSn,
    /// ExpStatSN.
    pub exp_stat_sn: StatSn,
    /// Key=value text.
    pub data: Bytes,
}

/// The T, C, CSG and NSG bits of both login PDUs.
fn login_flags(transit: Option<LoginStage>, is_continued: bool, stage: LoginStage) -> u8 {
    let transit = transit.map_or(0, |next| FINAL | next.code());
    transit | if is_continued { CONTINUE } else { 0 } | stage.code().wrapping_shl(2)
}

/// The stage that T and NSG name, the C bit, and CSG.
fn login_stages(bhs: &Bhs) -> Result<(Option<LoginStage>, bool, LoginStage), PduError> {
    let next = match bhs.flags & FINAL {
        0 => None,
        _ => Some(LoginStage::from_code(bhs.flags).ok_or_else(|| bhs.bad_field("NSG"))?),
    };
    let stage =
        LoginStage::from_code(bhs.flags.wrapping_shr(2)).ok_or_else(|| bhs.bad_field("CSG"))?;
    Ok((next, bhs.flags & CONTINUE != 0, stage))
}

const fn split_ssid(lun: [u8; 8]) -> (Isid, Tsih) {
    let [a, b, c, d, e, f, high, low] = lun;
    (
        Isid([a, b, c, d, e, f]),
        Tsih(u16::from_be_bytes([high, low])),
    )
}

const fn join_ssid(isid: Isid, tsih: Tsih) -> [u8; 8] {
    let [a, b, c, d, e, f] = isid.0;
    let [high, low] = tsih.0.to_be_bytes();
    [a, b, c, d, e, f, high, low]
}

impl LoginRequest {
    pub(super) fn from_parts(bhs: &Bhs, data: Bytes) -> Result<Self, PduError> {
        let (transit, is_continued, stage) = login_stages(bhs)?;
        let (isid, tsih) = split_ssid(bhs.lun);
        let [cid, cmd_sn, exp_stat_sn, ..] = bhs.words;
        Ok(Self {
            transit,
            is_continued,
            stage,
            version_max: bhs.byte2,
            version_min: bhs.byte3,
            isid,
            tsih,
            tag: InitiatorTaskTag(bhs.tag),
            cid: Cid(halves(cid).0),
            cmd_sn: CmdSn::new(cmd_sn),
            exp_stat_sn: StatSn::new(exp_stat_sn),
            data,
        })
    }

    pub(super) fn into_parts(self) -> (Bhs, Bytes) {
        let bhs = Bhs {
            opcode: opcode::LOGIN_REQUEST,
            is_immediate: true,
            flags: login_flags(self.transit, self.is_continued, self.stage),
            byte2: self.version_max,
            byte3: self.version_min,
            lun: join_ssid(self.isid, self.tsih),
            tag: self.tag.0,
            words: [
                word(self.cid.0, 0),
                self.cmd_sn.value(),
                self.exp_stat_sn.value(),
                0,
                0,
                0,
                0,
            ],
            ..Bhs::default()
        };
        (bhs, self.data)
    }
}

/// Login Response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginResponse {
    /// NSG, when T says that both go there.
    pub transit: Option<LoginStage>,
    /// C: the text goes on in the next response.
    pub is_continued: bool,
    /// CSG.
    pub stage: LoginStage,
    /// The highest version the target speaks.
    pub version_max: u8,
    /// The version that is spoken.
    pub version_active: u8,
    /// The initiator's part of the session identifier.
    pub isid: Isid,
    /// The target's part; zero until the last response.
    pub tsih: Tsih,
    /// The request's tag.
    pub tag: InitiatorTaskTag,
    /// Sequence numbers.
    pub sn: ResponseSn,
    /// 0 success, 1 redirection, 2 the initiator's error, 3 the target's.
    pub status_class: u8,
    /// More precisely.
    pub status_detail: u8,
    /// Key=value text.
    pub data: Bytes,
}

impl LoginResponse {
    pub(super) fn from_parts(bhs: &Bhs, data: Bytes) -> Result<Self, PduError> {
        let (transit, is_continued, stage) = login_stages(bhs)?;
        let (isid, tsih) = split_ssid(bhs.lun);
        let [_, _, _, _, status, ..] = bhs.words;
        let [status_class, status_detail, ..] = status.to_be_bytes();
        Ok(Self {
            transit,
            is_continued,
            stage,
            version_max: bhs.byte2,
            version_active: bhs.byte3,
            isid,
            tsih,
            tag: InitiatorTaskTag(bhs.tag),
            sn: ResponseSn::from_words(bhs),
            status_class,
            status_detail,
            data,
        })
    }

    pub(super) fn into_parts(self) -> (Bhs, Bytes) {
        let status = u32::from_be_bytes([self.status_class, self.status_detail, 0, 0]);
        let bhs = Bhs {
            opcode: opcode::LOGIN_RESPONSE,
            flags: login_flags(self.transit, self.is_continued, self.stage),
            byte2: self.version_max,
            byte3: self.version_active,
            lun: join_ssid(self.isid, self.tsih),
            tag: self.tag.0,
            words: self.sn.words(0, [status, 0, 0]),
            ..Bhs::default()
        };
        (bhs, self.data)
    }
}
