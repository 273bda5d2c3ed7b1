//! Scenarios with real daemons and clients nobody here wrote, one after another.
//!
//! `scenarios [FILTER]` runs those whose name contains FILTER. A scenario that cannot run on this machine says why and
//! is counted as skipped. The last line is `test result: …` in libtest's form, so that one script sums all runs.
#![expect(
    clippy::print_stdout,
    reason = "a test runner speaks on standard output"
)]

mod bad_clients;
mod bad_input;
mod bad_words;
mod block;
mod connection;
mod container_sync;
mod curl;
mod disks;
mod encryption;
mod faults;
mod functional;
mod grey;
mod initiator;
mod live_guest;
mod needs;
mod network;
mod objctl;
mod object;
mod object_accounts;
mod object_clients;
mod object_daemons;
mod object_letter;
mod object_life;
mod object_races;
mod powercut;
mod powercut_objects;
mod ring;
mod secrets;
mod served;
mod storm;
mod target;
mod tidy;
mod tokens;
mod uploads;
mod writers;

use anyhow::Result;
use std::process::ExitCode;
use std::time::Instant;

/// How a scenario that did not fail ended.
enum Outcome {
    Passed,
    Skipped(String),
}

type Scenario = (&'static str, fn() -> Result<Outcome>);

fn main() -> ExitCode {
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .unwrap_or_default();
    let scenarios: Vec<Scenario> = [
        tidy::SCENARIOS,
        object::SCENARIOS,
        bad_input::SCENARIOS,
        bad_words::SCENARIOS,
        bad_clients::SCENARIOS,
        uploads::SCENARIOS,
        encryption::SCENARIOS,
        container_sync::SCENARIOS,
        objctl::SCENARIOS,
        object_clients::SCENARIOS,
        object_letter::SCENARIOS,
        object_accounts::SCENARIOS,
        object_daemons::SCENARIOS,
        object_life::SCENARIOS,
        object_races::SCENARIOS,
        block::SCENARIOS,
        target::SCENARIOS,
        initiator::SCENARIOS,
        live_guest::SCENARIOS,
        powercut::SCENARIOS,
        powercut_objects::SCENARIOS,
        faults::SCENARIOS,
        functional::SCENARIOS,
        grey::SCENARIOS,
        storm::SCENARIOS,
        network::SCENARIOS,
        disks::SCENARIOS,
        secrets::SCENARIOS,
        tokens::SCENARIOS,
        ring::SCENARIOS,
    ]
    .concat();
    let (mut passed, mut failed, mut skipped, mut filtered) = (0, 0, 0, 0);
    for (name, scenario) in scenarios {
        if !name.contains(&filter) {
            filtered += 1;
            continue;
        }
        let start = Instant::now();
        let outcome = std::panic::catch_unwind(scenario);
        let seconds = start.elapsed().as_secs_f32();
        match outcome {
            Ok(Ok(Outcome::Passed)) => {
                passed += 1;
                println!("test {name} ... ok ({seconds:.1} s)");
            }
            Ok(Ok(Outcome::Skipped(reason))) => {
                skipped += 1;
                println!("test {name} ... skipped, because {reason}");
            }
            Ok(Err(error)) => {
                failed += 1;
                println!("test {name} ... FAILED ({seconds:.1} s)\n    {error:#}");
            }
            Err(_) => {
                failed += 1;
                println!("test {name} ... FAILED ({seconds:.1} s): it panicked");
            }
        }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "test result: {verdict}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured; {filtered} filtered out"
    );
    ExitCode::from(u8::from(failed != 0))
}
