//! Encryption at rest: clients notice nothing, the devices hold nothing they could read.

use crate::curl::Curl;
use crate::needs::{need, tool};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::run::Run;
use onggi_integration::system::{ObjectOptions, Options, System, User, program, run};
use serde_json::Value;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "encryption::devices_hold_nothing_readable_and_clients_notice_nothing",
        unnoticed,
    ),
    (
        "encryption::root_secrets_are_rotated_lost_and_guarded",
        secrets,
    ),
];

fn system() -> Result<System> {
    System::start(Options {
        object: Some(ObjectOptions {
            nodes: 1,
            devices: 1,
            replicas: 1,
            port: 0,
            storage_domain: None,
            policies: &[],
        }),
        object_encryption: true,
        single_process: true,
        users: vec![User {
            account: "test",
            user: "tester",
            key: None,
            groups: &[".admin"],
        }],
        ..Options::default()
    })
}

const LOGIN: &str = "test:tester";
/// What must not be on any device.
const BODY: &str = "fermented soybean paste, three years old";
const META_NAME: &str = "Potter";
const META_VALUE: &str = "hands of the old master";
/// What is stored as it is: proof that the search finds things.
const CONTENT_TYPE: &str = "application/x-earthenware";

/// A body, its file, and its MD5.
struct Sample {
    file: PathBuf,
    bytes: Vec<u8>,
    md5: String,
}

impl Sample {
    fn new(folder: &Path, name: &str, repeated: usize) -> Result<Self> {
        let file = folder.join(name);
        let bytes = format!("{BODY} {name}\n").repeat(repeated).into_bytes();
        durable::replace(&file, &bytes, Visibility::World)?;
        let path = file.to_str().context("path")?;
        let said = run(Path::new("md5sum"), &[path], &[])?.stdout;
        let said = String::from_utf8(said)?;
        let md5 = said.split(' ').next().context("md5sum said nothing")?;
        Ok(Self {
            md5: md5.to_owned(),
            file,
            bytes,
        })
    }

    fn put(&self, curl: &Curl, path: &str) -> Result<()> {
        let from = format!("@{}", self.file.display());
        let kind = format!("Content-Type: {CONTENT_TYPE}");
        let item = format!("X-Object-Meta-{META_NAME}: {META_VALUE}");
        let tag = format!("ETag: {}", self.md5);
        let put = ["-X", "PUT", "--data-binary", &from, "-H", &kind, "-H"];
        let put = [&put[..], &[&item, "-H", &tag, "-D", "-"]].concat();
        let (status, said) = curl.call(path, &put)?;
        ensure!(
            status == 201 && said.contains(&self.md5),
            "PUT {path}: {status} {said}"
        );
        Ok(())
    }

    /// Everything a reader can ask of it.
    fn check(&self, curl: &Curl, path: &str) -> Result<()> {
        let whole = curl.download(path)?;
        ensure!(whole == self.bytes, "{path} came back different");
        let (status, head) = curl.call(path, &["-I"])?;
        let length = format!("Content-Length: {}\r\n", self.bytes.len());
        for wanted in [&self.md5, &length, &format!("{META_NAME}: {META_VALUE}")] {
            let there = head.to_lowercase().contains(&wanted.to_lowercase());
            ensure!(status == 200 && there, "{path}: no {wanted:?} in {head}");
        }
        ensure!(!head.to_lowercase().contains("crypto"), "{path}: {head}");
        for (condition, status) in [
            (format!("If-Match: {}", self.md5), 200),
            ("If-Match: 00".to_owned(), 412),
            (format!("If-None-Match: \"{}\"", self.md5), 304),
            ("If-None-Match: 00".to_owned(), 200),
        ] {
            let (found, _) = curl.call(path, &["-H", &condition, "-o", "/dev/null"])?;
            ensure!(found == status, "{path}, {condition}: {found}");
        }
        let length = self.bytes.len();
        for (start, end) in [(0, 1), (1, 18), (15, 33), (length / 2, length)] {
            let range = format!("{start}-{}", end - 1);
            let (status, part) = curl.call(path, &["-r", &range])?;
            let wanted = self.bytes.get(start..end).unwrap_or_default();
            ensure!(
                status == 206 && part.as_bytes() == wanted,
                "{path}, {range}: {status} {part}"
            );
        }
        let (status, parts) = curl.call(path, &["-r", "2-9,20-30"])?;
        let text = String::from_utf8_lossy(&self.bytes);
        ensure!(
            status == 206 && parts.contains(&text[2..10]) && parts.contains(&text[20..31]),
            "{path}, two ranges: {status} {parts}"
        );
        Ok(())
    }
}

