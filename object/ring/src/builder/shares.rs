//! How many copies of each partition a region, zone, node and device should hold, on average.

use crate::device::Device;
use std::collections::BTreeMap;

/// A place that can hold copies: the cluster, a region, a zone, a node, or a device.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The places in it; empty for a device.
    pub(super) children: Vec<usize>,
    /// The place it is in; itself for the root.
    pub(super) parent: usize,
    /// The device, when it is one.
    pub(super) device: Option<usize>,
    weight: f64,
    devices: u32,
    /// Copies of each partition it should hold, on average.
    pub(super) share: f64,
}

/// The tree of places of all devices with weight. The root is number 0.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) places: Vec<Place>,
    /// The place of each device, by device number.
    pub(super) place_of: BTreeMap<usize, usize>,
}

impl Tree {
    pub(super) fn new(devices: &[Option<Device>]) -> Self {
        let mut tree = Self {
            places: Vec::new(),
            place_of: BTreeMap::new(),
        };
        let root = tree.push(0);
        let mut known: BTreeMap<(u32, Option<u32>, Option<&str>), usize> = BTreeMap::new();
        for (index, device) in devices.iter().enumerate() {
            let Some(device) = device.as_ref().filter(|device| device.weight > 0.0) else {
                continue;
            };
            let keys = [
                (device.region, None, None),
                (device.region, Some(device.zone), None),
                (device.region, Some(device.zone), Some(device.ip.as_str())),
            ];
            let mut place = root;
            for key in keys {
                place = *known.entry(key).or_insert_with(|| tree.push(place));
            }
            let leaf = tree.push(place);
            tree.places[leaf].device = Some(index);
            tree.place_of.insert(index, leaf);
            tree.climb(leaf, |place| {
                place.weight += device.weight;
                place.devices += 1;
            });
        }
        tree
    }

    fn push(&mut self, parent: usize) -> usize {
        let index = self.places.len();
        self.places.push(Place {
            children: Vec::new(),
            parent,
            device: None,
            weight: 0.0,
            devices: 0,
            share: 0.0,
        });
        if index != 0 {
            self.places[parent].children.push(index);
        }
        index
    }

    /// Calls for a place and all it is in, up to the root.
    pub(super) fn climb(&mut self, from: usize, mut change: impl FnMut(&mut Place)) {
        let mut index = from;
        loop {
            change(&mut self.places[index]);
            if index == 0 {
                return;
            }
            index = self.places[index].parent;
        }
    }

    /// Sets every place's share for so many copies.
    pub(super) fn share_out(&mut self, replicas: f64, overload: f64) {
        let by_weight = self.by_weight(replicas);
        let by_spread = self.by_spread(replicas);
        let needed = needed(&by_weight, &by_spread);
        let part = if needed <= overload {
            1.0
        } else {
            overload / needed
        };
        for (index, place) in self.places.iter_mut().enumerate() {
            place.share = by_weight[index] + (by_spread[index] - by_weight[index]) * part;
        }
    }

    /// The overload that lets copies spread as widely as can be.
    pub(super) fn required_overload(&self, replicas: f64) -> f64 {
        needed(&self.by_weight(replicas), &self.by_spread(replicas))
    }

    /// Shares by weight alone, but never two copies on one device.
    fn by_weight(&self, replicas: f64) -> Vec<f64> {
        let leaves: Vec<usize> = self.place_of.values().copied().collect();
        let weights: Vec<f64> = leaves
            .iter()
            .map(|leaf| self.places[*leaf].weight)
            .collect();
        let shares = fill(
            replicas,
            &weights,
            &vec![0.0; leaves.len()],
            &vec![1.0; leaves.len()],
        );
        let mut all = vec![0.0; self.places.len()];
        for (leaf, share) in leaves.into_iter().zip(shares) {
            let mut index = leaf;
            loop {
                all[index] += share;
                if index == 0 {
                    break;
                }
                index = self.places[index].parent;
            }
        }
        all
    }

