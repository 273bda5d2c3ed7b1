//! Whether the kernel's device-mapper can be used here.

use core::time::Duration;
use onggi_common_host::run::Run;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

const CONTROL: &str = "/dev/mapper/control";
const UDEV_CONTROL: &str = "/run/udev/control";
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Whether the kernel answers through device-mapper's control device. A container may have the node and no driver.
pub(crate) fn is_usable() -> bool {
    let is_node = Path::new(CONTROL)
        .metadata()
        .is_ok_and(|found| found.file_type().is_char_device());
    is_node
        && Run::new("dmsetup")
            .arg("version")
            .time_limit(ANSWER_LIMIT)
            .output()
            .is_ok()
}

/// Whether udev is running, which then makes the nodes of volumes.
pub(crate) fn has_udev() -> bool {
    Path::new(UDEV_CONTROL).exists()
}
