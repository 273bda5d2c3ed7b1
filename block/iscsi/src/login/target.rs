//! The target's side of a login.
//!
//! | stage | what must hold before it is left |
//! |---|---|
//! | first request | initiator named, target named (normal session), version 0, no TSIH |
//! | security | when the grant names accounts: CHAP proven; the initiator's own challenge answered |
//! | operational | every key answered |

use super::keys::{self, Negotiated, Offer};
use super::status::{self, LoginStatus};
use super::{ChapPolicy, LOGIN_PDUS_MAX};
use crate::chap::{self, ChapAccount, ChapAlgorithm, ChapPair};
use crate::connection::{AccessAnswer, AccessRequest, Grant, LoggedIn, SessionKind};
use crate::name::{Cid, IscsiName, Isid, Tsih};
use crate::pdu::{Framing, LoginRequest, LoginStage};
use crate::text::{self, Text, TextAssembly};
use bytes::Bytes;
use onggi_common_units::Secret;
use subtle::ConstantTimeEq;

/// Who the initiator is and what it wants: these decided the access request.
const IDENTITY_KEYS: [&str; 3] = ["InitiatorName", "TargetName", "SessionType"];

/// What the target says to one login request; the connection adds the sequence numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoginReply {
    pub(crate) transit: Option<LoginStage>,
    pub(crate) stage: LoginStage,
    pub(crate) tsih: Tsih,
    pub(crate) status: LoginStatus,
    /// C: the text goes on in the next response.
    pub(crate) is_continued: bool,
    pub(crate) data: Bytes,
}

/// What comes of one login request.
#[derive(Debug)]
pub(crate) enum LoginStep {
    /// Send this and wait for the next request.
    Reply(LoginReply),
    /// Ask the shell; nothing is sent before it answers.
    Ask(AccessRequest),
    /// Ask the shell for the accounts of this user; nothing is sent before it answers.
    Claim(String),
    /// Send this: login is complete.
    Finished(LoginReply, Box<LoggedIn>),
    /// Send this and close.
    Refused(LoginReply),
}

/// How far proving has come.
#[derive(Debug)]
enum Proof {
    /// Nothing said yet.
    Open,
    /// CHAP was chosen; the initiator names its algorithms next.
    Chap,
    /// The challenge is out.
    Challenged(ChapAlgorithm),
    /// Nothing is left to be proven; the account, if there was one.
    Done(Option<usize>),
}

/// One login in progress.
#[derive(Debug)]
pub(crate) struct TargetLogin {
    offer: Offer,
    policy: ChapPolicy,
    stage: LoginStage,
    assembly: TextAssembly,
    identity: Option<AccessRequest>,
    /// The request that is kept while the shell is asked.
    waiting: Option<(Option<LoginStage>, Text)>,
    grant: Option<Grant>,
    /// The accounts of the user the initiator says it is.
    claimed: Option<Vec<ChapAccount>>,
    /// The rest of a reply that is longer than a data segment, and what is done when it is out.
    unsent: Option<(Bytes, LoginStep)>,
    proof: Proof,
    agreed: Negotiated,
    keys_seen: Vec<String>,
    has_declared_segment: bool,
    has_told_portal_group: bool,
    pdu_count: u32,
}

impl TargetLogin {
    pub(crate) fn new(offer: Offer, policy: ChapPolicy) -> Self {
        Self {
            offer,
            policy,
            stage: LoginStage::Security,
            assembly: TextAssembly::default(),
            identity: None,
            waiting: None,
            grant: None,
            claimed: None,
            unsent: None,
            proof: Proof::Open,
            agreed: Negotiated::default(),
            keys_seen: Vec::new(),
            has_declared_segment: false,
            has_told_portal_group: false,
            pdu_count: 0,
        }
    }

    /// Takes a login request.
    pub(crate) fn request(&mut self, request: &LoginRequest) -> LoginStep {
        match self.try_request(request) {
            Ok(step) => self.cut(step),
            Err(status) => self.refuse(status),
        }
    }

