//! libiscsi's own test suite (Debian's `iscsi-test-cu`) against the target: no test fails, and each that skips itself
//! is in a table with the reason.
//!
//! Each suite runs in a process of its own, with a fresh volume: the tool keeps state between suites that later ones
//! stumble over, some tests expect blocks that nobody has written, and a suite that hangs must not hide the others. A
//! test the tool lists and does not report has failed.

use crate::harness::{MIB, SECRET, Served, USER, access, spec};
use onggi_block_target::{Access, ExportSpec};
use onggi_common_host::run::{Run, RunError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

const TOOL: &str = "iscsi-test-cu";
/// Processes at a time: most of their time they wait.
const WORKERS: usize = 4;
const SUITE_TIME_MAX: Duration = Duration::from_secs(80);

const NOT_REMOVABLE: &str = "the medium of a fixed disk cannot be removed";
const ONE_BLOCK: &str =
    "for units with several logical blocks in a physical block; there is one here";

/// Tests that skip themselves, and why that is right.
const SKIPPED: [(&str, &str); 25] = [
    ("CompareAndWrite.InvalidDataOutSize", ONE_BLOCK),
    ("NoMedia.NoMediaSBC", NOT_REMOVABLE),
    ("PreventAllow.2ITNexuses", NOT_REMOVABLE),
    ("PreventAllow.ColdReset", NOT_REMOVABLE),
    ("PreventAllow.Eject", NOT_REMOVABLE),
    ("PreventAllow.ITNexusLoss", NOT_REMOVABLE),
    ("PreventAllow.LUNReset", NOT_REMOVABLE),
    ("PreventAllow.Logout", NOT_REMOVABLE),
    ("PreventAllow.Simple", NOT_REMOVABLE),
    ("PreventAllow.WarmReset", NOT_REMOVABLE),
    (
        "ReadOnly.ReadOnlySBC",
        "for write-protected units; this one is written",
    ),
    (
        "ReportSupportedOpcodes.OneCommand",
        "takes the INVALID FIELD IN CDB it asks for as a sign that the command is not there",
    ),
    (
        "Sanitize.CryptoErase",
        "volumes are not encrypted, so there is no key to forget",
    ),
    ("Sanitize.Readonly", "its part on CRYPTO ERASE alone"),
    ("Sanitize.Reservations", "its part on CRYPTO ERASE alone"),
    ("StartStopUnit.NoLoej", NOT_REMOVABLE),
    ("StartStopUnit.PwrCnd", NOT_REMOVABLE),
    ("StartStopUnit.Simple", NOT_REMOVABLE),
    (
        "WriteAtomic16.VPD",
        "its parts on alignment and granularity, which are not restricted",
    ),
    ("WriteSame10.InvalidDataOutSize", ONE_BLOCK),
    ("WriteSame10.UnmapUnaligned", ONE_BLOCK),
    (
        "WriteSame10.ZeroBlocks",
        "WSNZ: no blocks do not stand for the rest of the unit",
    ),
    ("WriteSame16.InvalidDataOutSize", ONE_BLOCK),
    ("WriteSame16.UnmapUnaligned", ONE_BLOCK),
    (
        "WriteSame16.ZeroBlocks",
        "WSNZ: no blocks do not stand for the rest of the unit",
    ),
];

/// Suites that take seconds: they wait for timeouts, or for the disk.
const LONG: [&str; 3] = ["WriteAtomic16", "Reserve6", "iSCSIcmdsn"];

/// It wants a sanitize that takes longer than four seconds, and then sleeps for a minute.
const SLEEPY: &str = "Sanitize.Reset";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Skipped,
    Failed,
}

