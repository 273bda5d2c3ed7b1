//! The operational keys and their result functions (RFC 7143 §13).

use crate::pdu::{DATA_SEGMENT_BYTES_MAX, Framing};
use crate::text::{self, Text};

/// Which sessions a key has a meaning in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Any,
    NormalOnly,
}

/// What one side says about a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DigestPreference {
    /// Not used.
    Never,
    /// Used when the peer wants it.
    #[default]
    Accept,
    /// Used unless the peer does not know it.
    Prefer,
    /// Used, or there is no login.
    Require,
}

impl DigestPreference {
    /// The list an initiator offers, what it wants first.
    pub(crate) const fn offer(self) -> &'static str {
        match self {
            Self::Never => "None",
            Self::Accept => "None,CRC32C",
            Self::Prefer => "CRC32C,None",
            Self::Require => "CRC32C",
        }
    }

    const fn accepts(self, choice: &str) -> Option<bool> {
        match (self, choice.as_bytes()) {
            (Self::Never | Self::Accept | Self::Prefer, b"None") => Some(false),
            (Self::Accept | Self::Prefer | Self::Require, b"CRC32C") => Some(true),
            _ => None,
        }
    }
}

/// What one side proposes, or accepts of what the other proposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// HeaderDigest.
    pub header_digest: DigestPreference,
    /// DataDigest.
    pub data_digest: DigestPreference,
    /// MaxRecvDataSegmentLength: the longest data segment this side takes.
    pub recv_data_segment_bytes_max: u32,
    /// MaxBurstLength.
    pub burst_bytes_max: u32,
    /// FirstBurstLength.
    pub first_burst_bytes_max: u32,
    /// InitialR2T: whether all data must be asked for.
    pub has_initial_r2t: bool,
    /// ImmediateData: whether data may come with the command.
    pub has_immediate_data: bool,
    /// MaxOutstandingR2T.
    pub outstanding_r2t_max: u32,
    /// DefaultTime2Wait, in seconds.
    pub time_to_wait: u32,
    /// DefaultTime2Retain, in seconds.
    pub time_to_retain: u32,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            header_digest: DigestPreference::Accept,
            data_digest: DigestPreference::Accept,
            recv_data_segment_bytes_max: 256 << 10,
            burst_bytes_max: 1 << 20,
            first_burst_bytes_max: 256 << 10,
            has_initial_r2t: false,
            has_immediate_data: true,
            outstanding_r2t_max: 4,
            time_to_wait: 2,
            time_to_retain: 0,
        }
    }
}

/// What both sides agreed on. One connection per session, ErrorRecoveryLevel 0, data in order: not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// HeaderDigest is CRC32C.
    pub has_header_digest: bool,
    /// DataDigest is CRC32C.
    pub has_data_digest: bool,
    /// The longest data segment this side takes.
    pub recv_data_segment_bytes_max: u32,
    /// The longest data segment the peer takes.
    pub send_data_segment_bytes_max: u32,
    /// The longest burst of solicited data.
    pub burst_bytes_max: u32,
    /// The most unsolicited data of a command.
    pub first_burst_bytes_max: u32,
    /// All data but immediate data must be asked for.
    pub has_initial_r2t: bool,
    /// Data may come with the command.
    pub has_immediate_data: bool,
    /// The most R2Ts of a task that may be unanswered.
    pub outstanding_r2t_max: u32,
    /// Seconds before a new login after an unexpected end.
    pub time_to_wait: u32,
    /// Seconds that tasks are kept after an unexpected end.
    pub time_to_retain: u32,
}

impl Default for Negotiated {
    /// What holds when nothing is said.
    fn default() -> Self {
        Self {
            has_header_digest: false,
            has_data_digest: false,
            recv_data_segment_bytes_max: 8192,
            send_data_segment_bytes_max: 8192,
            burst_bytes_max: 262_144,
            first_burst_bytes_max: 65_536,
            has_initial_r2t: true,
            has_immediate_data: true,
            outstanding_r2t_max: 1,
            time_to_wait: 2,
            time_to_retain: 20,
        }
    }
}

