//! The target with the initiator people use: the Linux kernel's, with open-iscsi, in a guest.

use crate::needs::{initiator_guest, long, need};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, bail, ensure};
use onggi_common_units::ByteCount;
use onggi_integration::exported::{Exported, USER, free_portals, from_guest};
use onggi_integration::guest::{FILES, Guest, GuestFile, Image, Options, System};
use onggi_integration::relay::Relay;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "initiator::open_iscsi_logs_in_with_chap_and_keeps_file_systems_that_grow",
        file_systems,
    ),
    (
        "initiator::reservations_compare_and_write_and_unmap_do_what_they_say",
        scsi_tools,
    ),
    (
        "initiator::io_resumes_after_the_target_was_killed",
        target_killed,
    ),
    (
        "initiator::multipath_survives_the_loss_of_either_portal",
        multipath,
    ),
];

const NAME: &str = "iqn.2026-11.org.onggi:guest";
/// How long fio and mkfs may take in an emulated guest on a busy machine.
const WORK_TIME_MAX: Duration = Duration::from_secs(180);

/// A guest with an initiator that knows the volume's secret, and the volume.
struct Attached {
    guest: Guest,
    volume: Exported,
    // Removed with the value, after the guest and the target.
    _folder: tempfile::TempDir,
}

/// Settings of open-iscsi for a volume: CHAP, and time limits under which a scenario stays short.
fn settings(secret: &str) -> String {
    let mut lines = String::new();
    for place in ["discovery.sendtargets.auth", "node.session.auth"] {
        lines += &format!(
            "{place}.authmethod = CHAP\n{place}.username = {USER}\n{place}.password = {secret}\n"
        );
    }
    lines += "node.conn[0].timeo.noop_out_interval = 2\nnode.conn[0].timeo.noop_out_timeout = 2\n";
    lines
}

impl Attached {
    /// Starts both; the guest is told the relays' addresses when there are any.
    fn start(image: &Image, size: ByteCount, system: System, paths: &Paths) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let advertised: Vec<SocketAddr> =
            paths.advertised.iter().copied().map(from_guest).collect();
        let volume = Exported::start(folder.path(), size, &paths.portals, &advertised)?;
        let file = |path: &str, content: String| GuestFile {
            path: path.to_owned(),
            permissions: 0o600,
            content: content.into_bytes(),
        };
        let options = Options {
            system,
            memory_mib: 448,
            files: vec![
                file("right", settings(&volume.secret) + &paths.settings),
                file("wrong", settings("a-wrong-secret!!")),
                file("multipath.conf", MULTIPATH.to_owned()),
            ],
            ..Options::default()
        };
        let guest = Guest::boot(image, folder.path(), "initiator", &options)?;
        Ok(Self {
            guest,
            volume,
            _folder: folder,
        })
    }

    fn start_iscsid(&self, settings: &str) -> Result<()> {
        let start = format!("initiator start {NAME} {FILES}/{settings}");
        self.guest.run(&start).map(drop)
    }

    /// Discovers through a portal and returns what was found, one `address,group name` a line.
    fn discover(&self, portal: SocketAddr) -> Result<String> {
        let portal = from_guest(portal);
        self.guest
            .run(&format!("iscsiadm -m discovery -t sendtargets -p {portal}"))
    }

    /// Runs `iscsiadm -m node` for the volume.
    fn node(&self, rest: &str) -> Result<String> {
        let iqn = self.volume.iqn();
        self.guest.run(&format!("iscsiadm -m node -T {iqn} {rest}"))
    }

    /// The volume's disks in the guest, once there are so many.
    fn disks(&self, count: usize) -> Result<Vec<String>> {
        let list = format!("initiator disks {} {count}", self.volume.iqn());
        let listed = self.guest.run(&list)?;
        Ok(listed.split_whitespace().map(str::to_owned).collect())
    }

    /// Discovers, logs in and returns the one disk.
    fn log_in(&self, portal: SocketAddr) -> Result<String> {
        self.start_iscsid("right")?;
        self.discover(portal)?;
        self.node("--login")?;
        self.disks(1)?.pop().context("no disk")
    }

    /// Starts fio, which writes and then reads all back, and breaks something while it writes.
    /// [`Attached::await_fio`] tells how that went.
    fn fio_while(
        &mut self,
        disk: &str,
        seed: usize,
        break_something: impl FnOnce(&mut Self),
    ) -> Result<()> {
        let written = |guest: &Guest| -> Result<u64> {
            let name = disk.trim_start_matches("/dev/");
            let stat = format!(
                "awk '{{ print $5 }}' /sys/block/$(basename $(readlink -f /dev/{name}))/stat"
            );
            Ok(guest.run(&stat)?.trim().parse()?)
        };
        let before = written(&self.guest)?;
        let fio = format!(
            "fio --name=io --filename={disk} --rw=randwrite --bs=4k-64k --size=24M --rate=4M --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 --randseed={seed} --output=/tmp/fio.out"
        );
        self.guest.run(&format!(
            "rm -f /tmp/fio.status; ( {fio} >/tmp/fio.err 2>&1; echo $? >/tmp/fio.status ) >/dev/null 2>&1 &"
        ))?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while written(&self.guest)? < before + 20 {
            ensure!(Instant::now() < deadline, "fio does not begin to write");
        }
        break_something(self);
        let running = self.guest.ask("[ ! -f /tmp/fio.status ]")?.status == 0;
        ensure!(running, "fio had ended already");
        Ok(())
    }

    /// Waits for fio and checks that it found no error.
    fn await_fio(&self) -> Result<()> {
        self.guest
            .await_success("[ -f /tmp/fio.status ]", WORK_TIME_MAX)?;
        self.guest
            .run("[ $(cat /tmp/fio.status) = 0 ] || { cat /tmp/fio.err /tmp/fio.out; false; }")
            .map(drop)
    }

    /// Ends guest and target in order.
    fn stop(self) -> Result<()> {
        drop(self.guest);
        self.volume.stop()
    }
}

