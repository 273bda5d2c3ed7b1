//! O1 to O7, looked for while things go wrong and once everything is well again.

use crate::client::{Client, Listed, NAMES};
use crate::cluster::{Cluster, NODES, Pass, SETTLING, lock};
use crate::history::History;
use core::ops::ControlFlow;
use core::time::Duration;
use onggi_common_host::Clock as _;
use onggi_common_meta::local::{Batch, MemoryStore, Order, Read as _, Write};
use onggi_common_meta::{KeyRange, table};
use onggi_common_units::Timestamp;
use onggi_object_device::reclaim::horizon_at;
use onggi_object_device::tables::{OBJECT, PENDING};
use onggi_object_device::{Location, ObjectKey, StoredObject};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// So many passes of everybody bring everything together.
const ROUNDS_MAX: usize = 8;

/// Whether a row makes another one needless: nothing of that one is newer.
fn covers(row: &StoredObject, other: &StoredObject) -> bool {
    let is_deleted = row.row.body.is_none() && row.row.data_timestamp >= other.row.newest();
    let groups = row.timestamps().into_iter().zip(other.timestamps());
    is_deleted || groups.into_iter().all(|(own, other)| own >= other)
}

/// Looks on at rows that leave a node's disk: a handoff's copy when every primary has it (O5), a tombstone when it is old
/// enough (O6), nothing else.
pub(crate) fn watch(cluster: &Arc<Cluster>, index: usize) {
    let weak = Arc::downgrade(cluster);
    let watch = move |batch: &Batch, store: &MemoryStore| {
        let Some(cluster) = weak.upgrade() else {
            return;
        };
        for write in batch.writes() {
            if let Write::Put { table, value, .. } = write
                && *table == OBJECT
                && let Ok(new) = table::decode::<StoredObject>(value)
                && new.row.body.is_none()
            {
                let at = new.row.data_timestamp;
                lock(&cluster.stamps).note_deletion(index, &new.row.path.object, at);
            }
            let Write::Delete { table, key } = write else {
                continue;
            };
            let known = (*table == OBJECT).then(|| store.get(OBJECT, key).ok().flatten());
            let old = known
                .flatten()
                .and_then(|bytes| table::decode::<StoredObject>(&bytes).ok());
            if let (Some(key), Some(old)) = (ObjectKey::from_bytes(key), old) {
                judge_leaving(&cluster, index, &key, &old);
            }
        }
    };
    cluster.members[index].disk.watch(Arc::new(watch));
}

fn judge_leaving(cluster: &Cluster, index: usize, key: &ObjectKey, old: &StoredObject) {
    let primaries = cluster.primaries_of(key);
    let lacks = |primary: &usize| {
        let row = cluster.durable_row(*primary, key);
        row.is_none_or(|row| !covers(&row, old))
    };
    let lacking: Vec<usize> = primaries.iter().copied().filter(lacks).collect();
    if lacking.is_empty() && !primaries.contains(&index) {
        return;
    }
    // By a clock that is right; a node's own may be ahead by less than a minute.
    let clock = onggi_common_sim::SimClock::new(Arc::clone(&cluster.world));
    let now = clock.now().saturating_add(Duration::from_secs(60));
    let is_old = old.day() <= horizon_at(now, cluster.shape.reclaim_age_days);
    let aside =
        horizon_at(old.row.newest().to_utc(), 0) < horizon_at(now, cluster.shape.reclaim_age_days);
    let what = match old.row.body {
        None if is_old => return,
        None => "O6: a tombstone that is not old enough",
        // What primaries may have deleted long ago is set aside; that nothing else is, the history tells.
        Some(_) if aside && old.row.newest() < Timestamp::from_utc(now) => return,
        Some(_) => "O5: a copy",
    };
    let (name, stamps) = (&old.row.path.object, old.row.newest());
    let violation = format!(
        "{what} of {name} at {stamps} leaves node {index}; {lacking:?} of {primaries:?} lack it"
    );
    lock(&cluster.violations).push(violation);
}

