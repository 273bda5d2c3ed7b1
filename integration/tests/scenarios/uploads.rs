//! Many objects in one request: archives and browsers' forms, made by programs nobody here wrote.

use crate::curl::Curl;
use crate::needs::{need, tool};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_integration::system::{ObjectOptions, Options, System, User, run};
use serde_json::Value;
use std::path::Path;

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "uploads::archives_of_tar_are_unpacked_whatever_their_compression",
        archives,
    ),
    (
        "uploads::sparse_files_come_back_with_their_holes",
        sparse_files,
    ),
    (
        "uploads::a_slow_archive_is_answered_and_a_vast_one_is_not_held",
        slow_and_vast,
    ),
    ("uploads::forms_of_a_browser_are_stored", forms),
    ("uploads::what_an_operator_filters_does_not_pass", filters),
];

fn system(filters: &'static str) -> Result<System> {
    System::start(Options {
        object_filters: filters,
        object: Some(ObjectOptions {
            nodes: 1,
            devices: 1,
            replicas: 1,
            port: 0,
            storage_domain: None,
            policies: &[],
        }),
        users: vec![
            User {
                account: "test",
                user: "tester",
                key: None,
                groups: &[".admin"],
            },
            User {
                account: "ops",
                user: "ops",
                key: None,
                groups: &[".reseller_admin"],
            },
        ],
        ..Options::default()
    })
}

const LOGIN: &str = "test:tester";

/// Makes an archive of a folder with the machine's `tar`.
fn pack(tar: &Path, folder: &Path, how: &[&str], to: &Path) -> Result<()> {
    let (folder, to) = (
        folder.to_str().context("path")?,
        to.to_str().context("path")?,
    );
    let mut arguments = how.to_vec();
    arguments.extend(["-cf", to, "-C", folder, "."]);
    run(tar, &arguments, &[])?;
    Ok(())
}

/// A folder with files that are hard on archivers: the names and bytes of all.
fn tree(at: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    std::fs::create_dir_all(at.join("photos/old"))?;
    let large: Vec<u8> = (0..900_000u32).flat_map(u32::to_le_bytes).collect();
    let files = vec![
        ("photos/1.txt".to_owned(), b"one".to_vec()),
        ("photos/old/옹기".to_owned(), b"two".to_vec()),
        (format!("photos/{}", "long ".repeat(40)), b"three".to_vec()),
        ("photos/empty".to_owned(), Vec::new()),
        ("photos/large".to_owned(), large),
    ];
    for (name, content) in &files {
        durable::replace(&at.join(name), content, Visibility::World)?;
    }
    std::os::unix::fs::symlink("1.txt", at.join("photos/link"))?;
    Ok(files)
}

/// Files with holes, in each of the ways the machine's `tar` leaves holes out.
fn sparse_files() -> Result<Outcome> {
    const PIECES: [(u64, &[u8]); 3] = [(70_000, b"one"), (1 << 20, b"two"), (2 << 20, b"three")];
    const LENGTH: u64 = 3 << 20;
    let tar = need!(tool("tar"));
    let system = system("")?;
    let curl = Curl::login(&system, LOGIN)?;
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("tree");
    std::fs::create_dir_all(&source)?;
    let file = std::fs::File::create(source.join("holes"))?;
    let mut content = vec![0; usize::try_from(LENGTH)?];
    file.set_len(LENGTH)?;
    for (at, bytes) in PIECES {
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, at)?;
        let at = usize::try_from(at)?;
        content[at..at + bytes.len()].copy_from_slice(bytes);
    }
    file.sync_all()?;
    let archive = folder.path().join("archive");
    let put = ["-X", "PUT", "-T", archive.to_str().context("path")?];
    for (at, how) in [
        &["-S", "--format=gnu"][..],
        &["-S", "--format=posix", "--sparse-version=0.0"],
        &["-S", "--format=posix", "--sparse-version=0.1"],
        &["-S", "--format=posix", "--sparse-version=1.0"],
    ]
    .into_iter()
    .enumerate()
    {
        pack(&tar, &source, how, &archive)?;
        let packed = std::fs::metadata(&archive)?.len();
        ensure!(packed < LENGTH / 2, "{how:?}: tar has left no holes out");
        let (status, body) = curl.call(&format!("/s{at}?extract-archive=tar"), &put)?;
        ensure!(
            status == 200 && body.contains("Number Files Created: 1"),
            "{how:?}: {status} {body}"
        );
        let back = curl.download(&format!("/s{at}/holes"))?;
        ensure!(back == content, "{how:?}: {} bytes came back", back.len());
    }
    Ok(Outcome::Passed)
}

