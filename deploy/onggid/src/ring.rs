//! `onggid ring`: makes and changes rings, with the verbs and the output of `swift-ring-builder`, so that its users and
//! their scripts find what they know. It exits with 0 when all went well, 1 with a warning, 2 when nothing was done.

mod arguments;
mod increase;
mod render;

pub(crate) use arguments::RingArguments;
use arguments::{Changes, DevicePairs, Filter, Verb};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use onggi_common_host::clock::{Clock as _, SystemClock};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::entropy::{Entropy as _, SystemEntropy};
use onggi_common_units::UtcTime;
use onggi_object_ring::{DeviceChange, DeviceId, NewDevice, PartPower, Ring, RingBuilder, Search};
use std::fs::File;
use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// All went well, but someone should look.
const EXIT_WARNING: u8 = 1;
/// Nothing was done.
const EXIT_ERROR: u8 = 2;
/// The balance of a ring that holds what no device should.
const BALANCE_MAX: f64 = 999.99;

/// A builder file under change.
struct Bench {
    builder_path: PathBuf,
    ring_path: PathBuf,
    now: UtcTime,
    /// Held so that two operators do not change one ring at a time.
    _lock: File,
}

/// The builder and ring files that a name of either means.
fn paths(name: &Path) -> (PathBuf, PathBuf) {
    let text = name.to_string_lossy();
    if let Some(stem) = text.strip_suffix(".ring.gz") {
        return (PathBuf::from(format!("{stem}.builder")), name.to_owned());
    }
    let stem = text.strip_suffix(".builder").unwrap_or(&text);
    (name.to_owned(), PathBuf::from(format!("{stem}.ring.gz")))
}

impl Bench {
    fn at(name: &Path) -> Result<Self> {
        let (builder_path, ring_path) = paths(name);
        let folder = builder_path
            .parent()
            .filter(|path| !path.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        durable::create_dir_all(&folder.join("backups"))?;
        let lock = File::open(folder).with_context(|| format!("opening {}", folder.display()))?;
        lock.try_lock()
            .with_context(|| format!("{} is being changed by another process", folder.display()))?;
        Ok(Self {
            builder_path,
            ring_path,
            now: SystemClock::default().now(),
            _lock: lock,
        })
    }

    fn read(&self) -> Result<RingBuilder> {
        let bytes = std::fs::read(&self.builder_path)
            .with_context(|| format!("reading {}", self.builder_path.display()))?;
        RingBuilder::from_bytes(&bytes)
            .with_context(|| format!("reading {}", self.builder_path.display()))
    }

    fn keep_copy(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let micros = self.now.micros();
        let name = format!("{}.{:06}.{name}", micros / 1_000_000, micros % 1_000_000);
        let copy = path.with_file_name("backups").join(name);
        Ok(durable::replace(&copy, bytes, Visibility::World)?)
    }

    fn write(&self, builder: &mut RingBuilder) -> Result<()> {
        builder.name_once(|| SystemEntropy.hex_id().to_string());
        let bytes = builder.to_bytes();
        Ok(durable::replace(
            &self.builder_path,
            &bytes,
            Visibility::World,
        )?)
    }

    fn write_ring(&self, builder: &RingBuilder) -> Result<()> {
        let bytes = builder.ring()?.to_bytes();
        self.keep_copy(&self.ring_path, &bytes)?;
        Ok(durable::replace(
            &self.ring_path,
            &bytes,
            Visibility::World,
        )?)
    }
}

/// Carries a verb out.
pub(crate) fn run(arguments: RingArguments) -> ExitCode {
    match carry_out(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            println!("{}", crate::told(&error));
            ExitCode::from(EXIT_ERROR)
        }
    }
}

fn carry_out(arguments: RingArguments) -> Result<u8> {
    let bench = Bench::at(&arguments.builder)?;
    match arguments.verb {
        Some(Verb::Create {
            part_power,
            replicas,
            min_part_hours,
        }) => create(&bench, part_power, replicas, min_part_hours),
        Some(Verb::WriteBuilder { min_part_hours }) => write_builder(&bench, min_part_hours),
        verb => change(&bench, verb),
    }
}

fn create(bench: &Bench, part_power: u8, replicas: f64, hours: u32) -> Result<u8> {
    let most = PartPower::MAX;
    let power =
        PartPower::new(part_power).ok_or_else(|| anyhow!("the part power is at most {most}"))?;
    // Partitions without a ring lose everything they hold: an existing builder is not written over.
    ensure!(
        !bench.builder_path.exists(),
        "{} exists already",
        bench.builder_path.display()
    );
    let mut builder = RingBuilder::new(power, replicas, hours)?;
    bench.write(&mut builder)?;
    bench.keep_copy(&bench.builder_path, &builder.to_bytes())?;
    Ok(0)
}