    /// Cuts a reply to the data segments of a login; the initiator asks for each further part with an empty request.
    fn cut(&mut self, mut step: LoginStep) -> LoginStep {
        let (LoginStep::Reply(reply) | LoginStep::Finished(reply, _)) = &mut step else {
            return step;
        };
        let limit = usize::try_from(Framing::LOGIN.data_segment_bytes_max).unwrap_or(usize::MAX);
        if reply.data.len() <= limit {
            return step;
        }
        let data = reply.data.split_to(limit);
        let rest = core::mem::take(&mut reply.data);
        let part = LoginReply {
            is_continued: true,
            data,
            stage: reply.stage,
            ..self.reply(status::SUCCESS)
        };
        self.unsent = Some((rest, step));
        LoginStep::Reply(part)
    }

    fn send_rest(&mut self, rest: Bytes, mut step: LoginStep) -> LoginStep {
        if let LoginStep::Reply(reply) | LoginStep::Finished(reply, _) = &mut step {
            reply.data = rest;
        }
        self.cut(step)
    }

    /// Takes the shell's answer to `Ask`.
    pub(crate) fn answer(&mut self, answer: AccessAnswer) -> LoginStep {
        let refused = match answer {
            AccessAnswer::Allow(grant) => {
                self.grant = Some(grant);
                return self.resume();
            }
            AccessAnswer::NotFound => status::NOT_FOUND,
            AccessAnswer::Forbidden => status::AUTHORIZATION_FAILURE,
            AccessAnswer::Busy => status::OUT_OF_RESOURCES,
            AccessAnswer::Unavailable => status::UNAVAILABLE,
            AccessAnswer::Redirect {
                address,
                is_permanent,
            } => {
                let status = if is_permanent {
                    status::MOVED_PERMANENTLY
                } else {
                    status::MOVED_TEMPORARILY
                };
                let data = Text::new().with("TargetAddress", address).to_bytes();
                return LoginStep::Refused(LoginReply {
                    data,
                    ..self.reply(status)
                });
            }
        };
        self.refuse(refused)
    }

    /// Takes the shell's answer to `Claim`.
    pub(crate) fn answer_claim(&mut self, accounts: Vec<ChapAccount>) -> LoginStep {
        self.claimed = Some(accounts);
        self.resume()
    }

    /// Goes on with the request that was kept.
    fn resume(&mut self) -> LoginStep {
        let Some((transit, text)) = self.waiting.take() else {
            return self.refuse(status::INITIATOR_ERROR);
        };
        match self.go_on(transit, text) {
            Ok(step) => self.cut(step),
            Err(status) => self.refuse(status),
        }
    }

    /// A refusal that is not the answer to a request: time is up, or the request was no login.
    pub(crate) fn refuse(&self, status: LoginStatus) -> LoginStep {
        LoginStep::Refused(self.reply(status))
    }

    fn reply(&self, status: LoginStatus) -> LoginReply {
        LoginReply {
            transit: None,
            stage: self.stage,
            tsih: Tsih(0),
            status,
            is_continued: false,
            data: Bytes::new(),
        }
    }

    fn try_request(&mut self, request: &LoginRequest) -> Result<LoginStep, LoginStatus> {
        self.pdu_count = self.pdu_count.saturating_add(1);
        if self.pdu_count > LOGIN_PDUS_MAX || self.waiting.is_some() {
            return Err(status::INVALID_REQUEST);
        }
        self.check_header(request)?;
        if let Some((rest, step)) = self.unsent.take() {
            // RFC 7143 §6.2: nothing but the rest of the text is asked for until it is all there.
            return if request.data.is_empty() && !request.is_continued {
                Ok(self.send_rest(rest, step))
            } else {
                Err(status::INVALID_REQUEST)
            };
        }
        self.assembly
            .push(&request.data)
            .map_err(|_too_long| status::INITIATOR_ERROR)?;
        if request.is_continued {
            return Ok(LoginStep::Reply(self.reply(status::SUCCESS)));
        }
        let text = self
            .assembly
            .finish()
            .map_err(|_malformed| status::INITIATOR_ERROR)?;
        // Some initiators introduce themselves again in the operational stage; nothing else may be said twice.
        for (key, value) in text.iter().filter(|(key, _)| !IDENTITY_KEYS.contains(key)) {
            if self.keys_seen.iter().any(|seen| seen == key) || keys::is_reserved_answer(value) {
                return Err(status::INITIATOR_ERROR);
            }
            self.keys_seen.push(key.to_owned());
        }
        if self.keys_seen.len() > text::PAIRS_MAX {
            return Err(status::INITIATOR_ERROR);
        }
        if self.grant.is_some() {
            return self.go_on(request.transit, text);
        }
        let identity = identify(&text, request.isid, request.cid)?;
        self.identity = Some(identity.clone());
        self.waiting = Some((request.transit, text));
        Ok(LoginStep::Ask(identity))
    }