/// The ways to the volume.
struct Paths {
    portals: Vec<SocketAddr>,
    advertised: Vec<SocketAddr>,
    settings: String,
}

impl Paths {
    fn direct() -> Result<Self> {
        let portals = free_portals(1)?;
        Ok(Self {
            advertised: portals.clone(),
            portals,
            settings: String::new(),
        })
    }
}

fn file_systems() -> Result<Outcome> {
    let image = need!(initiator_guest());
    let paths = Paths::direct()?;
    let size = ByteCount::from_mib(512);
    let mut attached = Attached::start(&image, size, System::Initiator, &paths)?;
    let portal = paths.portals[0];
    refused_with_a_wrong_secret(&attached, portal)?;
    attached.guest.run("modprobe -a ext4 xfs")?;
    attached.guest.run(
        "dd if=/dev/urandom of=/tmp/data bs=1M count=24 2>/dev/null; cd /tmp && sha256sum data > sum",
    )?;
    let found = attached.discover(portal)?;
    let wanted = format!("{},1 {}", from_guest(portal), attached.volume.iqn());
    ensure!(
        found.trim() == wanted,
        "discovery found {found:?}, not {wanted}"
    );
    attached.node("--login")?;
    let disk = attached.disks(1)?.pop().context("no disk")?;
    keeps_files(&attached, &disk, "mkfs.ext4 -q -F", "e2fsck -f -n")?;
    grows(&mut attached, "resize2fs $disk", ByteCount::from_mib(640))?;
    keeps_files(&attached, &disk, "mkfs.xfs -q -f", "xfs_repair -n")?;
    grows(&mut attached, "xfs_growfs /mnt", ByteCount::from_mib(768))?;
    attached.node("--logout")?;
    attached.stop()?;
    Ok(Outcome::Passed)
}

fn refused_with_a_wrong_secret(attached: &Attached, portal: SocketAddr) -> Result<()> {
    attached.start_iscsid("wrong")?;
    let portal = from_guest(portal);
    let iqn = attached.volume.iqn();
    let discovery = format!("iscsiadm -m discovery -t sendtargets -p {portal}");
    let answer = attached.guest.ask(&discovery)?;
    ensure!(
        answer.status != 0 && !answer.output.contains(iqn),
        "a wrong secret found {answer:?}"
    );
    attached.node(&format!("-p {portal} -o new"))?;
    let answer = attached
        .guest
        .ask(&format!("iscsiadm -m node -T {iqn} -p {portal} --login"))?;
    // open-iscsi's ISCSI_ERR_LOGIN_AUTH_FAILED.
    ensure!(answer.status == 24, "a wrong secret got {answer:?}");
    attached.node("-o delete")?;
    // It is two processes, of which one may end with the other before it is told to itself.
    attached
        .guest
        .ask("for pid in $(pidof iscsid); do kill $pid; done")?;
    attached.guest.await_success(
        "! grep -q ISCSIADM_ABSTRACT_NAMESPACE /proc/net/unix",
        Duration::from_secs(10),
    )?;
    attached.start_iscsid("right")
}