fn write_builder(bench: &Bench, hours: u32) -> Result<u8> {
    ensure!(
        !bench.builder_path.exists(),
        "{} exists already",
        bench.builder_path.display()
    );
    let ring = Ring::from_bytes(&std::fs::read(&bench.ring_path)?)?;
    bench.write(&mut RingBuilder::from_ring(&ring, hours)?)?;
    Ok(0)
}

fn change(bench: &Bench, verb: Option<Verb>) -> Result<u8> {
    let mut builder = bench.read()?;
    match verb {
        None => {
            render::listing(bench, &builder);
            return Ok(0);
        }
        Some(Verb::Validate) => return builder.validate().map(|()| 0).map_err(Into::into),
        Some(Verb::Search(filter)) => return search(&builder, &filter),
        Some(Verb::ListParts(filter)) => return list_parts(&builder, &filter),
        Some(Verb::Dispersion {
            filter, verbose, ..
        }) => {
            return render::dispersion(&builder, filter.as_deref(), verbose);
        }
        Some(Verb::WriteRing) => return bench.write_ring(&builder).map(|()| 0),
        Some(Verb::Rebalance { seed, force }) => return rebalance(bench, builder, seed, force),
        Some(Verb::Add(pairs)) => add(&mut builder, &pairs)?,
        Some(Verb::Remove(filter)) => remove(&mut builder, &filter)?,
        Some(Verb::SetWeight(pairs)) => set_weight(&mut builder, &pairs)?,
        Some(Verb::SetRegion(pairs)) => set_place(&mut builder, &pairs, true)?,
        Some(Verb::SetZone(pairs)) => set_place(&mut builder, &pairs, false)?,
        Some(Verb::SetInfo { pairs, changes }) => set_info(&mut builder, &pairs, changes)?,
        Some(Verb::SetMinPartHours { hours }) => {
            builder.set_min_part_hours(hours);
            println!(
                "The minimum number of hours before a partition can be reassigned is now set to {hours}"
            );
        }
        Some(Verb::SetReplicas { replicas }) => {
            builder.set_replicas(replicas)?;
            println!(
                "The replica count is now {replicas:.6}.\nThe next rebalance puts it into effect."
            );
        }
        Some(Verb::SetOverload { overload }) => {
            builder.set_overload(overload)?;
            let percent = overload * 100.0;
            println!(
                "The overload factor is now {percent:.2}% ({overload:.6})\nThe next rebalance puts it into effect."
            );
        }
        Some(Verb::PretendMinPartHoursPassed) => builder.pretend_min_part_hours_passed(),
        Some(Verb::PrepareIncreasePartitionPower) => increase::prepare(bench, &mut builder)?,
        Some(Verb::IncreasePartitionPower) => increase::increase(bench, &mut builder)?,
        Some(Verb::CancelIncreasePartitionPower) => increase::cancel(&mut builder)?,
        Some(Verb::FinishIncreasePartitionPower) => increase::finish(&mut builder)?,
        Some(Verb::Create { .. } | Verb::WriteBuilder { .. }) => bail!("handled before"),
    }
    bench.write(&mut builder)?;
    Ok(0)
}

fn rebalance(
    bench: &Bench,
    mut builder: RingBuilder,
    seed: Option<u64>,
    force: bool,
) -> Result<u8> {
    let (balance_before, dispersion_before) = (builder.balance(), builder.dispersion());
    let (changed, left) = (
        builder.devices_changed(),
        builder.rest_seconds_left(bench.now),
    );
    let seed = seed.unwrap_or_else(|| {
        u64::from_le_bytes(SystemEntropy.bytes()[..8].try_into().unwrap_or_default())
    });
    let done = builder.rebalance(seed, bench.now)?;
    if done.moved == 0 && done.removed == 0 && !force {
        println!("No partitions could be reassigned.");
        if left > 0 {
            let hours = builder.min_part_hours();
            println!(
                "Between rebalances min_part_hours must pass: {hours} hours ({} remaining)",
                render::span(left)
            );
        } else {
            println!("There is no need to do so at this time");
        }
        return Ok(EXIT_WARNING);
    }
    let differs = |before: f64, now: f64| (before - now).abs() >= 1.0;
    let is_better = differs(balance_before, done.balance)
        || (balance_before >= BALANCE_MAX && done.balance >= BALANCE_MAX)
        || dispersion_before.is_none_or(|before| differs(before, done.dispersion));
    if !(force || changed || is_better) {
        println!("The rebalance is not saved: it would change less than 1%.");
        return Ok(EXIT_WARNING);
    }
    builder.validate()?;
    let partitions = f64::from(builder.part_power().partitions());
    let moved = f64::from(u32::try_from(done.moved).unwrap_or(u32::MAX));
    let (percent, balance, dispersion) =
        (100.0 * moved / partitions, done.balance, done.dispersion);
    println!(
        "Reassigned {} ({percent:.2}%) partitions. Balance is now {balance:.2}.  Dispersion is now {dispersion:.2}",
        done.moved
    );
    let code = advise(&builder, balance, dispersion);
    // The builder first: a ring whose builder does not know it would be moved again too soon.
    builder.name_once(|| SystemEntropy.hex_id().to_string());
    bench.keep_copy(&bench.builder_path, &builder.to_bytes())?;
    bench.write(&mut builder)?;
    bench.write_ring(&builder)?;
    Ok(code)
}

