//! The hint file of the machine's own LVM commands, which would keep them from seeing our group.
//!
//! `pvs` and its kin remember in `/run/lvm/hints` which devices are physical volumes and then read no others (lvm.conf,
//! `devices/hints`). An LVM command that makes a physical volume says so to the others by a file `newhints`. Ours run
//! with a configuration that knows one device and keeps no hints, so nobody else would hear of it: a group made or
//! attached after the operator's last `pvs` would stay invisible to the next one.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Where LVM keeps what it remembers until a reboot.
const RUN_DIR: &str = "/run/lvm";

/// Tells the machine's LVM commands to look at all devices again.
pub(crate) fn outdate() {
    if let Err(error) = outdate_in(Path::new(RUN_DIR)) {
        tracing::warn!(%error, folder = RUN_DIR, "pvs and vgs may not show the group until `pvscan --cache` is run");
    }
}

fn outdate_in(folder: &Path) -> io::Result<()> {
    let open = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(folder.join("newhints"));
    match open {
        Ok(_) => Ok(()),
        // No LVM command has run since the last reboot: nothing is remembered.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_marked_as_outdated_and_nothing_is_made_where_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        outdate_in(dir.path()).unwrap();
        outdate_in(dir.path()).unwrap();
        assert!(dir.path().join("newhints").exists());
        outdate_in(&dir.path().join("missing")).unwrap();
        assert!(!dir.path().join("missing").exists());
    }
}