/// Makes a file system, fills it, logs out and in, and finds all of it again. Leaves it mounted.
fn keeps_files(attached: &Attached, disk: &str, make: &str, check: &str) -> Result<()> {
    let guest = &attached.guest;
    guest.run_within(&format!("{make} {disk}"), WORK_TIME_MAX)?;
    guest.run(&format!("mount {disk} /mnt && cp /tmp/data /mnt/data"))?;
    guest.run("umount /mnt")?;
    attached.node("--logout")?;
    guest.run(&format!("[ ! -b {disk} ]"))?;
    attached.node("--login")?;
    let again = attached.disks(1)?;
    ensure!(again == [disk], "{disk} came back as {again:?}");
    guest.run_within(&format!("{check} {disk}"), WORK_TIME_MAX)?;
    guest.run(&format!(
        "mount {disk} /mnt && cd /mnt && sha256sum -c /tmp/sum"
    ))?;
    Ok(())
}

/// Grows the volume and the mounted file system on it, fills the new space, and unmounts.
fn grows(attached: &mut Attached, command: &str, size: ByteCount) -> Result<()> {
    let disk = attached.disks(1)?.pop().context("no disk")?;
    attached.volume.grow(size)?;
    let guest = &attached.guest;
    attached.node("--rescan")?;
    let grown = format!("[ $(blockdev --getsize64 {disk}) = {} ]", size.bytes());
    guest.await_success(&grown, Duration::from_secs(20))?;
    let free = "df -k /mnt | awk 'END { print $4 }'";
    guest.run(&format!(
        "disk={disk}; before=$({free}); {command} && [ $({free}) -gt $((before + 65536)) ] && cp /mnt/data /mnt/again && cd /mnt && sha256sum -c /tmp/sum && cmp data again"
    ))?;
    guest.run("cd /; umount /mnt")?;
    Ok(())
}

fn scsi_tools() -> Result<Outcome> {
    let image = need!(initiator_guest());
    let paths = Paths::direct()?;
    let size = ByteCount::from_mib(256);
    let mut attached = Attached::start(&image, size, System::Initiator, &paths)?;
    let first = attached.log_in(paths.portals[0])?;
    steers(&attached, &first)?;
    compares_and_writes(&attached, &first)?;
    frees_space(&attached, &first)?;
    // A second session has another ISID: another I_T nexus, as another host's would be.
    attached.guest.run("iscsiadm -m session -r 1 --op new")?;
    let disks = attached.disks(2)?;
    let second = disks.into_iter().find(|disk| *disk != first);
    let second = second.context("no second disk")?;
    reserves(&attached, &first, &second)?;
    keeps_reservations(&mut attached, &first, &second)?;
    attached.node("--logout")?;
    attached.stop()?;
    Ok(Outcome::Passed)
}

fn compares_and_writes(attached: &Attached, disk: &str) -> Result<()> {
    let guest = &attached.guest;
    guest
        .run("cd /tmp; head -c 1024 /dev/zero > old; tr '\\0' n < old > new; cat old new > both")?;
    let command =
        format!("sg_compare_and_write --in=/tmp/both --lba=8 --num=2 --xferlen=2048 {disk}");
    guest.run(&command)?;
    guest.run(&format!(
        "/usr/bin/dd if={disk} bs=512 skip=8 count=2 iflag=direct 2>/dev/null | cmp - /tmp/new"
    ))?;
    let again = guest.ask(&command)?;
    // sg3_utils' SG_LIB_CAT_MISCOMPARE.
    ensure!(again.status == 14, "a second one got {again:?}");
    Ok(())
}

fn frees_space(attached: &Attached, disk: &str) -> Result<()> {
    let guest = &attached.guest;
    let before = attached.volume.allocated()?;
    guest.run(&format!(
        "/usr/bin/dd if=/dev/urandom of={disk} bs=1M seek=64 count=32 oflag=direct 2>/dev/null"
    ))?;
    let full = attached.volume.allocated()?;
    ensure!(
        full >= before
            .checked_add(ByteCount::from_mib(32))
            .context("size")?,
        "32 MiB took the file from {before} to {full}"
    );
    let status = guest.run(&format!("sg_get_lba_status --lba={} {disk}", 64 << 11))?;
    ensure!(status.contains("mapped"), "{status}");
    guest.run(&format!(
        "/usr/sbin/blkdiscard --offset {} --length {} {disk}",
        64 << 20,
        32 << 20
    ))?;
    let freed = attached.volume.allocated()?;
    ensure!(freed <= before, "a discard left {freed} of {full}");
    guest.run(&format!(
        "/usr/bin/dd if={disk} bs=1M skip=64 count=32 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c | grep -qx 0"
    ))?;
    Ok(())
}

