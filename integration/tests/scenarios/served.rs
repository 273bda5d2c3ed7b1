//! A set-up as `integration/serve` starts it, that ends with the value.

use anyhow::{Context as _, Result, ensure};
use onggi_integration::system::program;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

/// A served set-up and what it said of itself.
pub(crate) struct Served {
    child: Child,
    pub(crate) description: Value,
}

impl Served {
    /// Starts `serve ARGUMENTS` and waits for its line.
    #[expect(
        clippy::disallowed_methods,
        reason = "the set-up outlives the call; Run waits for the end of what it starts"
    )]
    pub(crate) fn start(arguments: &[&str]) -> Result<Self> {
        let mut child = std::process::Command::new(program("onggi-integration")?)
            .arg("serve")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .context("starting serve")?;
        let mut line = String::new();
        let output = child.stdout.take().context("no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let description =
            serde_json::from_str(&line).with_context(|| format!("serve said {line:?}"))?;
        Ok(Self { child, description })
    }

    /// A text of the description.
    pub(crate) fn text(&self, key: &str) -> Result<&str> {
        self.description[key]
            .as_str()
            .with_context(|| format!("no {key} in {}", self.description))
    }

    /// Ends it as SIGTERM does, and checks that it ends in order.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("process 0")?;
        rustix::process::kill_process(pid, Signal::TERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "serve ended with {status}");
        Ok(())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // After an orderly stop there is nothing left to end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
