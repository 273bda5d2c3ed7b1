//! `onggid ring` beside the real `swift-ring-builder` and `swift.common.ring.Ring`: each changes what the other made.

use crate::needs::need;
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::run::{Run, RunError};
use onggi_integration::system::program;
use onggi_object_ring::{Partition, Ring};
use std::path::{Path, PathBuf};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "ring::swifts_builder_and_ours_change_one_builder_in_turn",
        in_turn,
    ),
    (
        "ring::swifts_builder_and_ours_take_turns_in_doubling_partitions",
        doubling,
    ),
];

/// Partition, primaries and handoffs of every partition, as Swift's class finds them.
const LOOKUPS: &str = r"
import sys
from swift.common.ring import ring as module
module.validate_configuration = lambda: None
ring = module.Ring(sys.argv[1])
for part in range(ring.partition_count):
    print(part, [d['id'] for d in ring.get_part_nodes(part)], [d['id'] for d in ring.get_more_nodes(part)])
";

fn peers() -> Result<PathBuf, Outcome> {
    let folder = std::env::var_os("ONGGI_PEERS").map(PathBuf::from);
    let there = folder.filter(|folder| folder.join("swift-ring-builder").is_file());
    there.ok_or_else(|| {
        Outcome::Skipped("OpenStack Swift is not installed (ONGGI_PEERS)".to_owned())
    })
}

/// Two builders' programs, and the file they work on.
struct Bench<'a> {
    ours: PathBuf,
    theirs: PathBuf,
    builder: &'a Path,
}

impl Bench<'_> {
    /// Runs a verb and checks that it succeeded, with at most a warning.
    fn call(program: &Path, arguments: &[&str]) -> Result<String> {
        let stdout = match Run::new(program).args(arguments).output() {
            Ok(output) => output.stdout,
            // 1 is a warning.
            Err(RunError::Failed {
                code: Some(1),
                stdout,
                stderr,
                ..
            }) if !stderr.contains("Traceback") => stdout,
            Err(error) => {
                let printed = match &error {
                    RunError::Failed { stdout, .. } => String::from_utf8_lossy(stdout).into_owned(),
                    RunError::Start { .. } | RunError::Pipe { .. } | RunError::TimedOut { .. } => {
                        String::new()
                    }
                };
                return Err(error).with_context(|| format!("{arguments:?}: {printed}"));
            }
        };
        Ok(String::from_utf8(stdout)?)
    }

    fn ours(&self, verb: &[&str]) -> Result<String> {
        let builder = self.builder.to_str().context("path")?;
        Self::call(&self.ours, &[&["ring", builder], verb].concat())
    }

    fn theirs(&self, verb: &[&str]) -> Result<String> {
        let builder = self.builder.to_str().context("path")?;
        Self::call(&self.theirs, &[&[builder], verb].concat())
    }

    /// Both find the builder sound and show the same, word for word.
    fn agree(&self) -> Result<()> {
        self.ours(&["validate"])?;
        self.theirs(&["validate"])?;
        for verb in [&[][..], &["search", "z1"], &["list_parts", "z2", "/d1"]] {
            let (ours, theirs) = (self.ours(verb)?, self.theirs(verb)?);
            let (mut our_words, mut their_words) = (same(&ours), same(&theirs));
            // Partitions of equal count come in each program's own order.
            if verb.first() == Some(&"list_parts") {
                our_words.sort_unstable();
                their_words.sort_unstable();
            }
            ensure!(
                our_words == their_words,
                "{verb:?}: ours\n{ours}\ntheirs\n{theirs}"
            );
        }
        // Swift's remembers it, and does not notice that partitions were doubled.
        let verb = ["dispersion", "-v", "--recalculate"];
        let (ours, theirs) = (self.ours(&verb)?, self.theirs(&verb)?);
        ensure!(
            same(&ours) == same(&theirs),
            "{verb:?}: ours\n{ours}\ntheirs\n{theirs}"
        );
        Ok(())
    }
}

/// The words of a listing, without the remaining time, which runs.
fn same(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .filter(|line| !line.starts_with("The minimum number of hours"))
        // How much overload full spread needs is each builder's own plan.
        .filter(|line| !line.starts_with("Required overload"))
        .map(|line| line.split_whitespace().collect())
        .collect()
}

fn in_turn() -> Result<Outcome> {
    let peers = need!(peers());
    let folder = tempfile::tempdir()?;
    let builder = folder.path().join("object.builder");
    let bench = Bench {
        ours: program("onggid")?,
        theirs: peers.join("swift-ring-builder"),
        builder: &builder,
    };
    bench.ours(&["create", "10", "3", "1"])?;
    for node in 0..8u32 {
        let device = format!(
            "r{}z{}-10.0.0.{node}:6200/d{node}_jar",
            1 + node % 2,
            1 + node % 3
        );
        let weight = format!("{}", 50 + 10 * node);
        let add = ["add", device.as_str(), weight.as_str()];
        if node % 2 == 0 {
            bench.ours(&add)?
        } else {
            bench.theirs(&add)?
        };
    }
    bench.ours(&["set_overload", "10%"])?;
    bench.ours(&["rebalance", "--seed", "7"])?;
    bench.agree()?;
    bench.theirs(&["set_weight", "d3", "20"])?;
    bench.theirs(&["remove", "d5"])?;
    bench.theirs(&["add", "r1z4-[fd00::1]:6200R10.0.1.1:6201/new", "80"])?;
    bench.theirs(&["pretend_min_part_hours_passed"])?;
    bench.theirs(&["rebalance", "--seed", "8"])?;
    bench.agree()?;
    bench.ours(&["remove", "d1"])?;
    bench.ours(&["set_info", "d2", "10.9.9.9:6300/moved_note"])?;
    bench.ours(&["set_replicas", "2.5"])?;
    bench.ours(&["pretend_min_part_hours_passed"])?;
    bench.ours(&["rebalance", "--seed", "9"])?;
    bench.theirs(&["validate"])?;
    lookups(&peers, &builder.with_extension("ring.gz"))?;
    Ok(Outcome::Passed)
}

