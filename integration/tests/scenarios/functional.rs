//! Swift's own functional suite against a set-up of this build.
//!
//! `integration/functional_failing.txt` lists the tests that fail, each with the feature that is missing. It only shrinks:
//! a test that fails and is not listed, or is listed and does not fail, fails the scenario.

use crate::needs::need;
use crate::served::Served;
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::run::Run;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the suite may take; four minutes are usual.
const TIME_MAX: Duration = Duration::from_secs(1_200);

pub(crate) const SCENARIOS: &[Scenario] = &[("functional::swifts_own_suite", swifts_own_suite)];

fn suite() -> Result<PathBuf, Outcome> {
    let folder = std::env::var_os("ONGGI_FUNCTIONAL").map(PathBuf::from);
    folder
        .filter(|folder| folder.join("suite").is_dir())
        .ok_or_else(|| {
            Outcome::Skipped(
                "Swift's functional suite is not installed (ONGGI_FUNCTIONAL)".to_owned(),
            )
        })
}

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The first words of lines that are no comment.
fn names(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn swifts_own_suite() -> Result<Outcome> {
    if std::env::var_os("ONGGI_LONG").is_none() {
        let reason = "it takes minutes and two of its tests vary: integration/functional or ONGGI_LONG=1 runs it";
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    let folder = need!(suite());
    let served = Served::start(&["swift-functional"])?;
    let auth = served.text("auth_v1")?;
    let place = auth
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next())
        .context("no address")?;
    let output = Run::new(folder.join("venv/bin/python"))
        .arg(here("functional.py"))
        .arg(&folder)
        .arg(place)
        .time_limit(TIME_MAX)
        .output()?;
    println!("{}", String::from_utf8_lossy(&output.stdout).trim());
    let outcomes = std::fs::read_to_string(folder.join("outcomes.txt"))?;
    let failed: BTreeSet<String> = outcomes
        .lines()
        .filter_map(|line| line.strip_prefix("failed "))
        .map(|name| name.replace(' ', "_"))
        .collect();
    let listed = names(&std::fs::read_to_string(here("functional_failing.txt"))?);
    let news: Vec<_> = failed.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&failed).collect();
    ensure!(
        news.is_empty() && gone.is_empty(),
        "failing and not listed: {news:#?}; listed and not failing: {gone:#?}; see {}",
        folder.join("log").display()
    );
    served.stop()?;
    Ok(Outcome::Passed)
}
