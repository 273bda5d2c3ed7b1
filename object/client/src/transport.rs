//! How a process reaches nodes: those in the same process directly, others over links, and over HTTP what is long.

use crate::call::{AnswerFuture, Call, CallBody, CallError, NodeClient};
use crate::http_client::{HttpClient, Timeouts};
use crate::link::{self, Called, Links};
use onggi_common_host::{Clock, Entropy};
use onggi_object_wire::{ClusterKeys, Place};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The nodes that run in this process, by their addresses.
#[derive(Default)]
pub struct LocalNodes(RwLock<HashMap<String, Arc<dyn NodeClient>>>);

impl core::fmt::Debug for LocalNodes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("LocalNodes")
    }
}

impl LocalNodes {
    /// A node is there: from now on it is called directly.
    pub fn add(&self, address: &str, node: Arc<dyn NodeClient>) {
        let mut nodes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        nodes.insert(address.to_owned(), node);
    }

    /// A node ends.
    pub fn remove(&self, address: &str) {
        let mut nodes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        nodes.remove(address);
    }

    fn find(&self, address: &str) -> Option<Arc<dyn NodeClient>> {
        let nodes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(address).cloned()
    }
}

/// Calls nodes in whatever way is the shortest.
#[derive(Debug)]
pub struct Transport {
    local: Arc<LocalNodes>,
    links: Links,
    http: HttpClient,
}

impl Transport {
    /// A client that signs with the cluster's keys and finds these nodes in its own process.
    #[must_use]
    pub fn new(
        keys: ClusterKeys,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
        timeouts: Timeouts,
        local: Arc<LocalNodes>,
    ) -> Self {
        let http = HttpClient::new(keys, Arc::clone(&clock), entropy, timeouts);
        Self {
            local,
            links: Links::new(http.signer(), clock, timeouts.connect),
            http,
        }
    }

    async fn send(&self, place: &Place, call: Call) -> Result<crate::Answer, CallError> {
        let limit = call.answer_within.unwrap_or(self.http.timeouts().answer);
        if let Some(node) = self.local.find(&place.address) {
            if matches!(call.body, CallBody::Stream { .. }) {
                return node.call(place, call).await;
            }
            let late = |_elapsed| CallError::TimedOut {
                address: place.address.clone(),
                limit,
            };
            let called = tokio::time::timeout(limit, node.call(place, call)).await;
            return called.map_err(late)?;
        }
        if link::takes(&call)
            && let Called::Answer(answer) = self.links.call(place, &call, limit).await?
        {
            return Ok(answer);
        }
        self.http.call(place, call).await
    }
}

impl NodeClient for Transport {
    fn call<'a>(&'a self, place: &'a Place, call: Call) -> AnswerFuture<'a> {
        Box::pin(self.send(place, call))
    }
}
