//! The part of the configuration file volctl reads: where instances are.

use anyhow::{Context as _, Result, bail};
use onggi_common_units::Uuid;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Bytes a configuration file may have.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What volctl reads of the file; the rest is the daemon's.
#[derive(Debug, Default, Deserialize)]
struct Config {
    #[serde(default)]
    instances: BTreeMap<String, PathBuf>,
}

/// A running guest: its id in the API, and the socket its QEMU listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) id: Uuid,
    pub(crate) socket: PathBuf,
}

impl Instance {
    /// Finds the guest a `--instance` argument means.
    pub(crate) fn find(
        argument: &str,
        named: Option<&Path>,
        candidates: &[PathBuf],
    ) -> Result<Self> {
        if let Some((name, socket)) = argument.split_once('=') {
            return Self::new(name, PathBuf::from(socket));
        }
        let files: Vec<&Path> = named.map_or_else(
            || candidates.iter().map(PathBuf::as_path).collect(),
            |file| vec![file],
        );
        for file in &files {
            let Some(config) = read(file, named.is_some())? else {
                continue;
            };
            if let Some(socket) = config.instances.get(argument) {
                return Self::new(argument, socket.clone());
            }
        }
        let places: Vec<String> = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        bail!(
            "no instance '{argument}' is known: write --instance {argument}=/path/to/qmp.sock, or name it under [instances] in {}",
            places.join(" or ")
        )
    }

    fn new(name: &str, socket: PathBuf) -> Result<Self> {
        if name.is_empty() || name.chars().any(char::is_control) {
            bail!("an instance needs a name");
        }
        Ok(Self {
            name: name.to_owned(),
            id: instance_id(name),
            socket,
        })
    }
}

/// The id of an instance: the name itself when it is a UUID, else one made of it, always the same (RFC 9562 §5.8).
pub(crate) fn instance_id(name: &str) -> Uuid {
    if let Ok(id) = name.parse() {
        return id;
    }
    let digest = Sha256::new()
        .chain_update(b"onggi instance\0")
        .chain_update(name.as_bytes())
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    Uuid::from_bytes(bytes)
}

fn read(path: &Path, must_exist: bool) -> Result<Option<Config>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if must_exist => {
            return Err(error).with_context(|| format!("opening {}", path.display()));
        }
        Err(_) => return Ok(None),
    };
    let mut text = String::new();
    file.take(CONFIG_BYTES_MAX)
        .read_to_string(&mut text)
        .with_context(|| format!("reading {}", path.display()))?;
    toml::from_str(&text)
        .map(Some)
        .with_context(|| format!("{} is no valid configuration", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_comes_from_the_argument_or_the_file() {
        let found = Instance::find("vm1=/run/a.sock", None, &[]).unwrap();
        assert_eq!(
            (found.name.as_str(), found.socket.to_str()),
            ("vm1", Some("/run/a.sock"))
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("onggi.toml");
        std::io::Write::write_all(
            &mut std::fs::File::create(&path).unwrap(),
            b"[block]\nother = 1\n[instances]\nvm2 = \"/run/b.sock\"\n",
        )
        .unwrap();
        let found =
            Instance::find("vm2", None, &[directory.path().join("none"), path.clone()]).unwrap();
        assert_eq!(found.socket, Path::new("/run/b.sock"));
        let error = Instance::find("vm3", Some(&path), &[]).unwrap_err();
        assert!(error.to_string().contains("[instances]"), "{error}");
        assert!(Instance::find("vm3", Some(&directory.path().join("none")), &[]).is_err());
    }

    #[test]
    fn an_id_is_the_name_or_made_of_it() {
        let id = "ffffffff-ffff-4fff-bfff-ffffffffffff";
        assert_eq!(instance_id(id).to_string(), id);
        assert_eq!(instance_id("vm1"), instance_id("vm1"));
        assert_ne!(instance_id("vm1"), instance_id("vm2"));
        assert_eq!(instance_id("vm1").to_string().as_bytes()[14], b'8');
    }
}