    fn check_header(&mut self, request: &LoginRequest) -> Result<(), LoginStatus> {
        if request.version_min > 0 {
            return Err(status::UNSUPPORTED_VERSION);
        }
        if request.tsih != Tsih(0) {
            return Err(status::NO_SESSION);
        }
        if self.pdu_count == 1 && request.stage != LoginStage::FullFeature {
            self.stage = request.stage;
        }
        let is_same = self
            .identity
            .as_ref()
            .is_none_or(|identity| identity.isid == request.isid && identity.cid == request.cid);
        let is_transit_forward = match request.transit {
            None => true,
            Some(LoginStage::Security) => false,
            Some(LoginStage::Operational) => self.stage == LoginStage::Security,
            Some(LoginStage::FullFeature) => true,
        };
        let is_continued_in_transit = request.is_continued && request.transit.is_some();
        if request.stage != self.stage || !is_same || !is_transit_forward || is_continued_in_transit
        {
            return Err(status::INVALID_REQUEST);
        }
        Ok(())
    }

    fn go_on(&mut self, transit: Option<LoginStage>, text: Text) -> Result<LoginStep, LoginStatus> {
        if matches!(self.proof, Proof::Challenged(_)) && self.claimed.is_none() {
            let user = text.get("CHAP_N").ok_or(status::MISSING_PARAMETER)?;
            if user.len() > chap::NAME_BYTES_MAX {
                return Err(status::AUTHENTICATION_FAILURE);
            }
            let user = user.to_owned();
            self.waiting = Some((transit, text));
            return Ok(LoginStep::Claim(user));
        }
        let mut reply = self.reply(status::SUCCESS);
        let mut said = Text::new();
        self.introduce(&mut said);
        match self.stage {
            LoginStage::Security => self.security(&text, &mut said)?,
            LoginStage::Operational | LoginStage::FullFeature => {
                self.operational(&text, &mut said)?;
            }
        }
        reply.data = said.to_bytes();
        let Proof::Done(account) = self.proof else {
            return Ok(LoginStep::Reply(reply));
        };
        let Some(next) = transit else {
            return Ok(LoginStep::Reply(reply));
        };
        reply.transit = Some(next);
        if next != LoginStage::FullFeature {
            self.stage = next;
            return Ok(LoginStep::Reply(reply));
        }
        let (Some(grant), Some(identity)) = (&self.grant, &self.identity) else {
            return Err(status::INITIATOR_ERROR);
        };
        reply.tsih = grant.tsih;
        let logged_in = LoggedIn {
            initiator: identity.initiator.clone(),
            kind: identity.kind.clone(),
            isid: identity.isid,
            tsih: grant.tsih,
            cid: identity.cid,
            account,
            negotiated: self.agreed,
        };
        Ok(LoginStep::Finished(reply, Box::new(logged_in)))
    }

    /// RFC 7143 §13.9: the portal group goes into the first response that follows TargetName.
    fn introduce(&mut self, reply: &mut Text) {
        let Some(grant) = &self.grant else { return };
        if core::mem::replace(&mut self.has_told_portal_group, true) {
            return;
        }
        let is_normal = self
            .identity
            .as_ref()
            .is_some_and(|who| who.kind != SessionKind::Discovery);
        if is_normal {
            reply.push("TargetPortalGroupTag", grant.portal_group.to_string());
            if let Some(alias) = &grant.alias {
                reply.push("TargetAlias", alias.clone());
            }
        }
    }

