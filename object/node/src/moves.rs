//! What is to be moved in a pass, and in which order: what the fewest devices hold comes first.

use onggi_object_ring::DeviceId;
use std::collections::{BTreeMap, BTreeSet};

/// A partition that some of its primaries do not hold as this device does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Move {
    /// How many devices are known to hold it as this one does, itself among them.
    pub(crate) copies: usize,
    pub(crate) unit: u32,
    pub(crate) way: Way,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// To these other primaries.
    Shared(Vec<DeviceId>),
    /// From a stand-in to all primaries; it lets go afterwards.
    Home(Vec<DeviceId>),
}

/// What peers said: the partitions each of them was asked about, and those in which it differs. A peer that did not answer
/// is not there.
pub(crate) type Said = BTreeMap<DeviceId, (BTreeSet<u32>, BTreeSet<u32>)>;

fn agrees(said: &Said, peer: DeviceId, unit: u32) -> bool {
    said.get(&peer)
        .is_some_and(|(asked, differing)| asked.contains(&unit) && !differing.contains(&unit))
}

/// The moves of a device: what it shares with other primaries where these differ, and all that it only stands in for.
pub(crate) fn in_order(said: &Said, handoffs: Vec<(u32, Vec<DeviceId>)>) -> Vec<Move> {
    let mut lacking: BTreeMap<u32, Vec<DeviceId>> = BTreeMap::new();
    let mut holding: BTreeMap<u32, usize> = BTreeMap::new();
    let home: BTreeSet<u32> = handoffs.iter().map(|(unit, _)| *unit).collect();
    for (peer, (asked, differing)) in said {
        for unit in asked.iter().filter(|unit| !home.contains(unit)) {
            if differing.contains(unit) {
                lacking.entry(*unit).or_default().push(*peer);
            } else {
                *holding.entry(*unit).or_default() += 1;
            }
        }
    }
    let shared = lacking.into_iter().map(|(unit, peers)| Move {
        copies: 1 + holding.get(&unit).copied().unwrap_or(0),
        unit,
        way: Way::Shared(peers),
    });
    let home = handoffs.into_iter().map(|(unit, primaries)| {
        let holding = primaries.iter().filter(|peer| agrees(said, **peer, unit));
        Move {
            copies: 1 + holding.count(),
            unit,
            way: Way::Home(primaries),
        }
    });
    let mut moves: Vec<Move> = shared.chain(home).collect();
    moves.sort_by_key(|one| (one.copies, one.unit));
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fewest_devices_hold_comes_first() {
        let id = DeviceId::new;
        let units = |units: &[u32]| units.iter().copied().collect::<BTreeSet<u32>>();
        let said: Said = [
            (id(1), (units(&[1, 2, 3, 8, 9]), units(&[2, 3, 9]))),
            (id(2), (units(&[1, 2, 3, 9]), units(&[3]))),
        ]
        .into();
        // Device 3 did not answer.
        let handoffs = vec![
            (8, vec![id(1), id(2), id(3)]),
            (9, vec![id(1), id(2), id(3)]),
            (7, vec![id(3)]),
        ];
        let moves = in_order(&said, handoffs);
        let order: Vec<(usize, u32)> = moves.iter().map(|one| (one.copies, one.unit)).collect();
        assert_eq!(order, [(1, 3), (1, 7), (2, 2), (2, 8), (2, 9)]);
        assert_eq!(moves[0].way, Way::Shared(vec![id(1), id(2)]));
        assert_eq!(moves[2].way, Way::Shared(vec![id(1)]));
    }
}
