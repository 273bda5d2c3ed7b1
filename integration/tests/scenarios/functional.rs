//! Swift's own functional suite against a set-up of this build: none of its tests may fail.

use crate::needs::need;
use crate::served::Served;
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::run::Run;
use onggi_integration::system::sources;
use std::path::PathBuf;
use std::time::Duration;

/// How long the suite may take; two minutes and a half are usual.
const TIME_MAX: Duration = Duration::from_secs(1_200);
/// Tests that pass at least: the others need Keystone, or a Swift that is configured otherwise.
const PASSED_MIN: usize = 847;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("functional::swifts_own_suite", swifts_own_suite),
    (
        "functional::swifts_own_suite_over_encrypted_objects",
        encrypted,
    ),
];

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

fn swifts_own_suite() -> Result<Outcome> {
    passes(&["swift-functional"])
}

fn encrypted() -> Result<Outcome> {
    if !crate::needs::long() {
        let reason = "it takes three minutes more (integration/test --long)";
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    passes(&["swift-functional", "--encryption"])
}

/// Runs the suite against what `serve` starts with these arguments.
fn passes(served: &[&str]) -> Result<Outcome> {
    let folder = need!(suite());
    let served = Served::start(served)?;
    let auth = served.text("auth_v1")?;
    let place = auth
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next())
        .context("no address")?;
    let output = Run::new(folder.join("venv/bin/python"))
        .arg(sources()?.join("functional.py"))
        .arg(&folder)
        .arg(place)
        .time_limit(TIME_MAX)
        .output()?;
    println!("{}", String::from_utf8_lossy(&output.stdout).trim());
    let outcomes = std::fs::read_to_string(folder.join("outcomes.txt"))?;
    let of = |outcome: &str| -> Vec<&str> {
        let names = outcomes.lines();
        names
            .filter_map(|line| line.strip_prefix(outcome))
            .collect()
    };
    let (passed, failed) = (of("passed "), of("failed "));
    let log = folder.join("log");
    ensure!(
        failed.is_empty() && passed.len() >= PASSED_MIN,
        "{} passed; failing: {failed:#?}; see {}",
        passed.len(),
        log.display()
    );
    served.stop()?;
    Ok(Outcome::Passed)
}
