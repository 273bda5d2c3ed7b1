//! Puts a disk together as power cuts could have left it.

use super::log::{Change, Log};
use super::marks;
use super::random::Random;
use anyhow::{Context as _, Result, ensure};

/// How many findings a report keeps the text of.
const FINDINGS_MAX: usize = 8;

/// Looks at what a power cut left. It is told of the marks in their order, and asked in between.
pub trait Check {
    /// From now on this has been acknowledged.
    ///
    /// # Errors
    /// When the mark makes no sense: the workload or the recording is broken.
    fn acknowledge(&mut self, mark: &[u8]) -> Result<()>;

    /// What is wrong with the disk, if anything.
    ///
    /// # Errors
    /// When the disk cannot be looked at. That is a finding, too, if the workload could not have caused it.
    fn check(&mut self, disk: &[u8]) -> Result<Option<String>>;

    /// How many file systems could only be looked at after a repair.
    fn repaired(&self) -> usize {
        0
    }
}

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Requests in the log.
    pub requests: usize,
    /// Flushes among them.
    pub flushes: usize,
    /// Acknowledgements among them.
    pub acknowledged: usize,
    /// Cuts that were made.
    pub cuts: usize,
    /// Cuts after which something was wrong.
    pub bad_cuts: usize,
    /// File systems that had to be repaired before they could be mounted.
    pub repaired: usize,
    /// The first of what was wrong.
    pub findings: Vec<String>,
}

/// Cuts power at `cuts` random points of the log, none of them before the first mark, and checks each time. The disk
/// held `base` when the log began.
///
/// # Errors
/// When there are no marks, a mark makes no sense, or a disk cannot be looked at.
pub fn replay(
    log: &Log,
    base: Vec<u8>,
    check: &mut dyn Check,
    (cuts, seed): (usize, u64),
) -> Result<Report> {
    let mark_of = |index: usize| {
        let entry = log.entries.get(index)?;
        marks::decode(log.written(entry))
    };
    let count = log.entries.len();
    let first = (0..count)
        .find(|index| mark_of(*index).is_some())
        .context("nothing was acknowledged in this recording")?;
    let mut random = Random::new(seed);
    // A cut at `count` is after the last request.
    let span = u64::try_from(count - first)? + 1;
    let mut points = Vec::with_capacity(cuts);
    for _ in 0..cuts {
        points.push(first + usize::try_from(random.below(span))?);
    }
    points.sort_unstable();
    let mut report = Report {
        requests: count,
        flushes: log.entries.iter().filter(|entry| entry.is_flush).count(),
        acknowledged: (0..count).filter_map(mark_of).count(),
        cuts,
        bad_cuts: 0,
        repaired: 0,
        findings: Vec::new(),
    };
    let mut disk = Disk::new(log, base);
    let mut acknowledged = 0;
    for point in points {
        for mark in (acknowledged..point).filter_map(mark_of) {
            check.acknowledge(mark)?;
        }
        acknowledged = point.max(acknowledged);
        disk.advance(point)?;
        let kept = disk.cut(point, &mut random)?;
        let finding = check.check(&disk.bytes)?;
        disk.undo(kept);
        if let Some(finding) = finding {
            report.bad_cuts += 1;
            if report.findings.len() < FINDINGS_MAX {
                report
                    .findings
                    .push(format!("cut before request {point} of {count}: {finding}"));
            }
        }
    }
    report.repaired = check.repaired();
    Ok(report)
}

/// A disk with everything that is surely on it.
struct Disk<'a> {
    log: &'a Log,
    bytes: Vec<u8>,
    /// Requests before this one are on stable storage.
    stable: usize,
}

/// What a cut put over the stable bytes: where, and what was there.
type Kept = Vec<(usize, Vec<u8>)>;

impl<'a> Disk<'a> {
    const fn new(log: &'a Log, bytes: Vec<u8>) -> Self {
        Self {
            log,
            bytes,
            stable: 0,
        }
    }

    /// Applies everything up to the last flush before a point.
    fn advance(&mut self, point: usize) -> Result<()> {
        let log = self.log;
        let later = self.stable..point;
        let last_flush = later.rev().find(|index| log.entries[*index].is_flush);
        if let Some(flush) = last_flush {
            for entry in &log.entries[self.stable..=flush] {
                if let Change::Write(_) = entry.change {
                    self.put(entry.offset, log.written(entry))?;
                }
            }
            self.stable = flush + 1;
        }
        Ok(())
    }

