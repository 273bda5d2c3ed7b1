//! Volumes: the tools, the stock clients, LVM, local attachments, a guest, and processes that are killed.

use crate::needs::{guest, local_attach, loop_devices, need, stock_client, tool};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, bail, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::entropy::{Entropy as _, SystemEntropy};
use onggi_integration::guest::{self as vm, Guest};
use onggi_integration::system::{BlockOptions, Options, System, program, run};
use serde_json::Value;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("block::volctl_creates_lists_shows_and_deletes", volctl_life),
    ("block::lvm_shows_the_group_and_the_volume", lvm_shows),
    (
        "block::a_local_attachment_keeps_a_file_system",
        local_file_system,
    ),
    ("block::a_guest_gets_the_volume_as_vdb", guest_attach),
    (
        "block::the_stock_cinder_and_openstack_clients_work",
        stock_clients,
    ),
    (
        "block::io_does_not_notice_a_killed_control_process",
        control_killed,
    ),
    ("block::io_outlives_a_killed_target", target_killed),
    ("block::an_operator_drains_the_target", drained),
    ("block::wrong_commands_say_what_to_do", wrong_commands),
    (
        "block::a_volume_is_never_left_half_made",
        crash_while_creating,
    ),
];

fn system(pool: &'static str) -> Result<System> {
    System::start(Options {
        block: Some(BlockOptions {
            pool,
            pool_size: "4GiB".to_owned(),
        }),
        ..Options::default()
    })
}

/// `volctl` against one system, as its admin.
struct Volctl {
    program: PathBuf,
    environment: Vec<(String, String)>,
}

