//! The initiator's side of a login.

use super::LOGIN_PDUS_MAX;
use super::keys::{self, BadResult, DigestPreference, Negotiated, Offer};
use super::status;
use crate::chap::{self, Challenge, ChapAlgorithm, ChapPair};
use crate::connection::SessionKind;
use crate::name::{IscsiName, Isid, Tsih};
use crate::pdu::{LoginResponse, LoginStage};
use crate::text::{self, Text, TextAssembly, TextError};
use subtle::ConstantTimeEq;

/// Who logs in, where, and how it proves itself.
#[derive(Debug, Clone)]
pub struct LoginOptions {
    /// Who.
    pub initiator: IscsiName,
    /// What for.
    pub kind: SessionKind,
    /// The initiator's part of the session identifier.
    pub isid: Isid,
    /// What it proves itself with.
    pub credentials: Option<ChapPair>,
    /// What the target must prove itself with.
    pub target_credentials: Option<ChapPair>,
    /// Fresh random bytes for the challenge to the target.
    pub challenge: Challenge,
    /// What it proposes.
    pub offer: Offer,
}

/// Why a login did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The target says no.
    #[error("the target refused the login: {why} ({class:02x}{detail:02x})")]
    Refused {
        /// Status class.
        class: u8,
        /// Status detail.
        detail: u8,
        /// In words.
        why: &'static str,
    },
    /// The target is elsewhere.
    #[error("the target is at {address}")]
    Redirected {
        /// `address:port`, perhaps with the portal group behind a comma.
        address: String,
        /// Whether for good.
        is_permanent: bool,
    },
    /// The target wants a proof that was not given to us, or by a method we do not know.
    #[error("the target wants {method} and there are no credentials for it")]
    NoCredentials {
        /// Its AuthMethod.
        method: String,
    },
    /// The target did not prove itself.
    #[error("the target did not prove to know its own secret")]
    TargetNotProven,
    /// The target's text makes no sense.
    #[error("the target's login text: {0}")]
    Text(#[from] TextError),
    /// The target gave a result it must not give.
    #[error(transparent)]
    BadResult(#[from] BadResult),
    /// The target broke the protocol.
    #[error("the target broke the login protocol: {why}")]
    Protocol {
        /// What it did.
        why: &'static str,
    },
}

/// What the initiator sends next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoginSend {
    pub(crate) stage: LoginStage,
    pub(crate) transit: Option<LoginStage>,
    pub(crate) text: Text,
}

/// What comes of a login response.
#[derive(Debug)]
pub(crate) enum LoginProgress {
    Send(LoginSend),
    Finished { negotiated: Negotiated },
}

#[derive(Debug)]
enum Step {
    Method,
    Challenge,
    Proof(ChapAlgorithm),
    Operational,
}

#[derive(Debug)]
pub(crate) struct InitiatorLogin {
    options: LoginOptions,
    step: Step,
    assembly: TextAssembly,
    pdu_count: u32,
}

const fn protocol<T>(why: &'static str) -> Result<T, LoginError> {
    Err(LoginError::Protocol { why })
}

impl InitiatorLogin {
    pub(crate) fn new(options: LoginOptions) -> Self {
        Self {
            options,
            step: Step::Method,
            assembly: TextAssembly::default(),
            pdu_count: 0,
        }
    }

    pub(crate) const fn options(&self) -> &LoginOptions {
        &self.options
    }

    /// The first request.
    pub(crate) fn begin(&self) -> LoginSend {
        let mut text = Text::new().with("InitiatorName", self.options.initiator.as_str());
        match &self.options.kind {
            SessionKind::Discovery => text.push("SessionType", "Discovery"),
            SessionKind::Normal { target } => {
                text.push("SessionType", "Normal");
                text.push("TargetName", target.as_str());
            }
        }
        let is_proof_wanted = self.options.target_credentials.is_some();
        let method = match &self.options.credentials {
            Some(_) if is_proof_wanted => "CHAP",
            Some(_) => "CHAP,None",
            None => "None",
        };
        text.push("AuthMethod", method);
        let transit = self
            .options
            .credentials
            .is_none()
            .then_some(LoginStage::Operational);
        LoginSend {
            stage: LoginStage::Security,
            transit,
            text,
        }
    }

    pub(crate) fn response(
        &mut self,
        response: &LoginResponse,
    ) -> Result<LoginProgress, LoginError> {
        self.pdu_count = self.pdu_count.saturating_add(1);
        if self.pdu_count > LOGIN_PDUS_MAX {
            return protocol("it does not come to an end");
        }
        let stage = self.stage();
        self.assembly.push(&response.data)?;
        if response.status_class != 0 {
            return Err(self.refusal(response));
        }
        if response.stage != stage {
            return protocol("it answers in another stage");
        }
        if response.is_continued {
            let send = LoginSend {
                stage,
                transit: None,
                text: Text::new(),
            };
            return Ok(LoginProgress::Send(send));
        }
        let text = self.assembly.finish()?;
        match self.step {
            Step::Method => self.method(response, &text),
            Step::Challenge => self.challenge(&text),
            Step::Proof(algorithm) => self.proof(algorithm, response, &text),
            Step::Operational => self.operational(response, &text),
        }
    }

    const fn stage(&self) -> LoginStage {
        match self.step {
            Step::Method | Step::Challenge | Step::Proof(_) => LoginStage::Security,
            Step::Operational => LoginStage::Operational,
        }
    }