impl Negotiated {
    /// The form of what this side receives.
    #[must_use]
    pub const fn receive_framing(&self) -> Framing {
        Framing {
            has_header_digest: self.has_header_digest,
            has_data_digest: self.has_data_digest,
            data_segment_bytes_max: self.recv_data_segment_bytes_max,
        }
    }

    /// The form of what this side sends.
    #[must_use]
    pub const fn send_framing(&self) -> Framing {
        Framing {
            has_header_digest: self.has_header_digest,
            has_data_digest: self.has_data_digest,
            data_segment_bytes_max: self.send_data_segment_bytes_max,
        }
    }
}

/// What the responder says to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This is the result.
    Value(String),
    /// The key declares; there is nothing to say.
    Declared,
    /// The value cannot be, the old one stays.
    Reject,
    /// The key means nothing in this session.
    Irrelevant,
    /// The key is unknown.
    NotUnderstood,
}

impl Answer {
    fn into_value(self) -> Option<String> {
        match self {
            Self::Value(value) => Some(value),
            Self::Declared => None,
            Self::Reject => Some("Reject".to_owned()),
            Self::Irrelevant => Some("Irrelevant".to_owned()),
            Self::NotUnderstood => Some("NotUnderstood".to_owned()),
        }
    }
}

/// RFC 7143 §6.2: these are answers and must never be proposed.
pub(crate) fn is_reserved_answer(value: &str) -> bool {
    matches!(value, "Reject" | "Irrelevant" | "NotUnderstood")
}

/// Whether a key is one that is agreed on in the operational stage of a login.
pub(crate) fn is_operational(key: &str) -> bool {
    let mut agreed = Negotiated::default();
    answer(key, "", &Offer::default(), &mut agreed) != Answer::NotUnderstood
}

/// Reads a declared MaxRecvDataSegmentLength.
pub(crate) fn segment_bytes(value: &str) -> Option<u32> {
    number_in(value, SEGMENT_BYTES_MIN, DATA_SEGMENT_BYTES_MAX)
}

fn number_in(value: &str, least: u32, most: u32) -> Option<u32> {
    text::parse_number(value).filter(|number| (least..=most).contains(number))
}

const SEGMENT_BYTES_MIN: u32 = 512;
const SECONDS_MAX: u32 = 3600;

/// Answers the operational keys an initiator sends; what comes out goes into `agreed`.
pub(crate) fn respond(
    request: &Text,
    offer: &Offer,
    is_discovery: bool,
    agreed: &mut Negotiated,
) -> Text {
    let mut response = Text::new();
    for (key, value) in request.iter() {
        let is_relevant = !is_discovery || usage(key) == Use::Any;
        let answer = if is_relevant {
            answer(key, value, offer, agreed)
        } else {
            Answer::Irrelevant
        };
        if let Some(value) = answer.into_value() {
            response.push(key, value);
        }
    }
    if agreed.first_burst_bytes_max > agreed.burst_bytes_max {
        // RFC 7143 §13.14: FirstBurstLength must not exceed MaxBurstLength.
        agreed.first_burst_bytes_max = agreed.burst_bytes_max;
    }
    response
}

fn usage(key: &str) -> Use {
    match key {
        "MaxConnections"
        | "InitialR2T"
        | "ImmediateData"
        | "MaxBurstLength"
        | "FirstBurstLength"
        | "MaxOutstandingR2T"
        | "DataPDUInOrder"
        | "DataSequenceInOrder"
        | "TaskReporting" => Use::NormalOnly,
        _ => Use::Any,
    }
}

