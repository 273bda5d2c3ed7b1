//! The standard streams: set aside for requests and answers, and replaced by what LVM may read and write.
//!
//! LVM asks questions on standard input and prints on the other two. Here it reads an empty file, and what it prints
//! is collected in memory files and taken after each command.

use rustix::fs::{MemfdFlags, Mode, OFlags, SeekFrom};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

/// The starter's standard error, for this program's own complaints.
static COMPLAINTS: OnceLock<OwnedFd> = OnceLock::new();

/// The streams after they were redirected.
pub(crate) struct Streams {
    requests: OwnedFd,
    answers: File,
    stdout: File,
    stderr: File,
}

impl Streams {
    /// Sets the standard streams aside.
    pub(crate) fn redirect() -> io::Result<Self> {
        let keep = |descriptor: &dyn std::os::fd::AsFd| {
            rustix::io::fcntl_dupfd_cloexec(descriptor.as_fd(), 3)
        };
        let requests = keep(&io::stdin())?;
        let answers = keep(&io::stdout())?;
        // It can be set only once, and this is the one place that does.
        drop(COMPLAINTS.set(keep(&io::stderr())?));
        let empty = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let stdout = rustix::fs::memfd_create("lvm-stdout", MemfdFlags::CLOEXEC)?;
        let stderr = rustix::fs::memfd_create("lvm-stderr", MemfdFlags::CLOEXEC)?;
        rustix::stdio::dup2_stdin(&empty)?;
        rustix::stdio::dup2_stdout(&stdout)?;
        rustix::stdio::dup2_stderr(&stderr)?;
        Ok(Self {
            requests,
            answers: answers.into(),
            stdout: stdout.into(),
            stderr: stderr.into(),
        })
    }

    /// Where requests come from.
    pub(crate) fn requests(&self) -> io::Result<File> {
        self.requests.try_clone().map(File::from)
    }

    /// Writes an answer.
    pub(crate) fn answer(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.answers.write_all(bytes)
    }

    /// What was printed since the last time: standard output and standard error.
    #[cfg_attr(
        not(lvm2cmd_available),
        expect(dead_code, reason = "a program has streams of its own")
    )]
    pub(crate) fn take(&mut self) -> io::Result<(String, String)> {
        Ok((drain(&mut self.stdout)?, drain(&mut self.stderr)?))
    }
}

fn drain(file: &mut File) -> io::Result<String> {
    // The descriptor LVM writes to is a duplicate: the position is shared, so going back is for both.
    rustix::fs::seek(&*file, SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    rustix::fs::ftruncate(&*file, 0)?;
    rustix::fs::seek(&*file, SeekFrom::Start(0))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes to the starter's standard error, whether the streams are redirected yet or not.
pub(crate) fn complain(text: &str) {
    let outcome = match COMPLAINTS.get() {
        Some(kept) => rustix::io::write(kept, text.as_bytes()),
        None => rustix::io::write(io::stderr(), text.as_bytes()),
    };
    // There is no other place to say it; the exit status has to do.
    let _told: Option<usize> = outcome.ok();
}