impl Volctl {
    fn new(system: &System) -> Result<Self> {
        let mut environment = system.openrc("admin")?;
        environment.push(("ONGGI_STATE".to_owned(), system.state.display().to_string()));
        Ok(Self {
            program: program("volctl")?,
            environment,
        })
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = run(&self.program, arguments, &self.environment)?;
        Ok(String::from_utf8(output.stdout)?)
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    fn create(&self, name: &str, gib: &str) -> Result<String> {
        let created = self.json(&["create", name, gib])?;
        let id = created["id"].as_str().context("no id")?.to_owned();
        self.await_status(name, "available")?;
        Ok(id)
    }

    fn status(&self, name: &str) -> Result<String> {
        Ok(self.json(&["show", name])?["status"]
            .as_str()
            .context("no status")?
            .to_owned())
    }

    fn await_status(&self, name: &str, wanted: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let status = self.status(name)?;
            if status == wanted {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{name} is {status}, not {wanted}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Attaches a volume here and returns its device.
    fn attach(&self, name: &str) -> Result<PathBuf> {
        let table = self.run(&["attach", name])?;
        let device = table.lines().find_map(|line| {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            (cells.next() == Some("device"))
                .then(|| cells.next().map(PathBuf::from))
                .flatten()
        });
        device.with_context(|| format!("no device in {table}"))
    }
}

fn volctl_life() -> Result<Outcome> {
    let system = system("file")?;
    let volctl = Volctl::new(&system)?;
    let table = volctl.run(&["create", "demo-v1", "1"])?;
    for row in [
        "attachments",
        "availability_zone",
        "bootable",
        "created_at",
        "description",
        "encrypted",
        "id",
        "metadata",
        "multiattach",
        "name",
        "os-vol-tenant-attr:tenant_id",
        "replication_status",
        "size",
        "snapshot_id",
        "source_volid",
        "status",
        "updated_at",
        "user_id",
        "volume_type",
    ] {
        let row_start = format!("| {row} ");
        ensure!(
            table.lines().any(|line| line.starts_with(&row_start)),
            "no row {row} in\n{table}"
        );
    }
    let start = Instant::now();
    volctl.await_status("demo-v1", "available")?;
    ensure!(
        start.elapsed() < Duration::from_secs(5),
        "available after {:?}",
        start.elapsed()
    );
    let list = volctl.run(&["list"])?;
    let header: Vec<_> = list
        .lines()
        .nth(1)
        .unwrap_or_default()
        .trim_matches('|')
        .split('|')
        .map(str::trim)
        .collect();
    let wanted = [
        "ID",
        "Status",
        "Name",
        "Size",
        "Volume Type",
        "Bootable",
        "Attached to",
    ];
    ensure!(header == wanted, "{header:?}");
    ensure!(
        list.contains("demo-v1") && list.contains("available"),
        "{list}"
    );
    volctl.run(&["delete", "demo-v1", "--wait"])?;
    ensure!(
        !volctl.run(&["list"])?.contains("demo-v1"),
        "a deleted volume is listed"
    );
    Ok(Outcome::Passed)
}

fn lvm_shows() -> Result<Outcome> {
    need!(loop_devices());
    let lvs = need!(tool("lvs"));
    let system = system("lvm")?;
    let volctl = Volctl::new(&system)?;
    let id = volctl.create("v1", "1")?;
    let name = format!("volume-{id}");
    let group = &system.volume_group;
    let text = |program: &Path, arguments: &[&str]| -> Result<String> {
        Ok(String::from_utf8_lossy(&run(program, arguments, &[])?.stdout).into_owned())
    };
    let volumes = text(&lvs, &[])?;
    ensure!(
        volumes.contains(&name) && volumes.contains(group.as_str()),
        "lvs shows\n{volumes}"
    );
    let groups = text(&need!(tool("vgs")), &[])?;
    ensure!(groups.contains(group.as_str()), "vgs shows\n{groups}");
    let physical = text(&need!(tool("pvs")), &[])?;
    ensure!(
        physical.contains(group.as_str()) && physical.contains("/dev/loop"),
        "pvs shows\n{physical}"
    );
    let loops = text(&need!(tool("losetup")), &["-a"])?;
    let state = system.state.display().to_string();
    ensure!(loops.contains(&state), "losetup -a shows\n{loops}");
    // More than the group has room for is refused at once, and nothing of it is left.
    let full = volctl
        .run(&["create", "big", "5"])
        .err()
        .context("5 GiB fitted into a group of 4")?;
    ensure!(format!("{full:#}").contains("no pool has room"), "{full:#}");
    let listed = volctl.json(&["list"])?;
    ensure!(
        listed.as_array().is_some_and(|all| all.len() == 1),
        "{listed}"
    );
    volctl.run(&["delete", "v1", "--wait"])?;
    ensure!(
        !text(&lvs, &[])?.contains(&name),
        "lvs shows a deleted volume"
    );
    Ok(Outcome::Passed)
}

fn local_file_system() -> Result<Outcome> {
    need!(local_attach());
    let (mkfs, fsck) = (need!(tool("mkfs.ext4")), need!(tool("fsck.ext4")));
    let system = system("lvm")?;
    let volctl = Volctl::new(&system)?;
    volctl.create("v1", "1")?;
    let device = volctl.attach("v1")?;
    let device_text = device.to_str().context("path")?;
    ensure!(
        volctl.status("v1")? == "in-use",
        "an attached volume is {}",
        volctl.status("v1")?
    );
    run(&mkfs, &["-q", "-F", device_text], &[])?;
    let folder = tempfile::tempdir()?;
    let mount_point = folder.path().to_str().context("path")?;
    let mut content = vec![0; 8 << 20];
    SystemEntropy.fill(&mut content);
    run(Path::new("mount"), &[device_text, mount_point], &[])?;
    let written = durable::replace(&folder.path().join("file"), &content, Visibility::World);
    let busy = volctl.run(&["detach", "v1"]);
    run(Path::new("umount"), &[mount_point], &[])?;
    written?;
    ensure!(busy.is_err(), "a mounted volume was detached");
    volctl.run(&["detach", "v1"])?;
    volctl.await_status("v1", "available")?;
    let device = volctl.attach("v1")?;
    let device_text = device.to_str().context("path")?;
    run(&fsck, &["-f", "-n", device_text], &[])?;
    run(
        Path::new("mount"),
        &["-o", "ro", device_text, mount_point],
        &[],
    )?;
    let back = std::fs::read(folder.path().join("file"));
    run(Path::new("umount"), &[mount_point], &[])?;
    ensure!(back? == content, "the file came back different");
    ensure!(
        volctl.run(&["delete", "v1"]).is_err(),
        "an attached volume was deleted"
    );
    volctl.run(&["detach", "v1"])?;
    volctl.run(&["delete", "v1", "--wait"])?;
    Ok(Outcome::Passed)
}

fn await_disk(guest: &Guest, there: bool) -> Result<()> {
    let negation = if there { "" } else { "! " };
    let test = format!("{negation}[ -b /dev/vdb ]");
    guest.await_success(&test, Duration::from_secs(20))?;
    Ok(())
}

fn guest_attach() -> Result<Outcome> {
    let image = need!(guest());
    let system = system("file")?;
    let volctl = Volctl::new(&system)?;
    let id = volctl.create("v1", "1")?;
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("vm1.disk");
    std::fs::File::create(&disk)?.set_len(16 << 20)?;
    let options = vm::Options {
        drives: vec![vm::Drive::Raw(disk)],
        ..vm::Options::default()
    };
    let guest = Guest::boot(&image, folder.path(), "vm1", &options)?;
    let instance = format!("vm1={}", guest.sockets().qmp.display());
    let table = volctl.run(&["attach", "v1", "--instance", &instance])?;
    for row in ["device", "id", "serverId", "volumeId"] {
        ensure!(
            table.contains(&format!("| {row} ")),
            "no row {row} in\n{table}"
        );
    }
    ensure!(table.contains("/dev/vdb") && table.contains(&id), "{table}");
    await_disk(&guest, true)?;
    let sectors = guest.run("cat /sys/block/vdb/size")?;
    ensure!(sectors.trim() == "2097152", "vdb has {sectors} sectors");
    guest.run("echo written by the guest | dd of=/dev/vdb bs=512 conv=sync,fsync 2>/dev/null")?;
    ensure!(
        volctl.status("v1")? == "in-use",
        "it is {}",
        volctl.status("v1")?
    );
    volctl.run(&["detach", "v1", "--instance", &instance])?;
    await_disk(&guest, false)?;
    volctl.await_status("v1", "available")?;
    volctl.run(&["attach", "v1", "--instance", &instance])?;
    await_disk(&guest, true)?;
    let back = guest.run("head -c 20 /dev/vdb")?;
    ensure!(back == "written by the guest", "{back:?}");
    volctl.run(&["detach", "v1", "--instance", &instance])?;
    Ok(Outcome::Passed)
}

fn stock_clients() -> Result<Outcome> {
    let (cinder, openstack) = (
        need!(stock_client("cinder")),
        need!(stock_client("openstack")),
    );
    let system = system("file")?;
    let volctl = Volctl::new(&system)?;
    let environment = system.openrc("admin")?;
    let call = |program: &Path, arguments: &[&str]| -> Result<String> {
        Ok(String::from_utf8_lossy(&run(program, arguments, &environment)?.stdout).into_owned())
    };
    let created = call(&cinder, &["create", "--name", "demo-v2", "1"])?;
    ensure!(
        created.contains("| name ") && created.contains("demo-v2"),
        "{created}"
    );
    volctl.await_status("demo-v2", "available")?;
    let list = call(&cinder, &["list"])?;
    ensure!(
        list.contains("demo-v2") && list.contains("available"),
        "{list}"
    );
    let list = call(&openstack, &["volume", "list"])?;
    ensure!(list.contains("demo-v2"), "{list}");
    let token = call(&openstack, &["token", "issue"])?;
    ensure!(token.contains("| project_id "), "{token}");
    call(&openstack, &["volume", "create", "--size", "1", "demo-v3"])?;
    volctl.await_status("demo-v3", "available")?;
    let shown = call(&openstack, &["volume", "show", "demo-v3", "-f", "json"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    ensure!(
        shown["status"] == "available" && shown["size"] == 1,
        "{shown}"
    );
    call(&cinder, &["delete", "demo-v2"])?;
    call(&openstack, &["volume", "delete", "demo-v3"])?;
    let missing = call(&cinder, &["show", "nope"])
        .err()
        .context("a missing volume was shown")?;
    ensure!(
        format!("{missing:#}").contains("No volume")
            || format!("{missing:#}").contains("No Volume"),
        "{missing:#}"
    );
    let mut wrong = environment.clone();
    wrong.retain(|(name, _)| name != "OS_PASSWORD");
    wrong.push(("OS_PASSWORD".to_owned(), "wrong".to_owned()));
    ensure!(
        run(&openstack, &["token", "issue"], &wrong).is_err(),
        "a wrong password was let in"
    );
    Ok(Outcome::Passed)
}

/// Writes and reads back numbered blocks for as long as `during` takes, and returns how many.
fn io_while(device: &Path, during: impl FnOnce() -> Result<()>) -> Result<u64> {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(device)?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<u64> {
            let mut count = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let block = [u8::try_from(count % 251)?; 4096];
                file.write_all_at(&block, (count % 10_000) * 4096)?;
                file.sync_data()?;
                count += 1;
            }
            Ok(count)
        });
        let outcome = during();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let count = writer.join().ok().context("the writer panicked")??;
        outcome?;
        ensure!(count > 0, "nothing was written");
        let last = count - 1;
        let mut block = [0; 4096];
        file.read_exact_at(&mut block, (last % 10_000) * 4096)?;
        ensure!(
            block == [u8::try_from(last % 251)?; 4096],
            "block {last} came back different"
        );
        Ok(count)
    })
}

fn control_killed() -> Result<Outcome> {
    need!(local_attach());
    let system = system("lvm")?;
    let volctl = Volctl::new(&system)?;
    volctl.create("v1", "1")?;
    let device = volctl.attach("v1")?;
    io_while(&device, || {
        for _ in 0..3 {
            system.kill("control")?;
            system.await_health("30s")?;
        }
        Ok(())
    })?;
    ensure!(
        volctl.status("v1")? == "in-use",
        "it is {}",
        volctl.status("v1")?
    );
    volctl.run(&["detach", "v1"])?;
    volctl.await_status("v1", "available")?;
    Ok(Outcome::Passed)
}

fn target_killed() -> Result<Outcome> {
    need!(local_attach());
    let system = system("lvm")?;
    let volctl = Volctl::new(&system)?;
    volctl.create("v1", "1")?;
    let device = volctl.attach("v1")?;
    io_while(&device, || {
        for _ in 0..2 {
            system.kill("target")?;
            system.await_health("30s")?;
        }
        Ok(())
    })?;
    volctl.run(&["detach", "v1"])?;
    Ok(Outcome::Passed)
}

/// `onggid export` against one system.
fn export(system: &System, arguments: &[&str]) -> Result<String> {
    let config = system.config().display().to_string();
    let arguments = [&["export"], arguments, &["--config", &config]].concat();
    let output = run(&program("onggid")?, &arguments, &[])?;
    Ok(String::from_utf8(output.stdout)?)
}

fn drained() -> Result<Outcome> {
    need!(local_attach());
    let system = system("file")?;
    let volctl = Volctl::new(&system)?;
    let id = volctl.create("v1", "1")?;
    let refused = export(&system, &["drain", &id]).err();
    let refused = refused.context("what is not exported was drained")?;
    ensure!(
        format!("{refused:#}").contains("onggid export list"),
        "{refused:#}"
    );
    let device = volctl.attach("v1")?;
    let told: Value = serde_json::from_str(&export(&system, &["list", "--json"])?)?;
    ensure!(
        told[0]["volume"] == id.as_str() && told[0]["sessions"] == 1,
        "{told}"
    );
    let name = told[0]["iqn"].as_str().context("no name")?;
    let sessions = || export(&system, &["sessions"]);
    ensure!(sessions()?.contains(name), "{}", sessions()?);
    io_while(&device, || {
        export(&system, &["drain", &id, "--within", "5s"])?;
        ensure!(sessions()?.is_empty(), "still there: {}", sessions()?);
        export(&system, &["serve", name])?;
        // The attachment comes back by itself, and what was written meanwhile was held.
        let deadline = Instant::now() + Duration::from_secs(20);
        while sessions()?.is_empty() {
            ensure!(Instant::now() < deadline, "the session is not back");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    })?;
    volctl.run(&["detach", "v1"])?;
    Ok(Outcome::Passed)
}

fn wrong_commands() -> Result<Outcome> {
    let system = system("file")?;
    let volctl = Volctl::new(&system)?;
    let refused = |arguments: &[&str], wanted: &str| -> Result<()> {
        match volctl.run(arguments) {
            Ok(said) => bail!("{arguments:?} was accepted: {said}"),
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(
                    said.to_lowercase().contains(&wanted.to_lowercase()),
                    "{arguments:?}: {said}"
                );
                ensure!(said.lines().count() <= 4, "{arguments:?}: {said}");
                Ok(())
            }
        }
    };
    refused(&["show", "nope"], "nope")?;
    refused(&["create", "v", "0"], "size")?;
    refused(&["create", "v", "-1"], "-1")?;
    refused(
        &["create", "v", "99999999999999999999"],
        "99999999999999999999",
    )?;
    refused(&["create", "v", "x"], "x")?;
    refused(&["create", &"n".repeat(256), "1"], "255")?;
    refused(&["delete", "../etc/passwd"], "passwd")?;
    refused(&["attach", "nope"], "nope")?;
    refused(&["detach", "nope"], "nope")?;
    refused(&["attach", "nope", "--instance", "vm1=/nowhere/qmp"], "")?;
    ensure!(
        volctl.json(&["list"])? == serde_json::json!([]),
        "something was left behind"
    );
    // More than any disk has.
    refused(&["create", "big", "900000"], "no pool has room")?;
    ensure!(
        volctl.json(&["list"])? == serde_json::json!([]),
        "something was left behind"
    );
    let mut wrong = Volctl::new(&system)?;
    for (name, value) in &mut wrong.environment {
        if name == "OS_PASSWORD" {
            "wrong-password".clone_into(value);
        }
    }
    let error = format!(
        "{:#}",
        wrong
            .run(&["list"])
            .err()
            .context("a wrong password was let in")?
    );
    ensure!(
        !error.contains("wrong-password"),
        "the password is in the error: {error}"
    );
    Ok(Outcome::Passed)
}

fn crash_while_creating() -> Result<Outcome> {
    let mut system = system("file")?;
    let volctl = Volctl::new(&system)?;
    for round in 0..3 {
        // Nine, because a project may have ten.
        for n in 0..3 {
            // The answer may be lost with the process; what counts is what is found afterwards.
            drop(volctl.run(&["create", &format!("v{round}-{n}"), "1"]));
        }
        system.crash()?;
        system.launch()?;
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let listed = volctl.json(&["list"])?;
        let volumes = listed.as_array().context("no list")?;
        let settled = volumes
            .iter()
            .all(|volume| volume["status"] == "available" || volume["status"] == "error");
        if settled {
            ensure!(
                volumes.len() == 9,
                "{} of 9 acknowledged volumes are there",
                volumes.len()
            );
            return Ok(Outcome::Passed);
        }
        ensure!(Instant::now() < deadline, "{listed}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
