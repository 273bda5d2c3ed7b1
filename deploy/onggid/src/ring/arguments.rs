//! The command line of `onggid ring`: that of `swift-ring-builder`.

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use onggi_object_ring::{DeviceChange, DeviceId, NewDevice, Search, canonical_address};
use std::path::PathBuf;

/// Make and change rings, as swift-ring-builder does; it reads and writes Swift's own files
#[derive(Debug, Args)]
pub(crate) struct RingArguments {
    /// The builder file, for example object.builder; its ring is object.ring.gz beside it
    pub(super) builder: PathBuf,
    /// What to do; without it, the ring and its devices are shown
    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
pub(super) enum Verb {
    /// Make a new builder with 2^PART_POWER partitions
    Create {
        part_power: u8,
        /// Copies of each partition; a fraction is allowed
        replicas: f64,
        /// Hours between two moves of a partition's copies
        min_part_hours: u32,
    },
    #[command(
        about = "Add devices: [rREGION]zZONE-IP:PORT[RIP:PORT]/DEVICE[_NOTE] WEIGHT ..., or one by options"
    )]
    Add(DevicePairs),
    /// Take devices out at the next rebalance
    Remove(Filter),
    /// Change weights: SEARCH WEIGHT ..., or options and WEIGHT
    #[command(alias = "set-weight")]
    SetWeight(DevicePairs),
    /// Change regions: SEARCH REGION ..., or options and REGION
    SetRegion(DevicePairs),
    /// Change zones: SEARCH ZONE ..., or options and ZONE
    SetZone(DevicePairs),
    #[command(
        about = "Change addresses, names and notes: SEARCH [IP][:PORT][R[IP][:PORT]][/DEVICE][_NOTE] ..., or by options"
    )]
    SetInfo {
        #[command(flatten)]
        pairs: DevicePairs,
        #[command(flatten)]
        changes: Changes,
    },
    /// Change how many hours a partition rests between moves
    SetMinPartHours { hours: u32 },
    /// Change the replica count at the next rebalance
    SetReplicas { replicas: f64 },
    /// Change how much more than its share a device takes for the sake of spread: 0.1 or 10%
    SetOverload {
        #[arg(value_parser = overload)]
        overload: f64,
    },
    /// Give partitions devices, moving as little as possible, and write the ring
    Rebalance {
        /// The same changes with the same seed give the same ring
        #[arg(long, short)]
        seed: Option<u64>,
        /// Save even when little changed
        #[arg(long, short)]
        force: bool,
    },
    /// Check that every copy has a device, and no two of a partition the same
    Validate,
    /// Show where copies of one partition stand too close together
    Dispersion {
        /// Show only places whose name begins so, for example r1z2
        filter: Option<String>,
        /// Show every place
        #[arg(long, short)]
        verbose: bool,
        /// Accepted for scripts: it is always computed
        #[arg(long)]
        recalculate: bool,
    },
    /// Find devices
    Search(Filter),
    /// List the partitions on devices
    ListParts(Filter),
    /// Let every partition move at the next rebalance; data may be unreachable when it has not yet followed
    PretendMinPartHoursPassed,
    /// Announce that the partitions of an object ring will be doubled
    PrepareIncreasePartitionPower,
    /// Double the partitions, each half on the devices of the whole
    IncreasePartitionPower,
    /// Take the announcement back
    CancelIncreasePartitionPower,
    /// End an increase that is done or was taken back
    FinishIncreasePartitionPower,
    /// Write the ring file again
    WriteRing,
    /// Make a lost builder anew from its ring file
    WriteBuilder {
        #[arg(default_value_t = 24)]
        min_part_hours: u32,
    },
}

fn overload(text: &str) -> Result<f64, String> {
    let (number, part) = match text.strip_suffix('%') {
        Some(percent) => (percent, 100.0),
        None => (text, 1.0),
    };
    let number: f64 = number.parse().map_err(|error| format!("{error}"))?;
    Ok(number / part)
}