/// The tests the tool has, by suite; `None`, said aloud, when it is not installed.
fn listed() -> Option<BTreeMap<String, Vec<String>>> {
    let text = match Run::new(TOOL).arg("--list").output() {
        Ok(output) => output.stdout,
        Err(RunError::Failed { stdout, .. }) => stdout,
        Err(RunError::Start { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped, because {TOOL} is not installed");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let mut suites: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in String::from_utf8_lossy(&text).lines() {
        if let ["ALL", suite, test] = line.trim().split('.').collect::<Vec<_>>()[..] {
            suites
                .entry(suite.to_owned())
                .or_default()
                .push(test.to_owned());
        }
    }
    assert!(suites.len() > 40, "the list of {TOOL} is not understood");
    Some(suites)
}

/// What the tool printed for `ALL.<what>`.
fn run(what: &str, urls: &[String]) -> String {
    let outcome = Run::new(TOOL)
        .args([
            "--dataloss",
            "--allow-sanitize",
            // Some tests say only then that they skip themselves.
            "-V",
            "-t",
            &format!("ALL.{what}"),
        ])
        .args(urls)
        .time_limit(SUITE_TIME_MAX)
        .output();
    let printed = match outcome {
        Ok(output) => output.stdout,
        Err(RunError::Failed { stdout, .. }) => stdout,
        Err(error) => error.to_string().into_bytes(),
    };
    String::from_utf8_lossy(&printed).into_owned()
}

// What was printed between a test's name and the next test is its own; CUnit writes the verdict behind "..." or at the
// beginning of a line, where another message may follow.
fn verdict(printed: &str, test: &str) -> Verdict {
    let own = printed
        .split("  Test: ")
        .skip(1)
        .find(|part| part.split(" ...").next() == Some(test));
    let own = own.map_or("", |own| own.split("Run Summary").next().unwrap_or(own));
    let has = |word: &str| {
        own.lines()
            .map(|line| line.rsplit("...").next().unwrap_or(line))
            .any(|line| line.starts_with(word))
    };
    if has("FAILED") || !has("passed") {
        Verdict::Failed
    } else if own.contains("[SKIPPED]") {
        Verdict::Skipped
    } else {
        Verdict::Passed
    }
}

fn volume(served: &Served, number: u8, access: Access) -> ExportSpec {
    let spec = ExportSpec {
        access: vec![access],
        ..spec(served.dir.path(), number)
    };
    served.client.put_export(&spec).unwrap();
    spec
}

/// Runs every suite, each with a volume of its own behind this access; `urls` are the tool's one or two ways to it.
fn conform(served: &Served, access: &Access, urls: impl Fn(&ExportSpec) -> Vec<String> + Sync) {
    let Some(suites) = listed() else { return };
    let tests: usize = suites.values().map(Vec::len).sum();
    // Sanitize tests are run one by one, so that the sleepy one can be left out.
    let mut runs: VecDeque<(String, String, Vec<String>)> = VecDeque::new();
    for (suite, tests) in suites {
        if suite == "Sanitize" {
            for test in tests {
                let name = format!("{suite}.{test}");
                if name != SLEEPY {
                    runs.push_back((name, suite.clone(), vec![test]));
                }
            }
        } else {
            runs.push_back((suite.clone(), suite, tests));
        }
    }
    // The long ones first, so that no worker is left with one at the end.
    runs.make_contiguous()
        .sort_by_key(|(what, ..)| !LONG.contains(&what.as_str()));
    let (runs, results) = (Mutex::new(runs), Mutex::new(Vec::new()));
    let next_number = std::sync::atomic::AtomicU8::new(1);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let Some((what, suite, tests)) = runs.lock().unwrap().pop_front() else {
                        return;
                    };
                    let number = next_number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let volume = volume(served, number, access.clone());
                    let printed = run(&what, &urls(&volume));
                    served.client.remove_export(&volume.iqn).unwrap();
                    std::fs::remove_file(&volume.medium.path).unwrap();
                    for test in tests {
                        let verdict = verdict(&printed, &test);
                        if verdict == Verdict::Failed {
                            println!("{suite}.{test} failed:\n{printed}");
                        }
                        let name = format!("{suite}.{test}");
                        results.lock().unwrap().push((name, verdict));
                    }
                }
            });
        }
    });
    let results = results.into_inner().unwrap();
    let with = |wanted: Verdict| -> BTreeSet<&str> {
        let those = results.iter().filter(|(_, verdict)| *verdict == wanted);
        those.map(|(name, _)| name.as_str()).collect()
    };
    let (passed, skipped) = (with(Verdict::Passed), with(Verdict::Skipped));
    println!(
        "{} passed, {} skipped of {tests}",
        passed.len(),
        skipped.len()
    );
    assert_eq!(with(Verdict::Failed), BTreeSet::new());
    let expected: BTreeSet<&str> = SKIPPED.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        skipped, expected,
        "tests that skipped themselves, and those that may"
    );
    assert_eq!(results.len() + 1, tests, "{SLEEPY} alone is left out");
}

#[test]
fn libiscsis_suite_passes_over_two_portals() {
    let served = Served::start_with(|options| options.portals.push("127.0.0.1:0".parse().unwrap()));
    let portals: Vec<_> = served.target.as_ref().unwrap().portals().to_vec();
    assert_eq!(portals.len(), 2);
    let free = Access {
        chap: None,
        ..access(1)
    };
    conform(&served, &free, |volume| {
        let url = |portal: &std::net::SocketAddr| format!("iscsi://{portal}/{}/1", volume.iqn);
        portals.iter().map(|portal| url(&portal.address)).collect()
    });
}

#[test]
fn libiscsis_suite_passes_under_chap() {
    let served = Served::start();
    conform(&served, &access(1), |volume| {
        let login = format!("{USER}%{SECRET}@{}", served.portal);
        vec![format!("iscsi://{login}/{}/1", volume.iqn); 2]
    });
}

#[test]
fn libiscsis_sanitize_goes_on_through_every_reset() {
    if std::env::var_os("ONGGI_LONG").is_none() {
        println!("skipped, because it sleeps for more than a minute: ONGGI_LONG=1 runs it");
        return;
    }
    if listed().is_none() {
        return;
    }
    let pace = (MIB << 20) / 12;
    let served = Served::start_with(|options| options.limits.sanitize_bytes_per_second = pace);
    let volume = volume(&served, 1, access(1));
    let url = format!("iscsi://{USER}%{SECRET}@{}/{}/1", served.portal, volume.iqn);
    let printed = run(SLEEPY, &[url]);
    assert_eq!(verdict(&printed, "Reset"), Verdict::Passed, "{printed}");
}
