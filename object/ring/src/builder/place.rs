//! Giving copies to devices: what has to move is taken away, then each copy goes to the best place left.

use super::shares::Tree;
use super::{BuilderError, Rebalanced, RingBuilder, UNASSIGNED};
use onggi_common_units::UtcTime;

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
    /// Copies each device should hold in all, by place.
    target: Vec<i64>,
    /// By partition: whether a copy of it may move now.
    movable: Vec<bool>,
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
    let hour = u32::try_from(now.seconds() / 3_600).unwrap_or(u32::MAX);
    let mut random = Random(seed);
    let mut work = Work::new(builder, tree, hour);
    work.resize();
    work.take_from_absent();
    work.take_from_crowded(&mut random);
    work.take_from_overfull(&mut random);
    work.assign(&mut random);
    let (balance, dispersion) = (work.balance(), work.dispersion());
    let moved = finish(builder, &before, hour);
    Ok(Rebalanced {
        moved,
        balance,
        dispersion,
    })
}

/// Notes what moved, and forgets the devices that are gone.
fn finish(builder: &mut RingBuilder, before: &[Vec<u16>], hour: u32) -> usize {
    let mut moved = 0;
    for (replica, row) in builder.table.iter().enumerate() {
        for (partition, id) in row.iter().enumerate() {
            let old = before.get(replica).and_then(|row| row.get(partition));
            if old != Some(id) {
                moved += 1;
                builder.moved_hours[partition] = hour;
            }
        }
    }
    for id in core::mem::take(&mut builder.removed) {
        builder.devices[id.index()] = None;
    }
    builder.version += 1;
    moved
}

impl<'a> Work<'a> {
    fn new(builder: &'a mut RingBuilder, tree: Tree, hour: u32) -> Self {
        let least = builder.min_part_hours;
        let rested = |moved: &u32| *moved == 0 || hour.saturating_sub(*moved) >= least;
        let movable = builder.moved_hours.iter().map(rested).collect();
        let places = tree.places.len();
        let mut work = Self {
            builder,
            tree,
            wants: vec![0; places],
            target: vec![0; places],
            movable,
        };
        work.set_targets();
        work
    }

    fn partitions(&self) -> usize {
        self.builder.moved_hours.len()
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
        for leaf in self.tree.place_of.values() {
            let exact = self.tree.places[*leaf].share * partitions;
            let floor = whole(exact + EPSILON);
            self.target[*leaf] = floor;
            rest -= floor;
            remainders.push((exact - float(floor), *leaf));
        }
        remainders.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, leaf) in remainders {
            if rest <= 0 {
                break;
            }
            self.target[leaf] += 1;
            rest -= 1;
        }
        for leaf in self.tree.place_of.values().copied().collect::<Vec<_>>() {
            let target = self.target[leaf];
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
        for id in self
            .builder
            .table
            .iter()
            .flatten()
            .copied()
            .collect::<Vec<_>>()
        {
            if let Some(leaf) = self.leaf(id) {
                self.change_wants(leaf, -1);
            }
        }
    }

    fn leaf(&self, id: u16) -> Option<usize> {
        self.tree.place_of.get(&usize::from(id)).copied()
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

    /// How many copies of a partition a place holds.
    fn count(&self, partition: usize, place: usize) -> i64 {
        let rows = self.builder.table.iter();
        let holders = rows.filter_map(|row| self.leaf(*row.get(partition)?));
        let inside = |leaf: usize| {
            let mut index = leaf;
            while index != place && index != 0 {
                index = self.tree.places[index].parent;
            }
            index == place
        };
        i64::try_from(holders.filter(|leaf| inside(*leaf)).count()).unwrap_or(i64::MAX)
    }

    /// The first copy of a partition that stands where there are too many of it.
    fn crowded(&self, partition: usize) -> Option<usize> {
        for (replica, row) in self.builder.table.iter().enumerate() {
            let Some(leaf) = row.get(partition).and_then(|id| self.leaf(*id)) else {
                continue;
            };
            let mut index = leaf;
            while index != 0 {
                let most = whole((self.tree.places[index].share - EPSILON).ceil()).max(1);
                if self.count(partition, index) > most {
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
            for replica in 0..self.builder.table.len() {
                if self.builder.table[replica].get(partition) != Some(&UNASSIGNED) {
                    continue;
                }
                let best = self
                    .best(partition, 0, true)
                    .or_else(|| self.best(partition, 0, false));
                let Some(leaf) = best else { continue };
                let device = self.tree.places[leaf]
                    .device
                    .and_then(|id| u16::try_from(id).ok());
                self.builder.table[replica][partition] = device.unwrap_or(UNASSIGNED);
                self.change_wants(leaf, -1);
            }
        }
    }

    /// The best device below a place: at each tier the child with the fewest copies of the partition, and among those
    /// the one that wants most in proportion to its share.
    fn best(&self, partition: usize, place: usize, wanting_only: bool) -> Option<usize> {
        if self.tree.places[place].device.is_some() {
            return (self.count(partition, place) == 0).then_some(place);
        }
        let mut children: Vec<(i64, f64, usize)> = Vec::new();
        for child in &self.tree.places[place].children {
            let wants = self.wants[*child];
            if wanting_only && wants <= 0 {
                continue;
            }
            let share = self.tree.places[*child].share.max(EPSILON);
            children.push((self.count(partition, *child), -float(wants) / share, *child));
        }
        children.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
        children
            .into_iter()
            .find_map(|(_, _, child)| self.best(partition, child, wanting_only))
    }

    fn balance(&self) -> f64 {
        let off = |leaf: &usize| {
            let target = float(self.target[*leaf].max(1));
            float(self.wants[*leaf].abs()) * 100.0 / target
        };
        self.tree.place_of.values().map(off).fold(0.0, f64::max)
    }

    fn dispersion(&self) -> f64 {
        let crowded = (0..self.partitions()).filter(|partition| self.crowded(*partition).is_some());
        let crowded = i64::try_from(crowded.count()).unwrap_or(i64::MAX);
        float(crowded) * 100.0 / float(i64::from(self.builder.part_power.partitions()))
    }
}
