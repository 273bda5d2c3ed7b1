//! Giving copies to devices: what has to move is taken away, then each copy goes to the best place left.

use super::shares::Tree;
use super::{BuilderError, Rebalanced, RingBuilder, UNASSIGNED};
use onggi_common_units::UtcTime;
use std::collections::BTreeMap;

/// Shares are sums of fractions: this much is no difference.
const EPSILON: f64 = 1e-6;

/// Splitmix64: a small generator whose sequence is the seed's alone.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % end).unwrap_or(0)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// A count that a float stands for; floats here are small sums of shares.
#[expect(
    clippy::cast_possible_truncation,
    reason = "saturating is right: counts are at most partitions times replicas, far below 2^53"
)]
const fn whole(value: f64) -> i64 {
    value as i64
}

fn float(value: i64) -> f64 {
    f64::from(i32::try_from(value).unwrap_or(i32::MAX))
}

/// One rebalance under way.
struct Work<'a> {
    builder: &'a mut RingBuilder,
    tree: Tree,
    /// Copies each place still wants, by place.
    wants: Vec<i64>,
    /// What a copy more or less is to each place, by place: one over its share.
    step: Vec<f64>,
    /// Copies of one partition each place holds at most, by place.
    most: Vec<u32>,
    /// The place of each device, by number.
    leaf_of: Vec<Option<usize>>,
    /// By partition: whether a copy of it may move now.
    movable: Vec<bool>,
    here: Here,
}

/// How many copies of one partition each place holds.
#[derive(Default)]
struct Here {
    counts: Vec<u32>,
    marked: Vec<usize>,
}

impl Here {
    fn add(&mut self, tree: &Tree, leaf: usize) {
        let mut index = leaf;
        loop {
            self.counts[index] += 1;
            self.marked.push(index);
            if index == 0 {
                return;
            }
            index = tree.places[index].parent;
        }
    }

    fn clear(&mut self) {
        for index in self.marked.drain(..) {
            self.counts[index] = 0;
        }
    }
}

pub(super) fn rebalance(
    builder: &mut RingBuilder,
    seed: u64,
    now: UtcTime,
) -> Result<Rebalanced, BuilderError> {
    let mut tree = Tree::new(&builder.devices);
    let devices = tree.place_of.len();
    if float(i64::try_from(devices).unwrap_or(i64::MAX)) < builder.replicas.ceil() {
        return Err(BuilderError::TooFewDevices {
            replicas: builder.replicas,
            devices,
        });
    }
    tree.share_out(builder.replicas, builder.overload);
    let before = builder.table.clone();
    rest(builder, now);
    let mut random = Random(seed);
    let mut work = Work::new(builder, tree);
    work.resize();
    work.take_from_absent();
    work.take_from_crowded(&mut random);
    work.take_from_overfull(&mut random);
    work.assign(&mut random);
    let (moved, removed) = finish(builder, &before);
    let dispersion = builder.report().dispersion;
    builder.dispersion = Some(dispersion);
    Ok(Rebalanced {
        moved,
        removed,
        balance: builder.balance(),
        dispersion,
    })
}

/// Adds the whole hours since the last rebalance to what every partition has rested.
pub(super) fn rest(builder: &mut RingBuilder, now: UtcTime) {
    let hours = now.seconds().saturating_sub(builder.rested_at) / 3_600;
    if hours == 0 {
        return;
    }
    let hours = u8::try_from(hours).unwrap_or(u8::MAX);
    for rested in &mut builder.rested_hours {
        *rested = rested.saturating_add(hours);
    }
    builder.rested_at = now.seconds();
}

/// Notes what moved, and forgets the devices that are gone.
fn finish(builder: &mut RingBuilder, before: &[Vec<u16>]) -> (usize, usize) {
    let mut moved = 0;
    for (replica, row) in builder.table.iter().enumerate() {
        for (partition, id) in row.iter().enumerate() {
            let old = before.get(replica).and_then(|row| row.get(partition));
            if old != Some(id) {
                moved += 1;
                builder.rested_hours[partition] = 0;
            }
        }
    }
    let removed = core::mem::take(&mut builder.removed);
    for id in &removed {
        builder.devices[id.index()] = None;
    }
    builder.version += 1;
    builder.devices_changed = false;
    (moved, removed.len())
}