fn reserves(attached: &Attached, first: &str, second: &str) -> Result<()> {
    let guest = &attached.guest;
    let write = |disk: &str| {
        guest.ask(&format!(
            "/usr/bin/dd if=/tmp/new of={disk} bs=512 count=1 oflag=direct 2>&1"
        ))
    };
    let persist = |arguments: &str| guest.run(&format!("sg_persist {arguments}"));
    persist(&format!("--out --register --param-sark=0xa1 {first}"))?;
    persist(&format!("--out --register --param-sark=0xb2 {second}"))?;
    let keys = persist(&format!("--in --read-keys {first}"))?;
    ensure!(keys.contains("0xa1") && keys.contains("0xb2"), "{keys}");
    // Type 5: write exclusive, registrants only.
    persist(&format!(
        "--out --reserve --param-rk=0xa1 --prout-type=5 {first}"
    ))?;
    let held = persist(&format!("--in --read-reservation {second}"))?;
    ensure!(held.contains("0xa1"), "{held}");
    ensure!(write(second)?.status == 0, "a registrant may not write");
    persist(&format!(
        "--out --register --param-rk=0xb2 --param-sark=0 {second}"
    ))?;
    ensure!(write(second)?.status != 0, "a stranger may write");
    ensure!(write(first)?.status == 0, "the holder may not write");
    // The other one takes over, as a cluster does when a host has died.
    persist(&format!("--out --register --param-sark=0xc3 {second}"))?;
    persist(&format!(
        "--out --preempt --param-rk=0xc3 --param-sark=0xa1 --prout-type=5 {second}"
    ))?;
    let told = guest.ask(&format!("sg_persist --in --read-reservation {first}"))?;
    // sg3_utils' SG_LIB_CAT_UNIT_ATTENTION: the preempted nexus is told before anything else.
    ensure!(
        told.status == 6 && told.output.contains("preempted"),
        "the preempted nexus is told {told:?}"
    );
    let held = persist(&format!("--in --read-reservation {first}"))?;
    ensure!(held.contains("0xc3"), "{held}");
    ensure!(write(first)?.status != 0, "a preempted host may write");
    ensure!(write(second)?.status == 0, "the new holder may not write");
    persist(&format!("--out --clear --param-rk=0xc3 {second}"))?;
    ensure!(write(first)?.status == 0, "nobody holds it, and yet");
    Ok(())
}

// APTPL: who was shut out before the target was killed is shut out afterwards, from the first command on.
fn keeps_reservations(attached: &mut Attached, first: &str, second: &str) -> Result<()> {
    let guest = &attached.guest;
    let persist = |arguments: &str| guest.run(&format!("sg_persist {arguments}"));
    persist(&format!(
        "--out --register --param-sark=0xa1 --param-aptpl {first}"
    ))?;
    persist(&format!(
        "--out --reserve --param-rk=0xa1 --prout-type=1 {first}"
    ))?;
    attached.volume.kill();
    attached.volume.launch()?;
    let guest = &attached.guest;
    let write =
        |disk: &str| format!("/usr/bin/dd if=/tmp/new of={disk} bs=512 count=1 oflag=direct");
    // The kernel logs in again by itself; only then there is an answer.
    guest.run(&write(first))?;
    let refused = guest.ask(&write(second))?;
    ensure!(refused.status != 0, "a host that was shut out may write");
    let held = guest.run(&format!("sg_persist --in --read-reservation {second}"))?;
    ensure!(held.contains("0xa1"), "{held}");
    guest.run(&format!("sg_persist --out --clear --param-rk=0xa1 {first}"))?;
    guest.run(&write(second)).map(drop)
}

// The target port group is told and may be set, as path checkers and operators do.
fn steers(attached: &Attached, disk: &str) -> Result<()> {
    let guest = &attached.guest;
    let told = guest.run(&format!("sg_rtpg --decode {disk}"))?;
    ensure!(told.contains("active/optimized"), "{told}");
    guest.run(&format!("sg_stpg --active {disk}"))?;
    let told = guest.run(&format!("sg_rtpg --decode {disk}"))?;
    ensure!(told.contains("active/non optimized"), "{told}");
    // The tool sees by what is told that this is not offered; the raw command is refused.
    guest.run(&format!("sg_stpg --standby {disk}"))?;
    guest.run("printf '\\0\\0\\0\\0\\2\\0\\0\\1' > /tmp/standby")?;
    let standby = guest.ask(&format!(
        "sg_raw -s 8 -i /tmp/standby {disk} a4 0a 00 00 00 00 00 00 00 08 00 00"
    ))?;
    ensure!(
        standby.status != 0,
        "a port group could be shut: {standby:?}"
    );
    let told = guest.run(&format!("sg_rtpg --decode {disk}"))?;
    ensure!(told.contains("active/non optimized"), "{told}");
    guest.run(&format!("sg_stpg --optimized {disk}")).map(drop)
}

