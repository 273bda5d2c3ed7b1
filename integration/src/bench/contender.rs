//! The targets that are measured, as processes of their own.

use crate::system::{free_port, program};
use anyhow::{Context as _, Result, bail, ensure};
use onggi_common_host::run::Run;
use onggi_common_units::ByteCount;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const TGT_IQN: &str = "iqn.2003-01.org.example:bench-tgt";
/// How long tgtd may take to answer, and to end.
const TGT_TIME_MAX: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(50);
/// tgtd's control sockets are numbered, from 0 on; a larger number than 32767 is refused.
const TGT_CONTROLS: u16 = 32_768;
/// The threads tgtd does its I/O with: its own default.
const TGT_IO_THREADS: &str = "16";

/// Where a logical unit is.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) portal: SocketAddr,
    pub(crate) iqn: String,
    pub(crate) lun: u16,
}

/// A target that runs.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) endpoint: Endpoint,
    child: Child,
    /// The process that serves.
    pid: u32,
    /// tgtd is told what to do through this.
    control: Option<Control>,
}

#[derive(Debug)]
struct Control {
    tgtadm: PathBuf,
    port: String,
}

#[expect(
    clippy::disallowed_methods,
    reason = "a target outlives the call; Run waits for the end of what it starts"
)]
fn start(program: &Path, arguments: &[&str], output: Stdio) -> Result<Child> {
    std::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))
}

impl Contender {
    /// This build's target, over a sparse file.
    pub(crate) fn onggi(folder: &Path, size: ByteCount) -> Result<Self> {
        let state = folder.join("onggi");
        let state = state.to_str().context("the folder's name is not UTF-8")?;
        let size = format!("{}M", size.bytes() >> 20);
        let arguments = ["serve", "target", "--size", &size, "--state", state];
        let mut child = start(&program("onggi-integration")?, &arguments, Stdio::piped())?;
        let mut line = String::new();
        let output = child.stdout.take().context("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let said: Value =
            serde_json::from_str(&line).with_context(|| format!("serve said {line:?}"))?;
        let text = |key: &str| {
            said[key]
                .as_str()
                .with_context(|| format!("no {key} in {said}"))
        };
        let pid = said["pids"][0].as_u64().context("no pid")?;
        Ok(Self {
            name: "onggi",
            endpoint: Endpoint {
                portal: text("portal")?.parse()?,
                iqn: text("iqn")?.to_owned(),
                lun: u16::try_from(said["lun"].as_u64().context("no LUN")?)?,
            },
            pid: u32::try_from(pid)?,
            child,
            control: None,
        })
    }

    /// tgtd with its rdwr backing store over a sparse file; `None` when it is not installed or may not be started.
    pub(crate) fn tgtd(folder: &Path, size: ByteCount) -> Result<Option<Self>> {
        let (Some(tgtd), Some(tgtadm)) = (find("tgtd"), find("tgtadm")) else {
            return Ok(None);
        };
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let image = folder.join("tgt.img");
        std::fs::File::create(&image)?.set_len(size.bytes())?;
        let port = free_port([127, 0, 0, 1], 0)?;
        let control = (port % TGT_CONTROLS).to_string();
        let portal = format!("portal=127.0.0.1:{port}");
        let arguments = [
            "-f",
            "-C",
            &control,
            "-t",
            TGT_IO_THREADS,
            "--iscsi",
            &portal,
        ];
        let child = start(&tgtd, &arguments, Stdio::null())?;
        let mut contender = Self {
            name: "tgtd",
            endpoint: Endpoint {
                portal: SocketAddr::from(([127, 0, 0, 1], port)),
                iqn: TGT_IQN.to_owned(),
                lun: 1,
            },
            pid: child.id(),
            child,
            control: Some(Control {
                tgtadm,
                port: control,
            }),
        };
        contender.configure_tgtd(&image)?;
        Ok(Some(contender))
    }

    fn configure_tgtd(&mut self, image: &Path) -> Result<()> {
        let image = image.to_str().context("the folder's name is not UTF-8")?;
        let control = self.control.as_ref().context("not tgtd")?;
        let deadline = Instant::now() + TGT_TIME_MAX;
        while control.say(&["--mode", "system", "--op", "show"]).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("tgtd ended with {status}");
            }
            ensure!(Instant::now() < deadline, "tgtd does not answer");
            std::thread::sleep(STEP);
        }
        let target = ["--mode", "target", "--tid", "1"];
        let unit = ["--mode", "logicalunit", "--tid", "1", "--lun", "1"];
        control.say(&[&target[..], &["--op", "new", "--targetname", TGT_IQN]].concat())?;
        let store = ["--op", "new", "--backing-store", image, "--bstype", "rdwr"];
        control.say(&[&unit[..], &store].concat())?;
        control.say(&[&target[..], &["--op", "bind", "--initiator-address", "ALL"]].concat())
    }

    /// The processor time it has used.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .with_context(|| format!("{} is gone", self.name))?;
        // The command's name may hold anything; the fields after it are counted from its closing bracket.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = |index: usize| -> Result<f64> {
            let field = fields
                .split_whitespace()
                .nth(index)
                .context("/proc/PID/stat")?;
            Ok(f64::from(field.parse::<u32>()?))
        };
        let per_second = u32::try_from(rustix::param::clock_ticks_per_second())?;
        Ok((ticks(11)? + ticks(12)?) / f64::from(per_second))
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) -> Result<()> {
        if let Some(control) = &self.control {
            control.say(&[
                "--mode", "target", "--op", "delete", "--force", "--tid", "1",
            ])?;
        }
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("process 0")?;
        rustix::process::kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + TGT_TIME_MAX;
        while self.child.try_wait()?.is_none() {
            if Instant::now() >= deadline && self.control.is_some() {
                // tgtd does not always take SIGTERM; it is killed when the value goes.
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{} does not end", self.name);
            std::thread::sleep(STEP);
        }
        Ok(())
    }
}

impl Control {
    fn say(&self, words: &[&str]) -> Result<()> {
        let output = Run::new(&self.tgtadm)
            .args(["-C", &self.port, "--lld", "iscsi"])
            .args(words)
            .output()?;
        drop(output);
        Ok(())
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        // After an orderly stop there is nothing left to end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
