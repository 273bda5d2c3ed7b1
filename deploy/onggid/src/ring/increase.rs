//! Doubling the partitions of an object ring. Onggi's devices place rows by hash: they need nothing done between the steps,
//! which are those of Swift's tools.

use super::Bench;
use anyhow::{Result, ensure};
use onggi_object_ring::RingBuilder;

const EFFECT: &str = "The change will take effect after the next write_ring.";

pub(super) fn prepare(bench: &Bench, builder: &mut RingBuilder) -> Result<()> {
    let name = bench.builder_path.file_name().unwrap_or_default();
    // Containers and accounts are few; Swift's tools know no increase of their rings either.
    ensure!(
        name.to_string_lossy().contains("object"),
        "Partition power increase is only supported for object rings."
    );
    let next = builder.prepare_increase()?;
    println!("The next partition power is now {}.\n{EFFECT}", next.bits());
    println!(
        "Onggi's nodes need nothing done before the increase. Swift's do: let proxy-servers and object-servers\n\
         use the changed rings, and relink the existing data (swift-object-relinker relink)."
    );
    Ok(())
}

pub(super) fn increase(bench: &Bench, builder: &mut RingBuilder) -> Result<()> {
    let power = builder.increase(bench.now)?;
    println!("The partition power is now {}.\n{EFFECT}", power.bits());
    Ok(())
}

pub(super) fn cancel(builder: &mut RingBuilder) -> Result<()> {
    let power = builder.cancel_increase()?;
    println!(
        "The next partition power is now {}.\n{EFFECT}",
        power.bits()
    );
    println!(
        "Onggi's nodes need nothing done. Swift's have links to remove (swift-object-relinker cleanup)."
    );
    Ok(())
}

pub(super) fn finish(builder: &mut RingBuilder) -> Result<()> {
    builder.finish_increase()?;
    println!("{EFFECT}");
    Ok(())
}

/// What the listing says of an increase that is under way.
pub(super) fn listing(builder: &RingBuilder, is_written: bool) {
    let power = builder.part_power();
    let Some(next) = builder.next_part_power() else {
        return;
    };
    let (from, to) = (power.bits(), next.bits());
    if next != power {
        println!("\nPreparing increase of partition power ({from} -> {to})");
        println!(
            "Run \"swift-object-relinker relink\" on all nodes before moving on to increase_partition_power."
        );
        return;
    }
    println!("\nIncreased partition power ({from} -> {to})");
    if !is_written {
        println!(
            "First run \"swift-ring-builder <builderfile> write_ring\" now and copy the updated .ring.gz file to all nodes."
        );
    }
    println!(
        "Run \"swift-object-relinker cleanup\" on all nodes before moving on to finish_increase_partition_power."
    );
}
