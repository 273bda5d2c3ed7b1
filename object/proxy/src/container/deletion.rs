//! Deleting containers that are empty.

use super::{restamped, status_only};
use crate::driver::{self, Written};
use crate::fault::Fault;
use crate::proxy::Core;
use crate::roster::deletion_reply;
use core::time::Duration;
use http::StatusCode;
use onggi_common_service::http::Response;
use onggi_object_client::ContainerAnswer;
use onggi_object_model::{ContainerPath, ListingQuery};
use onggi_object_replica::{Failure, Outcome};
use onggi_object_wire::{Place, container};
use std::sync::Arc;

/// How often a deletion is tried that a replica refuses although nothing is listed.
const DELETES_MAX: u32 = 5;
/// How long it gets the first time to hear of the last object's end; twice as long each further time.
const DELETE_PAUSE: Duration = Duration::from_millis(50);

impl Core {
    pub(crate) async fn delete_container(
        self: &Arc<Self>,
        path: &ContainerPath,
    ) -> Result<Response, Fault> {
        for attempt in 0..DELETES_MAX {
            let all = ListingQuery {
                with_reserved: true,
                ..ListingQuery::page(1)
            };
            let (info, page) = self.page(path, all).await?;
            if !page.entries.is_empty() {
                break;
            }
            let written = self.erase_container(path).await;
            match written.outcome {
                Outcome::Stored { .. } => return Ok(status_only(StatusCode::NO_CONTENT)),
                Outcome::Failed(Failure::Missing) => return Err(Fault::NotFound),
                Outcome::Failed(Failure::ConditionFailed) => {
                    // Something came in meanwhile, or a replica has not heard yet that the last object went. Replicas that
                    // have deleted the container get it back, newer, and it is looked at again.
                    let metadata = restamped(&info.metadata, self.cluster.clock.stamp());
                    let again = self
                        .write_container(path, Some(info.policy), metadata)
                        .await;
                    if matches!(again.outcome, Outcome::Failed(_)) {
                        return Err(Fault::Unavailable);
                    }
                    tokio::time::sleep(DELETE_PAUSE * (1 << attempt)).await;
                }
                Outcome::Failed(_) => return Err(Fault::Unavailable),
            }
        }
        Err(Fault::Conflict(String::new()))
    }

    async fn erase_container(&self, path: &ContainerPath) -> Written<ContainerAnswer> {
        let base = container::Delete {
            path: path.clone(),
            timestamp: self.cluster.clock.stamp(),
            account: Vec::new(),
        };
        let nodes = self.cluster.nodes.clone();
        let send = |place: Arc<Place>, told: Vec<Place>| {
            let (nodes, delete) = (
                nodes.clone(),
                container::Delete {
                    account: told,
                    ..base.clone()
                },
            );
            driver::boxed(async move { nodes.delete_container(&place, &delete).await })
        };
        let replicas = self.cluster.container(path);
        let told = self.cluster.account(&path.account).places();
        let written = self
            .cluster
            .write(&replicas, &told, send, deletion_reply)
            .await;
        self.cache.forget_container(path);
        written
    }
}
