//! The printed comparison.

use super::Measured;
use super::loopback::Bare;

/// What the columns mean.
pub(crate) const LEGEND: &str = "medians; x = ours / theirs (per second: more is better; all others: less is better); times and \
cpu in microseconds, cpu = of the server, for one request";
/// What the last columns mean, where there are some.
pub(crate) const BARE: &str =
    "bare = our share of what TCP alone does with messages of this shape, and its p99";

/// A workload's medians.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) workload: &'static str,
    pub(crate) ours: Measured,
    pub(crate) theirs: Option<Measured>,
    /// Bare TCP, where that was measured.
    pub(crate) bare: Option<Bare>,
}

/// The middle of the values, or the mean of the two in the middle; 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.as_slice() {
        [] => 0.0,
        values if values.len() % 2 == 1 => values[middle],
        values => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The head of the table.
pub(crate) fn head(peer: Option<&str>, has_bare: bool) -> String {
    let bare = if has_bare { " |  bare     p99" } else { "" };
    let workload = "workload";
    match peer {
        Some(peer) => format!(
            "{workload:<20} {:>8} {:>8} {x:>5} | {:>7} {peer:>7} {x:>5} | {:>7} {peer:>7} {x:>5} | {:>6} {peer:>6} {x:>5}{bare}",
            "ours/s",
            format!("{peer}/s"),
            "p50",
            "p99",
            "cpu",
            x = "x",
        ),
        None => format!(
            "{workload:<20} {:>8} | {:>7} {:>7} | {:>6}{bare}",
            "ours/s", "p50", "p99", "cpu"
        ),
    }
}

impl Row {
    /// Its line.
    pub(crate) fn text(&self) -> String {
        let (name, ours) = (self.workload, &self.ours);
        let bare = self.bare.map_or_else(String::new, |bare| {
            let share = 100.0 * ours.per_second / bare.per_second.max(1.0);
            let share = format!("{share:.0}%");
            format!(" | {share:>5} {:>7.1}", bare.p99)
        });
        let Some(theirs) = &self.theirs else {
            return format!(
                "{name:<20} {:>8.0} | {:>7.1} {:>7.1} | {:>6.2}{bare}",
                ours.per_second, ours.p50, ours.p99, ours.server_cpu
            );
        };
        let pair = |value: fn(&Measured) -> f64, width: usize, digits: usize| {
            let (one, other) = (value(ours), value(theirs));
            let ratio = if other > 0.0 { one / other } else { 0.0 };
            format!("{one:>width$.digits$} {other:>width$.digits$} {ratio:>5.2}")
        };
        format!(
            "{name:<20} {} | {} | {} | {}{bare}",
            pair(|run| run.per_second, 8, 0),
            pair(|run| run.p50, 7, 1),
            pair(|run| run.p99, 7, 1),
            pair(|run| run.server_cpu, 6, 2),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_in_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
    }
}