/// What an operator may want to do after a rebalance.
fn advise(builder: &RingBuilder, balance: f64, dispersion: f64) -> u8 {
    let note = if dispersion > 0.0 {
        format!(
            "NOTE: a dispersion of {dispersion:.6} means that some copies stand closer together than they could:\n      \
             look at the dispersion report, the weights and the overload."
        )
    } else if balance > 5.0 && balance / 100.0 > builder.overload() {
        format!(
            "NOTE: the balance is {balance:.2}: distribute this ring, wait at least {} hours, and rebalance again.",
            builder.min_part_hours()
        )
    } else {
        return 0;
    };
    let line = "-".repeat(79);
    println!("{line}\n{note}\n{line}");
    EXIT_WARNING
}

fn add(builder: &mut RingBuilder, pairs: &DevicePairs) -> Result<()> {
    for new in new_devices(pairs)? {
        let weight = new.weight;
        let id = builder.add(new)?;
        let device = builder.devices().find(|device| device.id == id);
        let named = device.map(render::device).unwrap_or_default();
        println!("Device {named} with {weight:?} weight got id {id}");
    }
    Ok(())
}

fn new_devices(pairs: &DevicePairs) -> Result<Vec<NewDevice>> {
    if pairs.filter.is_set() {
        ensure!(
            pairs.filter.values.is_empty(),
            "name devices by text or by options, not both"
        );
        return Ok(vec![pairs.filter.new_device()?]);
    }
    let (pairs, rest) = pairs.filter.values.as_chunks::<2>();
    ensure!(
        !pairs.is_empty() && rest.is_empty(),
        "add takes devices, each with its weight"
    );
    let new = |[text, weight]: &[String; 2]| {
        if !text.starts_with('r') {
            eprintln!("WARNING: {text} names no region: it is region 1.");
        }
        let mut new: NewDevice = text.parse()?;
        new.weight = weight
            .parse()
            .with_context(|| format!("{weight:?} is no weight"))?;
        Ok(new)
    };
    pairs.iter().map(new).collect()
}

/// The devices a search finds; several only with the operator's word.
fn found(builder: &RingBuilder, search: &Search, what: &str, yes: bool) -> Result<Vec<DeviceId>> {
    let devices: Vec<_> = builder
        .devices()
        .filter(|device| search.matches(device))
        .collect();
    ensure!(
        !devices.is_empty(),
        "Search value matched 0 devices.\nThe on-disk ring builder is unchanged."
    );
    if devices.len() > 1 {
        println!("Matched more than one device:");
        for device in &devices {
            println!("    {}", render::device(device));
        }
        ensure!(
            yes || is_agreed(&format!(
                "Really {what} these {} devices? (y/N) ",
                devices.len()
            )),
            "Nothing was changed"
        );
    }
    Ok(devices.into_iter().map(|device| device.id).collect())
}

fn is_agreed(question: &str) -> bool {
    print!("{question}");
    let mut answer = String::new();
    std::io::stdout().flush().is_ok()
        && std::io::stdin().lock().read_line(&mut answer).is_ok()
        && answer.trim() == "y"
}

fn show(builder: &RingBuilder, id: DeviceId) -> String {
    let device = builder.devices().find(|device| device.id == id);
    device.map(render::device).unwrap_or_default()
}