impl<'a> Work<'a> {
    fn new(builder: &'a mut RingBuilder, tree: Tree) -> Self {
        let least = builder.min_part_hours;
        let movable = builder.rested_hours.iter();
        let movable = movable.map(|rested| u32::from(*rested) >= least).collect();
        let places = &tree.places;
        let step = places.iter().map(|place| 1.0 / place.share.max(EPSILON));
        let most = places.iter().map(|place| most_of(place.share));
        let leaf_of = (0..builder.devices.len()).map(|id| tree.place_of.get(&id).copied());
        let mut work = Self {
            wants: vec![0; places.len()],
            step: step.collect(),
            most: most.collect(),
            leaf_of: leaf_of.collect(),
            here: Here {
                counts: vec![0; places.len()],
                marked: Vec::new(),
            },
            builder,
            tree,
            movable,
        };
        work.set_targets();
        work
    }

    fn partitions(&self) -> usize {
        self.builder.rested_hours.len()
    }

    /// Copies in all: whole rows, and the fraction of one.
    fn copies(&self) -> usize {
        let partitions = i64::from(self.builder.part_power.partitions());
        usize::try_from(whole(self.builder.replicas * float(partitions))).unwrap_or(0)
    }

    /// Whole numbers of copies for each device, by largest remainder, so that their sum is exact.
    fn set_targets(&mut self) {
        let partitions = float(i64::from(self.builder.part_power.partitions()));
        let mut rest = i64::try_from(self.copies()).unwrap_or(i64::MAX);
        let mut remainders: Vec<(f64, usize)> = Vec::new();
        let mut targets: BTreeMap<usize, i64> = BTreeMap::new();
        for leaf in self.tree.place_of.values() {
            let exact = self.tree.places[*leaf].share * partitions;
            let floor = whole(exact + EPSILON);
            targets.insert(*leaf, floor);
            rest -= floor;
            remainders.push((exact - float(floor), *leaf));
        }
        remainders.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, leaf) in remainders {
            if rest <= 0 {
                break;
            }
            *targets.entry(leaf).or_default() += 1;
            rest -= 1;
        }
        for (leaf, target) in targets {
            self.change_wants(leaf, target);
        }
    }

    fn change_wants(&mut self, leaf: usize, by: i64) {
        let mut index = leaf;
        loop {
            self.wants[index] += by;
            if index == 0 {
                return;
            }
            index = self.tree.places[index].parent;
        }
    }

    /// Gives the table its rows, counts what each device holds, and drops copies past the replica count.
    fn resize(&mut self) {
        let (partitions, mut left) = (self.partitions(), self.copies());
        let mut rows = Vec::new();
        while left > 0 {
            rows.push(left.min(partitions));
            left -= left.min(partitions);
        }
        self.builder.table.truncate(rows.len());
        self.builder.table.resize(rows.len(), Vec::new());
        for (row, length) in self.builder.table.iter_mut().zip(rows) {
            row.resize(length, UNASSIGNED);
        }
        let mut held = vec![0i64; self.leaf_of.len()];
        for id in self.builder.table.iter().flatten() {
            if let Some(count) = held.get_mut(usize::from(*id)) {
                *count += 1;
            }
        }
        for (id, count) in held.into_iter().enumerate() {
            if let Some(leaf) = self.leaf_of[id] {
                self.change_wants(leaf, -count);
            }
        }
    }

    fn leaf(&self, id: u16) -> Option<usize> {
        *self.leaf_of.get(usize::from(id))?
    }

    fn take(&mut self, replica: usize, partition: usize) {
        let id = self.builder.table[replica][partition];
        self.builder.table[replica][partition] = UNASSIGNED;
        if let Some(leaf) = self.leaf(id) {
            self.change_wants(leaf, 1);
        }
        self.movable[partition] = false;
    }

    /// Takes every copy from removed devices, and one copy a partition from devices that are drained.
    fn take_from_absent(&mut self) {
        for replica in 0..self.builder.table.len() {
            for partition in 0..self.builder.table[replica].len() {
                let id = self.builder.table[replica][partition];
                let gone = self
                    .builder
                    .removed
                    .iter()
                    .any(|removed| removed.number() == id);
                if id != UNASSIGNED && (gone || self.movable[partition]) && self.leaf(id).is_none()
                {
                    self.take(replica, partition);
                }
            }
        }
    }

    /// Counts where the copies of a partition are, until the next call.
    fn look_at(&mut self, partition: usize) {
        self.here.clear();
        for row in &self.builder.table {
            let leaf = row
                .get(partition)
                .and_then(|id| *self.leaf_of.get(usize::from(*id))?);
            if let Some(leaf) = leaf {
                self.here.add(&self.tree, leaf);
            }
        }
    }

    /// The first copy of the partition looked at that stands where there are too many of it.
    fn crowded(&self, partition: usize) -> Option<usize> {
        for (replica, row) in self.builder.table.iter().enumerate() {
            let Some(leaf) = row.get(partition).and_then(|id| self.leaf(*id)) else {
                continue;
            };
            let mut index = leaf;
            while index != 0 {
                if self.here.counts[index] > self.most[index] {
                    return Some(replica);
                }
                index = self.tree.places[index].parent;
            }
        }
        None
    }

    fn shuffled(&self, random: &mut Random) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.partitions()).collect();
        random.shuffle(&mut order);
        order
    }

    fn take_from_crowded(&mut self, random: &mut Random) {
        for partition in self.shuffled(random) {
            if !self.movable[partition] {
                continue;
            }
            self.look_at(partition);
            if let Some(replica) = self.crowded(partition) {
                self.take(replica, partition);
            }
        }
    }

    /// Takes copies from devices above their share.
    fn take_from_overfull(&mut self, random: &mut Random) {
        for partition in self.shuffled(random) {
            if !self.movable[partition] {
                continue;
            }
            let fullest = (0..self.builder.table.len())
                .filter_map(|replica| {
                    let id = self.builder.table[replica].get(partition)?;
                    Some((self.wants[self.leaf(*id)?], replica))
                })
                .min();
            if let Some((wants, replica)) = fullest.filter(|(wants, _)| *wants < 0) {
                debug_assert!(wants < 0);
                self.take(replica, partition);
            }
        }
    }

    /// Gives every copy without a device one.
    fn assign(&mut self, random: &mut Random) {
        for partition in self.shuffled(random) {
            let rows = 0..self.builder.table.len();
            let is_open =
                |replica: &usize| self.builder.table[*replica].get(partition) == Some(&UNASSIGNED);
            let open: Vec<usize> = rows.filter(is_open).collect();
            if open.is_empty() {
                continue;
            }
            self.look_at(partition);
            for replica in open {
                let best = self.best(0, true).or_else(|| self.best(0, false));
                let Some(leaf) = best else { continue };
                let device = self.tree.places[leaf].device;
                let device = device.and_then(|id| u16::try_from(id).ok());
                self.builder.table[replica][partition] = device.unwrap_or(UNASSIGNED);
                self.change_wants(leaf, -1);
                self.here.add(&self.tree, leaf);
            }
        }
    }

    /// The best device below a place: at each tier the child with the fewest copies of the partition looked at, and
    /// among those the one that wants most in proportion to its share.
    fn best(&self, place: usize, wanting_only: bool) -> Option<usize> {
        if self.tree.places[place].device.is_some() {
            return (self.here.counts[place] == 0).then_some(place);
        }
        let mut last = None;
        // Most often the first child has a device; the next is looked for only when it has not.
        loop {
            let mut next: Option<(u32, f64, usize)> = None;
            for child in &self.tree.places[place].children {
                let wants = self.wants[*child];
                if wanting_only && wants <= 0 {
                    continue;
                }
                let rank = (
                    self.here.counts[*child],
                    -float(wants) * self.step[*child],
                    *child,
                );
                if last.is_none_or(|last| is_before(last, rank))
                    && next.is_none_or(|next| is_before(rank, next))
                {
                    next = Some(rank);
                }
            }
            last = next;
            let (_, _, child) = next?;
            if let Some(leaf) = self.best(child, wanting_only) {
                return Some(leaf);
            }
        }
    }
}

fn is_before(a: (u32, f64, usize), b: (u32, f64, usize)) -> bool {
    let order = a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
    order.then(a.2.cmp(&b.2)).is_lt()
}

/// Copies of one partition a place with such a share holds at most.
fn most_of(share: f64) -> u32 {
    u32::try_from(whole((share - EPSILON).ceil()).max(1)).unwrap_or(u32::MAX)
}
