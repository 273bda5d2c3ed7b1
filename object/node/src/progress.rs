//! What a node's daemons have done, and how its devices are: what `onggid status` and metrics show.

use crate::disks::{Disk, DiskError, Disks};
use crate::respond;
use crate::server::Node;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use http::{HeaderValue, StatusCode, header};
use onggi_common_service::http::Response;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where a node answers with [`NodeStatus`] as JSON.
pub const STATUS_PATH: &str = "/status";
/// Where it answers with the same in the text format of Prometheus.
pub const METRICS_PATH: &str = "/metrics";
/// Who asks for these at a time; others are told to come back.
pub(crate) const ASKERS_MAX: usize = 8;
/// After so many failures since the last proof that it works, a device is taken out of service.
const FAILURES_MAX: u64 = 16;

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its address, as rings name it.
    pub address: String,
    /// Its devices, in the order of their names.
    pub devices: Vec<DeviceStatus>,
}

/// How one device is, and what has been done with it since the node began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its name.
    pub name: String,
    /// Whether it is used.
    pub state: DeviceState,
    /// Why it is not, if so.
    pub reason: Option<String>,
    /// The size of its file system; 0 when the machine does not say.
    pub bytes_total: u64,
    /// What is free of it.
    pub bytes_free: u64,
    /// Calls that failed for the device's sake.
    pub failures: u64,
    /// The replicator's passes; its steps are partitions.
    pub replication: PassStatus,
    /// Rows, and containers and accounts, that peers lacked and were given.
    pub pushed: u64,
    /// Peers that could not be brought up to date.
    pub push_failures: u64,
    /// The auditor's passes; its steps are slots of the hash space.
    pub audit: PassStatus,
    /// Bytes it has read again.
    pub audited_bytes: u64,
    /// Bodies it found damaged.
    pub audited_damaged: u64,
    /// Records the updater has told containers.
    pub told: u64,
    /// Records that still wait after its last pass.
    pub untold: u64,
    /// Objects the expirer has deleted.
    pub expired: u64,
    /// Objects whose date had come and that stayed in its last pass: peers that have to agree did not.
    pub unexpired: u64,
    /// Objects the reaper has deleted: those of deleted accounts.
    #[serde(default)]
    pub reaped: u64,
    /// Containers it has deleted.
    #[serde(default)]
    pub reaped_containers: u64,
    /// Deleted accounts of which something was left for this device after its last pass.
    #[serde(default)]
    pub unreaped: u64,
    /// Objects the reconciler has moved to their container's policy, deletions among them.
    #[serde(default)]
    pub reconciled: u64,
    /// Names that were still to be looked at after its last pass.
    #[serde(default)]
    pub unreconciled: u64,
    /// Objects that no container lists, by the last search of this device.
    #[serde(default)]
    pub dark: u64,
    /// How many of those found were told to their containers again, or deleted.
    #[serde(default)]
    pub dark_settled: u64,
}

/// Whether a device is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// It is.
    Serving,
    /// It was away for long: it is written, and read from when it has been compared with its peers.
    Rejoining,
    /// It is not: it could not be opened, or fails.
    OutOfService,
}

/// How far the passes of a daemon are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassStatus {
    /// Passes that came to their end.
    pub passes: u64,
    /// Steps of the present pass, or of the last one.
    pub steps: u64,
    /// How many of them are done.
    pub steps_done: u64,
    /// How long the last whole pass took, in milliseconds.
    pub last_millis: u64,
    /// How long the present one will still take if it goes on like this, in milliseconds; 0 between passes.
    pub left_millis: u64,
}

/// A daemon's passes over a device.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    passes: AtomicU64,
    steps: AtomicU64,
    done: AtomicU64,
    is_under_way: AtomicBool,
    begun_micros: AtomicU64,
    last_micros: AtomicU64,
}