/// The tags a listing says, by name.
fn tags(curl: &Curl, container: &str) -> Result<Vec<(String, String)>> {
    let (_, said) = curl.call(&format!("{container}?format=json"), &[])?;
    let lines: Vec<Value> = serde_json::from_str(&said).with_context(|| said.clone())?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let tag = |line: &Value| (text(&line["name"]), text(&line["hash"]));
    Ok(lines.iter().map(tag).collect())
}

/// The files of the devices that have these bytes in them, whatever the case of their letters.
fn holders(system: &System, wanted: &[u8]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![system.state.join("object/devices")];
    let wanted = wanted.to_ascii_lowercase();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path)?.to_ascii_lowercase();
            if bytes.windows(wanted.len()).any(|window| window == wanted) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair| Ok(u8::from_str_radix(core::str::from_utf8(pair)?, 16)?);
    pairs.map(byte).collect()
}

fn unnoticed() -> Result<Outcome> {
    need!(tool("md5sum"));
    let mut system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    let folder = tempfile::tempdir()?;
    let small = Sample::new(folder.path(), "small", 3)?;
    let large = Sample::new(folder.path(), "large", 9_000)?;
    curl.put("/c", "")?;
    curl.put("/c/empty", "")?;
    small.put(&curl, "/c/small")?;
    large.put(&curl, "/c/large")?;
    small.check(&curl, "/c/small")?;
    large.check(&curl, "/c/large")?;
    ensure!(curl.download("/c/empty")?.is_empty(), "empty is not empty");
    let wrong = ["-X", "PUT", "-d", "x", "-H", "ETag: 00"];
    let (status, _) = curl.call("/c/wrong", &wrong)?;
    ensure!(status == 422, "a wrong ETag was answered {status}");
    let copy = ["-X", "COPY", "-H", "Destination: c/copy"];
    let (status, said) = curl.call("/c/large", &copy)?;
    ensure!(status == 201, "COPY: {status} {said}");
    large.check(&curl, "/c/copy")?;
    let empty = "d41d8cd98f00b204e9800998ecf8427e";
    let pair = |name: &str, tag: &str| (name.to_owned(), tag.to_owned());
    let listed = tags(&curl, "/c")?;
    let wanted = [
        pair("copy", &large.md5),
        pair("empty", empty),
        pair("large", &large.md5),
        pair("small", &small.md5),
    ];
    ensure!(listed == wanted, "{listed:?}");
    posted(&curl)?;
    large_objects(&curl, &small, &large)?;
    versions(&curl, &small, &large)?;
    told(&curl, true)?;
    // While it runs the database's log has everything; after an orderly end its tables may.
    unreadable(&system, &[&small, &large])?;
    system.stop()?;
    unreadable(&system, &[&small, &large])?;
    Ok(Outcome::Passed)
}

/// What `/info` says.
fn told(curl: &Curl, is_on: bool) -> Result<()> {
    let (root, _) = curl.url.split_once("/v1/").context("no account")?;
    let root = Curl {
        token: curl.token.clone(),
        url: root.to_owned(),
    };
    let said: Value = serde_json::from_str(&root.call("/info", &[])?.1)?;
    ensure!(said["encryption"]["enabled"] == true || !is_on, "{said}");
    ensure!(is_on || said.get("encryption").is_none(), "{said}");
    Ok(())
}

fn posted(curl: &Curl) -> Result<()> {
    let item = format!("X-Object-Meta-Kiln: {META_VALUE}, again");
    let (status, _) = curl.call("/c/copy", &["-X", "POST", "-H", &item])?;
    let (_, head) = curl.call("/c/copy", &["-I"])?;
    ensure!(
        status == 202 && head.contains(&item) && !head.contains(META_NAME),
        "{status} {head}"
    );
    Ok(())
}