fn remove(builder: &mut RingBuilder, filter: &Filter) -> Result<()> {
    let mut ids = Vec::new();
    for search in filter.searches()? {
        ids.extend(
            builder
                .devices()
                .filter(|device| search.matches(device))
                .map(|device| device.id),
        );
    }
    ids.sort_unstable();
    ids.dedup();
    let named = |id: &DeviceId| Search {
        id: Some(*id),
        ..Search::default()
    };
    match ids.as_slice() {
        [] | [_] => {
            let search = ids.first().map(named);
            found(
                builder,
                &search.unwrap_or_else(nothing),
                "remove",
                filter.yes,
            )?;
        }
        many => {
            println!("Matched more than one device:");
            many.iter()
                .for_each(|id| println!("    {}", show(builder, *id)));
            let question = format!("Really remove these {} devices? (y/N) ", many.len());
            ensure!(filter.yes || is_agreed(&question), "Nothing was changed");
        }
    }
    for id in ids {
        let name = show(builder, id);
        builder.remove(id)?;
        println!("{name} marked for removal and will be removed next rebalance.");
    }
    Ok(())
}

/// A search that finds nothing.
fn nothing() -> Search {
    Search {
        id: Some(DeviceId::new(u16::MAX)),
        ..Search::default()
    }
}

/// The searches and the value of each.
fn pairs(pairs: &DevicePairs) -> Result<Vec<(Search, &str)>> {
    let filter = &pairs.filter;
    if filter.is_set() {
        let [value] = filter.values.as_slice() else {
            bail!("with options, one new value is taken");
        };
        return Ok(vec![(filter.search(), value)]);
    }
    let (pairs, rest) = filter.values.as_chunks::<2>();
    ensure!(
        !pairs.is_empty() && rest.is_empty(),
        "devices are taken, each with its new value"
    );
    pairs
        .iter()
        .map(|[text, value]| Ok((text.parse()?, value.as_str())))
        .collect()
}

fn set_weight(builder: &mut RingBuilder, arguments: &DevicePairs) -> Result<()> {
    for (search, value) in pairs(arguments)? {
        let weight: f64 = value
            .parse()
            .with_context(|| format!("{value:?} is no weight"))?;
        for id in found(
            builder,
            &search,
            "update the weight of",
            arguments.filter.yes,
        )? {
            let name = show(builder, id);
            builder.set_weight(id, weight)?;
            println!("{name} weight set to {weight:?}");
        }
    }
    Ok(())
}

fn set_place(builder: &mut RingBuilder, arguments: &DevicePairs, is_region: bool) -> Result<()> {
    let what = if is_region { "region" } else { "zone" };
    for (search, value) in pairs(arguments)? {
        let number: u32 = value
            .parse()
            .with_context(|| format!("{value:?} is no {what}"))?;
        for id in found(
            builder,
            &search,
            &format!("update the {what} of"),
            arguments.filter.yes,
        )? {
            let mut change = DeviceChange::default();
            if is_region {
                change.region = Some(number);
            } else {
                change.zone = Some(number);
            }
            builder.change(id, change)?;
            println!("{} {what} set to {number}", show(builder, id));
        }
    }
    Ok(())
}

fn set_info(builder: &mut RingBuilder, arguments: &DevicePairs, changes: Changes) -> Result<()> {
    let wanted: Vec<(Search, DeviceChange)> = if arguments.filter.is_set() {
        vec![(arguments.filter.search(), changes.change())]
    } else {
        let parsed = pairs(arguments)?
            .into_iter()
            .map(|(search, text)| Ok((search, text.parse()?)));
        parsed.collect::<Result<_>>()?
    };
    for (search, change) in wanted {
        for id in found(builder, &search, "update the info of", arguments.filter.yes)? {
            let before = show(builder, id);
            builder.change(id, change.clone())?;
            println!("Device {before} is now {}", show(builder, id));
        }
    }
    Ok(())
}

fn search(builder: &RingBuilder, filter: &Filter) -> Result<u8> {
    let searches = filter.searches()?;
    let is_found = |device: &&_| searches.iter().any(|search| search.matches(device));
    let devices: Vec<_> = builder.devices().filter(is_found).collect();
    ensure!(!devices.is_empty(), "No matching devices found");
    render::found(builder, &devices);
    Ok(0)
}

fn list_parts(builder: &RingBuilder, filter: &Filter) -> Result<u8> {
    ensure!(
        builder.is_balanced_once(),
        "The builder was never rebalanced. Please rebalance first."
    );
    let searches = filter.searches()?;
    let devices = builder
        .devices()
        .filter(|device| searches.iter().any(|search| search.matches(device)));
    let ids: Vec<DeviceId> = devices.map(|device| device.id).collect();
    let partitions = builder.partitions_of(&ids);
    ensure!(!partitions.is_empty(), "No matching devices found");
    // It is long: who reads only its head closes the pipe, and that is no failure.
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut written = writeln!(out, "Partition   Matches");
    for (partition, count) in partitions {
        written = written.and_then(|()| writeln!(out, "{partition:>9}   {count:>7}"));
    }
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    Ok(0)
}
