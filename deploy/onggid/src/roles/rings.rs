//! The rings a host makes at first start from the nodes its configuration names.

use anyhow::{Context as _, Result};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_service::Config;
use onggi_common_service::config::Object;
use onggi_common_units::UtcTime;
use onggi_object_ring::{NewDevice, PartPower, RingBuilder};
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

/// The three rings; objects of further policies have `object-N`.
const RINGS: [&str; 3] = ["account", "container", "object"];
/// Hours between two moves of one partition's copies.
const MIN_PART_HOURS: u32 = 1;
/// How much more than its share a device takes for the sake of spread.
const OVERLOAD: f64 = 0.1;

/// The folder of the ring files.
pub(crate) fn folder(config: &Config, object: &Object) -> PathBuf {
    object
        .rings
        .clone()
        .unwrap_or_else(|| config.state_path("object/rings"))
}

/// Makes each ring that is missing. Rings that are there are an operator's, and stay as they are.
///
/// # Errors
/// When a ring cannot be made or written.
pub(crate) fn make_missing(config: &Config, object: &Object, now: UtcTime) -> Result<()> {
    let folder = folder(config, object);
    durable::create_dir_all(&folder)?;
    let own = RINGS.map(|name| (name.to_owned(), object.replicas));
    let further = object.policies.iter().enumerate().skip(1);
    let further = further.map(|(index, policy)| {
        let replicas = policy.replicas.unwrap_or(object.replicas);
        (format!("object-{index}"), replicas)
    });
    for (name, replicas) in own.into_iter().chain(further) {
        let path = folder.join(format!("{name}.ring.gz"));
        if !path.exists() {
            make(object, replicas, &path, now)
                .with_context(|| format!("making the {name} ring"))?;
            tracing::info!(ring = %path.display(), "made");
        }
    }
    Ok(())
}

fn make(object: &Object, replicas: NonZeroU8, path: &Path, now: UtcTime) -> Result<()> {
    let power = PartPower::new(object.part_power).context("part_power")?;
    let mut builder = RingBuilder::new(power, f64::from(replicas.get()), MIN_PART_HOURS)?;
    builder.set_overload(OVERLOAD)?;
    for node in &object.nodes {
        let ip = node.address.ip().to_string();
        for name in &node.devices {
            builder.add(NewDevice::new(
                1,
                node.zone,
                &ip,
                node.address.port(),
                name,
                100.0,
            ))?;
        }
    }
    builder.rebalance(0, now)?;
    // The builder first: a ring without its builder could not be changed later.
    durable::replace(
        &path.with_extension("").with_extension("builder"),
        &builder.to_bytes(),
        Visibility::World,
    )?;
    durable::replace(path, &builder.ring()?.to_bytes(), Visibility::World)?;
    Ok(())
}
