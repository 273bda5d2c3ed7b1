//! The guest's machine: QEMU's arguments, the files a test gives along, the process.

use super::archive::{ALIGNMENT, Archive};
use super::{Answer, COMMAND_TIME_MAX, Image, Sockets, ask, await_boot};
use anyhow::{Context as _, Result, bail, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::run::Run;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long a guest may take to switch itself off.
const POWER_OFF_TIME_MAX: Duration = Duration::from_secs(60);
/// Where the files of a test are in the guest.
pub const FILES: &str = "/host";

/// Which system a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum System {
    /// Busybox and drivers of local disks (`integration/guest/build`).
    #[default]
    Small,
    /// An iSCSI initiator with file systems and SCSI tools (`integration/guest/build-initiator`).
    Initiator,
    /// That and fio.
    InitiatorWithFio,
}

/// A disk of the guest.
#[derive(Debug, Clone)]
pub enum Drive {
    /// A raw file.
    Raw(PathBuf),
    /// A raw file whose writes and flushes are logged in the order in which the guest made them.
    Logged {
        /// The raw file.
        disk: PathBuf,
        /// The log, which is made.
        log: PathBuf,
    },
    /// A LUN, by QEMU's own initiator. The machine's folder gets a file with the secret that only its owner can read.
    Iscsi {
        /// The portal, `address:port`.
        portal: String,
        /// The target's name.
        target: String,
        /// The logical unit number.
        lun: u16,
        /// The CHAP user and secret.
        chap: (String, String),
    },
}

/// A file that a test puts into the guest, below [`FILES`].
#[derive(Debug, Clone)]
pub struct GuestFile {
    /// Its path below [`FILES`], without a leading slash.
    pub path: String,
    /// Its permissions.
    pub permissions: u32,
    /// What it holds.
    pub content: Vec<u8>,
}

/// What a guest is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its system.
    pub system: System,
    /// Its memory. All its files are in there.
    pub memory_mib: u32,
    /// Its disks: `/dev/vda` and so on, with the serial numbers `disk0` and so on.
    pub drives: Vec<Drive>,
    /// Files of the test.
    pub files: Vec<GuestFile>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            system: System::default(),
            memory_mib: 256,
            drives: Vec::new(),
            files: Vec::new(),
        }
    }
}

/// A running guest, which ends with the value.
#[derive(Debug)]
pub struct Guest {
    qemu: Child,
    sockets: Sockets,
}