fn large_objects(curl: &Curl, small: &Sample, large: &Sample) -> Result<()> {
    let both = [large.bytes.as_slice(), &small.bytes].concat();
    let segments = serde_json::json!([
        { "path": "/c/large", "etag": large.md5 },
        { "path": "/c/small", "etag": small.md5 },
    ]);
    curl.put("/m", "")?;
    let put = ["-X", "PUT", "-d", &segments.to_string()];
    let (status, said) = curl.call("/m/slo?multipart-manifest=put", &put)?;
    ensure!(status == 201, "SLO: {status} {said}");
    let head = ["-X", "PUT", "-d", "", "-H", "X-Object-Manifest: c/lar"];
    let (status, said) = curl.call("/m/dlo", &head)?;
    ensure!(status == 201, "DLO: {status} {said}");
    let target = ["-X", "PUT", "-d", "", "-H", "X-Symlink-Target: c/small"];
    let tag = format!("X-Symlink-Target-Etag: {}", small.md5);
    let (status, said) = curl.call("/m/link", &[&target[..], &["-H", &tag]].concat())?;
    ensure!(status == 201, "link: {status} {said}");
    ensure!(curl.download("/m/slo")? == both, "SLO is different");
    ensure!(curl.download("/m/dlo")? == large.bytes, "DLO is different");
    ensure!(
        curl.download("/m/link")? == small.bytes,
        "the link is different"
    );
    let seam = large.bytes.len();
    let range = format!("{}-{}", seam - 5, seam + 4);
    let (status, part) = curl.call("/m/slo", &["-r", &range])?;
    let wanted = both.get(seam - 5..seam + 5);
    ensure!(
        status == 206 && Some(part.as_bytes()) == wanted,
        "{status} {part}"
    );
    let (_, listing) = curl.call("/m?format=json", &[])?;
    ensure!(
        listing.contains(&format!("\"symlink_etag\": \"{}\"", small.md5))
            && listing.contains("\"slo_etag\": \"\\\""),
        "{listing}"
    );
    Ok(())
}

fn versions(curl: &Curl, small: &Sample, large: &Sample) -> Result<()> {
    let (status, _) = curl.call("/v", &["-X", "PUT", "-H", "X-Versions-Enabled: true"])?;
    ensure!(status == 201, "a container with versions: {status}");
    small.put(curl, "/v/o")?;
    large.put(curl, "/v/o")?;
    large.check(curl, "/v/o")?;
    ensure!(
        tags(curl, "/v")? == [("o".to_owned(), large.md5.clone())],
        "the line of the current version"
    );
    let (_, said) = curl.call("/v?versions&format=json", &[])?;
    let lines: Vec<Value> = serde_json::from_str(&said).with_context(|| said.clone())?;
    let old = lines.iter().find(|line| line["is_latest"] == false);
    let old = old.with_context(|| said.clone())?;
    ensure!(old["hash"] == small.md5.as_str(), "{said}");
    let id = old["version_id"].as_str().context("no version id")?;
    small.check(curl, &format!("/v/o?version-id={id}"))
}

/// Looks for what must not be on the devices, and for what must.
fn unreadable(system: &System, samples: &[&Sample]) -> Result<()> {
    let mut secret = vec![
        BODY.as_bytes().to_vec(),
        META_VALUE.as_bytes().to_vec(),
        format!("meta-{META_NAME}").into_bytes(),
    ];
    for sample in samples {
        secret.extend([sample.md5.clone().into_bytes(), unhex(&sample.md5)?]);
    }
    for secret in secret {
        let found = holders(system, &secret)?;
        let shown = String::from_utf8_lossy(&secret);
        ensure!(found.is_empty(), "{shown:?} is in {found:?}");
    }
    let found = holders(system, CONTENT_TYPE.as_bytes())?;
    ensure!(!found.is_empty(), "the search finds nothing at all");
    Ok(())
}

/// Ends the system, changes what stands in its files, and starts it again.
fn restart(system: &mut System, change: impl FnOnce(&System) -> Result<()>) -> Result<Curl> {
    system.stop()?;
    change(system)?;
    system.launch()?;
    Curl::login(system, LOGIN)
}