impl Pass {
    pub(crate) fn begin(&self, now: Duration) {
        self.steps.store(0, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.begun_micros.store(micros(now), Ordering::Relaxed);
        self.is_under_way.store(true, Ordering::Relaxed);
    }

    /// So many steps more have become known.
    pub(crate) fn expect(&self, steps: usize) {
        self.steps.fetch_add(count(steps), Ordering::Relaxed);
    }

    pub(crate) fn step(&self, steps: usize) {
        self.done.fetch_add(count(steps), Ordering::Relaxed);
    }

    pub(crate) fn end(&self, now: Duration) {
        let begun = self.begun_micros.load(Ordering::Relaxed);
        let took = micros(now).saturating_sub(begun);
        self.last_micros.store(took, Ordering::Relaxed);
        self.is_under_way.store(false, Ordering::Relaxed);
        self.passes.fetch_add(1, Ordering::Relaxed);
    }

    fn status(&self, now: Duration) -> PassStatus {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let (steps, done) = (load(&self.steps), load(&self.done));
        let gone = micros(now).saturating_sub(load(&self.begun_micros));
        let left = match self.is_under_way.load(Ordering::Relaxed) {
            true => gone.saturating_mul(steps.saturating_sub(done)) / done.max(1),
            false => 0,
        };
        PassStatus {
            passes: load(&self.passes),
            steps,
            steps_done: done,
            last_millis: load(&self.last_micros) / 1_000,
            left_millis: left / 1_000,
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// What is counted of a device.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    is_out: AtomicBool,
    failures: AtomicU64,
    failures_since_proof: AtomicU64,
    pub(crate) replication: Pass,
    pub(crate) pushed: AtomicU64,
    pub(crate) push_failures: AtomicU64,
    pub(crate) audit: Pass,
    pub(crate) audited_bytes: AtomicU64,
    pub(crate) audited_damaged: AtomicU64,
    pub(crate) told: AtomicU64,
    pub(crate) untold: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) unexpired: AtomicU64,
    pub(crate) reaped: AtomicU64,
    pub(crate) reaped_containers: AtomicU64,
    pub(crate) unreaped: AtomicU64,
    pub(crate) reconciled: AtomicU64,
    pub(crate) unreconciled: AtomicU64,
    pub(crate) dark: AtomicU64,
    pub(crate) dark_settled: AtomicU64,
}

impl Progress {
    /// Whether the device is left alone.
    pub(crate) fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Relaxed)
    }

