//! `integration/serve target`: one LUN behind the real target process, over a pool of its own.

use crate::serve::EndAsked;
use crate::system::{free_port, program};
use anyhow::{Context as _, Result, bail, ensure};
use onggi_block_pool::file::FileOptions;
use onggi_block_pool::lvm::{Activation, Backing, LvmOptions, VgName};
use onggi_block_pool::{FilePool, Labels, LvmPool, Pool};
use onggi_block_target::{Access, ChapPair, Client, ExportSpec};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::entropy::{Entropy as _, SystemEntropy};
use onggi_common_units::{ByteCount, Secret};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long the target may take until it serves.
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// The logical unit number of the one volume.
const LUN: u16 = 1;

/// A target to serve.
#[derive(Debug, Clone)]
pub struct Target {
    /// The volume's size.
    pub size: ByteCount,
    /// A file with `user:secret`; without one, any initiator gets in.
    pub chap_file: Option<PathBuf>,
    /// Portals, all on 127.0.0.1.
    pub portals: usize,
    /// `lvm` or `file`.
    pub pool: String,
    /// The first portal's port; 0 for a free one.
    pub port: u16,
    /// The state folder; a temporary one when none is given.
    pub state: Option<PathBuf>,
}

/// Starts a target, passes its description to `ready`, and ends it once an end is asked for.
///
/// # Errors
/// When it does not start or does not end in order.
pub fn target(options: &Target, ready: impl FnOnce(&Value)) -> Result<()> {
    ensure!(
        (1..=16).contains(&options.portals),
        "{} portals: one to sixteen are served",
        options.portals
    );
    let asked = EndAsked::listen()?;
    let temporary = tempfile::Builder::new().prefix("onggi-").tempdir()?;
    let state = options
        .state
        .clone()
        .unwrap_or_else(|| temporary.path().join("state"));
    durable::create_dir_all(&state.join("keys"))?;
    let portals = pick_portals(options)?;
    let config = write_config(&state, &portals, &[])?;
    let chap = options.chap_file.as_deref().map(read_chap).transpose()?;
    let volume = SystemEntropy.uuid();
    let mut pool = OpenPool::open(options, &state)?;
    let mut daemon = Daemon::start(&config, &state)?;
    let description = pool.export(volume, options, &state, chap.as_ref());
    let outcome = description.map(|iqn| {
        let plain = |chap: &ChapPair| json!({ "user": chap.user, "secret": chap.secret.expose() });
        ready(&json!({
            "portal": portals[0],
            "portals": portals,
            "iqn": iqn,
            "lun": LUN,
            "chap": chap.as_ref().map(plain),
            "pids": [daemon.child.id()],
            "state": state,
        }));
        asked.wait();
    });
    let stopped = daemon.stop();
    pool.release(volume)?;
    outcome.and(stopped)
}

fn pick_portals(options: &Target) -> Result<Vec<SocketAddr>> {
    let local = [127, 0, 0, 1];
    let mut portals = Vec::new();
    for n in 0..options.portals {
        let wanted = match (options.port, u16::try_from(n)?) {
            (0, _) => 0,
            (first, n) => first.checked_add(n).context("the port is too large")?,
        };
        portals.push(SocketAddr::from((local, free_port(local, wanted)?)));
    }
    Ok(portals)
}

/// Writes a target's configuration into its state folder.
pub(crate) fn write_config(
    state: &Path,
    portals: &[SocketAddr],
    advertised: &[SocketAddr],
) -> Result<PathBuf> {
    let list = |addresses: &[SocketAddr]| {
        let quoted = addresses.iter().map(|address| format!("\"{address}\""));
        quoted.collect::<Vec<_>>().join(", ")
    };
    let mut text = format!("state = {state:?}\n[log]\nlevel = \"warn\"\n[block.target]\n");
    writeln!(text, "portals = [{}]", list(portals))?;
    writeln!(text, "advertised = [{}]", list(advertised))?;
    let path = state.join("onggi.toml");
    durable::replace(&path, text.as_bytes(), Visibility::Owner)?;
    Ok(path)
}

