//! A running Onggi in a folder of its own: what scenarios and `integration/serve` start.
//!
//! Ports are free ones, the volume group's name is unique, and an end of the value is an end of its processes, loop
//! devices and files.

mod addresses;
mod network;
mod options;

pub use addresses::{Addresses, free_port};
pub use network::{Host, Network};
pub use options::{BlockOptions, ObjectOptions, Options, User};

use anyhow::{Context as _, Result, bail, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::entropy::{Entropy as _, SystemEntropy};
use onggi_common_host::run::{Output, Run, RunError};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long a system may take until it serves; a second is usual.
const START_TIME_MAX: &str = "60s";
/// How long an orderly end may take.
const STOP_TIME_MAX: Duration = Duration::from_secs(60);
/// What makes a test's cluster small and quick.
const QUICK_SETTINGS: &str = "part_power = 8\nexpiry_delay_seconds = 1\nreap_interval_seconds = 2\nreconcile_interval_seconds = 2\naudit_interval_seconds = 5";

/// A running system.
#[derive(Debug)]
pub struct System {
    /// Where it listens.
    pub addresses: Addresses,
    /// Its state folder.
    pub state: PathBuf,
    /// Keys of v1 users by `account:user`.
    pub keys: BTreeMap<String, String>,
    /// The volume group, for the `lvm` pool.
    pub volume_group: String,
    options: Options,
    daemon: Option<Child>,
    network: Option<Network>,
    // Removed with the value when the state folder was a temporary one.
    temporary: Option<tempfile::TempDir>,
}

/// The folder of this package's sources, where the scenarios' own files are. It is asked when it runs: a build that
/// another clone of the same source made is taken as it is.
///
/// # Errors
/// When this was not started by cargo.
pub fn sources() -> Result<PathBuf> {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .context("CARGO_MANIFEST_DIR is not set: run this with cargo")
}

/// A program of this build.
///
/// # Errors
/// When it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    let folders = own.ancestors().skip(1).take(2);
    let found = folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built: cargo build --release --workspace --bins"))
}

