//! How a connection becomes a session.

use super::{Normal, Peer, Shared, Stage, Thread};
use crate::access::{Reachable, Seeker, account, reachable};
use crate::export::ChapPair;
use crate::registry::{Export, discovery_accounts};
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
    Discovery(Vec<ChapAccount>),
    Normal {
        export: Arc<Export>,
        unit: Arc<Unit>,
        /// In the order of the accounts; a single one when no proof is asked.
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

    fn grant(&self, accounts: Vec<ChapAccount>) -> AccessAnswer {
        let mut random = [0; 33];
        self.entropy.0.fill(&mut random);
        AccessAnswer::Allow(Grant {
            tsih: self.tsih(),
            portal_group: self.portal_group,
            alias: None,
            accounts,
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
                let accounts = discovery_accounts(&shared.registry, initiator);
                self.stage = Stage::Login(Some(Offered::Discovery(accounts.clone())));
                shared.grant(accounts)
            }
            SessionKind::Normal { target } => self.offer(target.as_str(), initiator, shared),
        };
        self.connection.answer_access(answer, thread.now);
    }

    fn offer(&mut self, target: &str, initiator: &str, shared: &Shared) -> AccessAnswer {
        let Some(export) = shared.registry.find(target) else {
            return AccessAnswer::NotFound;
        };
        let (accounts, attachments) = match reachable(&export.accesses(), initiator) {
            Reachable::No => return AccessAnswer::NotFound,
            Reachable::Freely(access) => (Vec::new(), vec![access.attachment]),
            Reachable::ByProof(proofs) => proofs
                .iter()
                .filter_map(|access| account(access).map(|account| (account, access.attachment)))
                .unzip(),
        };
        if shared.sessions.count(target) >= shared.limits.sessions_per_target_max {
            tracing::warn!(%target, %initiator, "login refused: the target has as many sessions as it may");
            return AccessAnswer::Busy;
        }
        match shared.registry.unit(&export) {
            Ok(unit) => {
                self.stage = Stage::Login(Some(Offered::Normal {
                    export,
                    unit,
                    attachments,
                }));
                shared.grant(accounts)
            }
            Err(error) => {
                tracing::error!(%target, %error, "login refused: the medium cannot be opened");
                AccessAnswer::Unavailable
            }
        }
    }

    pub(super) fn logged_in(&mut self, logged_in: &LoggedIn, thread: &Thread) {
        let Stage::Login(offered) = &mut self.stage else {
            return;
        };
        match offered.take() {
            None => self.close(),
            Some(Offered::Discovery(accounts)) => {
                let proven = logged_in
                    .account
                    .and_then(|index| accounts.into_iter().nth(index));
                let proven = proven.map(|account| ChapPair {
                    user: account.user,
                    secret: account.secret,
                });
                let initiator = logged_in.initiator.to_string();
                tracing::debug!(connection = self.id.0, %initiator, peer = %self.address, "discovery session");
                self.stage = Stage::Discovery(Seeker { initiator, proven });
            }
            Some(Offered::Normal {
                export,
                unit,
                attachments,
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
        let nexus = Nexus::new(initiator, logged_in.isid.0);
        let entry = Entry {
            iqn: Arc::clone(&export.iqn),
            nexus: nexus.clone(),
            attachment,
            peer: self.address,
            portal: self.portal,
            mailbox: Arc::clone(&thread.mailbox),
        };
        match thread
            .shared
            .sessions
            .begin(self.id, entry, || export.lets_in(attachment))
        {
            Beginning::Refused => {
                tracing::info!(target = %export.iqn, %initiator, "access ended during the login");
                self.close();
            }
            Beginning::After(older) => {
                tracing::info!(
                    connection = self.id.0,
                    target = %export.iqn,
                    %initiator,
                    %attachment,
                    peer = %self.address,
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