fn archives() -> Result<Outcome> {
    let tar = need!(tool("tar"));
    need!(tool("gzip"));
    need!(tool("bzip2"));
    let system = system("")?;
    let curl = Curl::login(&system, LOGIN)?;
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("tree");
    let files = tree(&source)?;
    let archive = folder.path().join("archive");
    let from = format!("@{}", archive.display());
    let json = [
        "-X",
        "PUT",
        "-H",
        "Accept: application/json",
        "--data-binary",
        &from,
    ];
    for (at, (kind, how)) in [
        ("tar", &["--format=gnu"][..]),
        ("tar", &["--format=posix"]),
        ("tar.gz", &["-z", "--format=posix"]),
        ("tar.bz2", &["-j", "--format=gnu"]),
    ]
    .into_iter()
    .enumerate()
    {
        pack(&tar, &source, how, &archive)?;
        let (status, body) = curl.call(&format!("/c{at}?extract-archive={kind}"), &json)?;
        let report: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
        ensure!(
            status == 200
                && report["Response Status"] == "201 Created"
                && report["Number Files Created"] == 5,
            "{kind} {how:?}: {status} {body}"
        );
        for (name, content) in &files {
            let path = format!("/c{at}/{}", name.replace(' ', "%20"));
            let back = curl.download(&path)?;
            ensure!(
                back == *content,
                "{kind} {how:?}: {name} came back different"
            );
        }
        let (_, listing) = curl.call(&format!("/c{at}"), &[])?;
        ensure!(!listing.contains("link"), "a link was made an object");
    }
    // At the account, the first folder of each name is its container.
    pack(&tar, &source, &["--format=gnu"], &archive)?;
    let put = ["-X", "PUT", "--data-binary", &from];
    let (status, body) = curl.call("?extract-archive=tar", &put)?;
    ensure!(
        status == 200 && body.contains("Number Files Created: 5\n"),
        "{status} {body}"
    );
    ensure!(curl.download("/photos/1.txt")? == b"one", "it is elsewhere");
    bad_archives(&curl, &archive)
}

fn bad_archives(curl: &Curl, archive: &Path) -> Result<Outcome> {
    let from = format!("@{}", archive.display());
    let put = ["-X", "PUT", "--data-binary", &from];
    durable::replace(archive, &[7; 5_000], Visibility::World)?;
    for kind in ["tar", "tar.gz", "tar.bz2"] {
        let (status, body) = curl.call(&format!("/c0?extract-archive={kind}"), &put)?;
        ensure!(
            status == 200 && body.contains("400 Bad Request") && body.contains("Invalid Tar File"),
            "{kind}: {status} {body}"
        );
    }
    let (status, _) = curl.call("/c0?extract-archive=rar", &put)?;
    ensure!(status == 400, "an unknown format was answered {status}");
    Ok(Outcome::Passed)
}

/// The most memory the front door has had, in KiB.
fn peak(system: &System) -> Result<u64> {
    let text = std::fs::read(system.state.join("run/processes.json"))?;
    let processes: Value = serde_json::from_slice(&text)?;
    let pid = processes["pids"]["proxy"].as_u64();
    let pid = pid.with_context(|| format!("no proxy in {processes}"))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.context("no VmHWM")?.trim().trim_end_matches(" kB");
    Ok(kib.parse()?)
}

