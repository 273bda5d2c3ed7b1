//! How a connection becomes a session.

use super::{Normal, Peer, Shared, Stage, Thread};
use crate::access::{Reachable, Seeker};
use crate::export::ChapPair;
use crate::portal::Portal;
use crate::registry::Export;
use crate::sessions::{Beginning, Entry};
use crate::unit::Unit;
use onggi_block_iscsi::chap::{Challenge, ChapAccount};
use onggi_block_iscsi::connection::LoggedIn;
use onggi_block_iscsi::{AccessAnswer, AccessRequest, Grant, SessionKind, Tsih};
use onggi_block_scsi::Nexus;
use onggi_common_units::Uuid;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What an initiator was offered, until it has logged in.
#[derive(Debug)]
pub(super) enum Offered {
    Discovery {
        initiator: String,
        /// What its claim was answered with.
        accounts: Vec<ChapAccount>,
    },
    Normal {
        initiator: String,
        export: Arc<Export>,
        unit: Arc<Unit>,
        /// In the order of the accounts its claim was answered with; a single one when no proof is asked.
        attachments: Vec<Uuid>,
    },
}

impl Shared {
    // Zero would say "no session yet".
    fn tsih(&self) -> Tsih {
        loop {
            let tsih = self.next_tsih.fetch_add(1, Ordering::Relaxed);
            if tsih != 0 {
                return Tsih(tsih);
            }
        }
    }

    fn grant(&self, portal: Portal, is_proof_wanted: bool) -> AccessAnswer {
        let mut random = [0; 33];
        self.entropy.0.fill(&mut random);
        AccessAnswer::Allow(Grant {
            tsih: self.tsih(),
            portal_group: portal.group,
            alias: None,
            is_proof_wanted,
            challenge: Challenge::new(random),
        })
    }
}

impl Peer {
    pub(super) fn access_request(&mut self, request: &AccessRequest, thread: &Thread) {
        let shared = &thread.shared;
        let initiator = request.initiator.as_str();
        let answer = match &request.kind {
            SessionKind::Discovery => {
                self.stage = Stage::Login(Some(Offered::Discovery {
                    initiator: initiator.to_owned(),
                    accounts: Vec::new(),
                }));
                let is_by_proof = shared.registry.is_discovery_by_proof(initiator);
                shared.grant(self.entrance.portal, is_by_proof)
            }
            SessionKind::Normal { target } => {
                let nexus = Nexus::new(initiator, request.isid.0, self.entrance.portal.group);
                self.offer(target.as_str(), &nexus, shared)
            }
        };
        self.connection.answer_access(answer, thread.now);
    }

    fn offer(&mut self, target: &str, nexus: &Nexus, shared: &Shared) -> AccessAnswer {
        let initiator = &*nexus.initiator;
        let Some(export) = shared.registry.find(target) else {
            return AccessAnswer::NotFound;
        };
        let attachments = match export.reachable(initiator) {
            Reachable::No => return AccessAnswer::NotFound,
            Reachable::Freely(attachment) => vec![attachment],
            Reachable::ByProof => Vec::new(),
        };
        if let Some(answer) = shared.redirects.answer(target) {
            tracing::info!(%target, %initiator, "login sent away: the target is drained");
            return answer;
        }
        if !shared.sessions.is_room_for(target, nexus, &shared.limits) {
            tracing::warn!(%target, %initiator, "login refused: the target or the initiator has as many sessions as it may");
            return AccessAnswer::Busy;
        }
        match shared.registry.unit(&export) {
            Ok(unit) => {
                let is_proof_wanted = attachments.is_empty();
                self.stage = Stage::Login(Some(Offered::Normal {
                    initiator: initiator.to_owned(),
                    export,
                    unit,
                    attachments,
                }));
                shared.grant(self.entrance.portal, is_proof_wanted)
            }
            Err(error) => {
                tracing::error!(%target, %error, "login refused: the medium cannot be opened");
                AccessAnswer::Unavailable
            }
        }
    }

    /// The initiator says which user it is: only now its accounts are looked for, so that a stranger makes the target
    /// hold none.
    pub(super) fn claim(&mut self, user: &str, thread: &Thread) {
        let found = match &mut self.stage {
            Stage::Login(Some(Offered::Discovery {
                initiator,
                accounts,
            })) => {
                accounts.clone_from(&thread.shared.registry.discovery_claims(initiator, user));
                accounts.clone()
            }
            Stage::Login(Some(Offered::Normal {
                initiator,
                export,
                attachments,
                ..
            })) => {
                let found: Vec<ChapAccount>;
                (*attachments, found) = export.claimed(initiator, user).into_iter().unzip();
                found
            }
            Stage::Login(None) | Stage::Discovery(_) | Stage::Normal(_) => Vec::new(),
        };
        self.connection.answer_claim(found, thread.now);
    }

    pub(super) fn logged_in(&mut self, logged_in: &LoggedIn, thread: &Thread) {
        let Stage::Login(offered) = &mut self.stage else {
            return;
        };
        match offered.take() {
            None => self.close(),
            Some(Offered::Discovery {
                initiator,
                accounts,
            }) => {
                let proven = logged_in
                    .account
                    .and_then(|index| accounts.into_iter().nth(index));
                let proven = proven.map(|account| ChapPair {
                    user: account.user,
                    secret: account.secret,
                });
                tracing::debug!(connection = self.id.0, %initiator, peer = %self.entrance.peer, "discovery session");
                self.stage = Stage::Discovery(Seeker { initiator, proven });
            }
            Some(Offered::Normal {
                export,
                unit,
                attachments,
                ..
            }) => {
                let Some(attachment) = attachments.get(logged_in.account.unwrap_or(0)) else {
                    self.close();
                    return;
                };
                self.begin_session(logged_in, (&export, unit, *attachment), thread);
            }
        }
    }

    fn begin_session(
        &mut self,
        logged_in: &LoggedIn,
        to: (&Export, Arc<Unit>, Uuid),
        thread: &Thread,
    ) {
        let (export, unit, attachment) = to;
        let initiator = logged_in.initiator.as_str();
        let nexus = Nexus::new(initiator, logged_in.isid.0, self.entrance.portal.group);
        let entry = Entry {
            iqn: Arc::clone(&export.iqn),
            nexus: nexus.clone(),
            attachment,
            peer: self.entrance.peer,
            portal: self.entrance.portal.address,
            mailbox: Arc::clone(&thread.mailbox),
        };
        match thread
            .shared
            .sessions
            .begin(self.id, entry, &thread.shared.limits, || {
                export.lets_in(attachment)
            }) {
            Beginning::Refused => {
                tracing::info!(target = %export.iqn, %initiator, "access ended, or the last place was taken, during the login");
                self.close();
            }
            Beginning::After(older) => {
                tracing::info!(
                    connection = self.id.0,
                    target = %export.iqn,
                    %initiator,
                    %attachment,
                    peer = %self.entrance.peer,
                    replaces = older,
                    "session began"
                );
                let inventory = [unit.lun()];
                let target = export.name.clone();
                self.stage = Stage::Normal(Box::new(Normal {
                    target,
                    unit,
                    nexus,
                    inventory,
                    reach: None,
                }));
                self.awaited = older;
                self.reach_if_alone();
            }
        }
    }
}
