//! What `onggid ring` prints.

use super::{Bench, EXIT_WARNING};
use anyhow::{Result, ensure};
use onggi_object_ring::{Balance, Device, Ring, RingBuilder, TierReport};
use std::collections::BTreeSet;

fn bracketed(ip: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    }
}

fn replication(device: &Device) -> (&str, u16) {
    let ip = device.replication_ip.as_deref().unwrap_or(&device.ip);
    (ip, device.replication_port.unwrap_or(device.port))
}

/// A device in one word: `d0r1z1-127.0.0.1:6200R127.0.0.1:6200/d1_"note"`.
pub(super) fn device(device: &Device) -> String {
    let (ip, port) = replication(device);
    format!(
        "d{}r{}z{}-{}:{}R{}:{port}/{}_\"{}\"",
        device.id,
        device.region,
        device.zone,
        bracketed(&device.ip),
        device.port,
        bracketed(ip),
        device.device,
        device.meta
    )
}

/// A span of time as `1 day, 0:59:59`.
pub(super) fn span(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{}:{:02}:{:02}", rest / 3_600, rest / 60 % 60, rest % 60);
    match days {
        0 => clock,
        1 => format!("1 day, {clock}"),
        days => format!("{days} days, {clock}"),
    }
}

/// The ring and its devices.
pub(super) fn listing(bench: &Bench, builder: &RingBuilder) {
    let id = builder.id().unwrap_or("(not assigned)");
    println!(
        "{}, build version {}, id {id}",
        bench.builder_path.display(),
        builder.version()
    );
    let regions: BTreeSet<u32> = builder.devices().map(|device| device.region).collect();
    let zones: BTreeSet<(u32, u32)> = builder
        .devices()
        .map(|device| (device.region, device.zone))
        .collect();
    let has_weight = builder.devices().any(|device| device.weight > 0.0);
    let balance = if has_weight { builder.balance() } else { 0.0 };
    let dispersion = builder
        .dispersion()
        .map(|dispersion| format!(", {dispersion:.2} dispersion"));
    println!(
        "{} partitions, {:.6} replicas, {} regions, {} zones, {} devices, 2-byte IDs, {balance:.2} balance{}",
        builder.part_power().partitions(),
        builder.replicas(),
        regions.len(),
        zones.len(),
        builder.devices().count(),
        dispersion.unwrap_or_default()
    );
    println!(
        "The minimum number of hours before a partition can be reassigned is {} ({} remaining)",
        builder.min_part_hours(),
        span(builder.rest_seconds_left(bench.now))
    );
    println!(
        "The overload factor is {:.2}% ({:.6})",
        builder.overload() * 100.0,
        builder.overload()
    );
    let state = state(bench, builder);
    println!("Ring file {} {state}", bench.ring_path.display());
    table(builder);
    super::increase::listing(builder, state == "is up-to-date");
    if !has_weight {
        println!("There are no devices in this ring, or all devices have been deleted");
    }
}

/// How the ring file stands to the builder.
fn state(bench: &Bench, builder: &RingBuilder) -> String {
    if !bench.ring_path.exists() {
        return "not found, probably it hasn't been written yet".to_owned();
    }
    let read = std::fs::read(&bench.ring_path).map_err(anyhow::Error::from);
    match read.and_then(|bytes| Ok(Ring::from_bytes(&bytes)?)) {
        Ok(ring) if builder.ring().is_ok_and(|built| built == ring) => "is up-to-date".to_owned(),
        Ok(_) => "is obsolete".to_owned(),
        Err(error) => format!("is invalid: {error}"),
    }
}

/// The widest of some texts, and not less than `least`.
fn widest(least: usize, texts: impl Iterator<Item = String>) -> usize {
    texts
        .map(|text| text.chars().count())
        .fold(least, usize::max)
}

