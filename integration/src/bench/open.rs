//! `integration/bench open`: how long a device takes to open that holds many objects.
//!
//! The rows are written through the device's own engine, and what was written last is only in its log, as after a crash:
//! the store flushes nothing when it is closed.

use anyhow::{Context as _, Result, ensure};
use onggi_common_host::SystemEntropy;
use onggi_common_units::{ByteCount, Secret, Timestamp};
use onggi_object_device::{Change, Device, DeviceOptions, Finished, Merge, NewRow, ObjectKey};
use onggi_object_model::{Metadata, ObjectPath, PolicyIndex};
use onggi_object_ring::HashSecrets;
use onggi_object_wire::object::WHOLE;
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{Body, ObjectRow};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Rows written with one sync, as many as a node groups at most.
const GROUP: u64 = 256;
/// Containers the names say they are in.
const CONTAINERS: u64 = 100;
/// The length of those bodies that are in files.
const BODY_BYTES: usize = 128 << 10;

/// When the first of them was put.
const FIRST_TICK: u64 = 170_000_000_000_000;

/// What `bench open` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct OpenBench {
    /// Objects on the device
    #[arg(long, default_value_t = 10_000_000)]
    rows: u64,
    /// So many of them have a body of 128 KiB in a file; the others are empty
    #[arg(long, default_value_t = 10_000)]
    files: u64,
    /// Times it is opened; each is printed
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Empty the machine's page cache before each (as root; others on the machine feel it)
    #[arg(long)]
    cold: bool,
    /// A folder for the device; a temporary one when none is given
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Fills, opens and prints.
///
/// # Errors
/// When the device refuses.
pub fn open(options: &OpenBench, mut print: impl FnMut(&str)) -> Result<()> {
    ensure!(
        options.rows > 0 && options.files <= options.rows && options.runs > 0,
        "at least one row and one run, and no more files than rows"
    );
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("onggi-bench-");
    let folder = match &options.folder {
        Some(folder) => builder.tempdir_in(folder)?,
        None => builder.tempdir()?,
    };
    let directory = folder.path().join("d1");
    let begin = Instant::now();
    {
        let device = opened(&directory)?;
        let secrets = HashSecrets::new(Secret::new("bench"), Secret::new(""));
        for first in (0..options.rows).step_by(usize::try_from(GROUP)?) {
            let last = options.rows.min(first + GROUP);
            let changes: Result<Vec<Change>> = (first..last)
                .map(|number| change(&device, &secrets, number, number < options.files))
                .collect();
            for outcome in device.commit(changes?) {
                outcome.context("writing a row")?;
            }
        }
    }
    print(&format!(
        "{} rows were written in {:.0} s",
        options.rows,
        begin.elapsed().as_secs_f64()
    ));
    for _ in 0..options.runs {
        if options.cold {
            rustix::fs::sync();
            let mut caches = std::fs::OpenOptions::new();
            let caches = caches.write(true).open("/proc/sys/vm/drop_caches");
            caches
                .and_then(|mut caches| caches.write_all(b"3"))
                .context("emptying the page cache")?;
        }
        let begin = Instant::now();
        let device = opened(&directory)?;
        let took = begin.elapsed().as_secs_f64();
        let rows = device.live_count(Scope::Objects(PolicyIndex::default()));
        ensure!(rows == options.rows, "{rows} rows are there");
        print(&format!("opened in {took:.2} s"));
        let begin = Instant::now();
        let removed = device.sweep()?;
        ensure!(removed == 0, "{removed} bodies had no row");
        print(&format!(
            "  its files compared with its rows in {:.2} s, beside everything else",
            begin.elapsed().as_secs_f64()
        ));
    }
    Ok(())
}

fn opened(directory: &Path) -> Result<Device> {
    let options = DeviceOptions {
        directory: directory.to_owned(),
        reserve: Some(ByteCount::new(0)),
    };
    Ok(Device::open(&options, &SystemEntropy)?)
}

fn change(device: &Device, secrets: &HashSecrets, number: u64, is_large: bool) -> Result<Change> {
    let container = number % CONTAINERS;
    let path = ObjectPath {
        account: "AUTH_test".parse()?,
        container: format!("c{container}").parse()?,
        object: format!("object-{number:08}").parse()?,
    };
    let key = ObjectKey {
        policy: PolicyIndex::default(),
        hash: secrets.object(&path),
        fragment: WHOLE,
    };
    let bytes = if is_large {
        vec![7; BODY_BYTES]
    } else {
        Vec::new()
    };
    let mut upload = device.begin_upload(key, Some(bytes.len() as u64))?;
    upload.write(device, &bytes)?;
    let body: Finished = upload.finish();
    let at = Timestamp::from_ticks(FIRST_TICK + number).context("a moment")?;
    let row = ObjectRow {
        path,
        data_timestamp: at,
        body: Some(Body {
            length: bytes.len() as u64,
            etag: onggi_object_model::Etag::EMPTY,
            root: body.hash().root,
            system: Metadata::default(),
        }),
        content_type_timestamp: at,
        content_type: "application/octet-stream".to_owned(),
        metadata_timestamp: at,
        metadata: Metadata::default(),
    };
    let new = NewRow {
        row,
        body: Some(body),
    };
    Ok(Change::Object {
        key,
        prepared: Box::new(device.prepare_object(&key, new)?),
        how: Merge::default(),
    })
}