impl Guest {
    /// Starts a guest whose sockets are `NAME.qmp` and `NAME.shell` in a folder, and waits until its shell answers.
    ///
    /// # Errors
    /// When QEMU does not start or the shell does not answer; the end of the console is part of the error.
    pub fn boot(image: &Image, folder: &Path, name: &str, options: &Options) -> Result<Self> {
        let guest = Self::start(image, folder, name, options)?;
        if let Err(error) = await_boot(&guest.sockets) {
            let log = std::fs::read_to_string(guest.sockets.console()).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(12).collect();
            let tail = lines.into_iter().rev().collect::<Vec<_>>().join("\n    ");
            bail!("the guest does not boot: {error:#}\n    {tail}");
        }
        Ok(guest)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a guest outlives the call; Run waits for the end of what it starts"
    )]
    pub(super) fn start(
        image: &Image,
        folder: &Path,
        name: &str,
        options: &Options,
    ) -> Result<Self> {
        let sockets = Sockets::of(folder, name);
        for socket in [&sockets.qmp, &sockets.shell] {
            if socket.exists() {
                std::fs::remove_file(socket)
                    .with_context(|| format!("removing {}", socket.display()))?;
            }
        }
        let initrd = folder.join(format!("{name}.initrd"));
        write_initrd(image, options, &initrd)?;
        let log = std::fs::File::create(sockets.console()).context("making the guest's log")?;
        let mut qemu = std::process::Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-M", "pc"])
            .args(["-m", &options.memory_mib.to_string(), "-smp", "1"])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(image.folder().join("vmlinuz"))
            .arg("-initrd")
            .arg(&initrd)
            // Without no_timer_check a guest whose processor gets no time takes its timer for a broken one and panics.
            .args([
                "-append",
                "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr no_timer_check random.trust_cpu=on net.ifnames=0",
            ])
            .args(["-serial", "stdio"]);
        for (id, path) in [("shell", &sockets.shell), ("qmp", &sockets.qmp)] {
            let path = path.display();
            let socket = format!("socket,id={id},path={path},server=on,wait=off");
            qemu.args(["-chardev", &socket]);
        }
        qemu.args(["-serial", "chardev:shell"])
            .args(["-mon", "chardev=qmp,mode=control"]);
        if options.system != System::Small {
            qemu.args(["-netdev", "user,id=net0,ipv6=off"])
                .args(["-device", "virtio-net-pci,netdev=net0,romfile="]);
        }
        for (index, drive) in options.drives.iter().enumerate() {
            qemu.args(drive.arguments(index, folder)?);
        }
        let qemu = qemu
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing the guest's log")?)
            .stderr(log)
            .spawn()
            .context("starting qemu-system-x86_64 (package qemu-system-x86)")?;
        Ok(Self { qemu, sockets })
    }

    /// Its sockets.
    #[must_use]
    pub const fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// Lets it run on without this value, and returns QEMU's process id.
    #[must_use]
    pub(super) fn release(self) -> u32 {
        // Dropping it would end QEMU.
        let guest = std::mem::ManuallyDrop::new(self);
        guest.qemu.id()
    }

    /// Runs one line of shell and returns its status and output.
    ///
    /// # Errors
    /// When the shell does not answer in a minute.
    pub fn ask(&self, command: &str) -> Result<Answer> {
        ask(&self.sockets, command, COMMAND_TIME_MAX)
    }

    /// Runs one line of shell that must succeed and returns its output.
    ///
    /// # Errors
    /// When it ends with another status than 0, or not in a minute.
    pub fn run(&self, command: &str) -> Result<String> {
        self.run_within(command, COMMAND_TIME_MAX)
    }

    /// The same with another time limit.
    ///
    /// # Errors
    /// When it ends with another status than 0, or not in time.
    pub fn run_within(&self, command: &str, time_max: Duration) -> Result<String> {
        let answer = ask(&self.sockets, command, time_max)?;
        ensure!(
            answer.status == 0,
            "in the guest, {command}: status {}: {}",
            answer.status,
            answer.output
        );
        Ok(answer.output)
    }

    /// Runs a line of shell again and again until it succeeds, and returns its output.
    ///
    /// # Errors
    /// When it does not succeed in time; its last output is part of the error.
    pub fn await_success(&self, command: &str, time_max: Duration) -> Result<String> {
        let deadline = Instant::now() + time_max;
        loop {
            let answer = self.ask(command)?;
            if answer.status == 0 {
                return Ok(answer.output);
            }
            ensure!(
                Instant::now() < deadline,
                "in the guest, {command} did not succeed within {time_max:?}: {}",
                answer.output
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Switches it off without a sync, and waits until QEMU has closed its files.
    ///
    /// # Errors
    /// When it does not end in a minute.
    pub fn switch_off(mut self) -> Result<()> {
        // The answer may be lost with the guest.
        drop(ask(
            &self.sockets,
            "poweroff -n -f",
            Duration::from_millis(500),
        ));
        let deadline = Instant::now() + POWER_OFF_TIME_MAX;
        while self.qemu.try_wait().context("waiting for QEMU")?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "the guest did not switch itself off within {POWER_OFF_TIME_MAX:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        drop(self.qemu.kill());
        drop(self.qemu.wait());
    }
}

impl Drive {
    fn arguments(&self, index: usize, folder: &Path) -> Result<Vec<String>> {
        let node = format!("disk{index}");
        let mut arguments = Vec::new();
        let mut add = |name: &str, value: String| {
            arguments.push(name.to_owned());
            arguments.push(value);
        };
        match self {
            Self::Raw(disk) => add(
                "-blockdev",
                format!(
                    "driver=raw,node-name={node},discard=unmap,file.driver=file,file.filename={}",
                    disk.display()
                ),
            ),
            Self::Logged { disk, log } => {
                std::fs::File::create(log).context("making the log")?;
                add(
                    "-blockdev",
                    format!(
                        "driver=blklogwrites,node-name={node},log-sector-size=512,file.driver=raw,file.file.driver=file,file.file.filename={},log.driver=file,log.filename={}",
                        disk.display(),
                        log.display()
                    ),
                );
            }
            Self::Iscsi {
                portal,
                target,
                lun,
                chap: (user, secret),
            } => {
                let file = folder.join(format!("{node}.secret"));
                durable::replace(&file, secret.as_bytes(), Visibility::Owner)?;
                let id = format!("secret{index}");
                add("-object", format!("secret,id={id},file={}", file.display()));
                add(
                    "-blockdev",
                    format!(
                        "driver=iscsi,node-name={node},transport=tcp,portal={portal},target={target},lun={lun},user={user},password-secret={id}"
                    ),
                );
            }
        }
        add(
            "-device",
            format!("virtio-blk-pci,drive={node},serial={node}"),
        );
        Ok(arguments)
    }
}

fn write_initrd(image: &Image, options: &Options, path: &Path) -> Result<()> {
    let layers: &[&str] = match options.system {
        System::Small => &["initramfs.img"],
        System::Initiator => &["initiator.img"],
        System::InitiatorWithFio => &["initiator.img", "fio.img"],
    };
    let mut file = std::fs::File::create(path).context("making the initramfs")?;
    for layer in layers {
        let layer = image.folder().join(layer);
        let mut bytes =
            std::fs::read(&layer).with_context(|| format!("reading {}", layer.display()))?;
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        file.write_all(&bytes).context("writing the initramfs")?;
    }
    if options.files.is_empty() {
        return Ok(());
    }
    let mut archive = Archive::default();
    for GuestFile {
        path,
        permissions,
        content,
    } in &options.files
    {
        let path = format!("{}/{path}", FILES.trim_start_matches('/'));
        archive.file(&path, *permissions, content)?;
    }
    file.write_all(&archive.finish()?)
        .context("writing the initramfs")
}

impl GuestFile {
    /// A text file that can be run.
    #[must_use]
    pub fn script(path: &str, content: &str) -> Self {
        Self {
            path: path.to_owned(),
            permissions: 0o755,
            content: content.as_bytes().to_vec(),
        }
    }

    /// A program of this machine and the libraries it is linked with: [`program_line`] says how the guest starts it.
    ///
    /// # Errors
    /// When it cannot be read, or `ldd` cannot tell its libraries.
    pub fn program(path: &Path) -> Result<Vec<Self>> {
        let read = |from: &Path, to: String| -> Result<Self> {
            Ok(Self {
                path: to,
                permissions: 0o755,
                content: std::fs::read(from)
                    .with_context(|| format!("reading {}", from.display()))?,
            })
        };
        let name = |path: &Path| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        // Emulated processors copy slowly: what only debuggers read stays out, where there is a tool for that.
        let folder = tempfile::tempdir().context("making a folder")?;
        let lean = folder.path().join("lean");
        let strip = Run::new("strip").args(["--strip-debug", "-o"]);
        let stripped = strip.arg(&lean).arg(path).output();
        let from = if stripped.is_ok() { &lean } else { path };
        let mut files = vec![read(from, name(path))?];
        let listed = Run::new("ldd").arg(path).output().context("running ldd")?;
        for line in String::from_utf8_lossy(&listed.stdout).lines() {
            // `libc.so.6 => /lib/…/libc.so.6 (0x…)`, or the loader itself: `/lib64/ld-linux-x86-64.so.2 (0x…)`.
            let place = line.rsplit("=>").next().unwrap_or_default().trim();
            let place = Path::new(place.split(' ').next().unwrap_or_default());
            if place.is_absolute() {
                files.push(read(place, format!("lib/{}", name(place)))?);
            }
        }
        Ok(files)
    }
}

/// How the guest starts a program that [`GuestFile::program`] put there: by the loader and libraries it came with.
#[must_use]
pub fn program_line(name: &str) -> String {
    format!("{FILES}/lib/ld-linux-x86-64.so.2 --library-path {FILES}/lib {FILES}/{name}")
}