/// Which devices are meant: texts, or options.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Texts such as d7, z1-10.0.0.1:6200/sdb, /sdb or _note
    pub(super) values: Vec<String>,
    /// Device number
    #[arg(short = 'u', long)]
    id: Option<u16>,
    #[arg(short, long)]
    region: Option<u32>,
    #[arg(short, long)]
    zone: Option<u32>,
    #[arg(short, long)]
    ip: Option<String>,
    #[arg(short, long)]
    port: Option<u16>,
    #[arg(short = 'j', long)]
    replication_ip: Option<String>,
    #[arg(short = 'q', long)]
    replication_port: Option<u16>,
    #[arg(short, long)]
    device: Option<String>,
    #[arg(short, long)]
    weight: Option<f64>,
    #[arg(short, long)]
    meta: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
}

/// Devices by text, each followed by a value; or options, and one value.
#[derive(Debug, Args)]
pub(super) struct DevicePairs {
    #[command(flatten)]
    pub(super) filter: Filter,
}

/// What `set_info` changes by options.
#[derive(Debug, Args)]
pub(super) struct Changes {
    #[arg(short = 'I', long)]
    change_ip: Option<String>,
    #[arg(short = 'P', long)]
    change_port: Option<u16>,
    #[arg(short = 'J', long)]
    change_replication_ip: Option<String>,
    #[arg(short = 'Q', long)]
    change_replication_port: Option<u16>,
    #[arg(short = 'D', long)]
    change_device: Option<String>,
    #[arg(short = 'M', long)]
    change_meta: Option<String>,
}

impl Changes {
    pub(super) fn change(self) -> DeviceChange {
        DeviceChange {
            ip: self.change_ip.as_deref().map(canonical_address),
            port: self.change_port,
            replication_ip: self.change_replication_ip.as_deref().map(canonical_address),
            replication_port: self.change_replication_port,
            device: self.change_device,
            meta: self.change_meta,
            ..DeviceChange::default()
        }
    }
}

impl Filter {
    /// Whether any option names a device.
    pub(super) fn is_set(&self) -> bool {
        self.search() != Search::default()
    }

    /// What the options name.
    pub(super) fn search(&self) -> Search {
        Search {
            id: self.id.map(DeviceId::new),
            weight: self.weight,
            at: DeviceChange {
                region: self.region,
                zone: self.zone,
                ip: self.ip.as_deref().map(canonical_address),
                port: self.port,
                replication_ip: self.replication_ip.as_deref().map(canonical_address),
                replication_port: self.replication_port,
                device: self.device.clone(),
                meta: self.meta.clone(),
            },
        }
    }

    /// What is searched for, by texts or by options.
    pub(super) fn searches(&self) -> Result<Vec<Search>> {
        if self.is_set() {
            anyhow::ensure!(
                self.values.is_empty(),
                "name devices by text or by options, not both"
            );
            return Ok(vec![self.search()]);
        }
        anyhow::ensure!(
            !self.values.is_empty(),
            "name devices by text or by options"
        );
        self.values.iter().map(|text| Ok(text.parse()?)).collect()
    }

    /// The device the options of `add` describe.
    pub(super) fn new_device(&self) -> Result<NewDevice> {
        let missing = |name: &str| format!("--{name} is missing");
        let ip = self.ip.as_deref().with_context(|| missing("ip"))?;
        let device = self.device.clone().with_context(|| missing("device"))?;
        let is_name = !device.is_empty() && device.trim() == device && !device.contains('/');
        anyhow::ensure!(is_name, "{device:?} is no device name");
        Ok(NewDevice {
            region: self.region.with_context(|| missing("region"))?,
            zone: self.zone.with_context(|| missing("zone"))?,
            ip: canonical_address(ip),
            port: self.port.with_context(|| missing("port"))?,
            device,
            weight: self.weight.with_context(|| missing("weight"))?,
            meta: self.meta.clone().unwrap_or_default(),
            replication_ip: self.replication_ip.as_deref().map(canonical_address),
            replication_port: self.replication_port,
        })
    }
}
