//! How objects come and go: racing conditional PUTs, and dates of deletion.

use crate::curl::Curl;
use crate::object::{Absence, LOGIN, copies, system};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "object::of_racing_conditional_puts_one_wins_everywhere",
        conditional_races,
    ),
    (
        "object::an_object_goes_from_devices_and_listings_after_its_date",
        expired,
    ),
];

/// Racers, each with bytes of its own; what each got. A node can be killed while they run.
pub(crate) fn race(
    curl: &Curl,
    path: &str,
    condition: &str,
    while_racing: impl FnOnce() -> Result<()>,
) -> Result<Vec<(u16, String)>> {
    const RACERS: usize = 8;
    std::thread::scope(|scope| {
        let racers: Vec<_> = (0..RACERS)
            .map(|racer| {
                scope.spawn(move || {
                    // Some are streamed to the nodes before they know whether they have won.
                    let length = if racer % 4 == 3 { 100_000 } else { 20 };
                    let body = format!("{racer}").repeat(length);
                    let folder = tempfile::tempdir()?;
                    let file = folder.path().join("body");
                    durable::replace(&file, body.as_bytes(), Visibility::World)?;
                    let data = format!("@{}", file.to_str().context("path")?);
                    let arguments = ["-X", "PUT", "-H", condition, "--data-binary", &data];
                    let (status, _) = curl.call(path, &arguments)?;
                    Ok((status, body))
                })
            })
            .collect();
        while_racing()?;
        racers
            .into_iter()
            .map(|racer| {
                racer
                    .join()
                    .map_err(|_panic| anyhow::anyhow!("a racer broke"))?
            })
            .collect()
    })
}

/// Exactly one was told 201, and its bytes are the object's; returns them.
pub(crate) fn judge_race(curl: &Curl, path: &str, seen: &[(u16, String)]) -> Result<String> {
    let statuses: Vec<u16> = seen.iter().map(|(status, _)| *status).collect();
    let winners: Vec<_> = seen.iter().filter(|(status, _)| *status == 201).collect();
    ensure!(winners.len() == 1, "{path}: {statuses:?}");
    let is_expected = |status: &u16| [201, 412, 503].contains(status);
    ensure!(statuses.iter().all(is_expected), "{path}: {statuses:?}");
    let (status, body) = curl.call(path, &[])?;
    ensure!(
        status == 200 && body == winners[0].1,
        "{path}: {status}, {} bytes of {:?}, not the winner's",
        body.len(),
        body.get(..1)
    );
    Ok(body)
}

fn conditional_races() -> Result<Outcome> {
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    let mut won = Vec::new();
    for round in 0..6 {
        let path = format!("/c/o{round}");
        let seen = race(&curl, &path, "If-None-Match: *", || Ok(()))?;
        judge_race(&curl, &path, &seen)?;
        // The winner's version is what the next race is about.
        let (_, head) = curl.call(&path, &["-I"])?;
        let etag = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("etag"))
            .map(|(_, etag)| etag.trim().trim_matches('"').to_owned())
            .context("no ETag")?;
        let unchanged = |seen: &[(u16, String)]| seen.iter().all(|(status, _)| *status != 201);
        let wrong = race(
            &curl,
            &path,
            "If-Match: d41d8cd98f00b204e9800998ecf8427e",
            || Ok(()),
        )?;
        ensure!(unchanged(&wrong), "If-Match of another version: {wrong:?}");
        let seen = race(&curl, &path, &format!("If-Match: {etag}"), || Ok(()))?;
        // A racer with the very bytes that are there may win without ending the race: the ETag stays.
        let winners = seen.iter().filter(|(status, _)| *status == 201).count();
        ensure!((1..=2).contains(&winners), "If-Match: {seen:?}");
        let (_, body) = curl.call(&path, &[])?;
        let is_winner = |(status, sent): &(u16, String)| *status == 201 && *sent == body;
        ensure!(seen.iter().any(is_winner), "nobody's bytes are there");
    }
    let victim = format!("node-{}", system.addresses.nodes[1].0);
    let absence = Absence::begin(&system)?;
    for round in 0..6 {
        let path = format!("/c/k{round}");
        let is_first = round == 0;
        let seen = race(&curl, &path, "If-None-Match: *", || {
            if is_first {
                system.kill(&victim)
            } else {
                Ok(())
            }
        })?;
        won.push((path.clone(), judge_race(&curl, &path, &seen)?));
    }
    drop(absence);
    system.await_health("30s")?;
    let account = curl.url.rsplit('/').next().context("account")?.to_owned();
    let deadline = Instant::now() + Duration::from_secs(60);
    for (path, body) in won {
        while {
            let (held, all) = copies(&system, &format!("{account}{path}"))?;
            held != all
        } {
            ensure!(Instant::now() < deadline, "{path} is not on all primaries");
            std::thread::sleep(Duration::from_millis(200));
        }
        let (status, now) = curl.call(&path, &[])?;
        ensure!(
            status == 200 && now == body,
            "{path} changed after its race"
        );
    }
    Ok(Outcome::Passed)
}

/// Some expire, one has its date taken away while a node is down, one stays.
fn expired() -> Result<Outcome> {
    const COUNT: usize = 40;
    /// The date of what is moved, the delay, and two passes of the expirer.
    const PASSED: Duration = Duration::from_secs(20);
    let system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    let put = |name: &str, after: &str| {
        let after = format!("X-Delete-After: {after}");
        let arguments = ["-X", "PUT", "-H", &after, "--data-binary", "jar"];
        let (status, said) = curl.call(&format!("/c/{name}"), &arguments)?;
        ensure!(status == 201, "{name}: {status} {said}");
        Ok(())
    };
    let begun = Instant::now();
    put("moved", "8")?;
    put("kept", "1000")?;
    for number in 0..COUNT {
        put(&format!("gone{number}"), "4")?;
    }
    let victim = format!("node-{}", system.addresses.nodes[1].0);
    let absence = Absence::begin(&system)?;
    system.kill(&victim)?;
    let (status, said) = curl.call("/c/moved", &["-X", "POST", "-H", "X-Object-Meta-Jar: kept"])?;
    ensure!(status == 202, "POST: {status} {said}");
    drop(absence);
    system.await_health("30s")?;
    let account = curl.url.rsplit('/').next().context("account")?.to_owned();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (_, listing) = curl.call("/c", &[])?;
        let mut left = 0;
        for number in 0..COUNT {
            left += copies(&system, &format!("{account}/c/gone{number}"))?.0;
        }
        if listing == "kept\nmoved\n" && left == 0 {
            break;
        }
        let lines = listing.lines().count();
        ensure!(
            Instant::now() < deadline,
            "{left} copies and {lines} lines are left"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let (_, head) = curl.call("/c", &["-I"])?;
    ensure!(
        head.to_lowercase().contains("x-container-object-count: 2"),
        "{head}"
    );
    // Past the date it had first, and past the passes of every node: nothing happens that could be waited for.
    std::thread::sleep(PASSED.saturating_sub(begun.elapsed()));
    for name in ["moved", "kept"] {
        let (status, body) = curl.call(&format!("/c/{name}"), &[])?;
        ensure!(status == 200 && body == "jar", "{name}: {status} {body}");
    }
    Ok(Outcome::Passed)
}