/// Each step of an increase is made by the one and taken on by the other; the last ones by each of them.
fn doubling() -> Result<Outcome> {
    let peers = need!(peers());
    let folder = tempfile::tempdir()?;
    let builder = folder.path().join("object.builder");
    let bench = Bench {
        ours: program("onggid")?,
        theirs: peers.join("swift-ring-builder"),
        builder: &builder,
    };
    bench.ours(&["create", "6", "3", "1"])?;
    for node in 0..5u32 {
        let device = format!("r1z{}-10.0.0.{node}:6200/d{node}", 1 + node % 3);
        bench.ours(&["add", &device, "100"])?;
    }
    bench.ours(&["rebalance", "--seed", "7"])?;
    let ring = || -> Result<Ring> {
        let bytes = std::fs::read(builder.with_extension("ring.gz"))?;
        Ok(Ring::from_bytes(&bytes)?)
    };
    let written = |next: Option<u8>, bits: u8| -> Result<()> {
        bench.agree()?;
        bench.theirs(&["write_ring"])?;
        let theirs = ring()?;
        bench.ours(&["write_ring"])?;
        ensure!(ring()? == theirs, "the rings differ");
        ensure!(theirs.next_part_power() == next, "{next:?}");
        ensure!(theirs.part_power().bits() == bits, "{bits}");
        bench.agree()
    };
    let before = ring()?;
    type Step<'a> = &'a dyn Fn(&[&str]) -> Result<String>;
    let (ours, theirs): (Step<'_>, Step<'_>) =
        (&|verb| bench.ours(verb), &|verb| bench.theirs(verb));
    for (round, (one, other)) in (0u8..).zip([(ours, theirs), (theirs, ours)]) {
        let bits = 6 + round;
        one(&["prepare_increase_partition_power"])?;
        written(Some(bits + 1), bits)?;
        refused(&bench)?;
        other(&["cancel_increase_partition_power"])?;
        written(Some(bits), bits)?;
        one(&["finish_increase_partition_power"])?;
        written(None, bits)?;
        other(&["prepare_increase_partition_power"])?;
        one(&["increase_partition_power"])?;
        written(Some(bits + 1), bits + 1)?;
        other(&["finish_increase_partition_power"])?;
        written(None, bits + 1)?;
    }
    let after = ring()?;
    for number in 0..after.part_power().partitions() {
        let ids = |ring: &Ring, number| -> Vec<u16> {
            let primaries = ring.primaries(Partition::new(number));
            primaries.iter().map(|device| device.id.number()).collect()
        };
        ensure!(
            ids(&after, number) == ids(&before, number >> 2),
            "{number} has moved"
        );
    }
    lookups(&peers, &builder.with_extension("ring.gz"))?;
    bench.ours(&["pretend_min_part_hours_passed"])?;
    bench.ours(&["set_weight", "d3", "20"])?;
    bench.ours(&["rebalance", "--seed", "8"])?;
    bench.agree()?;
    Ok(Outcome::Passed)
}

/// While partitions are being doubled both refuse the same, in the same words.
fn refused(bench: &Bench<'_>) -> Result<()> {
    let verbs: [&[&str]; 5] = [
        &["prepare_increase_partition_power"],
        &["finish_increase_partition_power"],
        &["add", "r1z1-10.0.0.9:6200/new", "100"],
        &["remove", "d1"],
        &["rebalance"],
    ];
    // What a program was called with stands before what it printed.
    let said = |outcome: Result<String>| match outcome {
        Ok(said) => anyhow::bail!("it was not refused: {said}"),
        Err(error) => {
            let text = error.to_string();
            let printed = text.split_once("]: ").map(|(_, printed)| printed);
            Ok(printed.unwrap_or_default().to_owned())
        }
    };
    for verb in verbs {
        let (ours, theirs) = (said(bench.ours(verb))?, said(bench.theirs(verb))?);
        let (our_words, their_words) = (same(&ours).concat(), same(&theirs).concat());
        // Before a rebalance Swift's says which format it is going to write.
        ensure!(
            !our_words.is_empty() && their_words.ends_with(&our_words),
            "{verb:?}: ours\n{ours}\ntheirs\n{theirs}"
        );
    }
    Ok(())
}

/// Swift finds in our ring file what we find in it.
fn lookups(peers: &Path, ring: &Path) -> Result<()> {
    let file = ring.to_str().context("path")?;
    let theirs = Bench::call(&peers.join("python"), &["-c", LOOKUPS, file])?;
    let ring = Ring::from_bytes(&std::fs::read(ring)?)?;
    let mut ours = String::new();
    for number in 0..ring.part_power().partitions() {
        let partition = Partition::new(number);
        let numbers = |devices: Vec<&onggi_object_ring::Device>| -> Vec<u16> {
            devices.iter().map(|device| device.id.number()).collect()
        };
        let (first, more) = (
            ring.primaries(partition),
            ring.handoffs(partition).collect(),
        );
        ours.push_str(&format!(
            "{number} {:?} {:?}\n",
            numbers(first),
            numbers(more)
        ));
    }
    ensure!(ours == theirs, "the lookups differ");
    Ok(())
}
