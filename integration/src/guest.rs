//! A QEMU guest with a shell: Debian's kernel and busybox under tcg, hot-pluggable through QMP.
//!
//! The host's loopback is 10.0.2.2 in a guest that has a network.

mod archive;
mod machine;

pub use machine::{Drive, FILES, Guest, GuestFile, Options, System, program_line};

use anyhow::{Context as _, Result, bail};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static MARKS: AtomicU32 = AtomicU32::new(0);

/// How long a guest may take until its shell answers; two seconds are usual.
const BOOT_TIME_MAX: Duration = Duration::from_secs(120);
/// How long one command may take.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);

/// Where the kernel and the initramfs are (`integration/guest/build`).
#[derive(Debug, Clone)]
pub struct Image(PathBuf);

impl Image {
    /// The image that `integration/guest/build` wrote to a folder.
    ///
    /// # Errors
    /// When it is not there.
    pub fn at(folder: &Path) -> Result<Self> {
        if !folder.join("initramfs.img").is_file() {
            bail!(
                "no guest in {}: run integration/guest/build {0}",
                folder.display()
            );
        }
        Ok(Self(folder.to_owned()))
    }

    /// Whether the initiator's system is there too (`integration/guest/build-initiator`).
    #[must_use]
    pub fn has_initiator(&self) -> bool {
        self.0.join("INITIATOR").is_file()
    }

    fn folder(&self) -> &Path {
        &self.0
    }
}

/// Where a guest's two sockets are.
#[derive(Debug, Clone)]
pub struct Sockets {
    /// QEMU's monitor.
    pub qmp: PathBuf,
    /// The guest's shell.
    pub shell: PathBuf,
}

impl Sockets {
    /// The sockets of the guest `name` in a folder.
    #[must_use]
    pub fn of(folder: &Path, name: &str) -> Self {
        Self {
            qmp: folder.join(format!("{name}.qmp")),
            shell: folder.join(format!("{name}.shell")),
        }
    }

    /// What the guest's kernel and QEMU say.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.shell.with_extension("log")
    }
}

/// Starts a guest that outlives this process, with one disk of its own (`disk`, a raw file: the guest's `/dev/vda`), and
/// waits until its shell answers. Returns QEMU's process id.
///
/// # Errors
/// When QEMU cannot be started or the guest does not boot.
pub fn leave_running(image: &Image, folder: &Path, name: &str, disk: &Path) -> Result<u32> {
    let options = Options {
        drives: vec![Drive::Raw(disk.to_owned())],
        ..Options::default()
    };
    Ok(Guest::boot(image, folder, name, &options)?.release())
}

/// What a command in the guest printed and returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its exit status.
    pub status: u8,
    /// Its standard output and error.
    pub output: String,
}

/// Runs one line of shell in the guest.
///
/// # Errors
/// When the guest's shell does not answer in time.
pub fn run(sockets: &Sockets, command: &str) -> Result<Answer> {
    ask(sockets, command, COMMAND_TIME_MAX)
}

/// Waits until the guest's shell answers.
///
/// # Errors
/// When it does not in two minutes.
pub fn await_boot(sockets: &Sockets) -> Result<()> {
    let deadline = Instant::now() + BOOT_TIME_MAX;
    loop {
        // What is sent before the guest's driver opens the port loses its first bytes: ask again until it is whole.
        match ask(sockets, "true", Duration::from_millis(500)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => {}
        }
    }
}

fn ask(sockets: &Sockets, command: &str, time_max: Duration) -> Result<Answer> {
    if command.contains('\n') {
        bail!("a guest command is one line");
    }
    let deadline = Instant::now() + time_max;
    let mut shell = connect(&sockets.shell, deadline)?;
    shell
        .set_read_timeout(Some(Duration::from_millis(200)))
        .context("setting a time limit")?;
    // Each answer ends with its own mark: what an earlier caller left unread is told apart by it.
    let mark = format!(
        "@{:x}-{:x}@",
        std::process::id(),
        MARKS.fetch_add(1, Ordering::Relaxed)
    );
    let line = format!("echo {mark}; ( {command} ) 2>&1; echo {mark} $?\n");
    shell
        .write_all(line.as_bytes())
        .context("sending the command")?;
    let mut text = String::new();
    loop {
        if let Some(answer) = parse(&text, &mark) {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("the guest did not end {command:?} within {time_max:?}; it said {text:?}");
        }
        let mut buffer = [0; 4096];
        match shell.read(&mut buffer) {
            Ok(0) => bail!("the guest hung up during {command:?}"),
            Ok(count) => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("reading from the guest"),
        }
    }
}

fn parse(text: &str, mark: &str) -> Option<Answer> {
    let (_, rest) = text.split_once(&format!("{mark}\n"))?;
    let (output, end) = rest.split_once(&format!("{mark} "))?;
    let (status, _) = end.split_once('\n')?;
    Some(Answer {
        status: status.trim().parse().ok()?,
        output: output.to_owned(),
    })
}

fn connect(path: &Path, deadline: Instant) -> Result<UnixStream> {
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| {
                    format!("connecting to the guest's shell at {}", path.display())
                });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