impl System {
    /// Starts a system and waits until it serves.
    ///
    /// # Errors
    /// When it does not start; the end of its log is part of the error.
    pub fn start(options: Options) -> Result<Self> {
        let temporary = match &options.state {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("onggi-").tempdir()?),
        };
        let state = match (&options.state, &temporary) {
            (Some(state), _) => state.clone(),
            (None, Some(temporary)) => temporary.path().join("state"),
            (None, None) => bail!("no state folder"),
        };
        durable::create_dir_all(&state.join("keys"))?;
        let nodes = options.object.as_ref().map_or(0, |object| object.nodes);
        let network = options.hosts.then(|| Network::make(u8::try_from(nodes)?));
        let mut system = Self {
            addresses: Addresses::pick(&options)?,
            network: network.transpose()?,
            volume_group: format!("onggi-test-{}", SystemEntropy.alphanumeric(8)),
            keys: BTreeMap::new(),
            state,
            options,
            daemon: None,
            temporary,
        };
        system.write_keys()?;
        if system.options.object_encryption && !system.object_keys().exists() {
            system.new_object_key("k1")?;
        }
        system.write_config()?;
        system.launch()?;
        Ok(system)
    }

    /// Writes the configuration anew, for the next start: [`System::addresses`] may have been changed. With fewer nodes than
    /// before it is one host of several; the rings stay.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self) -> Result<()> {
        let text = self.config_text()?;
        durable::replace(&self.config(), text.as_bytes(), Visibility::Owner)?;
        Ok(())
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.state.join("onggi.toml")
    }

    /// The daemons' log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.state.join("onggid.log")
    }

    /// The file of the root secrets of encryption at rest.
    #[must_use]
    pub fn object_keys(&self) -> PathBuf {
        self.state.join("keys/objects")
    }

    /// Adds a root secret of this id to the file.
    ///
    /// # Errors
    /// When there is one already.
    pub fn new_object_key(&self, id: &str) -> Result<()> {
        let run = Run::new(program("onggid")?).args(["object", "new-key", "--id", id]);
        run.arg(self.object_keys())
            .output()
            .map(drop)
            .map_err(failure)
    }

    fn key_file(&self, user: &User) -> PathBuf {
        self.state
            .join(format!("keys/{}-{}", user.account, user.user))
    }

    fn write_keys(&mut self) -> Result<()> {
        for user in &self.options.users {
            let key = user
                .key
                .map_or_else(|| SystemEntropy.alphanumeric(20), str::to_owned);
            durable::replace(&self.key_file(user), key.as_bytes(), Visibility::Owner)?;
            self.keys
                .insert(format!("{}:{}", user.account, user.user), key);
        }
        Ok(())
    }

    fn config_text(&self) -> Result<String> {
        let Addresses {
            identity,
            volumes,
            portal,
            ..
        } = &self.addresses;
        let mut text = format!(
            "state = {:?}\n[identity]\nlisten = \"{identity}\"\n",
            self.state
        );
        if let Some(level) = self.options.log_level {
            writeln!(text, "[log]\nlevel = \"{level}\"")?;
        }
        for user in &self.options.users {
            let groups = user
                .groups
                .iter()
                .map(|group| format!("{group:?}"))
                .collect::<Vec<_>>()
                .join(", ");
            writeln!(
                text,
                "[[identity.v1_users]]\naccount = {:?}\nuser = {:?}",
                user.account, user.user
            )?;
            writeln!(
                text,
                "key_file = {:?}\ngroups = [{groups}]",
                self.key_file(user)
            )?;
        }
        if let Some(block) = &self.options.block {
            writeln!(
                text,
                "[block]\nlisten = \"{volumes}\"\n[block.pool]\nkind = \"{}\"",
                block.pool
            )?;
            writeln!(
                text,
                "volume_group = \"{}\"\nsize = \"{}\"",
                self.volume_group, block.pool_size
            )?;
            writeln!(
                text,
                "reserve = \"64MiB\"\n[block.target]\nportals = [\"{portal}\"]"
            )?;
        }
        if let Some(object) = &self.options.object {
            self.object_text(object, &mut text)?;
        }
        Ok(text)
    }

    fn object_text(&self, object: &ObjectOptions, text: &mut String) -> Result<()> {
        let Addresses { objects, nodes, .. } = &self.addresses;
        let devices: usize = nodes.iter().map(|(_, devices)| devices.len()).sum();
        writeln!(
            text,
            "[object]\nlisten = \"{objects}\"\nreplicas = {}\n{}",
            // Where there are fewer, the rings were made before, with more nodes.
            object.replicas.min(devices),
            self.options.object_settings.unwrap_or(QUICK_SETTINGS)
        )?;
        if let Some(domain) = object.storage_domain {
            writeln!(text, "storage_domain = \"{domain}\"")?;
        }
        for (index, name) in object.policies.iter().enumerate() {
            let is_default = index == 0;
            writeln!(
                text,
                "[[object.policies]]\nname = \"{name}\"\ndefault = {is_default}"
            )?;
        }
        for (index, (address, devices)) in nodes.iter().enumerate() {
            let devices = devices
                .iter()
                .map(|name| format!("{name:?}"))
                .collect::<Vec<_>>()
                .join(", ");
            writeln!(
                text,
                "[[object.nodes]]\naddress = \"{address}\"\nzone = {}",
                index + 1
            )?;
            writeln!(text, "devices = [{devices}]")?;
        }
        writeln!(text, "[object.filters]\n{}", self.options.object_filters)?;
        if self.options.object_encryption {
            let keys = self.object_keys();
            writeln!(text, "[object.encryption]\nkey_file = {keys:?}")?;
        }
        if let Some((realms, current)) = &self.options.container_sync {
            writeln!(
                text,
                "[object.container_sync]\nrealms = {realms:?}\ncurrent = \"{current}\"\ninterval_seconds = 1"
            )?;
        }
        Ok(())
    }

    /// Starts the daemons over what is already in the state folder.
    ///
    /// # Errors
    /// When they do not start; the end of their log is part of the error.
    #[expect(
        clippy::disallowed_methods,
        reason = "daemons outlive the call; Run waits for the end of what it starts"
    )]
    pub fn launch(&mut self) -> Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .context("opening the log")?;
        if self.network.is_some() {
            return self.launch_on_hosts(&log);
        }
        let mut command = std::process::Command::new(program("onggid")?);
        command.arg("run").arg("--config").arg(self.config());
        if self.options.single_process {
            command.arg("--single-process");
        }
        command.envs(
            self.options
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        );
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing the log")?)
            .stderr(log)
            .spawn()
            .context("starting onggid")?;
        self.daemon = Some(child);
        let healthy = self.await_health(START_TIME_MAX);
        self.started(healthy)
    }

    fn launch_on_hosts(&mut self, log: &std::fs::File) -> Result<()> {
        let (config, nodes) = (self.config(), self.addresses.nodes.clone());
        let nodes: Vec<_> = nodes.into_iter().map(|(address, _)| address).collect();
        let network = self.network.as_mut().context("no network")?;
        network.launch(&config, &nodes, log)?;
        let system = &*self;
        let healthy = system
            .network()?
            .on(Host::Proxy, || system.await_health(START_TIME_MAX));
        self.started(healthy)
    }

    fn started(&self, healthy: Result<()>) -> Result<()> {
        if let Err(error) = healthy {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(12).collect();
            let tail = lines.into_iter().rev().collect::<Vec<_>>().join("\n    ");
            bail!("the system does not start: {error:#}\n    {tail}");
        }
        Ok(())
    }

    /// The network its hosts are in.
    ///
    /// # Errors
    /// When it was not started on hosts.
    pub fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("it has no hosts")
    }

    /// The same, to change how it is wired.
    ///
    /// # Errors
    /// When it was not started on hosts.
    pub fn network_mut(&mut self) -> Result<&mut Network> {
        self.network.as_mut().context("it has no hosts")
    }

    /// Waits until every process of the system answers.
    ///
    /// # Errors
    /// When one does not in time.
    pub fn await_health(&self, time: &str) -> Result<()> {
        let mut run = Run::new(program("onggid")?).time_limit(Duration::from_secs(120));
        run = run
            .arg("status")
            .arg("--config")
            .arg(self.config())
            .args(["--wait", time]);
        run.output().map(drop).map_err(failure)
    }

    /// The process ids by name, as the supervisor publishes them.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn pids(&self) -> Result<BTreeMap<String, u32>> {
        let text = std::fs::read(self.state.join("run/processes.json"))
            .context("reading the list of processes")?;
        let processes: Value = serde_json::from_slice(&text)?;
        Ok(serde_json::from_value(processes["pids"].clone())?)
    }

    /// Kills one process with SIGKILL.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn kill(&self, name: &str) -> Result<()> {
        self.signal(name, Signal::KILL)
    }

    /// Sends one process a signal.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let pids = self.pids()?;
        let pid = *pids
            .get(name)
            .with_context(|| format!("no process {name} in {pids:?}"))?;
        let pid = Pid::from_raw(i32::try_from(pid)?).context("process 0")?;
        rustix::process::kill_process(pid, signal).with_context(|| format!("signalling {name}"))
    }

    /// Ends the daemons in order; the state stays.
    ///
    /// # Errors
    /// When they do not end in time, or with another status than 0.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(network) = &mut self.network {
            network.end()?;
        }
        let Some(mut daemon) = self.daemon.take() else {
            return Ok(());
        };
        let pid = Pid::from_raw(i32::try_from(daemon.id())?).context("process 0")?;
        rustix::process::kill_process(pid, Signal::TERM).context("ending onggid")?;
        let deadline = Instant::now() + STOP_TIME_MAX;
        loop {
            if let Some(status) = daemon.try_wait()? {
                ensure!(status.success(), "onggid ended with {status}");
                return Ok(());
            }
            if Instant::now() >= deadline {
                daemon.kill()?;
                daemon.wait()?;
                bail!("onggid did not end within {STOP_TIME_MAX:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the supervisor and everything it runs, as a power cut would, and starts over what is left.
    ///
    /// # Errors
    /// When something cannot be killed or does not come back.
    pub fn crash(&mut self) -> Result<()> {
        let names: Vec<_> = self.pids()?.into_keys().collect();
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill()?;
            daemon.wait()?;
        }
        for name in names {
            // Those that die with their supervisor may be gone already.
            drop(self.kill(&name));
        }
        Ok(())
    }

    /// The variables of an openrc file the system wrote: `admin` or `demo`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn openrc(&self, who: &str) -> Result<Vec<(String, String)>> {
        let path = self.state.join(format!("{who}-openrc"));
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let exports = text
            .lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        Ok(exports
            .map(|(name, value)| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
            .collect())
    }

    /// The variables of v1 auth for a configured `account:user`.
    #[must_use]
    pub fn v1(&self, login: &str) -> Vec<(String, String)> {
        let key = self.keys.get(login).cloned().unwrap_or_default();
        let auth = format!("http://{}/auth/v1.0", self.addresses.objects);
        [
            ("ST_AUTH", auth),
            ("ST_USER", login.to_owned()),
            ("ST_KEY", key),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// Runs a program with these variables and returns what it printed.
///
/// # Errors
/// When it cannot be started or ends with another status than 0; what it printed is part of the error.
pub fn run(program: &Path, arguments: &[&str], environment: &[(String, String)]) -> Result<Output> {
    let mut run = Run::new(program)
        .args(arguments)
        .time_limit(Duration::from_secs(300));
    for (name, value) in environment {
        run = run.env(name, value);
    }
    let name = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    run.output()
        .map_err(failure)
        .with_context(|| format!("{name} {}", outline(arguments)))
}

/// A command line as an error shows it: long arguments are cut, and tokens and keys left out.
fn outline(arguments: &[&str]) -> String {
    let shown = |argument: &&str| {
        let is_secret = argument.starts_with("X-Auth-") && argument.contains(": ");
        let name = if is_secret {
            argument.split(": ").next().unwrap_or_default()
        } else {
            argument
        };
        name.chars().take(80).collect::<String>()
    };
    arguments.iter().map(shown).collect::<Vec<_>>().join(" ")
}

fn failure(error: RunError) -> anyhow::Error {
    match &error {
        RunError::Failed { stdout, .. } if !stdout.is_empty() => {
            let said = String::from_utf8_lossy(stdout).trim().to_owned();
            anyhow::Error::new(error).context(said)
        }
        _ => anyhow::Error::new(error),
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln_once(&format!("ending a system: {error:#}"));
        }
        let releases = self
            .options
            .block
            .as_ref()
            .is_some_and(|block| block.pool == "lvm");
        if releases && self.temporary.is_some() {
            let released = program("onggid").and_then(|onggid| {
                let run = Run::new(onggid)
                    .args(["pool", "release", "--config"])
                    .arg(self.config());
                run.output().map_err(failure)
            });
            if let Err(error) = released {
                eprintln_once(&format!("releasing the volume group: {error:#}"));
            }
        }
        drop(self.temporary.take());
    }
}

#[expect(
    clippy::print_stderr,
    reason = "an end of a test's system has nobody to return an error to"
)]
fn eprintln_once(text: &str) {
    eprintln!("{text}");
}