fn slow_and_vast() -> Result<Outcome> {
    if !crate::needs::long() {
        let reason = "it takes half a minute (integration/test --long)";
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    let tar = need!(tool("tar"));
    need!(tool("gzip"));
    let system = system("")?;
    let curl = Curl::login(&system, LOGIN)?;
    let folder = tempfile::tempdir()?;
    let (source, archive) = (folder.path().join("tree"), folder.path().join("archive"));
    std::fs::create_dir_all(&source)?;
    let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    durable::replace(&source.join("file"), &bytes, Visibility::World)?;
    pack(&tar, &source, &["--format=gnu"], &archive)?;
    let from = format!("@{}", archive.display());
    let slowly = ["-X", "PUT", "--limit-rate", "90k", "--data-binary", &from];
    let (status, said) = curl.call("/c?extract-archive=tar", &slowly)?;
    ensure!(
        status == 200 && said.starts_with(' ') && said.contains("Number Files Created: 1\n"),
        "{status} {said:?}"
    );
    ensure!(curl.download("/c/file")? == bytes, "it came back different");
    let before = peak(&system)?;
    let zeros = std::fs::File::create(source.join("file"))?;
    zeros.set_len(1 << 30)?;
    pack(&tar, &source, &["-z", "--format=gnu"], &archive)?;
    let put = ["-X", "PUT", "-m", "120", "--data-binary", &from];
    let (status, said) = curl.call("/c?extract-archive=tar.gz", &put)?;
    ensure!(
        status == 200 && said.contains("Number Files Created: 1\n"),
        "{status} {said:?}"
    );
    let grown = peak(&system)?.saturating_sub(before);
    ensure!(
        grown < 64 << 10,
        "a GiB of zeros took {grown} KiB of memory"
    );
    Ok(Outcome::Passed)
}

/// What Python's own `hmac` makes of a form.
fn signature(python: &Path, digest: &str, key: &str, lines: &[&str]) -> Result<String> {
    let program = "import hmac, sys; print(hmac.new(sys.argv[2].encode(), '\\n'.join(sys.argv[3:]).encode(), sys.argv[1]).hexdigest())";
    let mut arguments = vec!["-c", program, digest, key];
    arguments.extend(lines);
    let output = run(python, &arguments, &[])?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A form as curl sends it: the fields in this order, then the files.
fn send_form(url: &str, fields: &[(&str, &str)], files: &[&Path]) -> Result<(u16, String)> {
    let fields = fields.iter().map(|(name, value)| format!("{name}={value}"));
    let files = files
        .iter()
        .enumerate()
        .map(|(at, path)| format!("file{at}=@{}", path.display()));
    let parts: Vec<String> = fields.chain(files).collect();
    let mut arguments = vec!["-sS", "-m", "30", "-w", "\n%{http_code} %{redirect_url}"];
    for part in &parts {
        arguments.extend(["-F", part]);
    }
    arguments.push(url);
    let output = run(Path::new("curl"), &arguments, &[])?;
    let text = String::from_utf8(output.stdout)?;
    let (body, rest) = text.rsplit_once('\n').context("curl said nothing")?;
    let (status, redirect) = rest.split_once(' ').unwrap_or((rest, ""));
    Ok((status.parse()?, format!("{body}{redirect}")))
}

/// A form's fields, as its page has them.
struct Form<'a> {
    python: &'a Path,
    url: String,
}

const REDIRECT: &str = "http://127.0.0.1/after";
const FILE_BYTES_MAX: usize = 3_000_000;

impl Form<'_> {
    /// Signs the form, changes a field of it, and sends it with these files.
    fn send(&self, digest: &str, changed: (&str, &str), files: &[&Path]) -> Result<(u16, String)> {
        let path = self.url.find("/v1/").and_then(|at| self.url.get(at..));
        let size = FILE_BYTES_MAX.to_string();
        let (count, expires) = ("2", "99999999999");
        let lines = [path.context("no path")?, REDIRECT, &size, count, expires];
        let signature = signature(self.python, digest, "secret", &lines)?;
        let fields: Vec<(&str, &str)> = [
            ("redirect", REDIRECT),
            ("max_file_size", &size),
            ("max_file_count", count),
            ("expires", expires),
            ("signature", &signature),
            ("x_delete_after", "3600"),
        ]
        .into_iter()
        .map(|field| if field.0 == changed.0 { changed } else { field })
        .collect();
        send_form(&self.url, &fields, files)
    }
}