fn read_chap(path: &Path) -> Result<ChapPair> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let Some((user, secret)) = text.lines().next().and_then(|line| line.split_once(':')) else {
        bail!("{}: the first line is not user:secret", path.display());
    };
    Ok(ChapPair {
        user: user.to_owned(),
        secret: Secret::new(secret),
    })
}

/// The pool of the one volume.
struct OpenPool(Option<AnyPool>);

enum AnyPool {
    File(FilePool),
    Lvm(Box<LvmPool>),
}

impl OpenPool {
    fn open(options: &Target, state: &Path) -> Result<Self> {
        let pool = match options.pool.as_str() {
            "file" => AnyPool::File(FilePool::open(FileOptions {
                name: "serve".to_owned(),
                directory: state.join("volumes"),
                reserve: ByteCount::from_mib(64),
            })?),
            "lvm" => AnyPool::Lvm(Box::new(LvmPool::open(&LvmOptions {
                group: format!("onggi-serve-{}", SystemEntropy.alphanumeric(8))
                    .parse::<VgName>()?,
                backing: Backing::LoopFile {
                    path: state.join("serve.img"),
                    size: options
                        .size
                        .checked_add(ByteCount::from_mib(64))
                        .context("size")?,
                },
                state_dir: state.join("lvm"),
                worker: program("onggi-lvm-worker")?,
                lvm_as_program: false,
                activation: Activation::Auto,
                reclaim_per_second: ByteCount::from_gib(1),
                command_limit: Duration::from_secs(60),
            })?)),
            other => bail!("--pool {other}: file and lvm are known"),
        };
        Ok(Self(Some(pool)))
    }

    fn pool(&self) -> Result<&dyn Pool> {
        match self.0.as_ref().context("the pool was released")? {
            AnyPool::File(pool) => Ok(pool),
            AnyPool::Lvm(pool) => Ok(pool.as_ref()),
        }
    }

    fn export(
        &self,
        volume: onggi_common_units::Uuid,
        options: &Target,
        state: &Path,
        chap: Option<&ChapPair>,
    ) -> Result<String> {
        let pool = self.pool()?;
        pool.create(volume, options.size, &Labels::default())?;
        let iqn = format!("iqn.2010-10.org.openstack:volume-{volume}");
        let access = Access {
            attachment: SystemEntropy.uuid(),
            initiator: None,
            chap: chap.cloned(),
            mutual: None,
        };
        Client::new(state.join("run/target.sock")).put_export(&ExportSpec {
            iqn: iqn.clone(),
            lun: LUN,
            volume,
            medium: pool.open(volume)?,
            block_size: 512,
            read_only: false,
            access: vec![access],
        })?;
        Ok(iqn)
    }

    fn release(&mut self, volume: onggi_common_units::Uuid) -> Result<()> {
        self.pool()?.remove(volume)?;
        match self.0.take() {
            Some(AnyPool::Lvm(pool)) => Ok((*pool).release()?),
            Some(AnyPool::File(_)) | None => Ok(()),
        }
    }
}

/// The target's process.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) child: Child,
}

impl Daemon {
    #[expect(
        clippy::disallowed_methods,
        reason = "the daemon outlives the call; Run waits for the end of what it starts"
    )]
    pub(crate) fn start(config: &Path, state: &Path) -> Result<Self> {
        let child = std::process::Command::new(program("onggid")?)
            .arg("target")
            .arg("--config")
            .arg(config)
            // It ends with this program, however that ends.
            .arg("--supervised")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting onggid target")?;
        let mut daemon = Self { child };
        let client = Client::new(state.join("run/target.sock"));
        let deadline = Instant::now() + START_TIME_MAX;
        while client.portals().is_err() {
            if let Some(status) = daemon.child.try_wait()? {
                bail!("onggid target ended with {status}");
            }
            ensure!(
                Instant::now() < deadline,
                "onggid target does not serve within {START_TIME_MAX:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("process 0")?;
        rustix::process::kill_process(pid, Signal::TERM).context("ending onggid target")?;
        let status = self.child.wait()?;
        ensure!(status.success(), "onggid target ended with {status}");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After an orderly stop there is nothing left to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