    fn security(&mut self, text: &Text, reply: &mut Text) -> Result<(), LoginStatus> {
        let is_of_chap = |key: &str| key.starts_with("CHAP_");
        match self.proof {
            Proof::Open => self.choose_method(text, reply)?,
            Proof::Chap => self.challenge(text, reply)?,
            Proof::Challenged(algorithm) => self.check_response(algorithm, text, reply)?,
            Proof::Done(_) if text.iter().any(|(key, _)| is_of_chap(key)) => {
                return Err(status::INITIATOR_ERROR);
            }
            Proof::Done(_) => {}
        }
        for (key, _) in text.iter() {
            let is_known = IDENTITY_KEYS.contains(&key)
                || is_of_chap(key)
                || matches!(key, "AuthMethod" | "InitiatorAlias");
            match (is_known, keys::is_operational(key)) {
                (true, _) => {}
                // What belongs to the other stage is not agreed on here, and what holds without it stays.
                (false, true) => reply.push(key, "Reject"),
                (false, false) => reply.push(key, "NotUnderstood"),
            }
        }
        Ok(())
    }

    fn is_proof_wanted(&self) -> bool {
        self.grant
            .as_ref()
            .is_some_and(|grant| grant.is_proof_wanted)
    }

    fn choose_method(&mut self, text: &Text, reply: &mut Text) -> Result<(), LoginStatus> {
        // An initiator that names no method is one that wants to prove nothing.
        let offered = text.get("AuthMethod").unwrap_or("None");
        let is_proof_wanted = self.is_proof_wanted();
        let method = if is_proof_wanted { "CHAP" } else { "None" };
        if !offered.split(',').any(|choice| choice == method) {
            return Err(status::AUTHENTICATION_FAILURE);
        }
        if text.get("AuthMethod").is_some() {
            reply.push("AuthMethod", method);
        }
        self.proof = if is_proof_wanted {
            Proof::Chap
        } else {
            Proof::Done(None)
        };
        Ok(())
    }

    fn challenge(&mut self, text: &Text, reply: &mut Text) -> Result<(), LoginStatus> {
        let offered = text.get("CHAP_A").ok_or(status::MISSING_PARAMETER)?;
        let algorithm = self
            .policy
            .algorithms()
            .iter()
            .copied()
            .find(|algorithm| offered.split(',').any(|code| code == algorithm.code()))
            .ok_or(status::AUTHENTICATION_FAILURE)?;
        let challenge = self
            .grant
            .as_ref()
            .ok_or(status::INITIATOR_ERROR)?
            .challenge;
        reply.push("CHAP_A", algorithm.code());
        reply.push("CHAP_I", challenge.id().to_string());
        reply.push("CHAP_C", text::hex(challenge.bytes(algorithm)));
        self.proof = Proof::Challenged(algorithm);
        Ok(())
    }

    fn check_response(
        &mut self,
        algorithm: ChapAlgorithm,
        text: &Text,
        reply: &mut Text,
    ) -> Result<(), LoginStatus> {
        let grant = self.grant.as_ref().ok_or(status::INITIATOR_ERROR)?;
        let user = text.get("CHAP_N").ok_or(status::MISSING_PARAMETER)?;
        let given = text.get("CHAP_R").ok_or(status::MISSING_PARAMETER)?;
        let given = text::parse_binary(given, 64).ok_or(status::AUTHENTICATION_FAILURE)?;
        let accounts = self.claimed.as_deref().unwrap_or_default();
        let is_right = |secret: &Secret| chap::verify(algorithm, &grant.challenge, secret, &given);
        if accounts.is_empty() {
            // An unknown user takes as long as a wrong secret.
            is_right(&Secret::new(""));
        }
        let proven = accounts
            .iter()
            .enumerate()
            .find(|(_, account)| account.user == user && is_right(&account.secret));
        let (index, account) = proven.ok_or(status::AUTHENTICATION_FAILURE)?;
        match (text.get("CHAP_I"), text.get("CHAP_C")) {
            (None, None) => {}
            (Some(id), Some(theirs)) => {
                let mutual = account.mutual.as_ref();
                let mutual = mutual.ok_or(status::AUTHENTICATION_FAILURE)?;
                if mutual.secret == account.secret {
                    // RFC 7143 §12.1.3: one secret must not serve both ways.
                    return Err(status::AUTHENTICATION_FAILURE);
                }
                let ours = grant.challenge.bytes(algorithm);
                let theirs = their_challenge(theirs, ours)?;
                prove(algorithm, mutual, id, &theirs, reply)?;
            }
            (Some(_), None) | (None, Some(_)) => return Err(status::MISSING_PARAMETER),
        }
        self.proof = Proof::Done(Some(index));
        Ok(())
    }

