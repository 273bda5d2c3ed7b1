//! The stamps that writes were sent under, which clients are not told whole.

use onggi_common_sim::Host;
use onggi_common_units::Timestamp;
use onggi_object_model::ObjectName;
use std::collections::{BTreeMap, BTreeSet};

/// What was seen on the way to nodes.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    pub(crate) changes: BTreeMap<(Host, String), Timestamp>,
    pub(crate) puts: BTreeMap<String, Timestamp>,
    /// All of PUTs, by who sent them to which object.
    sent: BTreeMap<(Host, String), BTreeSet<Timestamp>>,
    /// The newest deletion of an object that a node has written.
    deletions: BTreeMap<(String, usize), Timestamp>,
}

impl Stamps {
    pub(crate) fn note_put(&mut self, from: Host, object: &ObjectName, at: Timestamp) {
        let put = (from, object.to_string());
        self.sent.entry(put).or_default().insert(at);
    }

    pub(crate) fn note_deletion(&mut self, node: usize, object: &ObjectName, at: Timestamp) {
        let known = self
            .deletions
            .entry((object.to_string(), node))
            .or_insert(at);
        *known = at.max(*known);
    }

    /// How many nodes have written a deletion of an object above this stamp, whatever has replaced it since.
    pub(crate) fn deleted_above(&self, object: &str, at: Timestamp) -> usize {
        let own = self
            .deletions
            .iter()
            .filter(|((name, _), _)| name == object);
        own.filter(|(_, deleted)| **deleted > at).count()
    }

    /// The whole stamp of a PUT that was answered with this `X-Timestamp`, which says the tick.
    pub(crate) fn put_at(&self, from: Host, object: &str, tick: Timestamp) -> Timestamp {
        let sent = self.sent.get(&(from, object.to_owned()));
        let within = tick..=tick.with_offset(u64::MAX);
        let whole = sent.and_then(|sent| sent.range(within).next_back());
        whole.copied().unwrap_or(tick)
    }
}
