//! Disks that fail and lie: a disk with I/O errors, and a thousand flipped bits in everything a device keeps.

use crate::connection::Connection;
use crate::curl::Curl;
use crate::needs::{self, need};
use crate::object::LOGIN;
use crate::writers;
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable;
use onggi_common_host::run::{Run, RunError};
use onggi_integration::powercut::random::Random;
use onggi_integration::system::{Options, System, program};
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "disks::a_disk_with_io_errors_goes_out_of_service_and_nothing_else",
        io_errors,
    ),
    (
        "disks::a_thousand_flipped_bits_are_found_and_healed",
        flipped_bits,
    ),
];

fn options(nodes: usize, devices: usize, state: Option<PathBuf>) -> Options {
    Options {
        state,
        ..Options::objects(nodes, devices)
    }
}

/// What `onggid status` says of a device: its state and why.
fn state_of(system: &System, device: &str) -> Result<(String, String)> {
    let run = Run::new(program("onggid")?).args(["status", "--json", "--config"]);
    let told = run.arg(system.config()).output()?;
    let lines: Vec<Value> = serde_json::from_slice(&told.stdout)?;
    let devices = lines
        .iter()
        .filter_map(|line| line["devices"].as_array())
        .flatten();
    let mut named = devices.filter(|told| told["name"] == device);
    let told = named
        .next()
        .with_context(|| format!("nobody tells of {device}"))?;
    let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
    Ok((text("state"), text("reason")))
}