    fn operational(&mut self, text: &Text, reply: &mut Text) -> Result<(), LoginStatus> {
        match self.proof {
            Proof::Done(_) => {}
            Proof::Open if !self.is_proof_wanted() => self.proof = Proof::Done(None),
            // RFC 7143 §6.2: who skips the security stage has proven nothing.
            Proof::Open | Proof::Chap | Proof::Challenged(_) => {
                return Err(status::AUTHENTICATION_FAILURE);
            }
        }
        let mut wanted = Text::new();
        for (key, value) in text.iter().filter(|(key, _)| !IDENTITY_KEYS.contains(key)) {
            if key == "AuthMethod" || key.starts_with("CHAP_") {
                return Err(status::INITIATOR_ERROR);
            }
            wanted.push(key, value);
        }
        let is_discovery = self
            .identity
            .as_ref()
            .is_some_and(|who| who.kind == SessionKind::Discovery);
        let results = keys::respond(&wanted, &self.offer, is_discovery, &mut self.agreed);
        for (key, value) in results.iter() {
            if value == "Reject" && key.ends_with("Digest") {
                // Without a form both can read there is nothing to go on with.
                return Err(status::INITIATOR_ERROR);
            }
            reply.push(key, value);
        }
        if !core::mem::replace(&mut self.has_declared_segment, true) {
            let bytes = self.offer.recv_data_segment_bytes_max;
            reply.push("MaxRecvDataSegmentLength", bytes.to_string());
            self.agreed.recv_data_segment_bytes_max = bytes;
        }
        Ok(())
    }
}

fn identify(text: &Text, isid: Isid, cid: Cid) -> Result<AccessRequest, LoginStatus> {
    let name = |key| {
        let value: &str = text.get(key).ok_or(status::MISSING_PARAMETER)?;
        value
            .parse::<IscsiName>()
            .map_err(|_no_name| status::INITIATOR_ERROR)
    };
    let initiator = name("InitiatorName")?;
    let kind = match text.get("SessionType") {
        Some("Discovery") => SessionKind::Discovery,
        // A name that no target can have is one that is not found.
        None | Some("Normal") => match name("TargetName") {
            Ok(target) => SessionKind::Normal { target },
            Err(status::INITIATOR_ERROR) => return Err(status::NOT_FOUND),
            Err(other) => return Err(other),
        },
        Some(_) => return Err(status::SESSION_TYPE),
    };
    Ok(AccessRequest {
        initiator,
        kind,
        isid,
        cid,
    })
}

/// Reads the initiator's challenge and refuses our own sent back to us (RFC 7143 §12.1.3).
fn their_challenge(theirs: &str, ours: &[u8]) -> Result<Vec<u8>, LoginStatus> {
    let theirs = text::parse_binary(theirs, chap::CHALLENGE_BYTES_MAX)
        .filter(|bytes| !bytes.is_empty())
        .ok_or(status::AUTHENTICATION_FAILURE)?;
    if theirs.ct_eq(ours).into() {
        return Err(status::AUTHENTICATION_FAILURE);
    }
    Ok(theirs)
}

fn prove(
    algorithm: ChapAlgorithm,
    own: &ChapPair,
    id: &str,
    challenge: &[u8],
    reply: &mut Text,
) -> Result<(), LoginStatus> {
    let id = text::parse_number(id).and_then(|id| u8::try_from(id).ok());
    let id = id.ok_or(status::AUTHENTICATION_FAILURE)?;
    let response = chap::response(algorithm, id, &own.secret, challenge);
    reply.push("CHAP_N", own.user.clone());
    reply.push("CHAP_R", text::hex(&response));
    Ok(())
}
