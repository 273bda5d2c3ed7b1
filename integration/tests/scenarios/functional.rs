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
/// The same with Keystone's users; the others need account ACLs as tempauth has them, or a Swift that is configured otherwise.
const KEYSTONE_PASSED_MIN: usize = 830;
/// Tests that only Keystone's users can run, and how many they are.
const KEYSTONE_ALONE: [&str; 4] = [
    "test/functional/test_access_control.py",
    "test/functional/test_account.py::TestAccountInNonDefaultDomain",
    "test/functional/test_container.py::TestContainerACLsAccount1",
    "test/functional/test_container.py::TestContainerACLsAccount4",
];
const KEYSTONE_ALONE_COUNT: usize = 12;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("functional::swifts_own_suite", swifts_own_suite),
    (
        "functional::swifts_own_suite_for_keystone_alone",
        keystone_alone,
    ),
    ("functional::swifts_own_suite_with_keystone", keystone),
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

/// How the suite's users log in.
#[derive(PartialEq, Eq)]
enum Login {
    V1,
    Keystone,
}

fn swifts_own_suite() -> Result<Outcome> {
    passes(&["swift-functional"], &Login::V1, &[], PASSED_MIN)
}

fn keystone_alone() -> Result<Outcome> {
    let served = ["swift-functional"];
    passes(
        &served,
        &Login::Keystone,
        &KEYSTONE_ALONE,
        KEYSTONE_ALONE_COUNT,
    )
}

/// What a run of the whole suite takes is only there with `--long`.
const NOT_LONG: &str = "it takes three minutes more (integration/test --long)";

fn keystone() -> Result<Outcome> {
    if !crate::needs::long() {
        return Ok(Outcome::Skipped(NOT_LONG.to_owned()));
    }
    let served = ["swift-functional"];
    passes(&served, &Login::Keystone, &[], KEYSTONE_PASSED_MIN)
}

fn encrypted() -> Result<Outcome> {
    if !crate::needs::long() {
        return Ok(Outcome::Skipped(NOT_LONG.to_owned()));
    }
    let served = ["swift-functional", "--encryption"];
    passes(&served, &Login::V1, &[], PASSED_MIN)
}

/// Runs tests of the suite, or all, against what `serve` starts with these arguments.
fn passes(served: &[&str], login: &Login, tests: &[&str], passed_min: usize) -> Result<Outcome> {
    let folder = need!(suite());
    let served = Served::start(served)?;
    let auth = served.text("auth_v1")?;
    let place = auth
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next())
        .context("no address")?;
    let mut run = Run::new(folder.join("venv/bin/python"))
        .arg(sources()?.join("functional.py"))
        .arg(&folder)
        .arg(place);
    if *login == Login::Keystone {
        run = run.args(["--keystone", served.text("state")?]);
    }
    let output = run.args(tests).time_limit(TIME_MAX).output()?;
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
        failed.is_empty() && passed.len() >= passed_min,
        "{} passed; failing: {failed:#?}; see {}",
        passed.len(),
        log.display()
    );
    served.stop()?;
    Ok(Outcome::Passed)
}