/// A row as it counts in the end: a tombstone that may go at any time is as good as none.
fn settled_row(cluster: &Cluster, index: usize, key: &ObjectKey) -> Option<StoredObject> {
    let now = onggi_common_sim::SimClock::new(Arc::clone(&cluster.world)).now();
    let horizon = horizon_at(now, cluster.shape.reclaim_age_days);
    let row = cluster.durable_row(index, key);
    row.filter(|row| row.row.body.is_some() || row.day() > horizon)
}

/// What is not yet as it has to be in the end.
fn unsettled(cluster: &Cluster, name: &str) -> Option<String> {
    let key = cluster.key(name);
    let primaries = cluster.primaries(name);
    let rows = primaries
        .iter()
        .map(|index| settled_row(cluster, *index, &key));
    let rows: Vec<Option<StoredObject>> = rows.collect();
    let alike = |row: &Option<StoredObject>| row.as_ref().map(|stored| stored.row.clone());
    if rows.iter().any(|row| alike(row) != alike(&rows[0])) {
        let stamps = |row: &Option<StoredObject>| row.as_ref().map(StoredObject::timestamps);
        let stamps: Vec<_> = rows.iter().map(stamps).collect();
        return Some(format!(
            "O2: primaries {primaries:?} of {name} hold {stamps:?}"
        ));
    }
    for (index, row) in primaries.iter().zip(&rows) {
        let is_whole = |row: &StoredObject| cluster.has_bytes(*index, &key, row);
        if row.as_ref().is_some_and(|row| !is_whole(row)) {
            return Some(format!("O4: {name} on node {index} is not healed"));
        }
    }
    let is_strange =
        |index: &usize| !primaries.contains(index) && settled_row(cluster, *index, &key).is_some();
    let strangers: Vec<usize> = (0..NODES).filter(is_strange).collect();
    (!strangers.is_empty()).then(|| format!("O7: {name} is still on nodes {strangers:?}"))
}

/// What a node still has to tell others, and files that are no object's.
fn leftovers(cluster: &Cluster, index: usize) -> Option<String> {
    let store = cluster.members[index].disk.contents();
    let rows = |table| {
        let mut values = Vec::new();
        let all = KeyRange::all();
        let visited = store.visit(table, &all, Order::Ascending, &mut |_, value| {
            values.push(value.to_vec());
            ControlFlow::Continue(())
        });
        visited.unwrap();
        values
    };
    let pending = rows(PENDING).len();
    if pending > 0 {
        return Some(format!(
            "listing: node {index} still has {pending} things to tell"
        ));
    }
    let names = rows(OBJECT).into_iter().filter_map(|bytes| {
        match table::decode::<StoredObject>(&bytes).unwrap().location {
            Location::File(name) => Some(name),
            Location::Nowhere | Location::Inline | Location::Quarantined => None,
        }
    });
    let names: BTreeSet<String> = names.collect();
    let files = cluster.body_files(index);
    let orphan = files.iter().find(|file| {
        let name = file.file_name().and_then(|name| name.to_str());
        name.is_none_or(|name| !names.contains(name))
    });
    orphan.map(|file| format!("orphan: {} of node {index} is no object's", file.display()))
}

