//! What clients did, what they were told, and what that forbids.

use crate::stamps::Stamps;
use onggi_common_units::Timestamp;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Put,
    /// With `If-None-Match: *`.
    PutNew,
    /// With `If-Match`, where the version to be replaced is known by the write that made it.
    PutOver {
        read: u64,
    },
    Post,
    Delete,
}

/// What it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing yet, or nothing that says what became of it.
    Unknown,
    /// It is done, under this stamp.
    Done { at: Timestamp },
    /// It is not done, and never will be: 404, 412.
    Refused,
}

/// One write.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) begun: Instant,
    pub(crate) ended: Option<Instant>,
    pub(crate) outcome: Outcome,
    /// Whether W primaries had it when the client was told.
    pub(crate) is_visible: bool,
}

impl Write {
    pub(crate) const fn is_put(&self) -> bool {
        matches!(self.kind, Kind::Put | Kind::PutNew | Kind::PutOver { .. })
    }

    pub(crate) const fn done_at(&self) -> Option<Timestamp> {
        match self.outcome {
            Outcome::Done { at } => Some(at),
            Outcome::Unknown | Outcome::Refused => None,
        }
    }
}

/// Everything that was asked and told.
#[derive(Debug, Default)]
pub(crate) struct History {
    writes: BTreeMap<u64, Write>,
    pub(crate) violations: Vec<String>,
    pub(crate) reads: u64,
    /// Reads that had to see the last acknowledged write.
    pub(crate) bound_reads: u64,
}

impl History {
    pub(crate) fn begin(&mut self, name: &str, kind: Kind) -> u64 {
        let id = self.writes.len() as u64 + 1;
        let write = Write {
            name: name.to_owned(),
            kind,
            begun: Instant::now(),
            ended: None,
            outcome: Outcome::Unknown,
            is_visible: false,
        };
        self.writes.insert(id, write);
        id
    }

    pub(crate) fn end(&mut self, id: u64, outcome: Outcome, is_visible: bool) {
        if let Some(write) = self.writes.get_mut(&id) {
            write.ended = Some(Instant::now());
            write.outcome = outcome;
            write.is_visible = is_visible;
        }
    }

    pub(crate) fn violate(&mut self, what: String) {
        self.violations.push(what);
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Write> {
        self.writes.get(&id)
    }

    pub(crate) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (u64, &'a Write)> {
        let all = self.writes.iter().map(|(id, write)| (*id, write));
        all.filter(move |(_, write)| write.name == name)
    }

    pub(crate) fn done_count(&self) -> usize {
        self.writes
            .values()
            .filter(|write| write.done_at().is_some())
            .count()
    }

    /// The newest PUT or DELETE of an object that every reader who begins now has to see.
    pub(crate) fn seen_by_all<'a>(
        &'a self,
        name: &'a str,
        now: Instant,
    ) -> Option<(u64, &'a Write, Timestamp)> {
        let seen = self.of(name).filter_map(|(id, write)| {
            let is_over = write.ended.is_some_and(|ended| ended <= now);
            let at = write.done_at().filter(|_| write.is_visible && is_over)?;
            (write.kind != Kind::Post).then_some((id, write, at))
        });
        seen.max_by_key(|(_, _, at)| *at)
    }

    /// The newest PUT or DELETE of an object that was acknowledged at all.
    pub(crate) fn newest_done<'a>(&'a self, name: &'a str) -> Option<(u64, &'a Write, Timestamp)> {
        let done = self.of(name).filter(|(_, write)| write.kind != Kind::Post);
        let done = done.filter_map(|(id, write)| Some((id, write, write.done_at()?)));
        done.max_by_key(|(_, _, at)| *at)
    }

    /// Whether a deletion may have come after a stamp: one that was not refused, and is not known to be older.
    pub(crate) fn may_be_deleted_after(&self, name: &str, at: Timestamp) -> bool {
        self.of(name).any(|(_, write)| {
            let is_older = write.done_at().is_some_and(|done| done < at);
            write.kind == Kind::Delete && write.outcome != Outcome::Refused && !is_older
        })
    }

    /// Judges bytes that were read: whose they are, and whether something newer had to be seen.
    pub(crate) fn on_found(
        &mut self,
        name: &str,
        id: u64,
        begun: Instant,
        calm: bool,
        stamps: &Stamps,
    ) {
        self.reads += 1;
        let Some(write) = self
            .writes
            .get(&id)
            .filter(|write| write.name == name && write.is_put())
        else {
            return self.violate(format!(
                "O3: {name} was read as write {id}, which is none of it"
            ));
        };
        if write.outcome == Outcome::Refused {
            return self.violate(format!(
                "conditional: {name} was read as {id}, which was refused"
            ));
        }
        let sent = stamps.puts.get(&id.to_string()).copied();
        let newest = write.done_at().max(sent).unwrap_or(Timestamp::ZERO);
        let Some((seen, _, at)) = self.seen_by_all(name, begun).filter(|_| calm) else {
            return;
        };
        let is_stale = newest < at;
        self.bound_reads += 1;
        if is_stale {
            let what = format!(
                "O2: {name} was read as {id} although {seen} at {at} had been acknowledged"
            );
            self.violate(what);
        }
    }

    /// Judges a 404.
    pub(crate) fn on_missing(&mut self, name: &str, begun: Instant, calm: bool) {
        self.reads += 1;
        let Some((seen, write, at)) = self.seen_by_all(name, begun).filter(|_| calm) else {
            return;
        };
        let is_wrong = write.is_put() && !self.may_be_deleted_after(name, at);
        self.bound_reads += 1;
        if is_wrong {
            let what =
                format!("O2: {name} was not found although {seen} at {at} had been acknowledged");
            self.violate(what);
        }
    }

    /// What two acknowledged conditional PUTs must not have in common.
    pub(crate) fn judge_conditions(&mut self, name: &str) {
        let mut found = Vec::new();
        let done: Vec<(u64, &Write)> = self
            .of(name)
            .filter(|(_, write)| write.done_at().is_some())
            .collect();
        for (one, first) in &done {
            for (other, second) in done.iter().filter(|(other, _)| other > one) {
                let is_lost = match (first.kind, second.kind) {
                    (Kind::PutOver { read }, Kind::PutOver { read: again }) => read == again,
                    (Kind::PutNew, Kind::PutNew) => {
                        let at = first.done_at().min(second.done_at());
                        !self.may_be_deleted_after(name, at.unwrap_or(Timestamp::ZERO))
                    }
                    _ => false,
                };
                if is_lost {
                    found.push(format!(
                        "conditional: {one} and {other} of {name} cannot both have won"
                    ));
                }
            }
        }
        self.violations.extend(found);
    }
}
