//! Power cuts under the object store (O1, O3) and under the control store (M1, M2): recorded in a guest, replayed at random
//! points.

use crate::needs::{self, initiator_guest, loop_devices, need};
use crate::powercut::{caught, survived};
use crate::{Outcome, Scenario};
use anyhow::{Result, ensure};
use onggi_integration::guest::{FILES, GuestFile, Image, program_line};
use onggi_integration::powercut::control_check::ControlCheck;
use onggi_integration::powercut::mounted::{self, BLOCKS_PER_GROUP, Mounter, Part};
use onggi_integration::powercut::objects::{self, KEY};
use onggi_integration::powercut::objects_check::ObjectsCheck;
use onggi_integration::powercut::{Check, Fault, Recording, Report, Workload, control, replay};
use onggi_integration::system::program;
use std::path::PathBuf;

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "powercut::objects_that_were_acknowledged_are_there_after_any_cut",
        objects_survive,
    ),
    (
        "powercut::so_they_are_where_bodies_have_a_file_system_of_their_own",
        objects_apart_survive,
    ),
    (
        "powercut::so_they_are_where_each_cut_tears_the_superblocks",
        objects_torn_survive,
    ),
    (
        "powercut::an_object_store_without_fdatasync_is_caught_where_superblocks_are_torn",
        no_data_sync_torn,
    ),
    (
        "powercut::an_object_store_without_fdatasync_is_caught",
        no_data_sync,
    ),
    (
        "powercut::an_object_store_without_fsync_of_directories_is_caught",
        no_directory_sync,
    ),
    (
        "powercut::an_object_store_that_writes_rows_before_bytes_is_caught",
        rows_before_bytes,
    ),
    (
        "powercut::transactions_that_were_acknowledged_are_there_after_any_cut",
        control_survives,
    ),
    (
        "powercut::a_control_store_whose_flush_does_nothing_is_caught",
        control_no_sync,
    ),
];

const MIB: usize = 1 << 20;
/// Where the marks go: past everything else.
const MARKS: usize = 156 * MIB;
const DISK_BYTES: usize = 160 * MIB;
/// One file system for all of a device.
const WHOLE: [Part; 1] = [Part {
    offset: 0,
    length: 128 * MIB,
    place: "",
}];
/// One for the store and one for bodies: then no sync of the store happens to carry along what the bodies' own syncs
/// ought to.
const APART: [Part; 2] = [
    Part {
        offset: 0,
        length: 112 * MIB,
        place: "",
    },
    Part {
        offset: 112 * MIB,
        length: 40 * MIB,
        place: "d1/bodies",
    },
];
/// Files and folders a file system may have.
const INODES: usize = 2_048;
const ADDRESS: &str = "127.0.0.1:8080";
/// What the operations follow from; the cuts follow from the same number.
const SEED: u64 = 20_261_126;

/// A recording, and what is to be made of it.
#[derive(Clone, Copy)]
struct Trial {
    operations: usize,
    cuts: usize,
    fault: Fault,
    /// Whether each cut tears superblocks, so that all is looked at after `e2fsck`.
    tears: bool,
}

impl Trial {
    const fn new(operations: usize, cuts: usize, fault: Fault) -> Self {
        Self {
            operations,
            cuts,
            fault,
            tears: false,
        }
    }

    const fn tearing(mut self) -> Self {
        self.tears = true;
        self
    }

    /// Records a workload and cuts the recording.
    fn run<C: Check>(
        self,
        image: &Image,
        workload: &Workload,
        parts: &[Part],
        check: impl FnOnce(Mounter) -> C,
    ) -> Result<Report> {
        let folder = mounted::folder(4 * DISK_BYTES)?;
        let recording = Recording::make(image, folder.path(), workload, self.fault)?;
        let mounter = Mounter::new(folder.path().to_owned(), parts.to_vec());
        let mounter = if self.tears {
            mounter.tearing()
        } else {
            mounter
        };
        let mut check = check(mounter);
        replay(
            &recording.log,
            recording.base()?,
            &mut check,
            (self.cuts, SEED),
        )
    }

