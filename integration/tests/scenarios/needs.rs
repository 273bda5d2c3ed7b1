//! What a scenario needs that not every machine has.

use crate::Outcome;
use std::path::{Path, PathBuf};

/// The stock OpenStack clients, as `integration/test` installs them.
pub(crate) fn stock_client(name: &str) -> Result<PathBuf, Outcome> {
    let folder = std::env::var_os("ONGGI_CLIENTS").map(PathBuf::from);
    folder
        .map(|folder| folder.join(name))
        .filter(|path| path.is_file())
        .ok_or_else(|| {
            Outcome::Skipped(format!(
                "the stock client {name} is not installed (ONGGI_CLIENTS)"
            ))
        })
}

/// A program of the system.
pub(crate) fn tool(name: &str) -> Result<PathBuf, Outcome> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/sbin"), PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Outcome::Skipped(format!("{name} is not installed")))
}

/// Loop devices, and the right to use them.
pub(crate) fn loop_devices() -> Result<(), Outcome> {
    if !rustix::process::geteuid().is_root() {
        return Err(Outcome::Skipped("loop devices need root".to_owned()));
    }
    let there = Path::new("/dev/loop-control").exists();
    there
        .then_some(())
        .ok_or_else(|| Outcome::Skipped("this kernel has no loop devices".to_owned()))
}

/// Network namespaces, and what wires and filters them.
pub(crate) fn namespaces() -> Result<(), Outcome> {
    if !rustix::process::geteuid().is_root() {
        return Err(Outcome::Skipped("network namespaces need root".to_owned()));
    }
    tool("nft")?;
    let ip = tool("ip")?;
    let probe = onggi_common_host::run::Run::new(ip).args(["netns", "list"]);
    let is_there = probe.output().is_ok() && Path::new("/proc/self/ns/net").exists();
    is_there
        .then_some(())
        .ok_or_else(|| Outcome::Skipped("this kernel has no network namespaces".to_owned()))
}

/// FUSE, beside loop devices: what a local attachment is made of.
pub(crate) fn local_attach() -> Result<(), Outcome> {
    loop_devices()?;
    let there = Path::new("/dev/fuse").exists();
    there
        .then_some(())
        .ok_or_else(|| Outcome::Skipped("this kernel has no FUSE".to_owned()))
}

/// The guest's kernel and initramfs, and QEMU.
pub(crate) fn guest() -> Result<onggi_integration::guest::Image, Outcome> {
    tool("qemu-system-x86_64")?;
    let folder = std::env::var_os("ONGGI_GUEST")
        .map(PathBuf::from)
        .unwrap_or_default();
    onggi_integration::guest::Image::at(&folder)
        .ok()
        .ok_or_else(|| Outcome::Skipped("no guest was built (ONGGI_GUEST)".to_owned()))
}

/// The initiator's guest, which has open-iscsi, multipath and file systems.
pub(crate) fn initiator_guest() -> Result<onggi_integration::guest::Image, Outcome> {
    let image = guest()?;
    if image.has_initiator() {
        Ok(image)
    } else {
        let reason = "no guest with an initiator was built (integration/guest/build-initiator)";
        Err(Outcome::Skipped(reason.to_owned()))
    }
}

/// Whether the tiers that take long were asked for (`integration/test --long`).
pub(crate) fn long() -> bool {
    std::env::var_os("ONGGI_LONG").is_some()
}

/// Ends a scenario as skipped when it needs what is not there.
macro_rules! need {
    ($what:expr) => {
        match $what {
            Ok(there) => there,
            Err(skipped) => return Ok(skipped),
        }
    };
}
pub(crate) use need;