    /// Applies what was not flushed before the point, each block by chance; writes with FUA for certain.
    fn cut(&mut self, point: usize, random: &mut Random) -> Result<Kept> {
        let log = self.log;
        let block = if random.below(2) == 0 { 512 } else { 4_096 };
        // In some cuts most is lost, in others most is kept, and in a few all of it.
        let share = random.below(9);
        let mut kept = Vec::new();
        for entry in &log.entries[self.stable..point] {
            let data = log.written(entry);
            for (index, piece) in data.chunks(block).enumerate() {
                if entry.is_fua || random.below(8) < share {
                    let offset = entry.offset + u64::try_from(index * block)?;
                    let start = usize::try_from(offset)?;
                    let before = self.bytes.get(start..start + piece.len());
                    let before = before.context("a write past the end of the disk")?;
                    kept.push((start, before.to_vec()));
                    self.put(offset, piece)?;
                }
            }
        }
        Ok(kept)
    }

    fn undo(&mut self, kept: Kept) {
        for (start, before) in kept.into_iter().rev() {
            self.bytes[start..start + before.len()].copy_from_slice(&before);
        }
    }

    fn put(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let start = usize::try_from(offset)?;
        let end = start.checked_add(data.len()).context("an offset")?;
        ensure!(
            end <= self.bytes.len(),
            "a write past the end of the disk, at {offset}"
        );
        self.bytes[start..end].copy_from_slice(data);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: u64 = 8_192;
    const FLUSH: u64 = 1;

    /// Wants the first block to hold at least the number that was acknowledged last.
    struct Counter(u8);

    impl Check for Counter {
        fn acknowledge(&mut self, mark: &[u8]) -> Result<()> {
            self.0 = mark[0];
            Ok(())
        }

        fn check(&mut self, disk: &[u8]) -> Result<Option<String>> {
            Ok(
                (disk[0] < self.0)
                    .then(|| format!("{} after {} was acknowledged", disk[0], self.0)),
            )
        }
    }

    fn counts(flushes: bool) -> Report {
        let marks: Vec<_> = (0..50u8).map(|n| marks::encode(&[n]).unwrap()).collect();
        let blocks: Vec<_> = (0..50u8).map(|n| vec![n; 4_096]).collect();
        let mut requests: Vec<(u64, u64, &[u8])> = Vec::new();
        for (block, mark) in blocks.iter().zip(&marks) {
            requests.push((0, 0, block));
            if flushes {
                requests.push((0, FLUSH, &[]));
            }
            requests.push((MARKS, 0, mark));
        }
        let log = Log::of(&requests);
        replay(&log, vec![0; 16_384], &mut Counter(0), (400, 1)).unwrap()
    }

    #[test]
    fn what_was_flushed_before_its_mark_is_never_lost() {
        let report = counts(true);
        assert_eq!((report.acknowledged, report.flushes), (50, 50));
        assert_eq!(report.bad_cuts, 0, "{report:?}");
    }

    #[test]
    fn what_was_not_flushed_is_lost_in_many_cuts() {
        let report = counts(false);
        assert!(report.bad_cuts > 50, "{report:?}");
        assert_eq!(report.findings.len(), FINDINGS_MAX);
    }

    #[test]
    fn a_cut_leaves_the_stable_disk_as_it_was() {
        let log = Log::of(&[
            (0, 0, &[1; 8_192]),
            (0, FLUSH, &[]),
            (4_096, 0, &[2; 8_192]),
            (512, 2, &[3; 512]),
        ]);
        let mut disk = Disk::new(&log, vec![0; 16_384]);
        disk.advance(4).unwrap();
        let stable = disk.bytes.clone();
        assert_eq!(stable[..8_192], [1; 8_192]);
        let mut random = Random::new(3);
        for _ in 0..100 {
            let kept = disk.cut(4, &mut random).unwrap();
            assert_eq!(disk.bytes[512..1_024], [3; 512], "FUA is always kept");
            assert_eq!(disk.bytes[..512], [1; 512]);
            disk.undo(kept);
            assert_eq!(disk.bytes, stable);
        }
    }
}
