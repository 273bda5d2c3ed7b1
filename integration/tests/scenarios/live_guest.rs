//! A guest that lives on a volume through QEMU's own initiator.

use crate::needs::{initiator_guest, need, tool};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::entropy::{Entropy as _, SystemEntropy};
use onggi_common_units::ByteCount;
use onggi_integration::exported::{Exported, LUN, USER, free_portals};
use onggi_integration::guest::{Drive, Guest, Options, System};
use onggi_integration::system::run;
use std::path::Path;
use std::time::Duration;

pub(crate) const SCENARIOS: &[Scenario] = &[(
    "live_guest::an_image_is_copied_to_a_volume_and_a_guest_lives_on_it",
    lives_on_a_volume,
)];

const SIZE: ByteCount = ByteCount::from_gib(1);

/// Makes an image of a file system with one large file in it.
fn make_image(mkfs: &Path, folder: &Path) -> Result<()> {
    let content = folder.join("content");
    durable::create_dir_all(&content)?;
    let mut bytes = vec![0; 64 << 20];
    SystemEntropy.fill(&mut bytes);
    durable::replace(&content.join("data"), &bytes, Visibility::World)?;
    let image = folder.join("image");
    std::fs::File::create(&image)?.set_len(SIZE.bytes())?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("path");
    run(
        mkfs,
        &["-q", "-F", "-d", &text(&content)?, &text(&image)?],
        &[],
    )?;
    Ok(())
}

fn lives_on_a_volume() -> Result<Outcome> {
    let image = need!(initiator_guest());
    let (img, mkfs) = (need!(tool("qemu-img")), need!(tool("mkfs.ext4")));
    let help = run(&img, &["--help"], &[])?;
    if !String::from_utf8_lossy(&help.stdout).contains("iscsi") {
        let reason = "QEMU has no iSCSI (package qemu-block-extra)";
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    let folder = tempfile::tempdir()?;
    make_image(&mkfs, folder.path())?;
    let portals = free_portals(1)?;
    let mut volume = Exported::start(folder.path(), SIZE, &portals, &[])?;
    let url = format!(
        "iscsi://{USER}%{}@{}/{}/{LUN}",
        volume.secret,
        portals[0],
        volume.iqn()
    );
    let source = folder.path().join("image");
    let source = source.to_str().context("path")?;
    run(
        &img,
        &["convert", "-n", "-f", "raw", "-O", "raw", source, &url],
        &[],
    )?;
    run(
        &img,
        &["compare", "-f", "raw", "-F", "raw", source, &url],
        &[],
    )?;
    let allocated = volume.allocated()?;
    ensure!(
        allocated < ByteCount::from_mib(256),
        "an image of 64 MiB of data takes {allocated}"
    );
    let options = Options {
        system: System::Initiator,
        memory_mib: 384,
        drives: vec![Drive::Iscsi {
            portal: portals[0].to_string(),
            target: volume.iqn().to_owned(),
            lun: LUN,
            chap: (USER.to_owned(), volume.secret.clone()),
        }],
        ..Options::default()
    };
    let guest = Guest::boot(&image, folder.path(), "live", &options)?;
    guest.run("modprobe ext4 && mount /dev/vda /mnt")?;
    // The file is copied while the target is killed and started again under the guest.
    guest.run("( cp /mnt/data /mnt/copy && sync && cmp /mnt/data /mnt/copy; echo $? > /tmp/status ) > /tmp/said 2>&1 &")?;
    guest.await_success(
        "[ $(stat -c %s /mnt/copy) -gt 1000000 ]",
        Duration::from_secs(30),
    )?;
    volume.kill();
    volume.launch()?;
    guest.await_success("[ -f /tmp/status ]", Duration::from_secs(120))?;
    guest.run("[ $(cat /tmp/status) = 0 ] || { cat /tmp/said; dmesg | tail; false; }")?;
    guest.run("umount /mnt && e2fsck -f -n /dev/vda")?;
    let errors = guest.ask("dmesg | grep 'I/O error'")?;
    ensure!(errors.status != 0, "the guest saw {}", errors.output);
    guest.switch_off()?;
    volume.stop()?;
    Ok(Outcome::Passed)
}