fn answer(key: &str, value: &str, offer: &Offer, agreed: &mut Negotiated) -> Answer {
    match key {
        "HeaderDigest" => pick_digest(value, offer.header_digest, &mut agreed.has_header_digest),
        "DataDigest" => pick_digest(value, offer.data_digest, &mut agreed.has_data_digest),
        "MaxRecvDataSegmentLength" => match segment_bytes(value) {
            Some(bytes) => {
                agreed.send_data_segment_bytes_max = bytes;
                Answer::Declared
            }
            None => Answer::Reject,
        },
        "InitialR2T" => pick_boolean(
            value,
            |said| said || offer.has_initial_r2t,
            &mut agreed.has_initial_r2t,
        ),
        "ImmediateData" => {
            let both = |said| said && offer.has_immediate_data;
            pick_boolean(value, both, &mut agreed.has_immediate_data)
        }
        "DataPDUInOrder" | "DataSequenceInOrder" => pick_boolean(value, |_| true, &mut true),
        "IFMarker" | "OFMarker" => pick_boolean(value, |_| false, &mut false),
        "IFMarkInt" | "OFMarkInt" => Answer::Irrelevant,
        "TaskReporting" if value.split(',').any(|item| item == "RFC3720") => {
            Answer::Value("RFC3720".to_owned())
        }
        "TaskReporting" => Answer::Reject,
        "InitiatorAlias" => Answer::Declared,
        _ => answer_number(key, value, offer, agreed),
    }
}

fn answer_number(key: &str, value: &str, offer: &Offer, agreed: &mut Negotiated) -> Answer {
    let mut fixed = 0;
    let segment = (SEGMENT_BYTES_MIN, DATA_SEGMENT_BYTES_MAX);
    let ((least, most), ours, takes_larger, slot) = match key {
        "MaxBurstLength" => (
            segment,
            offer.burst_bytes_max,
            false,
            &mut agreed.burst_bytes_max,
        ),
        "FirstBurstLength" => (
            segment,
            offer.first_burst_bytes_max,
            false,
            &mut agreed.first_burst_bytes_max,
        ),
        "MaxOutstandingR2T" => (
            (1, 65_535),
            offer.outstanding_r2t_max,
            false,
            &mut agreed.outstanding_r2t_max,
        ),
        "DefaultTime2Wait" => (
            (0, SECONDS_MAX),
            offer.time_to_wait,
            true,
            &mut agreed.time_to_wait,
        ),
        "DefaultTime2Retain" => (
            (0, SECONDS_MAX),
            offer.time_to_retain,
            false,
            &mut agreed.time_to_retain,
        ),
        "MaxConnections" => ((1, 65_535), 1, false, &mut fixed),
        "ErrorRecoveryLevel" => ((0, 2), 0, false, &mut fixed),
        // RFC 7144: level 1 is RFC 7143 without the extensions of higher levels.
        "iSCSIProtocolLevel" => ((0, 31), 1, false, &mut fixed),
        _ => return Answer::NotUnderstood,
    };
    let Some(theirs) = number_in(value, least, most) else {
        return Answer::Reject;
    };
    let result = if takes_larger {
        theirs.max(ours)
    } else {
        theirs.min(ours)
    };
    *slot = result;
    Answer::Value(result.to_string())
}

/// The first of the initiator's choices that is accepted.
fn pick_digest(value: &str, preference: DigestPreference, slot: &mut bool) -> Answer {
    let Some((choice, is_used)) = value
        .split(',')
        .find_map(|choice| Some((choice, preference.accepts(choice)?)))
    else {
        return Answer::Reject;
    };
    *slot = is_used;
    Answer::Value(choice.to_owned())
}

fn pick_boolean(value: &str, result: impl Fn(bool) -> bool, slot: &mut bool) -> Answer {
    let Some(said) = text::parse_boolean(value) else {
        return Answer::Reject;
    };
    *slot = result(said);
    Answer::Value(text::boolean(*slot).to_owned())
}

/// The operational keys an initiator sends.
pub(crate) fn propose(offer: &Offer, is_discovery: bool) -> Text {
    let mut text = Text::new()
        .with("HeaderDigest", offer.header_digest.offer())
        .with("DataDigest", offer.data_digest.offer())
        .with(
            "MaxRecvDataSegmentLength",
            offer.recv_data_segment_bytes_max.to_string(),
        )
        .with("DefaultTime2Wait", offer.time_to_wait.to_string())
        .with("DefaultTime2Retain", offer.time_to_retain.to_string())
        .with("ErrorRecoveryLevel", "0");
    if !is_discovery {
        text.push("MaxConnections", "1");
        text.push("InitialR2T", text::boolean(offer.has_initial_r2t));
        text.push("ImmediateData", text::boolean(offer.has_immediate_data));
        text.push("MaxBurstLength", offer.burst_bytes_max.to_string());
        text.push("FirstBurstLength", offer.first_burst_bytes_max.to_string());
        text.push("MaxOutstandingR2T", offer.outstanding_r2t_max.to_string());
        text.push("DataPDUInOrder", "Yes");
        text.push("DataSequenceInOrder", "Yes");
    }
    text
}