fn forms() -> Result<Outcome> {
    let python = need!(tool("python3"));
    let system = system("")?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    let key = ["-X", "POST", "-H", "X-Account-Meta-Temp-URL-Key: secret"];
    let (status, _) = curl.call("", &key)?;
    ensure!(status == 204, "no key could be set: {status}");
    let folder = tempfile::tempdir()?;
    let (one, two) = (folder.path().join("one.txt"), folder.path().join("옹기"));
    let large: Vec<u8> = (0..700_000u32).flat_map(u32::to_le_bytes).collect();
    durable::replace(&one, b"first\r\n--x", Visibility::World)?;
    durable::replace(&two, &large, Visibility::World)?;
    let form = Form {
        python: &python,
        url: format!("{}/c/up/", curl.url),
    };
    for digest in ["sha1", "sha256", "sha512"] {
        let (status, said) = form.send(digest, ("", ""), &[&one, &two])?;
        ensure!(
            status == 303 && said.contains("http://127.0.0.1/after?status=201&message="),
            "{digest}: {status} {said}"
        );
        let first = curl.download("/c/up/one.txt")?;
        ensure!(first == b"first\r\n--x", "{digest}: the first is different");
        let second = curl.download("/c/up/%EC%98%B9%EA%B8%B0")?;
        ensure!(second == large, "{digest}: the second is different");
        let (_, head) = curl.call("/c/up/one.txt", &["-I"])?;
        ensure!(head.contains("X-Delete-At: "), "it never expires: {head}");
        curl.call("/c/up/one.txt", &["-X", "DELETE"])?;
    }
    refused_forms(&curl, &form, (&one, &two))
}

fn refused_forms(curl: &Curl, form: &Form<'_>, (one, two): (&Path, &Path)) -> Result<Outcome> {
    for (changed, status, words) in [
        (("max_file_count", "3"), 401, "Invalid Signature"),
        (("redirect", ""), 401, "Invalid Signature"),
        (("signature", "00"), 401, "Invalid Signature"),
        (("expires", "1000"), 401, "Form Expired"),
        (("expires", "soon"), 400, "expired not an integer"),
        (("max_file_size", "x"), 400, "max_file_size not an integer"),
    ] {
        let (found, said) = form.send("sha256", changed, &[one])?;
        ensure!(
            found == status && said.contains(words),
            "{changed:?}: {found} {said}"
        );
    }
    let (status, said) = form.send("sha256", ("", ""), &[one, one, one])?;
    ensure!(
        status == 303 && said.contains("status=400&message=max%20file%20count%20exceeded"),
        "three files: {status} {said}"
    );
    durable::replace(two, &vec![1; FILE_BYTES_MAX + 1], Visibility::World)?;
    let name = "/c/up/%EC%98%B9%EA%B8%B0";
    curl.call(name, &["-X", "DELETE"])?;
    let (status, said) = form.send("sha256", ("", ""), &[two])?;
    ensure!(
        status == 400 && said.contains("max_file_size exceeded"),
        "a file that is too large: {status} {said}"
    );
    let (status, _) = curl.call(name, &[])?;
    ensure!(
        status == 404,
        "something of a file that was too large stayed: {status}"
    );
    Ok(Outcome::Passed)
}

const FILTERS: &str = r#"
list_endpoints = true
cross_domain_policy = '<allow-access-from domain="a.example" />'
[object.filters.name_check]
forbidden_chars = "<>"
[object.filters.rate_limit]
max_sleep_seconds = 1
containers = [{ objects = 0, rate = 2.0 }]
"#;

