//! `onggid run`: starts every process the configuration names, and starts again what ends.
//!
//! A process that cannot start the first time (a port in use, a damaged store) ends the whole run with its message:
//! a system that half works is not said to be up. One that ran and then died is started again, with a growing pause.

use crate::state::{Processes, StateFolder};
use anyhow::{Context as _, Result, bail};
use core::time::Duration;
use onggi_common_service::{Config, Drain};
use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The status a process ends with when it could not begin to serve.
pub(crate) const EXIT_CANNOT_START: u8 = 3;
/// The pause before the first restart, and the longest one.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A process that ran this long was healthy: its next restart pauses shortly again.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// How long a process may take to begin or to find that it cannot: it waits ten seconds for what is in use.
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a process may take to end once asked, before it is killed.
const END_TIME_MAX: Duration = Duration::from_secs(30);

/// One process to keep running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Role {
    /// Its name in the status: `control`, `target`, `proxy`, `node-127.0.0.1:6200`.
    pub(crate) name: String,
    /// The arguments of `onggid`.
    pub(crate) arguments: Vec<String>,
    /// Processes of a lower rank are ended first.
    rank: u8,
}

/// The processes a configuration names.
#[must_use]
pub(crate) fn roles(config: &Config) -> Vec<Role> {
    let role = |name: &str, rank, arguments: &[&str]| Role {
        name: name.to_owned(),
        arguments: arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect(),
        rank,
    };
    let mut roles = Vec::new();
    if config.block.is_some() {
        roles.push(role("target", 3, &["target"]));
    }
    if config.block.is_some() || config.object.is_some() {
        roles.push(role("control", 2, &["control"]));
    }
    if let Some(object) = &config.object {
        for node in &object.nodes {
            let address = node.address.to_string();
            roles.push(role(
                &format!("node-{address}"),
                1,
                &["node", "--address", &address],
            ));
        }
        roles.push(role("proxy", 0, &["proxy"]));
    }
    roles
}

struct Ended {
    name: String,
    status: std::io::Result<ExitStatus>,
    ran: Duration,
}

struct Supervisor {
    program: PathBuf,
    config_path: PathBuf,
    state: StateFolder,
    roles: BTreeMap<String, Role>,
    pids: BTreeMap<String, u32>,
    pauses: BTreeMap<String, Duration>,
    ended: JoinSet<Ended>,
    restarts: JoinSet<String>,
}

/// Runs all of the configuration's processes until the drain begins.
///
/// # Errors
/// When one of them cannot start at first.
pub(crate) async fn run(
    config: &Config,
    config_path: &Path,
    state: StateFolder,
    drain: &Drain,
) -> Result<()> {
    let program = std::env::current_exe().context("finding the path of onggid")?;
    let roles: BTreeMap<_, _> = roles(config)
        .into_iter()
        .map(|role| (role.name.clone(), role))
        .collect();
    if roles.is_empty() {
        bail!(
            "{}: neither [block] nor [object] is there: nothing to run",
            config_path.display()
        );
    }
    let mut supervisor = Supervisor {
        program,
        config_path: config_path.to_owned(),
        state,
        roles,
        pids: BTreeMap::new(),
        pauses: BTreeMap::new(),
        ended: JoinSet::new(),
        restarts: JoinSet::new(),
    };
    let outcome = supervisor.watch(drain).await;
    supervisor.end_all().await;
    outcome
}

impl Supervisor {
    async fn watch(&mut self, drain: &Drain) -> Result<()> {
        for name in self.roles.keys().cloned().collect::<Vec<_>>() {
            self.start(&name)?;
        }
        loop {
            tokio::select! {
                () = drain.requested() => return Ok(()),
                Some(ended) = self.ended.join_next() => self.after_end(ended.context("waiting for a process")?)?,
                Some(name) = self.restarts.join_next() => {
                    let name = name.context("waiting for a restart")?;
                    if let Err(error) = self.start(&name) {
                        tracing::error!(process = name, error = format!("{error:#}"), "cannot be started again");
                        self.restart_later(name);
                    }
                }
            }
        }
    }