    fn refusal(&mut self, response: &LoginResponse) -> LoginError {
        let (class, detail) = (response.status_class, response.status_detail);
        let text = self.assembly.finish().unwrap_or_default();
        match text.get("TargetAddress") {
            Some(address) if class == 1 => LoginError::Redirected {
                address: address.to_owned(),
                is_permanent: detail == 2,
            },
            _ => LoginError::Refused {
                class,
                detail,
                why: status::describe(class, detail),
            },
        }
    }

    fn method(
        &mut self,
        response: &LoginResponse,
        text: &Text,
    ) -> Result<LoginProgress, LoginError> {
        // A target that says nothing about the method accepts the first that asks for nothing.
        let method = text.get("AuthMethod").unwrap_or("None");
        match method {
            "CHAP" if self.options.credentials.is_some() => {
                self.step = Step::Challenge;
                let codes = ChapAlgorithm::ALL.map(ChapAlgorithm::code).join(",");
                let text = Text::new().with("CHAP_A", codes);
                Ok(LoginProgress::Send(LoginSend {
                    stage: LoginStage::Security,
                    transit: None,
                    text,
                }))
            }
            "None" if self.options.target_credentials.is_none() => {
                if response.transit.is_some() {
                    return Ok(self.propose());
                }
                let transit = Some(LoginStage::Operational);
                let text = Text::new();
                Ok(LoginProgress::Send(LoginSend {
                    stage: LoginStage::Security,
                    transit,
                    text,
                }))
            }
            "None" => Err(LoginError::TargetNotProven),
            other => Err(LoginError::NoCredentials {
                method: other.chars().take(32).collect(),
            }),
        }
    }

    fn propose(&mut self) -> LoginProgress {
        self.step = Step::Operational;
        let is_discovery = self.options.kind == SessionKind::Discovery;
        LoginProgress::Send(LoginSend {
            stage: LoginStage::Operational,
            transit: Some(LoginStage::FullFeature),
            text: keys::propose(&self.options.offer, is_discovery),
        })
    }

    fn challenge(&mut self, text: &Text) -> Result<LoginProgress, LoginError> {
        let no = |why| LoginError::Protocol { why };
        let algorithm = text.get("CHAP_A").and_then(ChapAlgorithm::from_code);
        let algorithm =
            algorithm.ok_or_else(|| no("it chose no CHAP algorithm that was offered"))?;
        let id = text.get("CHAP_I").and_then(text::parse_number);
        let id = id
            .and_then(|id| u8::try_from(id).ok())
            .ok_or_else(|| no("no CHAP_I"))?;
        let challenge = text.get("CHAP_C");
        let challenge =
            challenge.and_then(|text| text::parse_binary(text, chap::CHALLENGE_BYTES_MAX));
        let challenge = challenge.ok_or_else(|| no("no CHAP_C"))?;
        let own = &self.options.challenge;
        if challenge.ct_eq(own.bytes(algorithm)).into() {
            return protocol("it sent our own challenge back");
        }
        let Some(credentials) = &self.options.credentials else {
            return Err(LoginError::NoCredentials {
                method: "CHAP".to_owned(),
            });
        };
        let proof = chap::response(algorithm, id, &credentials.secret, &challenge);
        let mut text = Text::new()
            .with("CHAP_N", credentials.user.clone())
            .with("CHAP_R", text::hex(&proof));
        if self.options.target_credentials.is_some() {
            text.push("CHAP_I", own.id().to_string());
            text.push("CHAP_C", text::hex(own.bytes(algorithm)));
        }
        self.step = Step::Proof(algorithm);
        let transit = Some(LoginStage::Operational);
        Ok(LoginProgress::Send(LoginSend {
            stage: LoginStage::Security,
            transit,
            text,
        }))
    }

    fn proof(
        &mut self,
        algorithm: ChapAlgorithm,
        response: &LoginResponse,
        text: &Text,
    ) -> Result<LoginProgress, LoginError> {
        if let Some(expected) = &self.options.target_credentials {
            let is_proven = text
                .get("CHAP_R")
                .and_then(|given| text::parse_binary(given, 64))
                .is_some_and(|given| {
                    chap::verify(algorithm, &self.options.challenge, &expected.secret, &given)
                });
            if !is_proven || text.get("CHAP_N") != Some(expected.user.as_str()) {
                return Err(LoginError::TargetNotProven);
            }
        }
        match response.transit {
            Some(LoginStage::Operational) => Ok(self.propose()),
            Some(_) => protocol("it goes to a stage that was not asked for"),
            None => protocol("it does not leave the security stage"),
        }
    }

    fn operational(
        &mut self,
        response: &LoginResponse,
        text: &Text,
    ) -> Result<LoginProgress, LoginError> {
        let offer = &self.options.offer;
        let mut negotiated = Negotiated {
            recv_data_segment_bytes_max: offer.recv_data_segment_bytes_max,
            time_to_wait: offer.time_to_wait,
            time_to_retain: offer.time_to_retain,
            ..Negotiated::default()
        };
        keys::accept(text, offer, &mut negotiated)?;
        let is_missing =
            |preference, is_used: bool| preference == DigestPreference::Require && !is_used;
        if is_missing(offer.header_digest, negotiated.has_header_digest)
            || is_missing(offer.data_digest, negotiated.has_data_digest)
        {
            return protocol("it did not answer a digest that is required");
        }
        match response.transit {
            Some(LoginStage::FullFeature) if response.tsih != Tsih(0) => {
                Ok(LoginProgress::Finished { negotiated })
            }
            Some(LoginStage::FullFeature) => protocol("it gave no TSIH"),
            Some(_) => protocol("it goes to a stage that was not asked for"),
            None => protocol("it does not leave the operational stage"),
        }
    }
}
