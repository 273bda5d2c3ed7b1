//! Writes of one name that come at the same time.

use crate::curl::{Curl, Sent};
use crate::object::{LOGIN, system};
use crate::object_life::{judge_race, race};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "object::many_writes_of_one_name_at_a_time_are_never_answered_503",
        many_writes,
    ),
    (
        "object::of_racing_conditional_writes_with_versions_one_wins",
        versioned_races,
    ),
];

/// Statuses that were seen, each once.
fn judge(seen: &[(String, u16)], method: &str, allowed: &[u16]) -> Result<Vec<u16>> {
    let mut statuses: Vec<u16> = seen
        .iter()
        .filter(|(sent, _)| sent == method)
        .map(|(_, status)| *status)
        .collect();
    let count = statuses.len();
    let wrong = statuses.iter().filter(|status| !allowed.contains(status));
    let wrong: Vec<u16> = wrong.copied().collect();
    ensure!(
        wrong.is_empty(),
        "{} of {count} {method} were answered {wrong:?}",
        wrong.len()
    );
    statuses.sort_unstable();
    statuses.dedup();
    Ok(statuses)
}

fn many_writes() -> Result<Outcome> {
    const ROUNDS: usize = 100;
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    let put: Sent<'_> = ("PUT", "/c/o", &[], "jar");
    let delete: Sent<'_> = ("DELETE", "/c/o", &[], "");
    let post: Sent<'_> = ("POST", "/c/o", &["X-Object-Meta-Jar: kept"], "");
    let get: Sent<'_> = ("GET", "/c/o", &[], "");
    let anew: Sent<'_> = ("PUT", "/c/new", &["If-None-Match: *"], "jar");
    let away: Sent<'_> = ("DELETE", "/c/new", &[], "");
    let mixed = [put, delete, put, post, delete, get].repeat(ROUNDS);
    let seen = curl.many(&mixed)?;
    let of_puts = judge(&seen, "PUT", &[201, 202])?;
    ensure!(of_puts.contains(&201), "no PUT was made");
    judge(&seen, "DELETE", &[204, 404, 409])?;
    judge(&seen, "POST", &[202, 404])?;
    judge(&seen, "GET", &[200, 404])?;
    // A stream of deletions, most of which find nothing, and now and then one who wants the name anew.
    let starving = [anew, away, away, away, away].repeat(ROUNDS);
    let seen = curl.many(&starving)?;
    let of_puts = judge(&seen, "PUT", &[201, 412])?;
    ensure!(of_puts.contains(&201), "no conditional PUT was made");
    judge(&seen, "DELETE", &[204, 404, 409])?;
    curl.put("/c/new", "jar")?;
    let (status, body) = curl.call("/c/new", &[])?;
    ensure!(status == 200 && body == "jar", "{status}: {body}");
    Ok(Outcome::Passed)
}

/// How many versions of an object are kept.
fn versions(curl: &Curl, name: &str) -> Result<usize> {
    let (status, listing) = curl.call(&format!("/v?versions&format=json&prefix={name}"), &[])?;
    ensure!(status == 200, "{status}: {listing}");
    Ok(listing.matches("version_id").count())
}

fn etag(curl: &Curl, path: &str) -> Result<String> {
    let (_, head) = curl.call(path, &["-I"])?;
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let etag = lines.find(|(name, _)| name.eq_ignore_ascii_case("etag"));
    let (_, etag) = etag.context("no ETag")?;
    Ok(etag.trim().trim_matches('"').to_owned())
}

fn versioned_races() -> Result<Outcome> {
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    let (status, said) = curl.call("/v", &["-X", "PUT", "-H", "X-Versions-Enabled: true"])?;
    ensure!(status == 201, "{status}: {said}");
    let none = || Ok(());
    for round in 0..4 {
        let (name, path) = (format!("o{round}"), format!("/v/o{round}"));
        let seen = race(&curl, &path, "If-None-Match: *", none)?;
        judge_race(&curl, &path, &seen)?;
        ensure!(versions(&curl, &name)? == 1, "a loser has left a version");
        let expected = format!("If-Match: {}", etag(&curl, &path)?);
        let seen = race(&curl, &path, &expected, none)?;
        let winners = seen.iter().filter(|(status, _)| *status == 201).count();
        // A racer with the very bytes that are there may win without ending the race: the ETag stays.
        ensure!((1..=2).contains(&winners), "If-Match: {seen:?}");
        ensure!(versions(&curl, &name)? == 1 + winners, "a loser's version");
        let expected = format!("If-Match: {}", etag(&curl, &path)?);
        let headers = [expected.as_str()];
        let deletions = vec![("DELETE", path.as_str(), &headers[..], ""); 8];
        let seen = curl.many(&deletions)?;
        judge(&seen, "DELETE", &[204, 404, 412])?;
        let gone = seen.iter().filter(|(_, status)| *status == 204).count();
        ensure!(gone == 1, "{gone} deleted it: {seen:?}");
        let kept = versions(&curl, &name)?;
        ensure!(kept == 2 + winners, "{kept} versions");
    }
    counted_bytes(&curl)
}

/// The account's listing counts what versions take, as the container does.
fn counted_bytes(curl: &Curl) -> Result<Outcome> {
    let (_, head) = curl.call("/v", &["-I"])?;
    let head = head.to_lowercase();
    let used = head
        .lines()
        .find_map(|line| line.strip_prefix("x-container-bytes-used: "));
    let used = used.context("no bytes")?.trim().to_owned();
    ensure!(used != "0", "nothing is counted");
    let deadline = Instant::now() + Duration::from_secs(30);
    // Containers tell their account a little later.
    loop {
        let (_, listing) = curl.call("?format=json", &[])?;
        if listing.contains(&format!("\"bytes\": {used},")) {
            return Ok(Outcome::Passed);
        }
        ensure!(Instant::now() < deadline, "not {used}: {listing}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