fn table(builder: &RingBuilder) {
    let balances = builder.balances();
    let mut devices: Vec<&Device> = builder.devices().collect();
    devices.sort_by(|a, b| {
        let key = |device: &Device| {
            (
                device.region,
                device.zone,
                device.ip.clone(),
                device.device.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    let all = || devices.iter().copied();
    let ips = widest(10, all().map(|device| bracketed(&device.ip)));
    let ports = widest(4, all().map(|device| device.port.to_string()));
    let rep_ips = widest(14, all().map(|device| bracketed(replication(device).0)));
    let rep_ports = widest(4, all().map(|device| replication(device).1.to_string()));
    let weights = widest(6, all().map(|device| format!("{:.2}", device.weight)));
    println!(
        "Devices:{:>5} {:>6} {:>4} {:>ips$}:{:<ports$} {:>rep_ips$}:{:<rep_ports$} {:>5} {:>weights$} {:>10} {:>7} {:>5} meta",
        "id",
        "region",
        "zone",
        "ip address",
        "port",
        "replication ip",
        "port",
        "name",
        "weight",
        "partitions",
        "balance",
        "flags"
    );
    for device in devices {
        let held = balances.get(&device.id).copied().unwrap_or(Balance {
            partitions: 0,
            percent: 0.0,
        });
        let flags = if builder.is_removed(device.id) {
            "DEL"
        } else {
            ""
        };
        let (ip, port) = replication(device);
        println!(
            "{:>13} {:>6} {:>4} {:>ips$}:{:<ports$} {:>rep_ips$}:{port:<rep_ports$} {:>5} {:>weights$.2} {:>10} {:>7.2} {flags:>5} {}",
            device.id.number(),
            device.region,
            device.zone,
            bracketed(&device.ip),
            device.port,
            bracketed(ip),
            device.device,
            device.weight,
            held.partitions,
            held.percent,
            device.meta
        );
    }
}

/// Devices that were searched for.
pub(super) fn found(builder: &RingBuilder, devices: &[&Device]) {
    let balances = builder.balances();
    println!(
        "Devices:    id  region  zone      ip address  port  replication ip  replication port      name weight partitions balance meta"
    );
    for device in devices {
        let held = balances.get(&device.id).copied().unwrap_or(Balance {
            partitions: 0,
            percent: 0.0,
        });
        let (ip, port) = replication(device);
        println!(
            "         {:>5} {:>7} {:>5} {:>15} {:>5} {ip:>15} {port:>17} {:>9} {:>6.2} {:>10} {:>7.2} {}",
            device.id.number(),
            device.region,
            device.zone,
            device.ip,
            device.port,
            device.device,
            device.weight,
            held.partitions,
            held.percent,
            device.meta
        );
    }
}

/// How spread the copies are; a warning when some stand too close together.
pub(super) fn dispersion(builder: &RingBuilder, filter: Option<&str>, verbose: bool) -> Result<u8> {
    ensure!(
        builder.is_balanced_once(),
        "The builder was never rebalanced. Please rebalance first."
    );
    let report = builder.report();
    let (balance, overload) = (builder.balance(), builder.overload() * 100.0);
    println!(
        "Dispersion is {:.6}, Balance is {balance:.6}, Overload is {overload:.2}%",
        report.dispersion
    );
    println!(
        "Required overload is {:.6}%",
        builder.required_overload() * 100.0
    );
    let is_wanted = |name: &str| filter.is_none_or(|filter| name.starts_with(filter));
    let held = report
        .tiers
        .iter()
        .filter(|tier| tier.placed > 0 && is_wanted(&tier.name));
    let tiers: Vec<_> = held.collect();
    let worst = tiers.iter().filter(|tier| tier.dispersion > 0.0);
    let worst = worst.reduce(|worst, tier| {
        if tier.dispersion > worst.dispersion {
            tier
        } else {
            worst
        }
    });
    if let Some(worst) = worst {
        println!("Worst tier is {:.6} ({})", worst.dispersion, worst.name);
    }
    if verbose && !tiers.is_empty() {
        tier_table(builder, &tiers);
    }
    Ok(if worst.is_some() { EXIT_WARNING } else { 0 })
}

fn tier_table(builder: &RingBuilder, tiers: &[&TierReport]) {
    let name = widest(30, tiers.iter().map(|tier| tier.name.clone()));
    let parts = widest(
        5,
        core::iter::once(builder.part_power().partitions().to_string()),
    );
    let columns = tiers
        .iter()
        .map(|tier| tier.counts.len())
        .max()
        .unwrap_or(0);
    let numbers: Vec<String> = (0..columns)
        .map(|number| format!("{number:>parts$}"))
        .collect();
    let header = format!(
        "{:<name$} {:>parts$} {:>6} {:>6} {}",
        "Tier",
        "Parts",
        "%",
        "Max",
        numbers.join(" ")
    );
    let line = "-".repeat(header.chars().count());
    println!("{line}\n{header}\n{line}");
    for tier in tiers {
        let counts: Vec<String> = tier
            .counts
            .iter()
            .map(|count| format!("{count:>parts$}"))
            .collect();
        println!(
            "{:<name$} {:>parts$} {:>6.2} {:>6} {}",
            tier.name,
            tier.placed,
            tier.dispersion,
            tier.most,
            counts.join(" ")
        );
    }
}
