//! The stamps that writes were sent under, which clients are not told whole.

use onggi_common_sim::Host;
use onggi_common_units::Timestamp;
use onggi_object_model::ObjectName;
use std::collections::BTreeMap;

/// What was seen on the way to nodes.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    pub(crate) changes: BTreeMap<(Host, String), Timestamp>,
    /// The highest stamp each PUT was sent or reserved under, by its id.
    pub(crate) puts: BTreeMap<String, Timestamp>,
    /// The ids of conditional PUTs that are under way and whose bytes are streamed, by who sends them to which object.
    pub(crate) streams: BTreeMap<(Host, String), String>,
    /// The newest deletion of an object that a node has written.
    deletions: BTreeMap<(String, usize), Timestamp>,
}

impl Stamps {
    pub(crate) fn note_id(&mut self, id: String, at: Timestamp) {
        let known = self.puts.entry(id).or_insert(at);
        *known = at.max(*known);
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
}
