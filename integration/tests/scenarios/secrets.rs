//! Secrets stay where they belong: they are in no log, also when everything is logged, and in no file that others can read.

use crate::curl::Curl;
use crate::object::LOGIN;
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_integration::system::{BlockOptions, ObjectOptions, Options, System, User, program, run};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

pub(crate) const SCENARIOS: &[Scenario] = &[(
    "secrets::no_secret_is_in_a_log_or_in_a_file_others_can_read",
    planted,
)];

const URL_KEY: &str = "urlkey-kimchi-8842";
const SYNC_KEY: &str = "synckey-kimchi-7731";
/// What is said openly: proof that the search finds things.
const OPEN_NAME: &str = "open-name-5567";

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files_below(&entry.path(), files)?;
        } else if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn holds(bytes: &[u8], secret: &str) -> bool {
    bytes
        .windows(secret.len())
        .any(|window| window == secret.as_bytes())
}

fn system() -> Result<System> {
    System::start(Options {
        block: Some(BlockOptions {
            pool: "file",
            pool_size: "2GiB".to_owned(),
        }),
        object: Some(ObjectOptions {
            nodes: 1,
            devices: 1,
            replicas: 1,
            port: 0,
            storage_domain: None,
            policies: &[],
        }),
        object_encryption: true,
        users: vec![User {
            account: "test",
            user: "tester",
            key: None,
            groups: &[".admin"],
        }],
        log_level: Some("trace"),
        ..Options::default()
    })
}

/// Everything that brings a secret in: right and wrong logins, signed URLs, keys in headers, a volume.
fn use_secrets(system: &System, curl: &Curl) -> Result<()> {
    let key = format!("X-Account-Meta-Temp-URL-Key: {URL_KEY}");
    let (status, said) = curl.call("", &["-X", "POST", "-H", &key])?;
    ensure!(status == 204, "{status}: {said}");
    let key = format!("X-Container-Sync-Key: {SYNC_KEY}");
    let (status, said) = curl.call(&format!("/{OPEN_NAME}"), &["-X", "PUT", "-H", &key])?;
    ensure!(status == 201, "{status}: {said}");
    curl.put(&format!("/{OPEN_NAME}/o"), "jar")?;
    let wrong = format!("/{OPEN_NAME}/o?temp_url_sig={URL_KEY}&temp_url_expires=9999999999");
    run(
        Path::new("curl"),
        &[
            "-sS",
            "-m",
            "20",
            "-o",
            "/dev/null",
            &format!("{}{wrong}", curl.url),
        ],
        &[],
    )?;
    let openrc = system.openrc("admin")?;
    run(&program("volctl")?, &["create", "jar", "1"], &openrc)?;
    Ok(())
}

fn planted() -> Result<Outcome> {
    let mut system = system()?;
    let curl = Curl::login(&system, LOGIN)?;
    use_secrets(&system, &curl)?;
    let openrc = system.openrc("admin")?;
    let password = openrc
        .iter()
        .find(|(name, _)| name == "OS_PASSWORD")
        .map(|(_, value)| value.clone())
        .context("no password in the openrc")?;
    let root_secrets = std::fs::read_to_string(system.object_keys())?;
    let root_secret = root_secrets
        .split_whitespace()
        .last()
        .context("no root secret")?
        .to_owned();
    let secrets = [
        ("the user's key", system.keys[LOGIN].clone()),
        ("the token", curl.token.clone()),
        ("the key of URLs", URL_KEY.to_owned()),
        ("the key of container sync", SYNC_KEY.to_owned()),
        ("the administrator's password", password),
        ("the root secret", root_secret),
    ];
    system.stop()?;
    let log = std::fs::read(system.log())?;
    ensure!(holds(&log, OPEN_NAME), "the log tells nothing");
    for (what, secret) in &secrets {
        ensure!(secret.len() >= 8, "{what} is too short to look for");
        ensure!(!holds(&log, secret), "{what} is in the log");
    }
    let mut files = Vec::new();
    files_below(&system.state, &mut files)?;
    let mut seen = 0;
    for path in files {
        let is_private = std::fs::metadata(&path)?.permissions().mode() & 0o077 == 0;
        let is_closed = path
            .ancestors()
            .take_while(|folder| folder.starts_with(&system.state))
            .any(|folder| {
                folder
                    .metadata()
                    .is_ok_and(|told| told.is_dir() && told.permissions().mode() & 0o077 == 0)
            });
        let bytes = std::fs::read(&path)?;
        for (what, secret) in &secrets {
            if holds(&bytes, secret) {
                seen += 1;
                ensure!(
                    is_private || is_closed,
                    "{what} is in {}, which others can read",
                    path.display()
                );
            }
        }
    }
    ensure!(seen >= 3, "the keys were not found where they have to be");
    Ok(Outcome::Passed)
}
