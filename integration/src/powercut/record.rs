//! Runs a workload in a guest and keeps the log of its disk.

use super::log::Log;
use crate::guest::{Drive, Guest, GuestFile, Image, Options, System};
use anyhow::{Context as _, Result};
use std::path::Path;
use std::time::Duration;

/// How long a program may take until it serves, and a workload until it is done: guests are emulated.
const READY_TIME_MAX: Duration = Duration::from_secs(60);
const WORK_TIME_MAX: Duration = Duration::from_secs(900);

/// A program under test, what works with it, and what both need. Commands are lines of shell.
#[derive(Debug, Clone)]
pub struct Workload {
    /// What is put into the guest.
    pub files: Vec<GuestFile>,
    /// The size of the disk, `/dev/vda` in the guest.
    pub disk_bytes: u64,
    /// Comes first, for example to make a file system.
    pub prepare: String,
    /// The program under test, which goes on in the background; empty when the client is under test itself.
    pub program: String,
    /// Succeeds once the program serves.
    pub is_ready: String,
    /// The client, which puts the marks.
    pub client: String,
    /// Paths of files without a name, as the kernel shows them: what [`Fault::BodySyncDoesNothing`] is about.
    pub unnamed: String,
}

/// What a recording does wrong on purpose, so that the check has something to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The kernel believes that the disk has no write cache: it writes what it is told to, and never flushes.
    DiskWithoutFlush,
    /// The program's system calls fsync and fdatasync succeed and do nothing (`strace` injects that), and it gets no
    /// `io_uring`, by which it could flush past them.
    SyncDoesNothing,
    /// The same for fdatasync alone.
    DataSyncDoesNothing,
    /// The same for fsync alone, which the programs here call for directories.
    DirectorySyncDoesNothing,
    /// The same for both calls, on the workload's unnamed files alone: what refers to them is on stable storage before
    /// they are.
    BodySyncDoesNothing,
}

impl Fault {
    /// What the program under test is started by.
    fn tracer(self, workload: &Workload) -> String {
        let (calls, paths) = match self {
            Self::None | Self::DiskWithoutFlush => return String::new(),
            Self::SyncDoesNothing => ("fsync,fdatasync", ""),
            Self::DataSyncDoesNothing => ("fdatasync", ""),
            Self::DirectorySyncDoesNothing => ("fsync", ""),
            Self::BodySyncDoesNothing => ("fsync,fdatasync", workload.unnamed.as_str()),
        };
        // With paths, io_uring_setup is not looked at; nothing here uses it for syncs.
        let (ring, inject_ring) = if paths.is_empty() {
            (",io_uring_setup", "-e inject=io_uring_setup:error=ENOSYS ")
        } else {
            ("", "")
        };
        format!(
            "strace -f --seccomp-bpf -qqq -o /dev/null -e trace={calls}{ring} -e inject={calls}:retval=0 {inject_ring}{paths} "
        )
    }
}

/// A finished recording.
#[derive(Debug)]
pub struct Recording {
    /// What reached the disk, in order.
    pub log: Log,
    /// The size of the disk, which held zeros when the log began.
    pub disk_bytes: u64,
}

impl Recording {
    /// Runs a workload; the disk and its log are files in this folder.
    ///
    /// # Errors
    /// When the guest, the program or the client fails; what the program said is part of the error.
    pub fn make(image: &Image, folder: &Path, workload: &Workload, fault: Fault) -> Result<Self> {
        let (disk, log) = (folder.join("disk"), folder.join("log"));
        std::fs::File::create(&disk)
            .and_then(|file| file.set_len(workload.disk_bytes))
            .context("making the disk")?;
        let options = Options {
            system: System::Initiator,
            memory_mib: 768,
            files: workload.files.clone(),
            drives: vec![Drive::Logged {
                disk,
                log: log.clone(),
            }],
        };
        let guest = Guest::boot(image, folder, "powercut", &options)?;
        if fault == Fault::DiskWithoutFlush {
            guest.run("echo 'write through' > /sys/block/vda/queue/write_cache")?;
        }
        guest.run(&workload.prepare)?;
        let tracer = fault.tracer(workload);
        let Workload {
            program, client, ..
        } = workload;
        let worked = if program.is_empty() {
            guest.run_within(&format!("{tracer}{client}"), WORK_TIME_MAX)
        } else {
            guest.run(&format!(
                "{tracer}{program} > /tmp/program.log 2>&1 < /dev/null &"
            ))?;
            guest
                .await_success(&workload.is_ready, READY_TIME_MAX)
                .and_then(|_| guest.run_within(client, WORK_TIME_MAX))
        };
        if let Err(error) = worked {
            let said = guest
                .ask("tail -n 20 /tmp/program.log 2> /dev/null")?
                .output;
            return Err(error.context(format!("the program said: {said}")));
        }
        // Without a sync: what the program did not flush must not be flushed for it.
        guest.switch_off()?;
        Ok(Self {
            log: Log::read(&log)?,
            disk_bytes: workload.disk_bytes,
        })
    }

    /// The disk as the log began.
    ///
    /// # Errors
    /// Never on a machine with 64 bits.
    pub fn base(&self) -> Result<Vec<u8>> {
        Ok(vec![0; usize::try_from(self.disk_bytes)?])
    }
}