    fn start(&mut self, name: &str) -> Result<()> {
        let Some(role) = self.roles.get(name) else {
            return Ok(());
        };
        let mut command = Command::new(&self.program);
        command
            .args(&role.arguments)
            .arg("--config")
            .arg(&self.config_path)
            .arg("--supervised");
        command.stdin(std::process::Stdio::null());
        let mut child: Child = command
            .spawn()
            .with_context(|| format!("starting onggid {name}"))?;
        self.pids
            .insert(name.to_owned(), child.id().unwrap_or_default());
        self.publish();
        let name = name.to_owned();
        let started = Instant::now();
        self.ended.spawn(async move {
            let status = child.wait().await;
            Ended {
                name,
                status,
                ran: started.elapsed(),
            }
        });
        Ok(())
    }

    fn after_end(&mut self, ended: Ended) -> Result<()> {
        let Ended { name, status, ran } = ended;
        self.pids.remove(&name);
        self.publish();
        let status = status.with_context(|| format!("waiting for onggid {name}"))?;
        let first = !self.pauses.contains_key(&name) && ran < START_TIME_MAX;
        if first && status.code() == Some(i32::from(EXIT_CANNOT_START)) {
            bail!("onggid {name} cannot start; its message stands above");
        }
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("status {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        tracing::warn!(process = name, %how, "ended and is started again");
        if ran >= HEALTHY_AFTER {
            self.pauses.remove(&name);
        }
        self.restart_later(name);
        Ok(())
    }

    fn restart_later(&mut self, name: String) {
        let pause = self
            .pauses
            .get(&name)
            .map_or(PAUSE_MIN, |pause| (*pause * 2).min(PAUSE_MAX));
        self.pauses.insert(name.clone(), pause);
        self.restarts.spawn(async move {
            tokio::time::sleep(pause).await;
            name
        });
    }

    fn publish(&self) {
        let processes = Processes {
            supervisor: std::process::id(),
            pids: self.pids.clone(),
        };
        if let Err(error) = self.state.write_processes(&processes) {
            tracing::error!(%error, "the list of processes could not be written; `onggid status` shows an old one");
        }
    }

    async fn end_all(&mut self) {
        for rank in 0..=u8::MAX {
            let names: Vec<_> = self
                .roles
                .values()
                .filter(|role| role.rank == rank)
                .map(|role| role.name.clone())
                .collect();
            if names.is_empty() && rank > 3 {
                break;
            }
            self.end(&names).await;
        }
        self.state.remove_processes();
    }

    async fn end(&mut self, names: &[String]) {
        let deadline = Instant::now() + END_TIME_MAX;
        self.signal(names, Signal::TERM);
        while names.iter().any(|name| self.pids.contains_key(name)) {
            tokio::select! {
                ended = self.ended.join_next() => match ended {
                    Some(Ok(ended)) => drop(self.pids.remove(&ended.name)),
                    Some(Err(error)) => tracing::error!(%error, "waiting for a process"),
                    None => return,
                },
                () = tokio::time::sleep_until(deadline) => {
                    tracing::warn!(processes = ?names, "did not end in time and are killed");
                    self.signal(names, Signal::KILL);
                    return;
                }
            }
        }
    }

    fn signal(&self, names: &[String], signal: Signal) {
        for pid in names.iter().filter_map(|name| self.pids.get(name)) {
            let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) else {
                continue;
            };
            if let Err(error) = rustix::process::kill_process(pid, signal) {
                tracing::debug!(%error, "a process ended before it was asked to");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_the_processes() {
        let config = Config::parse("[block]\n[object]\n", Path::new("c")).unwrap();
        let names: Vec<_> = roles(&config).into_iter().map(|role| role.name).collect();
        let nodes = (1..=4).map(|n| format!("node-127.0.0.{n}:6200"));
        let wanted: Vec<_> = ["target".into(), "control".into()]
            .into_iter()
            .chain(nodes)
            .chain(["proxy".into()])
            .collect();
        assert_eq!(names, wanted);
        let alone = Config::parse("", Path::new("c")).unwrap();
        assert!(roles(&alone).is_empty());
    }
}