    /// A call failed. True when that takes the device out of service.
    pub(crate) fn on_error(&self, error: &DiskError) -> bool {
        if !error.is_of_the_machine() {
            return false;
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        let failures = self.failures_since_proof.fetch_add(1, Ordering::Relaxed) + 1;
        failures >= FAILURES_MAX && !self.is_out.swap(true, Ordering::Relaxed)
    }

    /// It was written to and synced. True when that brings the device back.
    pub(crate) fn on_proof(&self) -> bool {
        self.failures_since_proof.store(0, Ordering::Relaxed);
        self.is_out.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn add(counter: &AtomicU64, number: usize) {
        counter.fetch_add(count(number), Ordering::Relaxed);
    }
}

impl Disk {
    fn status(&self, now: Duration) -> DeviceStatus {
        let progress = self.progress();
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let (state, reason) = if progress.is_out() {
            let reason = format!("{FAILURES_MAX} calls to it have failed: see the node's log");
            (DeviceState::OutOfService, Some(reason))
        } else if self.is_rejoining() {
            let reason = "it was away longer than reclaim_age".to_owned();
            (DeviceState::Rejoining, Some(reason))
        } else {
            (DeviceState::Serving, None)
        };
        let (total, free) = self.device().usage().unwrap_or_default();
        DeviceStatus {
            name: self.name.to_string(),
            state,
            reason,
            bytes_total: total.bytes(),
            bytes_free: free.bytes(),
            failures: load(&progress.failures),
            replication: progress.replication.status(now),
            pushed: load(&progress.pushed),
            push_failures: load(&progress.push_failures),
            audit: progress.audit.status(now),
            audited_bytes: load(&progress.audited_bytes),
            audited_damaged: load(&progress.audited_damaged),
            told: load(&progress.told),
            untold: load(&progress.untold),
            expired: load(&progress.expired),
            unexpired: load(&progress.unexpired),
            reaped: load(&progress.reaped),
            reaped_containers: load(&progress.reaped_containers),
            unreaped: load(&progress.unreaped),
            reconciled: load(&progress.reconciled),
            unreconciled: load(&progress.unreconciled),
            dark: load(&progress.dark),
            dark_settled: load(&progress.dark_settled),
        }
    }
}

impl DeviceStatus {
    /// A device that could not be opened.
    fn closed(name: &str, reason: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: DeviceState::OutOfService,
            reason: Some(reason.to_owned()),
            bytes_total: 0,
            bytes_free: 0,
            failures: 0,
            replication: PassStatus::default(),
            pushed: 0,
            push_failures: 0,
            audit: PassStatus::default(),
            audited_bytes: 0,
            audited_damaged: 0,
            told: 0,
            untold: 0,
            expired: 0,
            unexpired: 0,
            reaped: 0,
            reaped_containers: 0,
            unreaped: 0,
            reconciled: 0,
            unreconciled: 0,
            dark: 0,
            dark_settled: 0,
        }
    }

    /// Each metric's name, kind, meaning and value.
    fn metrics(&self) -> [(&'static str, &'static str, &'static str, u64); 26] {
        let (counter, gauge) = ("counter", "gauge");
        let serving = u64::from(self.state == DeviceState::Serving);
        #[rustfmt::skip]
        let metrics = [
            ("device_serving", gauge, "whether the device is used in full", serving),
            ("device_bytes", gauge, "the size of its file system", self.bytes_total),
            ("device_free_bytes", gauge, "what is free of it", self.bytes_free),
            ("device_failures_total", counter, "calls that failed for the device's sake", self.failures),
            ("replication_passes_total", counter, "whole passes of the replicator", self.replication.passes),
            ("replication_partitions", gauge, "partitions of its present or last pass", self.replication.steps),
            ("replication_partitions_done", gauge, "how many of them are done", self.replication.steps_done),
            ("replication_last_pass_milliseconds", gauge, "how long its last whole pass took", self.replication.last_millis),
            ("replication_left_milliseconds", gauge, "how long its present pass will take, about", self.replication.left_millis),
            ("replication_pushed_total", counter, "rows that peers lacked and were given", self.pushed),
            ("replication_failures_total", counter, "peers that could not be brought up to date", self.push_failures),
            ("audit_passes_total", counter, "whole passes of the auditor", self.audit.passes),
            ("audit_left_milliseconds", gauge, "how long its present pass will take, about", self.audit.left_millis),
            ("audit_bytes_total", counter, "bytes it has read again", self.audited_bytes),
            ("audit_damaged_total", counter, "bodies it found damaged", self.audited_damaged),
            ("update_told_total", counter, "records the updater has told containers", self.told),
            ("update_waiting", gauge, "records that waited after its last pass", self.untold),
            ("expiry_deleted_total", counter, "objects the expirer has deleted", self.expired),
            ("expiry_waiting", gauge, "objects due that stayed in its last pass", self.unexpired),
            ("reaped_objects_total", counter, "objects of deleted accounts that were deleted", self.reaped),
            ("reaped_containers_total", counter, "containers of deleted accounts that were deleted", self.reaped_containers),
            ("reap_waiting", gauge, "deleted accounts with something left after the last pass", self.unreaped),
            ("reconciled_total", counter, "objects moved to their container's policy", self.reconciled),
            ("reconcile_waiting", gauge, "names to be looked at again after the last pass", self.unreconciled),
            ("dark_objects", gauge, "objects that no container lists, by the last search", self.dark),
            ("dark_settled_total", counter, "of those: told to their containers again, or deleted", self.dark_settled),
        ];
        metrics
    }
}

impl NodeStatus {
    /// In the text format of Prometheus.
    #[must_use]
    pub fn to_metrics(&self) -> String {
        let mut text = String::new();
        let rows: Vec<_> = self.devices.iter().map(DeviceStatus::metrics).collect();
        let names = rows.first().into_iter().flatten();
        for (index, (name, kind, meaning, _)) in names.enumerate() {
            text += &format!("# HELP onggi_{name} {meaning}\n# TYPE onggi_{name} {kind}\n");
            for (device, metrics) in self.devices.iter().zip(&rows) {
                let value = metrics.get(index).map_or(0, |metric| metric.3);
                text += &format!("onggi_{name}{{device=\"{}\"}} {value}\n", device.name);
            }
        }
        text
    }
}

impl Disks {
    fn status(&self, address: &str, now: Duration) -> NodeStatus {
        let open = self.iter().map(|disk| disk.status(now));
        let closed = self.closed();
        let closed = closed.map(|(name, reason)| DeviceStatus::closed(name.as_str(), reason));
        let mut devices: Vec<DeviceStatus> = open.chain(closed).collect();
        devices.sort_by(|one, other| one.name.cmp(&other.name));
        NodeStatus {
            address: address.to_owned(),
            devices,
        }
    }
}

impl Node {
    /// How the node is at this moment.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.disks.status(&self.address, self.clock.monotonic())
    }

    /// The answer to what anybody may ask: numbers, and the names of devices.
    pub(crate) async fn told_to_anybody(&self, path: &str) -> Option<Response> {
        if path != STATUS_PATH && path != METRICS_PATH {
            return None;
        }
        // The file systems are asked, which may take its time on a disk that fails: askers must not use up the threads.
        let Ok(place) = Arc::clone(&self.askers).try_acquire_owned() else {
            return Some(respond::status(StatusCode::SERVICE_UNAVAILABLE));
        };
        let (disks, address) = (self.disks.clone(), self.address.clone());
        let now = self.clock.monotonic();
        let status = tokio::task::spawn_blocking(move || {
            let status = disks.status(&address, now);
            drop(place);
            status
        });
        let status = status.await;
        let Ok(status) = status else {
            return Some(respond::status(StatusCode::INTERNAL_SERVER_ERROR));
        };
        let (kind, text) = if path == METRICS_PATH {
            ("text/plain; version=0.0.4", status.to_metrics())
        } else {
            let text = serde_json::to_string(&status).unwrap_or_default();
            ("application/json", text)
        };
        let mut response = respond::with_body(StatusCode::OK, text.into_bytes());
        let kind = HeaderValue::from_static(kind);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        Some(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_says_how_long_it_will_still_take() {
        let pass = Pass::default();
        let at = Duration::from_secs;
        pass.begin(at(10));
        pass.expect(40);
        pass.step(10);
        let status = pass.status(at(15));
        assert_eq!((status.steps, status.steps_done), (40, 10));
        assert_eq!((status.left_millis, status.passes), (15_000, 0));
        pass.step(30);
        pass.end(at(30));
        let status = pass.status(at(99));
        assert_eq!((status.left_millis, status.last_millis), (0, 20_000));
        assert_eq!(status.passes, 1);
    }

    #[test]
    fn a_device_that_fails_again_and_again_is_out_until_it_has_proved_itself() {
        let progress = Progress::default();
        let failed = || {
            DiskError::Device(onggi_object_device::DeviceError::Io {
                operation: "reading",
                path: "jar".into(),
                source: std::io::Error::other("input/output error"),
            })
        };
        for _ in 1..FAILURES_MAX {
            assert!(!progress.on_error(&failed()));
        }
        assert!(
            !progress.on_error(&DiskError::CutOff),
            "nothing is wrong with the disk"
        );
        assert!(!progress.is_out());
        assert!(progress.on_error(&failed()) && progress.is_out());
        assert!(!progress.on_error(&failed()), "it is told once");
        assert!(progress.on_proof() && !progress.is_out());
        assert!(!progress.on_error(&failed()) && !progress.on_proof());
    }

    #[test]
    fn metrics_name_each_device_under_each_name() {
        let status = NodeStatus {
            address: "127.0.0.1:6200".to_owned(),
            devices: vec![
                DeviceStatus::closed("d1", "its store is damaged"),
                DeviceStatus {
                    state: DeviceState::Serving,
                    expired: 7,
                    ..DeviceStatus::closed("d2", "")
                },
            ],
        };
        let text = status.to_metrics();
        assert!(text.contains("# TYPE onggi_device_serving gauge\nonggi_device_serving{device=\"d1\"} 0\nonggi_device_serving{device=\"d2\"} 1\n"), "{text}");
        assert!(
            text.contains("onggi_expiry_deleted_total{device=\"d2\"} 7\n"),
            "{text}"
        );
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<NodeStatus>(&json).unwrap(), status);
    }
}