fn await_state(system: &System, device: &str, wanted: &str) -> Result<String> {
    const WITHIN: Duration = Duration::from_secs(60);
    let begun = Instant::now();
    loop {
        let (state, reason) = state_of(system, device)?;
        if state == wanted {
            return Ok(reason);
        }
        ensure!(
            begun.elapsed() < WITHIN,
            "{device} is {state} ({reason}) after {WITHIN:?}, not {wanted}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A disk of its own: a file system in a file that is in memory of a limited size. An end of the value is an end of it.
struct Disk {
    memory: PathBuf,
    place: PathBuf,
}

impl Disk {
    const BYTES: u64 = 192 << 20;
    const MEMORY: &str = "size=208M";

    fn mount(memory: PathBuf, place: &Path) -> Result<Self> {
        durable::create_dir_all(&memory)?;
        durable::create_dir_all(place)?;
        let run = Run::new("mount").args(["-t", "tmpfs", "-o", Self::MEMORY, "onggi-test"]);
        run.arg(&memory).output()?;
        let disk = Self {
            memory,
            place: place.to_owned(),
        };
        File::create(disk.image())?.set_len(Self::BYTES)?;
        let run = Run::new("mkfs.ext4").args(["-q", "-F"]);
        run.arg(disk.image()).output()?;
        let run = Run::new("mount").args(["-o", "loop"]);
        run.arg(disk.image()).arg(place).output()?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.memory.join("image")
    }

    /// From now on the disk can be neither read nor written: its bytes are gone, and there is no memory for new ones.
    fn break_down(&self) -> Result<()> {
        let image = File::options().write(true).open(self.image())?;
        image.set_len(0)?;
        let ballast = File::create(self.memory.join("ballast"))?;
        let piece = vec![b'j'; 1 << 20];
        let mut at = 0;
        while ballast.write_all_at(&piece, at).is_ok() {
            at += piece.len() as u64;
        }
        ensure!(at > 0, "there was no memory for a ballast");
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is still used is let go of once its last user ends.
        for place in [&self.place, &self.memory] {
            drop(Run::new("umount").arg("-l").arg(place).output());
        }
    }
}

fn io_errors() -> Result<Outcome> {
    const BROKEN: &str = "d5";
    need!(needs::loop_devices());
    let folder = tempfile::tempdir()?;
    let state = folder.path().join("state");
    let place = state.join("object/devices").join(BROKEN);
    let disk = Disk::mount(folder.path().join("first"), &place)?;
    let mut system = System::start(options(3, 6, Some(state)))?;
    ensure!(state_of(&system, BROKEN)?.0 == "serving", "it is new");
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    let (mut clients, _) = writers::clients(&system, &curl)?;
    writers::write_during(&mut clients, Duration::from_secs(8), |_| {
        std::thread::sleep(Duration::from_secs(2));
        disk.break_down()
    })?;
    let reason = await_state(&system, BROKEN, "out_of_service")?;
    ensure!(
        state_of(&system, "d2")?.0 == "serving",
        "the node's other disk is well"
    );
    let (acknowledged, refused) = writers::counts(&clients);
    println!("    {acknowledged} requests acknowledged, {refused} not; {BROKEN}: {reason}");
    ensure!(
        refused == 0 && acknowledged > 100,
        "one disk is no reason to refuse"
    );
    ensure!(writers::judge(&mut clients)?.is_none(), "what is read now");

    // A new disk takes its place, as an operator would do it.
    system.stop()?;
    drop(disk);
    let _disk = Disk::mount(folder.path().join("second"), &place)?;
    std::fs::remove_file(onggi_object_device::format::id_file(&place))?;
    system.launch()?;
    ensure!(
        state_of(&system, BROKEN)?.0 == "serving",
        "the new one is used"
    );
    let curl = Curl::login(&system, LOGIN)?;
    for client in &mut clients {
        client.connection = Connection::open(system.addresses.objects, &curl)?;
    }
    let whole = writers::await_whole(&system, &mut clients)?;
    println!("    a new disk in its place: whole after {whole:?}");
    system.stop()?;
    Ok(Outcome::Passed)
}

/// The kinds of files a device keeps, by what is in their paths.
const KINDS: [(&str, &str); 5] = [
    ("bodies", "/bodies/"),
    ("tables", ".sst"),
    ("blob files", ".blob"),
    ("logs", ".log"),
    ("manifests", "/MANIFEST-"),
];
const FLIPS_OF_EACH_KIND: usize = 200;

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files_below(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Flips bits of a kind of files of some devices, anywhere in them.
fn flip(files: &[PathBuf], random: &mut Random) -> Result<()> {
    for _ in 0..FLIPS_OF_EACH_KIND {
        let index = random.bits() % u64::try_from(files.len())?;
        let path = &files[usize::try_from(index)?];
        let file = File::options().read(true).write(true).open(path)?;
        let length = file.metadata()?.len();
        if length == 0 {
            continue;
        }
        let at = random.bits() % length;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        byte[0] ^= 1 << (random.bits() % 8);
        file.write_all_at(&byte, at)?;
    }
    Ok(())
}

/// An object by its number: small ones are in rows, larger ones in blob files and in files of their own.
fn object(number: u64) -> Vec<u8> {
    let length = [100, 3_000, 20_000, 150_000][usize::try_from(number % 4).unwrap_or_default()];
    writers::content(number, length)
}

const OBJECTS: u64 = 240;

/// Reads all objects; those that are not there or not as they were put.
fn read_all(connection: &mut Connection) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for number in 0..OBJECTS {
        let path = format!("/c/o{number}");
        let answer = connection.request("GET", &path, &[], b"")?;
        if answer.status != 200 {
            wrong.push(format!("{path}: {}", answer.status));
        }
        // This is never acceptable.
        ensure!(
            answer.status != 200 || answer.body == object(number),
            "{path}: wrong bytes were served"
        );
    }
    Ok(wrong)
}

/// The device's check of all its rows and bytes; what it finds wrong.
fn check(directory: &Path) -> Result<Option<String>> {
    let run = Run::new(program("onggid")?).args(["device", "check", "--bytes"]);
    Ok(match run.arg(directory).output() {
        Ok(_) => None,
        Err(RunError::Failed { stdout, stderr, .. }) => {
            Some(format!("{}{stderr}", String::from_utf8_lossy(&stdout)))
        }
        Err(error) => return Err(error.into()),
    })
}

/// Puts all objects, in two lives of the system: what was in logs goes to tables and blob files when a store is opened.
fn fill(system: &mut System) -> Result<()> {
    let mut connection = connect(system)?;
    for number in 0..OBJECTS {
        if number == OBJECTS / 2 {
            system.stop()?;
            system.launch()?;
            connection = connect(system)?;
        }
        let put = connection.request("PUT", &format!("/c/o{number}"), &[], &object(number))?;
        ensure!(put.status == 201, "PUT {number}: {}", put.status);
    }
    Ok(())
}

fn connect(system: &System) -> Result<Connection> {
    Connection::open(system.addresses.objects, &Curl::login(system, LOGIN)?)
}

/// Flips bits of each kind of files below these directories.
fn flip_each_kind(directories: &[PathBuf]) -> Result<()> {
    let mut files = Vec::new();
    for directory in directories {
        files_below(directory, &mut files)?;
    }
    let mut random = Random::new(20_261_126);
    for (kind, part) in KINDS {
        let of_kind = |path: &&PathBuf| path.to_str().is_some_and(|path| path.contains(part));
        let of_kind: Vec<PathBuf> = files.iter().filter(of_kind).cloned().collect();
        ensure!(!of_kind.is_empty(), "there are no {kind}");
        println!("    {FLIPS_OF_EACH_KIND} bits of {} {kind}", of_kind.len());
        flip(&of_kind, &mut random)?;
    }
    Ok(())
}

/// As the runbook says: what the check complains of is made anew from the files, and the peers give the rest.
fn repair(directories: &[PathBuf]) -> Result<()> {
    for directory in directories {
        let Some(found) = check(directory)? else {
            continue;
        };
        let found = found.lines().next().unwrap_or_default();
        println!("    {}: {found}", directory.display());
        let run = Run::new(program("onggid")?).args(["device", "repair", "--from-files"]);
        run.arg(directory).output()?;
    }
    Ok(())
}

fn flipped_bits() -> Result<Outcome> {
    const HEALED_WITHIN: Duration = Duration::from_secs(180);
    let mut system = System::start(options(4, 8, None))?;
    let devices = system.state.join("object/devices");
    // Both devices of one node: whatever becomes of them, two copies of everything are elsewhere.
    let (_, names) = &system.addresses.nodes[1];
    let damaged: Vec<PathBuf> = names.iter().map(|name| devices.join(name)).collect();
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    fill(&mut system)?;
    system.crash()?;
    flip_each_kind(&damaged)?;
    let begun = Instant::now();
    system.launch()?;
    let wrong = read_all(&mut connect(&system)?)?;
    ensure!(wrong.is_empty(), "two of three copies are well: {wrong:?}");

    system.stop()?;
    repair(&damaged)?;
    system.launch()?;
    let account = curl.url.rsplit('/').next().context("account")?;
    for number in 0..OBJECTS {
        let path = format!("{account}/c/o{number}");
        while {
            let (held, all) = crate::object::copies(&system, &path)?;
            held != all
        } {
            ensure!(
                begun.elapsed() < HEALED_WITHIN,
                "{path} has not all its copies"
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    let wrong = read_all(&mut connect(&system)?)?;
    ensure!(wrong.is_empty(), "{wrong:?}");
    // Bodies that nobody has read since: the auditor finds them, and peers give them back.
    loop {
        system.stop()?;
        let found = damaged.iter().map(|directory| check(directory));
        let found: Vec<String> = found.filter_map(Result::transpose).collect::<Result<_>>()?;
        if found.is_empty() {
            break;
        }
        ensure!(begun.elapsed() < HEALED_WITHIN, "{found:?}");
        system.launch()?;
        std::thread::sleep(Duration::from_secs(12));
    }
    println!("    healed after {:?}", begun.elapsed());
    Ok(Outcome::Passed)
}
