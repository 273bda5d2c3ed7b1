//! A LUN through the kernel's own initiator, by open-iscsi's `iscsiadm`.
//!
//! CHAP secrets never are arguments: the node record is made without them and they are then written into its file,
//! which only root reads.

use crate::spec::{ChapCredentials, ConnectionSpec};
use onggi_common_host::durable::{self, DurableError, Visibility};
use onggi_common_host::run::{Run, RunError};
use onggi_common_host::{Clock, SystemClock};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the kernel has to show the disk after a login.
const DEVICE_TIME_MAX: Duration = Duration::from_secs(30);
const DEVICE_PAUSE: Duration = Duration::from_millis(50);
const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);
/// Where distributions keep node records.
const NODE_DIRECTORIES: [&str; 2] = ["/etc/iscsi/nodes", "/var/lib/iscsi/nodes"];
/// iscsiadm's status for "there is already a session".
const SESSION_EXISTS: i32 = 15;
/// Its status for "there is no such session".
const NO_OBJECTS: i32 = 21;

/// Why open-iscsi could not do it.
#[derive(Debug, thiserror::Error)]
pub enum OpenIscsiError {
    /// `iscsiadm` said no.
    #[error(transparent)]
    Run(#[from] RunError),
    /// There is no portal.
    #[error("the volume has no portal")]
    NoPortal,
    /// The record of the node was not found where it should be.
    #[error("open-iscsi made no record for {iqn} in {}", NODE_DIRECTORIES.join(" or "))]
    NoRecord {
        /// The target.
        iqn: String,
    },
    /// The record could not be read.
    #[error("{path}: {source}", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The record could not be written.
    #[error(transparent)]
    Write(#[from] DurableError),
    /// The session is there, the disk is not.
    #[error("logged in to {iqn}, but LUN {lun} did not appear within {limit:?}")]
    NoDevice {
        /// The target.
        iqn: String,
        /// The LUN.
        lun: u16,
        /// The limit.
        limit: Duration,
    },
}

/// Whether the kernel has an iSCSI initiator and open-iscsi is installed.
pub(super) fn is_available() -> bool {
    let transport = Path::new("/sys/class/iscsi_transport/tcp");
    if !transport.exists() && Run::new("modprobe").arg("iscsi_tcp").output().is_err() {
        return false;
    }
    transport.exists() && Run::new("iscsiadm").arg("--version").output().is_ok()
}

fn iscsiadm(iqn: &str, portal: &str) -> Run {
    Run::new("iscsiadm")
        .args(["-m", "node", "-T", iqn, "-p", portal])
        .time_limit(COMMAND_TIME_MAX)
}

/// Logs in and waits for the disk.
pub(super) fn attach(spec: &ConnectionSpec) -> Result<PathBuf, OpenIscsiError> {
    let portal = spec.portals.first().ok_or(OpenIscsiError::NoPortal)?;
    iscsiadm(&spec.iqn, portal).args(["-o", "new"]).output()?;
    let outcome = configure(spec)
        .and_then(|()| log_in(&spec.iqn, portal))
        .and_then(|()| wait_for_device(spec));
    if outcome.is_err() {
        // The first error is the one to tell.
        detach(&spec.iqn, &spec.portals).ok();
    }
    outcome
}

fn log_in(iqn: &str, portal: &str) -> Result<(), OpenIscsiError> {
    match iscsiadm(iqn, portal).arg("--login").output() {
        Ok(_)
        | Err(RunError::Failed {
            code: Some(SESSION_EXISTS),
            ..
        }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Logs out and forgets the node.
pub(super) fn detach(iqn: &str, portals: &[String]) -> Result<(), OpenIscsiError> {
    let portal = portals.first().ok_or(OpenIscsiError::NoPortal)?;
    for last in [&["--logout"][..], &["-o", "delete"]] {
        match iscsiadm(iqn, portal).args(last).output() {
            Ok(_)
            | Err(RunError::Failed {
                code: Some(NO_OBJECTS),
                ..
            }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes the CHAP settings into every record of the node.
fn configure(spec: &ConnectionSpec) -> Result<(), OpenIscsiError> {
    let Some(chap) = &spec.chap else {
        return Ok(());
    };
    let records = record_files(&spec.iqn);
    if records.is_empty() {
        return Err(OpenIscsiError::NoRecord {
            iqn: spec.iqn.clone(),
        });
    }
    for path in records {
        let text = std::fs::read_to_string(&path).map_err(|source| OpenIscsiError::Record {
            path: path.clone(),
            source,
        })?;
        let text = with_chap(&text, chap, spec.mutual_chap.as_ref());
        durable::replace(&path, text.as_bytes(), Visibility::Owner)?;
    }
    Ok(())
}

/// `nodes/IQN/ADDRESS,PORT,GROUP/default`, or in old versions `nodes/IQN/ADDRESS,PORT`.
fn record_files(iqn: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for directory in NODE_DIRECTORIES {
        let portals = std::fs::read_dir(Path::new(directory).join(iqn))
            .into_iter()
            .flatten();
        for portal in portals.flatten().map(|entry| entry.path()) {
            match std::fs::read_dir(&portal) {
                Ok(interfaces) => files.extend(interfaces.flatten().map(|entry| entry.path())),
                Err(_not_a_directory) => files.push(portal),
            }
        }
    }
    files
}

/// A record with other CHAP settings.
fn with_chap(text: &str, chap: &ChapCredentials, mutual: Option<&ChapCredentials>) -> String {
    let is_kept =
        |line: &&str| !line.starts_with("node.session.auth.") && !line.starts_with("# END");
    let mut lines: Vec<String> = text.lines().filter(is_kept).map(str::to_owned).collect();
    lines.push("node.session.auth.authmethod = CHAP".to_owned());
    lines.push(format!("node.session.auth.username = {}", chap.user));
    lines.push(format!(
        "node.session.auth.password = {}",
        chap.secret.expose()
    ));
    if let Some(mutual) = mutual {
        lines.push(format!("node.session.auth.username_in = {}", mutual.user));
        lines.push(format!(
            "node.session.auth.password_in = {}",
            mutual.secret.expose()
        ));
    }
    lines.push("# END RECORD\n".to_owned());
    lines.join("\n")
}

fn wait_for_device(spec: &ConnectionSpec) -> Result<PathBuf, OpenIscsiError> {
    let clock = SystemClock::new();
    while clock.monotonic() < DEVICE_TIME_MAX {
        if let Some(device) = find_device(Path::new("/sys"), &spec.iqn, spec.lun) {
            return Ok(device);
        }
        std::thread::sleep(DEVICE_PAUSE);
    }
    let (iqn, lun) = (spec.iqn.clone(), spec.lun);
    Err(OpenIscsiError::NoDevice {
        iqn,
        lun,
        limit: DEVICE_TIME_MAX,
    })
}

/// Session, then host, then `H:C:T:LUN`, then its block device.
fn find_device(sys: &Path, iqn: &str, lun: u16) -> Option<PathBuf> {
    let children = |path: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect()
    };
    let name = |path: &Path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .map(str::to_owned)
    };
    let wanted = format!(":{lun}");
    children(&sys.join("class/iscsi_session"))
        .into_iter()
        .filter(|session| {
            let target = std::fs::read_to_string(session.join("targetname"));
            target.is_ok_and(|target| target.trim() == iqn)
        })
        .flat_map(|session| children(&session.join("device")))
        .filter(|path| name(path).is_some_and(|name| name.starts_with("target")))
        .flat_map(|target| children(&target))
        .filter(|path| name(path).is_some_and(|name| name.ends_with(&wanted)))
        .flat_map(|unit| children(&unit.join("block")))
        .find_map(|block| name(&block))
        .map(|name| Path::new("/dev").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_units::Secret;

    #[test]
    fn chap_settings_replace_the_old_ones() {
        let old = "# BEGIN RECORD 2.1.8\nnode.name = iqn.x\nnode.session.auth.authmethod = None\n# END RECORD\n";
        let chap = ChapCredentials {
            user: "u".to_owned(),
            secret: Secret::new("secretsecret12"),
        };
        let new = with_chap(old, &chap, None);
        let wanted = "# BEGIN RECORD 2.1.8\nnode.name = iqn.x\nnode.session.auth.authmethod = CHAP\n\
                      node.session.auth.username = u\nnode.session.auth.password = secretsecret12\n# END RECORD\n";
        assert_eq!(new, wanted);
    }

    #[test]
    fn a_disk_is_found_by_session_and_lun() {
        let sys = tempfile::tempdir().unwrap();
        for (session, iqn, lun, disk) in [
            (1, "iqn.a", 1, "sda"),
            (2, "iqn.b", 1, "sdb"),
            (3, "iqn.b", 11, "sdc"),
        ] {
            let root = sys
                .path()
                .join(format!("class/iscsi_session/session{session}"));
            let unit = root.join(format!(
                "device/target{session}:0:0/{session}:0:0:{lun}/block/{disk}"
            ));
            durable::create_dir_all(&unit).unwrap();
            durable::replace(
                &root.join("targetname"),
                format!("{iqn}\n").as_bytes(),
                Visibility::World,
            )
            .unwrap();
        }
        let found = |iqn, lun| find_device(sys.path(), iqn, lun);
        assert_eq!(found("iqn.b", 1), Some(PathBuf::from("/dev/sdb")));
        assert_eq!(found("iqn.b", 11), Some(PathBuf::from("/dev/sdc")));
        assert_eq!(found("iqn.c", 1), None);
        assert_eq!(found("iqn.a", 2), None);
    }
}
