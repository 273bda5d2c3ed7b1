//! Power cuts under the target (B1): recorded in a guest, replayed at random points.

use crate::needs::{self, initiator_guest, loop_devices, need};
use crate::{Outcome, Scenario};
use anyhow::{Result, ensure};
use onggi_integration::guest::{FILES, GuestFile, Image, program_line};
use onggi_integration::powercut::mounted::{self, Mounter, Part};
use onggi_integration::powercut::volume_check::VolumeCheck;
use onggi_integration::powercut::{Fault, Recording, Report, Workload, replay};
use onggi_integration::system::program;

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "powercut::what_was_acknowledged_is_on_the_disk_after_any_cut",
        region,
    ),
    (
        "powercut::a_target_whose_flush_does_nothing_is_caught",
        sync_does_nothing,
    ),
    (
        "powercut::a_disk_that_is_never_flushed_is_caught",
        disk_without_flush,
    ),
    (
        "powercut::a_volume_in_a_file_survives_any_cut",
        file_on_ext4,
    ),
];

/// Where the marks go: past everything else.
const MARKS: u64 = 56 << 20;
const DISK_BYTES: u64 = 64 << 20;
/// The file system's size, when there is one.
const FILE_SYSTEM_BYTES: usize = 48 << 20;
const FILE: &str = "volume.img";
const PORTAL: &str = "127.0.0.1:3260";
/// What the operations follow from; the cuts follow from the same number.
const SEED: u64 = 20_261_125;

/// The target, and initiators that carry out so many operations each.
fn workload(operations: usize, file: bool) -> Result<Workload> {
    let config = format!(
        "state = \"/tmp/state\"\n[log]\nlevel = \"warn\"\n[block.target]\nportals = [\"{PORTAL}\"]\n"
    );
    let mut files = vec![GuestFile::script("onggi.toml", &config)];
    for name in ["onggid", "onggi-integration"] {
        for file in GuestFile::program(&program(name)?)? {
            if !files.iter().any(|other| other.path == file.path) {
                files.push(file);
            }
        }
    }
    let socket = "/tmp/state/run/target.sock";
    let (target, client) = (program_line("onggid"), program_line("onggi-integration"));
    let mut prepare = "mkdir -p /tmp/state/keys".to_owned();
    let mut place = format!("--disk /dev/vda --marks {MARKS}");
    if file {
        let blocks = FILE_SYSTEM_BYTES >> 10;
        prepare += &format!(
            " && modprobe ext4 && mkfs.ext4 -q -F -b 1024 /dev/vda {blocks} && mount /dev/vda /mnt && truncate -s 1M /mnt/{FILE} && sync"
        );
        place += &format!(" --file /mnt/{FILE}");
    }
    Ok(Workload {
        files,
        disk_bytes: DISK_BYTES,
        prepare,
        program: format!("{target} target --config {FILES}/onggi.toml"),
        is_ready: format!("[ -S {socket} ]"),
        client: format!(
            "{client} workload volume --socket {socket} --portal {PORTAL} {place} --seed {SEED} --operations {operations}"
        ),
        unnamed: String::new(),
    })
}

/// Records the volume as a region of the disk and cuts the recording.
#[expect(
    clippy::print_stdout,
    reason = "what a recording held is part of the result"
)]
fn cut_region(image: &Image, operations: usize, cuts: usize, fault: Fault) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let recording = Recording::make(image, folder.path(), &workload(operations, false)?, fault)?;
    let mut check = VolumeCheck::of_region(SEED, operations)?;
    let torn = check.torn(&recording.log);
    println!("    {torn} sectors were changed while the disk read them");
    // A moment is left in which it can happen; one that a cut finds is a loss in any case.
    ensure!(
        torn == 0 || !needs::long(),
        "the target writes over pages that are on their way to the disk"
    );
    replay(&recording.log, recording.base()?, &mut check, (cuts, SEED))
}

pub(crate) fn survived(report: &Report, acknowledged: usize) -> Result<Outcome> {
    say(report);
    ensure!(
        report.acknowledged >= acknowledged && report.flushes > 0,
        "the recording shows too little: {report:?}"
    );
    ensure!(
        report.bad_cuts == 0,
        "{} of {} cuts lost something: {}",
        report.bad_cuts,
        report.cuts,
        report.findings.join("; ")
    );
    Ok(Outcome::Passed)
}

/// More than so many of a hundred cuts have to be found wrong.
pub(crate) fn caught(report: &Report, percent: usize) -> Result<Outcome> {
    say(report);
    ensure!(
        report.bad_cuts * 100 > report.cuts * percent,
        "only {} of {} cuts lost something: the check is blind",
        report.bad_cuts,
        report.cuts
    );
    Ok(Outcome::Passed)
}

#[expect(
    clippy::print_stdout,
    reason = "what a recording held is part of the result"
)]
fn say(report: &Report) {
    println!(
        "    {} requests, {} flushes, {} acknowledgements; {} cuts, {} of them lost something; {} file systems were repaired",
        report.requests,
        report.flushes,
        report.acknowledged,
        report.cuts,
        report.bad_cuts,
        report.repaired
    );
}

fn region() -> Result<Outcome> {
    let image = need!(initiator_guest());
    let (operations, cuts) = if needs::long() {
        (2_000, 20_000)
    } else {
        (250, 1_000)
    };
    let report = cut_region(&image, operations, cuts, Fault::None)?;
    // Three of ten operations are durable writes, one compares and writes, two synchronise.
    survived(&report, operations)
}

fn sync_does_nothing() -> Result<Outcome> {
    let image = need!(initiator_guest());
    let report = cut_region(&image, 60, 500, Fault::SyncDoesNothing)?;
    caught(&report, 50)
}

fn disk_without_flush() -> Result<Outcome> {
    let image = need!(initiator_guest());
    let report = cut_region(&image, 60, 500, Fault::DiskWithoutFlush)?;
    caught(&report, 50)
}

fn file_on_ext4() -> Result<Outcome> {
    need!(loop_devices());
    let image = need!(initiator_guest());
    let (operations, cuts) = if needs::long() {
        (1_000, 1_000)
    } else {
        (100, 60)
    };
    let folder = mounted::folder(4 * FILE_SYSTEM_BYTES)?;
    let workload = workload(operations, true)?;
    let recording = Recording::make(&image, folder.path(), &workload, Fault::None)?;
    let part = Part {
        offset: 0,
        length: FILE_SYSTEM_BYTES,
        place: "",
    };
    let mounter = Mounter::new(folder.path().to_owned(), vec![part]);
    let mut check = VolumeCheck::of_file((SEED, operations), mounter, FILE)?;
    let report = replay(&recording.log, recording.base()?, &mut check, (cuts, SEED))?;
    survived(&report, operations / 2)
}
