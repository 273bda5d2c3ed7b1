//! Deleting accounts: a mark, which the reapers of the account's nodes act upon.

use crate::container::status_only;
use crate::driver;
use crate::fault::Fault;
use crate::proxy::Core;
use crate::roster::deletion_reply;
use http::StatusCode;
use onggi_common_service::http::Response;
use onggi_common_units::Timestamp;
use onggi_object_client::ContainerAnswer;
use onggi_object_model::{AccountInfo, AccountName};
use onggi_object_replica::{Failure, Outcome, Reply};
use onggi_object_wire::{Place, account};
use std::sync::Arc;

/// How a node's answer to the deletion of an account counts: one that had not heard of the account has kept the mark.
fn marked_reply(answer: &ContainerAnswer) -> Reply {
    match deletion_reply(answer) {
        Reply::Missing => Reply::Stored { existed: false },
        other => other,
    }
}

/// An account that was deleted is gone for who asks for itself.
pub(super) fn there(info: AccountInfo) -> Result<AccountInfo, Fault> {
    if info.is_deleted() {
        return Err(Fault::Gone);
    }
    Ok(info)
}

impl Core {
    /// Marks an account as deleted, whatever is in it; the reapers of its nodes do the rest.
    pub(super) async fn delete_account(&self, account: &AccountName) -> Result<Response, Fault> {
        let known = self.fetch_account(account).await?;
        if known.is_deleted() || known.put_timestamp == Timestamp::ZERO {
            return Err(Fault::NotFound);
        }
        let clock = &self.cluster.clock;
        clock.observe(known.put_timestamp);
        let delete = account::Delete {
            account: account.clone(),
            timestamp: clock.stamp(),
        };
        let nodes = self.cluster.nodes.clone();
        let send = |place: Arc<Place>, _told| {
            let (nodes, delete) = (nodes.clone(), delete.clone());
            driver::boxed(async move { nodes.delete_account(&place, &delete).await })
        };
        let replicas = self.cluster.account(account);
        let written = self.cluster.write(&replicas, &[], send, marked_reply).await;
        self.cache.forget_account(account);
        self.cache.forget_containers(account);
        match written.outcome {
            Outcome::Stored { .. } => Ok(status_only(StatusCode::NO_CONTENT)),
            Outcome::Failed(Failure::ConditionFailed | Failure::Newer { .. }) => Err(
                Fault::Conflict("the account was changed at the same time".to_owned()),
            ),
            Outcome::Failed(_) => Err(Fault::Unavailable),
        }
    }

    /// Whether an account was deleted, as far as is known: what is in it is not there any more. Where its nodes do not say,
    /// what is asked for says it.
    pub(crate) async fn is_account_deleted(&self, account: &AccountName) -> bool {
        let info = self.account_info(account).await;
        info.is_ok_and(|info| info.is_deleted())
    }
}