fn filters() -> Result<Outcome> {
    let system = system(FILTERS)?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    for (path, word) in [("/c/%3Co%3E", "forbidden"), ("/c/a/../o", "substring")] {
        let (status, said) = curl.call(path, &["-X", "PUT", "-d", ""])?;
        ensure!(
            status == 400 && said.contains(word),
            "{path}: {status} {said}"
        );
    }
    too_fast(&curl)?;
    told(&curl)?;
    read_only(&curl, &Curl::login(&system, "ops:ops")?)?;
    Ok(Outcome::Passed)
}

/// Two a second: of many at once the first goes, some wait, and the others would wait for longer than a second.
fn too_fast(curl: &Curl) -> Result<()> {
    let mut found: Vec<u16> = std::thread::scope(|scope| {
        let put = |at: usize| {
            scope.spawn(move || curl.call(&format!("/c/o{at}"), &["-X", "PUT", "-d", "x"]))
        };
        let started: Vec<_> = (0..8).map(put).collect();
        let ended = started.into_iter().map(|thread| {
            let ended = thread.join();
            let ended = ended.map_err(|_panicked| anyhow::anyhow!("a PUT panicked"))?;
            ended.map(|(status, _)| status)
        });
        ended.collect::<Result<_>>()
    })?;
    found.sort_unstable();
    ensure!(
        found.first() == Some(&201) && found.last() == Some(&498),
        "{found:?}"
    );
    Ok(())
}

/// What the filters say about themselves, and where things are.
fn told(curl: &Curl) -> Result<()> {
    let (root, path) = curl.url.split_once("/v1/").context("no account")?;
    let at_root = Curl {
        token: curl.token.clone(),
        url: root.to_owned(),
    };
    let (status, said) = at_root.call(&format!("/endpoints/v2/{path}/c/o0"), &[])?;
    let told: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let place = told["endpoints"][0].as_str().unwrap_or_default();
    ensure!(
        status == 200
            && place.starts_with("http://127.0.0.1:")
            && place.ends_with(&format!("/{path}/c/o0")),
        "{status} {said}"
    );
    let (_, said) = at_root.call("/crossdomain.xml", &[])?;
    ensure!(said.contains("a.example"), "{said}");
    let (_, said) = at_root.call("/info", &[])?;
    let told: Value = serde_json::from_str(&said)?;
    ensure!(
        told["ratelimit"]["container_ratelimits"][0][1] == 2.0
            && told["name_check"]["forbidden_chars"] == "<>",
        "{told}"
    );
    Ok(())
}

/// An operator lets an account only be read, and written again.
fn read_only(curl: &Curl, operator: &Curl) -> Result<()> {
    let switch = |who: &Curl, on: &str| {
        let who = Curl {
            token: who.token.clone(),
            url: curl.url.clone(),
        };
        let header = format!("X-Account-Read-Only: {on}");
        who.call("", &["-X", "POST", "-H", &header])
    };
    let (status, _) = switch(curl, "true")?;
    ensure!(status == 403, "a user made an account read-only: {status}");
    let (status, said) = switch(operator, "true")?;
    ensure!(status == 204, "{status} {said}");
    for method in ["PUT", "POST", "DELETE"] {
        let (status, said) = curl.call("/d", &["-X", method])?;
        ensure!(
            status == 405 && said == "Writes are disabled for this account.",
            "{method}: {status} {said}"
        );
    }
    let (status, _) = curl.call("/c", &[])?;
    ensure!(
        status == 200,
        "a read-only account cannot be read: {status}"
    );
    switch(operator, "false")?;
    curl.put("/d", "")?;
    let limit = "X-Account-Global-Write-Ratelimit: BLACKLIST";
    let account = Curl {
        token: operator.token.clone(),
        url: curl.url.clone(),
    };
    let (status, said) = account.call("", &["-X", "POST", "-H", limit])?;
    ensure!(status == 204, "{status} {said}");
    let (status, said) = curl.call("/c", &[])?;
    ensure!(status == 497, "{status} {said}");
    let free = "X-Account-Global-Write-Ratelimit: WHITELIST";
    let (status, said) = account.call("", &["-X", "POST", "-H", free])?;
    ensure!(status == 204, "{status} {said}");
    curl.put("/c/last", "")?;
    Ok(())
}