fn secrets() -> Result<Outcome> {
    need!(tool("md5sum"));
    let mut system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    let folder = tempfile::tempdir()?;
    let old = Sample::new(folder.path(), "old", 5_000)?;
    let new = Sample::new(folder.path(), "new", 3)?;
    curl.put("/c", "")?;
    old.put(&curl, "/c/old")?;
    old.put(&curl, "/c/replaced")?;
    old.put(&curl, "/c/deleted")?;
    // Rotation: what is new is under the new secret, what is old stays readable.
    let curl = restart(&mut system, |system| system.new_object_key("k2"))?;
    new.put(&curl, "/c/new")?;
    old.check(&curl, "/c/old")?;
    new.check(&curl, "/c/new")?;
    let both = std::fs::read_to_string(system.object_keys())?;
    let of = |id: &str| both.lines().find(|line| line.starts_with(id));
    let (first, second) = (of("k1").context("k1")?, of("k2").context("k2")?);
    let keep = |system: &System, text: &str| {
        durable::replace(&system.object_keys(), text.as_bytes(), Visibility::Owner)?;
        Ok(())
    };
    let curl = restart(&mut system, |system| keep(system, second))?;
    new.check(&curl, "/c/new")?;
    lost(&curl, &new)?;
    // What nobody can read can still be replaced and deleted.
    new.put(&curl, "/c/replaced")?;
    new.check(&curl, "/c/replaced")?;
    let (status, _) = curl.call("/c/deleted", &["-X", "DELETE"])?;
    ensure!(status == 204, "DELETE: {status}");
    // Another secret of the same name is not that secret.
    let other = second.replacen("k2", "k1", 1);
    let curl = restart(&mut system, |system| keep(system, &other))?;
    lost(&curl, &new)?;
    let curl = restart(&mut system, |system| {
        keep(system, &format!("{first}\n{second}\n"))?;
        let text = std::fs::read_to_string(system.config())?;
        let text = text.replace(
            "[object.encryption]",
            "[object.encryption]\nenabled = false",
        );
        durable::replace(&system.config(), text.as_bytes(), Visibility::Owner)?;
        Ok(())
    })?;
    told(&curl, false)?;
    old.check(&curl, "/c/old")?;
    new.check(&curl, "/c/new")?;
    ensure!(holders(&system, BODY.as_bytes())?.is_empty(), "too early");
    new.put(&curl, "/c/plain")?;
    new.check(&curl, "/c/plain")?;
    ensure!(
        !holders(&system, BODY.as_bytes())?.is_empty(),
        "what is not encrypted is not found either"
    );
    let curl = restart(&mut system, |system| {
        let text = std::fs::read_to_string(system.config())?;
        let text = text.replace("enabled = false", "active = \"k1\"");
        durable::replace(&system.config(), text.as_bytes(), Visibility::Owner)?;
        Ok(())
    })?;
    // What was put before encryption was switched on stays readable.
    new.check(&curl, "/c/plain")?;
    guarded(&mut system)
}

/// What an object whose root secret is lost answers.
fn lost(curl: &Curl, new: &Sample) -> Result<()> {
    for arguments in [&["-i"][..], &["-i", "-r", "5-9"]] {
        let (status, said) = curl.call("/c/old", arguments)?;
        ensure!(
            status == 500 && said.contains("cannot be decrypted"),
            "{arguments:?}: {status} {said}"
        );
        ensure!(
            !said.contains(META_VALUE) && !said.contains("crypto"),
            "{said}"
        );
    }
    let (status, _) = curl.call("/c/old", &["-I"])?;
    ensure!(status == 500, "HEAD: {status}");
    let listed = tags(curl, "/c")?;
    let tag = |wanted: &str| {
        let line = listed.iter().find(|(name, _)| name == wanted);
        line.map(|(_, tag)| tag.as_str())
    };
    ensure!(tag("old") == Some("unknown"), "{listed:?}");
    let readable = curl.call("/c/new", &["-I"])?.0 == 200;
    let shown = if readable {
        new.md5.as_str()
    } else {
        "unknown"
    };
    ensure!(tag("new") == Some(shown), "{listed:?}");
    Ok(())
}

/// A key file that others can read is refused before anything is served.
fn guarded(system: &mut System) -> Result<Outcome> {
    system.stop()?;
    std::fs::set_permissions(system.object_keys(), Permissions::from_mode(0o644))?;
    for command in ["check-config", "proxy"] {
        let run = Run::new(program("onggid")?).arg(command).arg("--config");
        let ended = run.arg(system.config()).output();
        let Err(refused) = ended else {
            anyhow::bail!("{command} took a key file that everybody can read");
        };
        let said = format!("{refused:#}");
        ensure!(said.contains("chmod 600"), "{command}: {said}");
    }
    Ok(Outcome::Passed)
}
