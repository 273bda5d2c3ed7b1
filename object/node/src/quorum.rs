//! Writes and reads of things' copies that daemons make: what a proxy would call done, they call done.

use crate::rings::place;
use crate::server::Node;
use core::future::Future;
use core::time::Duration;
use onggi_common_host::Clock;
use onggi_object_client::{CallError, Limiter, Nodes};
use onggi_object_replica::{Consistency, Outcome, Put, PutStep, Quorum, Reply};
use onggi_object_ring::{DeviceId, PathHash};
use onggi_object_wire::Place;
use onggi_object_wire::replication::Scope;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::task::JoinSet;

/// How long one node may take.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);
/// Handoffs tried at most, per copy.
const HANDOFFS_PER_REPLICA: usize = 2;

/// Where the copies of one thing are.
#[derive(Debug, Clone)]
pub(crate) struct Copies {
    primaries: Vec<(DeviceId, Place)>,
    handoffs: VecDeque<(DeviceId, Place)>,
}

impl Copies {
    pub(crate) fn quorum(&self) -> Quorum {
        Quorum::of(self.primaries.len())
    }

    /// The places of the primaries, in the order of the ring.
    pub(crate) fn primaries(&self) -> Vec<Place> {
        self.primaries
            .iter()
            .map(|(_, place)| place.clone())
            .collect()
    }

    /// Every device that may have a copy: the primaries, and those that stand in for them first.
    pub(crate) fn everywhere(&self) -> Vec<Place> {
        let all = self.primaries.iter().chain(&self.handoffs);
        all.map(|(_, place)| place.clone()).collect()
    }
}

/// What calling nodes takes.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) nodes: Nodes,
    limiter: Arc<Limiter>,
    clock: Arc<dyn Clock>,
}

impl Node {
    pub(crate) fn caller(&self) -> Caller {
        Caller {
            nodes: self.nodes.clone(),
            limiter: Arc::clone(&self.limiter),
            clock: Arc::clone(&self.clock),
        }
    }

    /// Where the copies of a hash are; `None` where there is no such ring.
    pub(crate) fn copies(&self, scope: Scope, hash: &PathHash) -> Option<Copies> {
        let ring = self.rings.ring(scope)?;
        let partition = ring.partition(hash);
        let named = |device: &onggi_object_ring::Device| Some((device.id, place(device)?));
        let primaries: Vec<_> = ring
            .primaries(partition)
            .into_iter()
            .filter_map(named)
            .collect();
        let handoffs = ring
            .handoffs(partition)
            .take(primaries.len() * HANDOFFS_PER_REPLICA);
        Some(Copies {
            handoffs: handoffs.filter_map(named).collect(),
            primaries,
        })
    }
}

impl Caller {
    /// What a call to one node comes to; `None` when it is left alone, breaks or takes too long.
    pub(crate) async fn called<T>(
        &self,
        place: &Place,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Option<T> {
        let now = self.clock.monotonic();
        if self.limiter.is_limited(&place.address, now) {
            return None;
        }
        self.limiter.on_sent(&place.address, now);
        let answer = tokio::time::timeout(CALL_TIME_MAX, call).await;
        let now = self.clock.monotonic();
        match answer {
            Ok(Ok(answer)) => {
                self.limiter.on_success(&place.address, now);
                Some(answer)
            }
            Ok(Err(error)) => {
                tracing::debug!(%place, %error, "a node did not answer a daemon");
                self.limiter.on_failure(&place.address, now);
                None
            }
            Err(_elapsed) => {
                tracing::debug!(%place, "a node took too long for a daemon");
                self.limiter.on_failure(&place.address, now);
                None
            }
        }
    }
}

impl Copies {
    /// What those primaries say that can, when they are enough to read: all are asked, and waited for. `is_word` tells an
    /// answer from the excuse for one.
    pub(crate) async fn read<'a, T, F>(
        &'a self,
        caller: &Caller,
        call: impl Fn(&'a Place) -> F,
        is_word: impl Fn(&T) -> bool,
    ) -> Option<Vec<T>>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        let asked = self.primaries.iter();
        let asked = asked.map(|(_, place)| caller.called(place, call(place)));
        let answers = crate::replicator::join_all(asked).await;
        let words: Vec<T> = answers.into_iter().flatten().filter(is_word).collect();
        (words.len() >= self.quorum().reads()).then_some(words)
    }

    /// Writes to them, with handoffs in the place of primaries that are away. `told` are the devices the writers
    /// are to tell about it, shared out among them.
    pub(crate) async fn write<F>(
        mut self,
        told: &[Place],
        mut send: impl FnMut(Place, Vec<Place>) -> F,
    ) -> Outcome
    where
        F: Future<Output = Option<Reply>> + Send + 'static,
    {
        let ids: Vec<DeviceId> = self.primaries.iter().map(|(id, _)| *id).collect();
        let mut machine = Put::new(&ids, Consistency::Available);
        let mut shares: HashMap<DeviceId, Vec<Place>> = HashMap::new();
        for (place, id) in told.iter().zip(ids.iter().cycle()) {
            shares.entry(*id).or_default().push(place.clone());
        }
        let mut calls = JoinSet::new();
        let mut spawn = |calls: &mut JoinSet<(DeviceId, Reply)>, id, place, share| {
            let call = send(place, share);
            calls.spawn(async move { (id, call.await.unwrap_or(Reply::Failed)) });
        };
        for (id, place) in &self.primaries {
            let share = shares.get(id).cloned().unwrap_or_default();
            spawn(&mut calls, *id, place.clone(), share);
        }
        while let Some(joined) = calls.join_next().await {
            let Ok((id, reply)) = joined else { continue };
            // Nobody waits for the answer, so those that are behind are waited for.
            let mut step = machine.on_reply(id, reply);
            loop {
                match step {
                    PutStep::Wait | PutStep::Commit(_) => break,
                    PutStep::Done(outcome) if calls.is_empty() => return outcome,
                    PutStep::Done(_) => break,
                    PutStep::TryHandoff { instead_of } => match self.handoffs.pop_front() {
                        Some((id, place)) => {
                            machine.on_handoff_sent(id);
                            let share = shares.get(&instead_of).cloned().unwrap_or_default();
                            shares.insert(id, share.clone());
                            spawn(&mut calls, id, place, share);
                            break;
                        }
                        None => step = machine.on_no_handoff(),
                    },
                }
            }
        }
        machine.on_deadline()
    }
}
