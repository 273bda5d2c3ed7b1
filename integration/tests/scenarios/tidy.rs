//! The tree itself: which crate may know which, that pure crates are pure, sizes, docs.

use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::run::Run;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "tidy::crates_know_only_what_the_architecture_allows",
        arrows,
    ),
    ("tidy::pure_crates_have_no_way_to_the_machine", purity),
    ("tidy::files_and_modules_keep_their_size_and_docs", files),
    (
        "tidy::nothing_unfinished_or_machine_specific_is_tracked",
        words,
    ),
];

/// Lines of one file before its tests.
const FILE_LINES_MAX: usize = 600;

/// Crates a pure crate must not reach: each is a door to the machine, the clock, entropy or a runtime.
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "hyper-util",
    "rocksdb",
    "rustix",
    "libc",
    "nix",
    "io-uring",
    "fuser",
    "tracing",
    "onggi-common-host",
    "onggi-common-service",
    "onggi-common-meta",
    "loopdev-3",
];

/// Every edge between crates of this workspace; ARCHITECTURE.md draws them.
const ARROWS: &[(&str, &[&str])] = &[
    ("common-units", &[]),
    ("common-host", &["common-units"]),
    ("common-meta", &["common-units", "common-host"]),
    (
        "common-sim",
        &["common-units", "common-host", "common-meta"],
    ),
    ("common-service", &["common-units", "common-host"]),
    (
        "common-identity",
        &[
            "common-units",
            "common-host",
            "common-meta",
            "common-service",
        ],
    ),
    ("block-medium", &["common-units"]),
    ("block-scsi", &["common-units"]),
    ("block-iscsi", &["common-units"]),
    (
        "block-target",
        &[
            "common-units",
            "common-host",
            "block-medium",
            "block-scsi",
            "block-iscsi",
        ],
    ),
    (
        "block-initiator",
        &["common-units", "common-host", "block-iscsi", "block-scsi"],
    ),
    ("block-lvm2-sys", &[]),
    (
        "block-lvm-worker",
        &[
            "common-units",
            "common-host",
            "block-lvm2-sys",
            "block-pool",
        ],
    ),
    (
        "block-pool",
        &["common-units", "common-host", "block-medium"],
    ),
    ("block-cinder", &["common-units"]),
    ("block-volume", &["common-units"]),
    (
        "block-manager",
        &[
            "common-units",
            "common-host",
            "common-meta",
            "block-volume",
            "block-medium",
            "block-pool",
            "block-target",
        ],
    ),
    (
        "block-api",
        &[
            "common-units",
            "common-host",
            "common-service",
            "common-identity",
            "block-cinder",
            "block-volume",
            "block-manager",
        ],
    ),
    (
        "block-volctl",
        &[
            "common-units",
            "common-host",
            "block-cinder",
            "block-initiator",
        ],
    ),
    ("object-md5", &[]),
    ("object-model", &["common-units"]),
    ("object-encryption", &["common-units", "object-model"]),
    ("object-ring", &["common-units", "object-model"]),
    (
        "object-replica",
        &["common-units", "object-model", "object-ring"],
    ),
    (
        "object-wire",
        &[
            "common-units",
            "object-model",
            "object-ring",
            "object-replica",
        ],
    ),
    (
        "object-client",
        &[
            "common-units",
            "common-host",
            "object-model",
            "object-ring",
            "object-wire",
        ],
    ),
    (
        "object-device",
        &[
            "common-units",
            "common-host",
            "common-meta",
            "object-model",
            "object-ring",
            "object-replica",
            "object-wire",
        ],
    ),
    (
        "object-node",
        &[
            "common-units",
            "common-host",
            "common-meta",
            "common-service",
            "object-model",
            "object-ring",
            "object-replica",
            "object-wire",
            "object-client",
            "object-device",
        ],
    ),
    (
        "object-proxy",
        &[
            "common-units",
            "common-host",
            "common-service",
            "common-identity",
            "object-md5",
            "object-model",
            "object-encryption",
            "object-ring",
            "object-replica",
            "object-wire",
            "object-client",
        ],
    ),
    ("object-objctl", &["common-units", "object-model"]),
];

fn root() -> Result<PathBuf> {
    let sources = onggi_integration::system::sources()?;
    sources
        .parent()
        .map(Path::to_owned)
        .context("the package is in no folder")
}

fn packages() -> Result<Vec<Value>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let manifest = root()?.join("Cargo.toml");
    let output = Run::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
            "--manifest-path",
        ])
        .arg(&manifest)
        .output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    metadata["packages"]
        .as_array()
        .cloned()
        .context("cargo metadata names no packages")
}