    fn objects(self, image: &Image, parts: &[Part]) -> Result<Report> {
        let plan = (SEED, self.operations);
        self.run(
            image,
            &objects_workload(self.operations, parts)?,
            parts,
            |mounter| ObjectsCheck::new(plan, mounter, PathBuf::from("d1")),
        )
    }

    fn control(self, image: &Image) -> Result<Report> {
        let plan = (SEED, self.operations);
        self.run(
            image,
            &control_workload(self.operations)?,
            &WHOLE,
            |mounter| ControlCheck::new(plan, mounter, PathBuf::from("control")),
        )
    }
}

/// The programs of this build a guest needs.
fn programs(names: &[&str]) -> Result<Vec<GuestFile>> {
    let mut files: Vec<GuestFile> = Vec::new();
    for name in names {
        for file in GuestFile::program(&program(name)?)? {
            if !files.iter().any(|other| other.path == file.path) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// Shell that makes and mounts the file systems.
fn make_file_systems(parts: &[Part]) -> String {
    let mut lines = vec!["modprobe ext4".to_owned()];
    for (number, part) in parts.iter().enumerate() {
        let blocks = part.length / 4_096;
        let (sectors, first) = (part.length / 512, part.offset / 512);
        let disk = if parts.len() == 1 {
            "/dev/vda".to_owned()
        } else {
            lines.push(format!(
                "dmsetup --noudevsync create part{number} --table '0 {sectors} linear /dev/vda {first}' && dmsetup mknodes"
            ));
            format!("/dev/mapper/part{number}")
        };
        lines.push(format!(
            "mkfs.ext4 -q -F -b 4096 -g {BLOCKS_PER_GROUP} -N {INODES} -J size=4 {disk} {blocks} && mkdir -p /mnt/{0} && mount {disk} /mnt/{0}",
            part.place
        ));
    }
    lines.push("mkdir -p /tmp/state/keys && sync".to_owned());
    lines.join(" && ")
}

/// A whole object store in one process, with one device on the disk, and clients that carry out so many operations each.
fn objects_workload(operations: usize, parts: &[Part]) -> Result<Workload> {
    let (account, user) = objects::USER.split_once(':').unwrap_or_default();
    let config = format!(
        "state = \"/tmp/state\"\n[log]\nlevel = \"warn\"\n[identity]\n[[identity.v1_users]]\naccount = \"{account}\"\nuser = \"{user}\"\n\
         key_file = \"{FILES}/key\"\ngroups = [\".admin\"]\n[object]\nlisten = \"{ADDRESS}\"\nreplicas = 1\npart_power = 4\n\
         [[object.nodes]]\naddress = \"127.0.0.1:6200\"\ndevices = [\"d1\"]\ndirectory = \"/mnt\"\n"
    );
    let node = format!(
        "#!/bin/sh\nwhile :; do\n  {} run --single-process --config {FILES}/onggi.toml &\n  echo $! > /tmp/store.pid\n  wait $!\ndone\n",
        program_line("onggid")
    );
    let mut files = programs(&["onggid", "onggi-integration"])?;
    files.push(GuestFile::script("onggi.toml", &config));
    files.push(GuestFile::script("node", &node));
    files.push(GuestFile {
        path: "key".to_owned(),
        permissions: 0o600,
        content: KEY.as_bytes().to_vec(),
    });
    let client = program_line("onggi-integration");
    Ok(Workload {
        files,
        disk_bytes: DISK_BYTES as u64,
        prepare: make_file_systems(parts),
        program: format!("{FILES}/node"),
        is_ready: format!("wget -q -O /dev/null http://{ADDRESS}/healthcheck"),
        client: format!(
            "{client} workload objects --address {ADDRESS} --pid-file /tmp/store.pid --disk /dev/vda --marks {MARKS} --seed {SEED} --operations {operations}"
        ),
        // A large body's file gets its name after its bytes are on stable storage; until then its inode's number is one.
        unnamed: format!(
            "$(for inode in $(seq {INODES}); do echo \"-P /mnt/d1/bodies/#$inode\"; done)"
        ),
    })
}

/// Threads that commit so many transactions each to a control store.
fn control_workload(transactions: usize) -> Result<Workload> {
    let client = program_line("onggi-integration");
    Ok(Workload {
        files: programs(&["onggi-integration"])?,
        disk_bytes: DISK_BYTES as u64,
        prepare: make_file_systems(&WHOLE),
        program: String::new(),
        is_ready: String::new(),
        client: format!(
            "{client} workload control --store /mnt/control --disk /dev/vda --marks {MARKS} --seed {SEED} --operations {transactions}"
        ),
        unnamed: String::new(),
    })
}

fn objects_survive() -> Result<Outcome> {
    need!(loop_devices());
    let image = need!(initiator_guest());
    let (operations, cuts) = if needs::long() {
        (300, 10_000)
    } else {
        (40, 500)
    };
    let report = Trial::new(operations, cuts, Fault::None).objects(&image, &WHOLE)?;
    survived(&report, operations * usize::try_from(objects::THREADS)?)
}

fn objects_apart_survive() -> Result<Outcome> {
    need!(loop_devices());
    let image = need!(initiator_guest());
    let (operations, cuts) = if needs::long() {
        (300, 10_000)
    } else {
        (40, 100)
    };
    let report = Trial::new(operations, cuts, Fault::None).objects(&image, &APART)?;
    survived(&report, operations * usize::try_from(objects::THREADS)?)
}

fn objects_torn_survive() -> Result<Outcome> {
    need!(loop_devices());
    need!(needs::tool("e2fsck"));
    let image = need!(initiator_guest());
    let (operations, cuts) = if needs::long() { (300, 500) } else { (40, 50) };
    let trial = Trial::new(operations, cuts, Fault::None).tearing();
    let report = trial.objects(&image, &APART)?;
    ensure!(
        report.repaired == cuts * APART.len(),
        "a torn superblock was not noticed: {report:?}"
    );
    survived(&report, operations * usize::try_from(objects::THREADS)?)
}

fn no_data_sync_torn() -> Result<Outcome> {
    need!(loop_devices());
    need!(needs::tool("e2fsck"));
    let image = need!(initiator_guest());
    let trial = Trial::new(25, 60, Fault::DataSyncDoesNothing).tearing();
    let report = trial.objects(&image, &WHOLE)?;
    ensure!(
        !(report.findings.iter()).any(|finding| finding.contains("cannot be mounted")),
        "a file system could not be repaired: {report:?}"
    );
    caught(&report, 50)
}

fn no_data_sync() -> Result<Outcome> {
    need!(loop_devices());
    let image = need!(initiator_guest());
    let trial = Trial::new(25, 60, Fault::DataSyncDoesNothing);
    caught(&trial.objects(&image, &WHOLE)?, 50)
}

fn no_directory_sync() -> Result<Outcome> {
    need!(loop_devices());
    let image = need!(initiator_guest());
    let trial = Trial::new(25, 100, Fault::DirectorySyncDoesNothing);
    caught(&trial.objects(&image, &APART)?, 10)
}

fn rows_before_bytes() -> Result<Outcome> {
    need!(loop_devices());
    let image = need!(initiator_guest());
    let trial = Trial::new(25, 60, Fault::BodySyncDoesNothing);
    caught(&trial.objects(&image, &WHOLE)?, 25)
}

fn control_survives() -> Result<Outcome> {
    need!(loop_devices());
    let image = need!(initiator_guest());
    let (transactions, cuts) = if needs::long() {
        (1_000, 10_000)
    } else {
        (80, 500)
    };
    let report = Trial::new(transactions, cuts, Fault::None).control(&image)?;
    survived(&report, transactions * usize::try_from(control::THREADS)?)
}

fn control_no_sync() -> Result<Outcome> {
    need!(loop_devices());
    let image = need!(initiator_guest());
    let trial = Trial::new(40, 60, Fault::SyncDoesNothing);
    caught(&trial.control(&image)?, 50)
}