/// Lets everything come to rest: faults end, and daemons make their passes until nothing changes any more.
pub(crate) async fn quiesce(cluster: &Arc<Cluster>) {
    cluster.world.note("everything is well again");
    cluster.calm();
    tokio::time::sleep(SETTLING).await;
    cluster.pass_everywhere(Pass::Audit).await;
    let mut left = None;
    for _ in 0..ROUNDS_MAX {
        cluster.pass_everywhere(Pass::Replicate).await;
        cluster.pass_everywhere(Pass::Update).await;
        left = NAMES.iter().find_map(|name| unsettled(cluster, name));
        if left.is_none() {
            break;
        }
    }
    // Once more for what containers tell each other and their accounts, and for damage that came last.
    cluster.pass_everywhere(Pass::Audit).await;
    cluster.pass_everywhere(Pass::Replicate).await;
    cluster.pass_everywhere(Pass::Update).await;
    // What writes that failed left behind is swept after a start.
    for index in 0..NODES {
        cluster.stop(index);
        cluster.start(index);
    }
    cluster.pass_everywhere(Pass::Sweep).await;
    let left = left.or_else(|| NAMES.iter().find_map(|name| unsettled(cluster, name)));
    let left = left.or_else(|| (0..NODES).find_map(|index| leftovers(cluster, index)));
    if let Some(left) = left {
        lock(&cluster.violations).push(left);
    }
}

/// Judges what is there in the end.
pub(crate) async fn judge(client: &Client) {
    // What the proxies remember of nodes and containers is over.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut lines = Vec::new();
    for name in NAMES {
        let found = client.get(name).await;
        judge_name(client, name, found.as_ref().map(|(id, _)| *id));
        let key = client.cluster.key(name);
        let row = client
            .cluster
            .durable_row(client.cluster.primaries(name)[0], &key);
        let body = row.and_then(|stored| stored.row.body);
        if let Some(body) = body {
            lines.push((name.to_owned(), body.etag.to_string(), body.length));
        }
    }
    lines.sort();
    let objects = lines.len() as u64;
    let bytes = lines.iter().map(|(_, _, bytes)| bytes).sum();
    let there = Some(Listed {
        lines,
        objects,
        bytes,
    });
    let listed = client.list().await;
    if listed != there {
        let what = format!("listing: {listed:?} is listed, {there:?} is there");
        lock(&client.history).violate(what);
    }
}

fn judge_name(client: &Client, name: &str, found: Option<u64>) {
    let mut history = lock(&client.history);
    history.judge_conditions(name);
    let stamps = lock(&client.cluster.stamps);
    let newest_of = |history: &History, id: u64| {
        let done = history.get(id).and_then(crate::history::Write::done_at);
        done.max(stamps.puts.get(&id.to_string()).copied())
            .unwrap_or(Timestamp::ZERO)
    };
    let key = client.cluster.key(name);
    let row = client
        .cluster
        .durable_row(client.cluster.primaries(name)[0], &key);
    let Some((id, is_put, at)) = history
        .newest_done(name)
        .map(|(id, write, at)| (id, write.is_put(), at))
    else {
        return;
    };
    let wrong = match found {
        Some(found) if newest_of(&history, found) < at => Some(format!("{found} is there")),
        Some(found) if name == "once" && found != id => {
            Some(format!("{found} is there, which is not the one"))
        }
        None if is_put && !history.may_be_deleted_after(name, at) => {
            Some("nothing is there".to_owned())
        }
        Some(_) | None => None,
    };
    if let Some(wrong) = wrong {
        history.violate(format!(
            "O2: {id} of {name} was acknowledged at {at}, and in the end {wrong}"
        ));
    }
    let posts: Vec<Timestamp> = history
        .of(name)
        .filter(|(_, write)| write.kind == crate::history::Kind::Post)
        .filter_map(|(_, write)| write.done_at())
        .collect();
    let lost = posts.into_iter().max().filter(|at| {
        row.as_ref()
            .is_some_and(|row| row.row.body.is_some() && row.row.metadata_timestamp < *at)
    });
    if let Some(at) = lost {
        history.violate(format!(
            "O2: a POST of {name} was acknowledged at {at} and is lost"
        ));
    }
}

/// Everything that was found wrong.
pub(crate) fn violations(cluster: &Cluster, history: &Mutex<History>) -> Vec<String> {
    let mut all = lock(&cluster.violations).clone();
    all.extend(lock(history).violations.iter().cloned());
    all
}