fn name_of(package: &Value) -> &str {
    package["name"].as_str().unwrap_or_default()
}

fn dependencies(package: &Value) -> BTreeSet<&str> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    all.filter(|dependency| dependency["kind"].as_str() != Some("dev"))
        .filter_map(|dependency| dependency["name"].as_str())
        .collect()
}

fn arrows() -> Result<Outcome> {
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in &packages()? {
        let Some(name) = name_of(package).strip_prefix("onggi-") else {
            continue;
        };
        // The daemon composes everything, and the scenarios may look at everything.
        if matches!(name, "deploy-onggid" | "integration") {
            continue;
        }
        let Some(may) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the list of arrows"));
            continue;
        };
        for dependency in dependencies(package) {
            let Some(dependency) = dependency.strip_prefix("onggi-") else {
                continue;
            };
            if !may.contains(&dependency) {
                wrong.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n    "));
    Ok(Outcome::Passed)
}

fn purity() -> Result<Outcome> {
    let mut wrong = Vec::new();
    for package in &packages()? {
        if package["metadata"]["onggi"]["pure"] != Value::Bool(true) {
            continue;
        }
        let name = name_of(package);
        let impure = dependencies(package)
            .into_iter()
            .filter(|dependency| IMPURE.contains(dependency));
        wrong.extend(impure.map(|dependency| format!("{name} depends on {dependency}")));
        let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap_or_default());
        let library = manifest.with_file_name("src").join("lib.rs");
        let text =
            std::fs::read_to_string(&library).with_context(|| library.display().to_string())?;
        if !text.contains("#![forbid(unsafe_code)]") {
            wrong.push(format!("{name} does not forbid unsafe code"));
        }
        for file in sources(&manifest.with_file_name("src"))? {
            if is_test_module(&file) {
                continue;
            }
            let text = std::fs::read_to_string(&file)?;
            for door in [
                "std::fs::",
                "std::net::Tcp",
                "std::time::Instant",
                "SystemTime::now",
                "async fn",
                "std::process",
            ] {
                if before_tests(&text).contains(door) {
                    wrong.push(format!("{}: {door}", file.display()));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n    "));
    Ok(Outcome::Passed)
}

/// `tests.rs`, `…_tests.rs`, or a file of a folder `tests`.
fn is_test_module(file: &Path) -> bool {
    let stem = file
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let in_tests = file.components().any(|part| part.as_os_str() == "tests");
    stem == "tests" || stem.ends_with("_tests") || in_tests
}

fn before_tests(text: &str) -> &str {
    text.split_once("\n#[cfg(test)]\nmod tests")
        .map_or(text, |(before, _)| before)
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    Ok(files)
}

fn files() -> Result<Outcome> {
    let mut wrong = Vec::new();
    for package in &packages()? {
        let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap_or_default());
        for file in sources(&manifest.with_file_name("src"))? {
            let text = std::fs::read_to_string(&file)?;
            let lines = before_tests(&text).lines().count();
            if lines > FILE_LINES_MAX && !is_test_module(&file) {
                wrong.push(format!(
                    "{}: {lines} lines; a part of it wants its own file",
                    file.display()
                ));
            }
            if !text.starts_with("//!") {
                wrong.push(format!(
                    "{}: does not begin with what it is for (//!)",
                    file.display()
                ));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n    "));
    Ok(Outcome::Passed)
}

fn words() -> Result<Outcome> {
    let root = root()?;
    if !root.join(".git").exists() {
        return Ok(Outcome::Skipped("this is no git checkout".to_owned()));
    }
    // A clone may belong to another user than the one who tests it.
    let run = Run::new("git")
        .args(["-c", "safe.directory=*", "-C"])
        .arg(&root);
    let listed = run.args(["ls-files", "*.rs"]).output()?;
    ensure!(!listed.stdout.is_empty(), "git lists no files");
    let mut wrong = Vec::new();
    for name in String::from_utf8_lossy(&listed.stdout).lines() {
        if name.ends_with("scenarios/tidy.rs") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(root.join(name)) else {
            continue;
        };
        for (index, line) in text.lines().enumerate() {
            let unfinished = ["TODO", "FIXME", "todo!(", "unimplemented!(", "#[ignore"];
            if let Some(word) = unfinished.iter().find(|word| line.contains(**word)) {
                wrong.push(format!("{name}:{}: {word}", index + 1));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n    "));
    Ok(Outcome::Passed)
}