/// A result that the target must not give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the target answered {key}={value} to {offered}")]
pub struct BadResult {
    /// The key.
    pub key: String,
    /// The target's value.
    pub value: String,
    /// What was offered.
    pub offered: String,
}

/// Takes the target's results of what was proposed.
pub(crate) fn accept(
    response: &Text,
    offer: &Offer,
    agreed: &mut Negotiated,
) -> Result<(), BadResult> {
    for (key, value) in response.iter() {
        let offered = match accept_one(key, value, offer, agreed) {
            Ok(()) => continue,
            Err(offered) => offered,
        };
        let (key, value) = (key.to_owned(), value.chars().take(64).collect());
        return Err(BadResult {
            key,
            value,
            offered,
        });
    }
    agreed.first_burst_bytes_max = agreed.first_burst_bytes_max.min(agreed.burst_bytes_max);
    Ok(())
}

/// Answers with what was offered when the result is not a possible one.
fn accept_one(
    key: &str,
    value: &str,
    offer: &Offer,
    agreed: &mut Negotiated,
) -> Result<(), String> {
    let digest = |preference: DigestPreference, slot: &mut bool| {
        let is_offered = preference.offer().split(',').any(|choice| choice == value);
        *slot = value == "CRC32C";
        if is_offered {
            Ok(())
        } else {
            Err(preference.offer().to_owned())
        }
    };
    let at_most = |limit: u32, least: u32, slot: &mut u32| {
        *slot = number_in(value, least, limit).ok_or_else(|| limit.to_string())?;
        Ok(())
    };
    match key {
        "HeaderDigest" => digest(offer.header_digest, &mut agreed.has_header_digest),
        "DataDigest" => digest(offer.data_digest, &mut agreed.has_data_digest),
        "MaxRecvDataSegmentLength" => {
            let slot = &mut agreed.send_data_segment_bytes_max;
            at_most(DATA_SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, slot)
        }
        "MaxBurstLength" => at_most(
            offer.burst_bytes_max,
            SEGMENT_BYTES_MIN,
            &mut agreed.burst_bytes_max,
        ),
        // Without unsolicited data of any kind the first burst means nothing.
        "FirstBurstLength" if value == "Irrelevant" => Ok(()),
        "FirstBurstLength" => {
            let slot = &mut agreed.first_burst_bytes_max;
            at_most(offer.first_burst_bytes_max, SEGMENT_BYTES_MIN, slot)
        }
        "MaxOutstandingR2T" => at_most(
            offer.outstanding_r2t_max,
            1,
            &mut agreed.outstanding_r2t_max,
        ),
        "DefaultTime2Wait" => at_most(SECONDS_MAX, offer.time_to_wait, &mut agreed.time_to_wait),
        "DefaultTime2Retain" => at_most(offer.time_to_retain, 0, &mut agreed.time_to_retain),
        "MaxConnections" => at_most(1, 1, &mut 0),
        "ErrorRecoveryLevel" => at_most(0, 0, &mut 0),
        "InitialR2T" => {
            let result = text::parse_boolean(value).filter(|said| *said || !offer.has_initial_r2t);
            agreed.has_initial_r2t = result.ok_or_else(|| "Yes".to_owned())?;
            Ok(())
        }
        "ImmediateData" => {
            let result =
                text::parse_boolean(value).filter(|said| !*said || offer.has_immediate_data);
            agreed.has_immediate_data = result.ok_or_else(|| "No".to_owned())?;
            Ok(())
        }
        "DataPDUInOrder" | "DataSequenceInOrder" if value != "Yes" => Err("Yes".to_owned()),
        // What else a target declares (alias, portal group) changes nothing here.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiate(request: &Text, offer: &Offer) -> (Text, Negotiated) {
        let mut agreed = Negotiated::default();
        let response = respond(request, offer, false, &mut agreed);
        (response, agreed)
    }

    #[test]
    fn each_key_has_its_result_function() {
        let rows = [
            ("HeaderDigest", "CRC32C,None", "CRC32C"),
            ("HeaderDigest", "None,CRC32C", "None"),
            ("DataDigest", "X-other", "Reject"),
            ("InitialR2T", "No", "No"),
            ("InitialR2T", "Yes", "Yes"),
            ("InitialR2T", "maybe", "Reject"),
            ("ImmediateData", "No", "No"),
            ("MaxBurstLength", "16776192", "1048576"),
            ("MaxBurstLength", "511", "Reject"),
            ("MaxBurstLength", "0x10000", "65536"),
            ("FirstBurstLength", "65536", "65536"),
            ("MaxOutstandingR2T", "1", "1"),
            ("MaxOutstandingR2T", "0", "Reject"),
            ("DefaultTime2Wait", "0", "2"),
            ("DefaultTime2Retain", "20", "0"),
            ("MaxConnections", "8", "1"),
            ("ErrorRecoveryLevel", "2", "0"),
            ("DataPDUInOrder", "No", "Yes"),
            ("IFMarker", "Yes", "No"),
            ("X-com.example.key", "1", "NotUnderstood"),
        ];
        for (key, offered, expected) in rows {
            let (response, _) = negotiate(&Text::new().with(key, offered), &Offer::default());
            assert_eq!(response.get(key), Some(expected), "{key}={offered}");
        }
    }

    #[test]
    fn discovery_has_no_use_for_transfer_keys() {
        let request = Text::new()
            .with("MaxBurstLength", "65536")
            .with("HeaderDigest", "None");
        let response = respond(
            &request,
            &Offer::default(),
            true,
            &mut Negotiated::default(),
        );
        assert_eq!(response.get("MaxBurstLength"), Some("Irrelevant"));
        assert_eq!(response.get("HeaderDigest"), Some("None"));
    }

    #[test]
    fn the_first_burst_is_never_longer_than_a_burst() {
        let request = Text::new()
            .with("FirstBurstLength", "262144")
            .with("MaxBurstLength", "4096");
        let (_, agreed) = negotiate(&request, &Offer::default());
        assert_eq!(agreed.first_burst_bytes_max, 4096);
    }

    #[test]
    fn what_one_side_proposes_and_the_other_answers_is_agreed_on_by_both() {
        let mine = Offer {
            header_digest: DigestPreference::Prefer,
            ..Offer::default()
        };
        let theirs = Offer {
            burst_bytes_max: 8192,
            has_initial_r2t: true,
            ..Offer::default()
        };
        let (response, target) = negotiate(&propose(&mine, false), &theirs);
        let mut initiator = Negotiated::default();
        accept(&response, &mine, &mut initiator).unwrap();
        assert!(initiator.has_header_digest && target.has_header_digest);
        assert_eq!(initiator.burst_bytes_max, target.burst_bytes_max);
        assert_eq!(
            initiator.first_burst_bytes_max,
            target.first_burst_bytes_max
        );
        assert_eq!(initiator.has_initial_r2t, target.has_initial_r2t);
        assert_eq!(
            target.send_data_segment_bytes_max,
            mine.recv_data_segment_bytes_max
        );
    }

    #[test]
    fn a_result_that_was_not_offered_is_an_error() {
        let offer = Offer {
            header_digest: DigestPreference::Never,
            ..Offer::default()
        };
        for (key, value) in [
            ("HeaderDigest", "CRC32C"),
            ("MaxBurstLength", "16777215"),
            ("MaxBurstLength", "Reject"),
            ("MaxOutstandingR2T", "0"),
            ("ErrorRecoveryLevel", "1"),
            ("DataSequenceInOrder", "No"),
        ] {
            let response = Text::new().with(key, value);
            let error = accept(&response, &offer, &mut Negotiated::default()).unwrap_err();
            assert_eq!(error.key, key);
        }
    }
}
