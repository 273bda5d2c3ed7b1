//! Our own client: large files in segments, directories kept the same, copies, signed URLs.

use crate::curl::Curl;
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_integration::system::{ObjectOptions, Options, System, User, program, run};
use serde_json::Value;
use std::path::{Path, PathBuf};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "objctl::segments_are_stored_resumed_replaced_and_deleted",
        segments,
    ),
    (
        "objctl::a_directory_and_a_container_are_kept_the_same",
        sync,
    ),
    ("objctl::copies_signed_urls_and_capabilities", other_verbs),
];

const LOGIN: &str = "test:tester";

/// The client, and the system it talks to.
struct Desk {
    system: System,
    objctl: PathBuf,
    environment: Vec<(String, String)>,
    folder: tempfile::TempDir,
}

impl Desk {
    fn open() -> Result<Self> {
        let system = System::start(Options {
            object: Some(ObjectOptions {
                nodes: 1,
                devices: 1,
                replicas: 1,
                port: 0,
                storage_domain: None,
                policies: &[],
            }),
            users: vec![User {
                account: "test",
                user: "tester",
                key: None,
                groups: &[".admin"],
            }],
            ..Options::default()
        })?;
        Ok(Self {
            environment: system.v1(LOGIN),
            system,
            objctl: program("objctl")?,
            folder: tempfile::tempdir()?,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = run(&self.objctl, arguments, &self.environment)?;
        Ok(String::from_utf8(output.stdout)?)
    }

    fn list(&self, container: &str) -> Result<Vec<Value>> {
        Ok(serde_json::from_str(
            &self.run(&["--json", "list", container])?,
        )?)
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no UTF-8")
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    durable::replace(path, bytes, Visibility::World)?;
    Ok(())
}

fn numbers(from: u32) -> Vec<u8> {
    (from..from + 800_000).flat_map(u32::to_le_bytes).collect()
}

fn segments() -> Result<Outcome> {
    let desk = Desk::open()?;
    let (file, back) = (desk.path("large"), desk.path("back"));
    let content = numbers(0);
    write(&file, &content)?;
    let upload = |more: &[&str]| {
        let mut arguments = vec!["upload", "c", text(&file)?, "--object-name", "large"];
        arguments.extend(["-S", "1MiB", "--segment-threads", "2"]);
        arguments.extend(more);
        desk.run(&arguments)
    };
    let fetch = || {
        desk.run(&["download", "c", "large", "-o", text(&back)?])?;
        anyhow::Ok(std::fs::read(&back)?)
    };
    upload(&[])?;
    ensure!(fetch()? == content, "it came back different");
    let first = desk.list("c_segments")?;
    ensure!(first.len() == 4, "{first:?}");
    // As after an upload that broke off: some segments are there, and no manifest. Only what is missing is sent.
    let curl = Curl::login(&desk.system, LOGIN)?;
    let (status, _) = curl.call("/c/large", &["-X", "DELETE"])?;
    ensure!(status == 204, "{status}");
    let missing = first[2]["name"].as_str().context("no name")?;
    desk.run(&["delete", "c_segments", missing])?;
    upload(&[])?;
    ensure!(
        fetch()? == content,
        "it came back different when it was resumed"
    );
    let second = desk.list("c_segments")?;
    let kept = first
        .iter()
        .zip(&second)
        .filter(|(first, second)| first["last_modified"] == second["last_modified"])
        .count();
    ensure!(kept == 3, "{kept} segments were kept: {first:?} {second:?}");
    ensure!(upload(&["--changed"])?.is_empty(), "an old file was sent");
    ensure!(
        upload(&["--skip-identical"])?.is_empty(),
        "known bytes were sent"
    );
    // Another file under the name: the old one's segments go.
    let other = numbers(7);
    write(&file, &other)?;
    upload(&["--changed", "--skip-identical"])?;
    ensure!(fetch()? == other, "the old file came back");
    let third = desk.list("c_segments")?;
    ensure!(
        third.len() == 4 && third.iter().all(|line| !first.contains(line)),
        "{third:?}"
    );
    desk.run(&["delete", "c", "large"])?;
    ensure!(desk.list("c_segments")?.is_empty(), "segments stayed");
    Ok(Outcome::Passed)
}

fn sync() -> Result<Outcome> {
    let desk = Desk::open()?;
    let (here, there) = (desk.path("here"), desk.path("there"));
    let large = numbers(0);
    for (name, bytes) in [
        ("a.txt", &b"one"[..]),
        ("d/b.txt", b"two"),
        ("d/옹기", b""),
        ("large", &large),
    ] {
        write(&here.join(name), bytes)?;
    }
    let up = |more: &[&str]| {
        let mut arguments = vec!["sync", text(&here)?, "c", "-p", "p/", "-S", "1MiB"];
        arguments.extend(more);
        let mut lines: Vec<String> = desk.run(&arguments)?.lines().map(str::to_owned).collect();
        lines.sort();
        anyhow::Ok(lines)
    };
    let down = |more: &[&str]| {
        let mut arguments = vec!["sync", text(&there)?, "c", "-p", "p/", "--download"];
        arguments.extend(more);
        desk.run(&arguments)
    };
    ensure!(up(&[])?.len() == 4, "not all was sent");
    ensure!(up(&[])?.is_empty(), "what was the same was sent again");
    down(&[])?;
    for name in ["a.txt", "d/b.txt", "d/옹기", "large"] {
        let same = std::fs::read(here.join(name))? == std::fs::read(there.join(name))?;
        ensure!(same, "{name} is not the same");
    }
    ensure!(down(&[])?.is_empty(), "what was the same was fetched again");
    write(&here.join("a.txt"), b"new")?;
    std::fs::remove_file(here.join("d/b.txt"))?;
    std::fs::remove_file(here.join("large"))?;
    let wanted = ["delete p/d/b.txt", "delete p/large", "upload p/a.txt"];
    ensure!(
        up(&["--delete", "-n"])? == wanted,
        "the dry run says otherwise"
    );
    ensure!(up(&["--delete"])? == wanted, "other things were done");
    ensure!(desk.list("c_segments")?.is_empty(), "segments stayed");
    write(&there.join("extra"), b"x")?;
    down(&[])?;
    ensure!(
        there.join("extra").exists(),
        "it was deleted without being told to"
    );
    down(&["--delete"])?;
    ensure!(
        !there.join("extra").exists() && !there.join("large").exists(),
        "what is not there any more stayed"
    );
    ensure!(
        std::fs::read(there.join("a.txt"))? == b"new",
        "the old file stayed"
    );
    Ok(Outcome::Passed)
}

fn other_verbs() -> Result<Outcome> {
    let desk = Desk::open()?;
    let file = desk.path("file");
    write(&file, b"content")?;
    desk.run(&["upload", "c", text(&file)?, "--object-name", "a b/o"])?;
    desk.run(&["post", "d"])?;
    desk.run(&["copy", "c", "a b/o", "-d", "/d", "-m", "Color:blue"])?;
    let told = desk.run(&["--json", "copy", "c", "a b/o", "-d", "/d/other", "-M"])?;
    let told: Value = serde_json::from_str(&told)?;
    ensure!(
        told == serde_json::json!({ "action": "copy", "container": "d", "name": "other" }),
        "{told}"
    );
    let stat = desk.run(&["stat", "d", "a b/o"])?;
    ensure!(stat.contains("Meta Color: blue"), "{stat}");
    desk.run(&["download", "d", "other", "-o", text(&desk.path("back"))?])?;
    ensure!(
        std::fs::read(desk.path("back"))? == b"content",
        "the copy is different"
    );
    let error = desk.run(&["tempurl", "GET", "60", "c", "a b/o"]).err();
    let error = format!("{:#}", error.context("a URL was signed without a key")?);
    ensure!(error.contains("Temp-URL-Key"), "{error}");
    desk.run(&["post", "-m", "Temp-URL-Key:secret"])?;
    let fetch = |url: &str| {
        let arguments = ["-sS", "-m", "20", "-w", " %{http_code}", url];
        let output = run(Path::new("curl"), &arguments, &[])?;
        anyhow::Ok(String::from_utf8(output.stdout)?)
    };
    for digest in ["sha1", "sha256", "sha512"] {
        let signed = ["tempurl", "GET", "60", "c", "a b/o", "--digest", digest];
        let url = desk.run(&signed)?;
        ensure!(!url.contains("secret"), "the key is in the URL");
        let said = fetch(url.trim())?;
        ensure!(said == "content 200", "{digest}: {said}");
    }
    let bound = [
        "tempurl",
        "GET",
        "60",
        "c",
        "a ",
        "--prefix-based",
        "--ip-range",
        "127.0.0.0/8",
    ];
    let url = desk.run(&bound)?;
    let url = url.trim().replace("/c/a%20?", "/c/a%20b/o?");
    ensure!(fetch(&url)? == "content 200", "{url}");
    let over = desk.run(&["tempurl", "GET", "1000", "c", "a b/o", "--absolute"])?;
    let said = fetch(over.trim())?;
    ensure!(said.ends_with(" 401"), "{said}");
    let told: Value = serde_json::from_str(&desk.run(&["--json", "capabilities"])?)?;
    ensure!(
        told["bulk_upload"]["max_failed_extractions"] == 1_000,
        "{told}"
    );
    let shown = desk.run(&["capabilities"])?;
    ensure!(
        shown.contains("slo\n  max_manifest_segments: 1000"),
        "{shown}"
    );
    Ok(Outcome::Passed)
}