fn target_killed() -> Result<Outcome> {
    let image = need!(initiator_guest());
    let paths = Paths::direct()?;
    let size = ByteCount::from_mib(256);
    let mut attached = Attached::start(&image, size, System::InitiatorWithFio, &paths)?;
    let disk = attached.log_in(paths.portals[0])?;
    for round in 0..if long() { 20 } else { 2 } {
        attached.fio_while(&disk, round, |attached| attached.volume.kill())?;
        attached.volume.launch()?;
        attached.await_fio()?;
    }
    let errors = attached.guest.ask("dmesg | grep 'I/O error'")?;
    ensure!(errors.status != 0, "the kernel saw {}", errors.output);
    attached.node("--logout")?;
    attached.stop()?;
    Ok(Outcome::Passed)
}

const MULTIPATH: &str = "defaults {\n  user_friendly_names no\n  find_multipaths no\n  polling_interval 1\n  max_polling_interval 2\n  path_grouping_policy multibus\n}\nblacklist {\n  devnode \"^vd\"\n}\n";

/// How long a path may take to come back. It takes up to 17 s as a rule, and once took more than 60; why is not known.
const PATH_BACK_WITHIN: Duration = Duration::from_secs(120);

fn multipath() -> Result<Outcome> {
    let image = need!(initiator_guest());
    let portals = free_portals(2)?;
    let relays = portals
        .iter()
        .map(|portal| Relay::start(*portal))
        .collect::<Result<Vec<_>>>()?;
    let paths = Paths {
        advertised: relays.iter().map(Relay::address).collect(),
        portals,
        // With another path there, a dead one is given up soon.
        settings: "node.session.timeo.replacement_timeout = 3\n".to_owned(),
    };
    let size = ByteCount::from_mib(256);
    let mut attached = Attached::start(&image, size, System::InitiatorWithFio, &paths)?;
    let guest = &attached.guest;
    guest.run(&format!("cp {FILES}/multipath.conf /etc/multipath.conf; modprobe -a dm-multipath dm-service-time; initiator udev"))?;
    attached.start_iscsid("right")?;
    let found = attached.discover(relays[0].address())?;
    ensure!(found.lines().count() == 2, "discovery found {found:?}");
    attached.node("--login")?;
    attached.disks(2)?;
    guest.run("multipathd")?;
    let active = "[ $(multipath -ll | grep -c 'active ready running') = 2 ]";
    guest.await_success(active, Duration::from_secs(30))?;
    let name = guest.run("multipath -ll -v1")?;
    let map = format!("/dev/mapper/{}", name.trim());
    // The first portal's process dies, which says so; the second's cable is pulled.
    for (round, relay) in relays.iter().enumerate() {
        let cut = if round == 0 {
            Relay::close
        } else {
            Relay::silence
        };
        attached.fio_while(&map, round, |_| cut(relay))?;
        let failed = "[ $(multipath -ll | grep -c 'failed faulty') = 1 ]";
        attached
            .guest
            .await_success(failed, Duration::from_secs(60))?;
        attached.await_fio()?;
        relay.open();
        let opened = Instant::now();
        let back = attached.guest.await_success(active, PATH_BACK_WITHIN);
        if let Err(error) = back {
            let seen = attached
                .guest
                .ask("multipath -ll; iscsiadm -m session -P 1; dmesg | tail -n 20")?;
            bail!(
                "round {round}: the path is not back: {error:#}; {}",
                seen.output
            );
        }
        println!(
            "    round {round}: both paths are there again after {:?}",
            opened.elapsed()
        );
    }
    let guest = &attached.guest;
    let errors = guest.ask("dmesg | grep 'I/O error' | grep dm-")?;
    ensure!(errors.status != 0, "the map saw {}", errors.output);
    guest.run(&format!("multipath -f {}", name.trim()))?;
    attached.node("--logout")?;
    attached.stop()?;
    Ok(Outcome::Passed)
}