    /// Shares that spread copies as widely as can be: each child of a place holds its even part, rounded down or up.
    fn by_spread(&self, replicas: f64) -> Vec<f64> {
        let mut all = vec![0.0; self.places.len()];
        all[0] = replicas;
        // A parent always stands before its children.
        for (index, place) in self.places.iter().enumerate() {
            if place.children.is_empty() {
                continue;
            }
            let count = f64::from(u32::try_from(place.children.len()).unwrap_or(u32::MAX));
            let even = all[index] / count;
            let most = |child: &usize| f64::from(self.places[*child].devices);
            let low: Vec<f64> = place
                .children
                .iter()
                .map(|c| even.floor().min(most(c)))
                .collect();
            let high: Vec<f64> = place
                .children
                .iter()
                .map(|c| even.ceil().min(most(c)))
                .collect();
            // Where small children leave copies over, the others take more than their even part.
            let most: Vec<f64> = place.children.iter().map(most).collect();
            let high = if high.iter().sum::<f64>() + 1e-9 < all[index] {
                most
            } else {
                high
            };
            let weights: Vec<f64> = place
                .children
                .iter()
                .map(|c| self.places[*c].weight)
                .collect();
            let shares = fill(all[index], &weights, &low, &high);
            for (child, share) in place.children.iter().zip(shares) {
                all[*child] = share;
            }
        }
        all
    }
}

/// Spread costs some devices more than their weight's share; overload limits how much more.
fn needed(by_weight: &[f64], by_spread: &[f64]) -> f64 {
    let pairs = by_weight.iter().zip(by_spread);
    pairs
        .filter(|(weighted, _)| **weighted > 0.0)
        .map(|(weighted, spread)| spread / weighted - 1.0)
        .fold(0.0, f64::max)
}

/// Splits an amount by weights, each part within its bounds.
fn fill(amount: f64, weights: &[f64], low: &[f64], high: &[f64]) -> Vec<f64> {
    let mut parts = low.to_vec();
    let mut open: Vec<usize> = (0..weights.len()).collect();
    // Each round pins at least one part to a bound, or ends.
    while !open.is_empty() {
        let pinned: f64 = (0..parts.len())
            .filter(|i| !open.contains(i))
            .map(|i| parts[i])
            .sum();
        let rest = (amount - pinned).max(0.0);
        let sum: f64 = open.iter().map(|i| weights[*i]).sum();
        if sum <= 0.0 {
            break;
        }
        for i in &open {
            parts[*i] = rest * weights[*i] / sum;
        }
        let over: f64 = open.iter().map(|i| (parts[*i] - high[*i]).max(0.0)).sum();
        let under: f64 = open.iter().map(|i| (low[*i] - parts[*i]).max(0.0)).sum();
        if over <= 1e-12 && under <= 1e-12 {
            break;
        }
        // Pin the side that is further out: the other may come right by it.
        let before = open.len();
        if over >= under {
            open.retain(|i| parts[*i] < high[*i]);
        } else {
            open.retain(|i| parts[*i] > low[*i]);
        }
        for i in 0..parts.len() {
            if !open.contains(&i) {
                parts[i] = parts[i].clamp(low[i], high[i]);
            }
        }
        if open.len() == before {
            break;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_to_their_bounds_and_their_sum() {
        let parts = fill(3.0, &[1.0, 1.0, 8.0], &[0.0; 3], &[1.0; 3]);
        assert!(
            parts.iter().all(|part| (part - 1.0).abs() < 1e-9),
            "{parts:?}"
        );
        let parts = fill(2.0, &[1.0, 1.0, 8.0], &[0.0; 3], &[1.0; 3]);
        assert!((parts.iter().sum::<f64>() - 2.0).abs() < 1e-9 && (parts[2] - 1.0).abs() < 1e-9);
        let parts = fill(3.0, &[9.0, 1.0], &[1.0, 1.0], &[2.0, 2.0]);
        assert!(
            (parts[0] - 2.0).abs() < 1e-9 && (parts[1] - 1.0).abs() < 1e-9,
            "{parts:?}"
        );
    }
}
