//! What goes wrong around the system: configuration, ports, damaged and full disks.

use crate::curl::Curl;
use crate::needs::{need, tool};
use crate::object::LOGIN;
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::entropy::{Entropy as _, SystemEntropy};
use onggi_common_host::run::Run;
use onggi_integration::system::{BlockOptions, Options, System, program, run};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "faults::a_corrupt_configuration_is_named_with_its_line",
        corrupt_configuration,
    ),
    (
        "faults::a_port_in_use_ends_the_start_with_its_reason",
        port_in_use,
    ),
    (
        "faults::a_second_system_over_one_state_folder_is_refused",
        second_system,
    ),
    (
        "faults::a_damaged_metadata_store_is_noticed_and_nothing_is_lost",
        damaged_metadata,
    ),
    (
        "faults::a_full_disk_refuses_uploads_and_keeps_what_is_there",
        full_disk,
    ),
    (
        "faults::a_disk_that_fills_up_in_the_middle_of_an_upload_keeps_nothing_of_it",
        filled_by_an_upload,
    ),
];

fn block_system() -> Result<System> {
    System::start(Options {
        block: Some(BlockOptions {
            pool: "file",
            pool_size: "1GiB".to_owned(),
        }),
        ..Options::default()
    })
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no UTF-8")
}

/// Runs `onggid` where it must fail, and returns what it said.
fn refused(arguments: &[&str]) -> Result<String> {
    let run = Run::new(program("onggid")?)
        .args(arguments)
        .time_limit(Duration::from_secs(60));
    match run.output() {
        Ok(output) => anyhow::bail!(
            "{arguments:?} succeeded: {}",
            String::from_utf8_lossy(&output.stdout)
        ),
        Err(error) => Ok(error.to_string()),
    }
}

fn corrupt_configuration() -> Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("onggi.toml");
    for (content, wanted) in [
        ("[block]\nlisten = 12\n", ":2:"),
        ("[blok]\n", "blok"),
        ("\0\u{1}\u{2}", ":1:"),
        ("[block.pool]\nsize = \"-5GiB\"\n", "size"),
    ] {
        durable::replace(&path, content.as_bytes(), Visibility::World)?;
        for command in ["check-config", "run"] {
            let said = refused(&[command, "--config", text(&path)?])?;
            ensure!(
                said.contains(wanted),
                "{command} with {content:?} said {said}"
            );
        }
    }
    let said = refused(&[
        "run",
        "--config",
        text(&folder.path().join("nowhere.toml"))?,
    ])?;
    ensure!(said.contains("nowhere.toml"), "{said}");
    Ok(Outcome::Passed)
}

fn port_in_use() -> Result<Outcome> {
    let system = block_system()?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("onggi.toml");
    let state = folder.path().join("state");
    let content = format!(
        "state = {state:?}\n[identity]\nlisten = \"{}\"\n[block.pool]\nkind = \"file\"\n[block.target]\nportals = [\"127.0.0.1:0\"]\n",
        system.addresses.identity
    );
    durable::replace(&config, content.as_bytes(), Visibility::World)?;
    let said = refused(&["run", "--config", text(&config)?])?;
    ensure!(
        said.contains(&system.addresses.identity.to_string()),
        "{said}"
    );
    ensure!(said.contains("identity.listen"), "{said}");
    ensure!(
        !state.join("run/processes.json").exists(),
        "a list of processes was left behind"
    );
    system.await_health("5s")?;
    Ok(Outcome::Passed)
}

fn second_system() -> Result<Outcome> {
    let system = block_system()?;
    let said = refused(&["run", "--config", text(&system.config())?])?;
    ensure!(said.contains("in use by another onggid run"), "{said}");
    system.await_health("5s")?;
    Ok(Outcome::Passed)
}

fn volctl(system: &System, arguments: &[&str]) -> Result<String> {
    let output = run(&program("volctl")?, arguments, &system.openrc("admin")?)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

fn damaged_metadata() -> Result<Outcome> {
    let mut system = block_system()?;
    volctl(&system, &["create", "v1", "1", "--wait"])?;
    system.stop()?;
    let store = system.state.join("meta/control/db");
    let mut damaged = 0;
    for path in files_of(&store)? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_content = ["MANIFEST-", "CURRENT"]
            .iter()
            .any(|start| name.starts_with(start))
            || [".log", ".sst"].iter().any(|end| name.ends_with(end));
        let length = path.metadata()?.len();
        if !is_content || length < 16 {
            continue;
        }
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, length / 2)?;
        file.write_all_at(&[!byte[0]], length / 2)?;
        let said = refused(&["run", "--config", text(&system.config())?])?;
        file.write_all_at(&byte, length / 2)?;
        ensure!(said.contains("meta/control"), "{name} damaged: {said}");
        damaged += 1;
    }
    ensure!(damaged > 0, "nothing was damaged in {}", store.display());
    system.launch()?;
    let listed = volctl(&system, &["list"])?;
    ensure!(listed.contains("v1"), "the volume is gone: {listed}");
    Ok(Outcome::Passed)
}

/// A small file system that ends with the value.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn mount(path: &Path, size: &str) -> Result<Self> {
        durable::create_dir_all(path)?;
        let options = format!("size={size}");
        run(
            Path::new("mount"),
            &["-t", "tmpfs", "-o", &options, "onggi-test", text(path)?],
            &[],
        )?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A mount that is still used is let go of once its last user ends.
        drop(Run::new("umount").arg("-l").arg(&self.0).output());
    }
}

/// Whether a small file system can be mounted.
fn mounting() -> Result<(), Outcome> {
    if !rustix::process::geteuid().is_root() {
        return Err(Outcome::Skipped(
            "mounting a small file system needs root".to_owned(),
        ));
    }
    tool("mount").map(drop)
}

/// A file system of 384 MiB, and a system whose devices share it. The system is to be dropped first.
fn on_small_disk(folder: &Path, options: Options) -> Result<(SmallDisk, System)> {
    let state = folder.join("state");
    let disk = SmallDisk::mount(&state.join("object/devices"), "384M")?;
    let system = System::start(Options {
        state: Some(state),
        ..options
    })?;
    Ok((disk, system))
}

fn full_disk() -> Result<Outcome> {
    need!(mounting());
    let folder = tempfile::tempdir()?;
    let (_disk, system) = on_small_disk(folder.path(), Options::objects(3, 3))?;
    let environment = system.v1("test:tester");
    let objctl = |arguments: &[&str]| run(&program("objctl")?, arguments, &environment);
    let file = folder.path().join("file");
    let mut content = vec![0; 20 << 20];
    SystemEntropy.fill(&mut content);
    durable::replace(&file, &content, Visibility::World)?;
    objctl(&["post", "c"])?;
    objctl(&["upload", "c", text(&file)?, "--object-name", "first"])?;
    let mut stored = 1;
    while objctl(&[
        "upload",
        "c",
        text(&file)?,
        "--object-name",
        &format!("more{stored}"),
    ])
    .is_ok()
    {
        stored += 1;
        ensure!(
            stored < 30,
            "a disk of 384 MiB took {stored} objects of 20 MiB three times"
        );
    }
    let back = folder.path().join("back");
    objctl(&["download", "c", "first", "-o", text(&back)?])?;
    ensure!(
        std::fs::read(&back)? == content,
        "the first object came back different"
    );
    // Space returns: so do writes, without a restart.
    for n in 1..stored {
        objctl(&["delete", "c", &format!("more{n}")])?;
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while let Err(error) = objctl(&["upload", "c", text(&file)?, "--object-name", "again"]) {
        ensure!(
            std::time::Instant::now() < deadline,
            "no upload 20 s after space returned: {error:#}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(Outcome::Passed)
}

/// Uploads that do not say how long they are, so that nobody can refuse them before, to nodes of one process, which write
/// a body's blocks from one memory.
fn filled_by_an_upload() -> Result<Outcome> {
    need!(mounting());
    let folder = tempfile::tempdir()?;
    let together = Options {
        single_process: true,
        ..Options::objects(3, 3)
    };
    let (_disk, system) = on_small_disk(folder.path(), together)?;
    let curl = Curl::login(&system, LOGIN)?;
    curl.put("/c", "")?;
    let (kept, long) = (folder.path().join("kept"), folder.path().join("long"));
    let mut content = vec![0; 8 << 20];
    SystemEntropy.fill(&mut content);
    durable::replace(&kept, &content, Visibility::World)?;
    std::fs::File::create(&long)?.set_len(300 << 20)?;
    let (status, said) = curl.call("/c/kept", &["-T", text(&kept)?])?;
    ensure!(status == 201, "{status}: {said}");
    for round in 0..3 {
        // The answer comes while curl is still sending.
        let command = format!(
            "curl -sS -m 60 -X PUT -T '{}' -H 'Transfer-Encoding: chunked' -H 'X-Auth-Token: {}' -o /dev/null -w '%{{http_code}} %{{size_upload}}' '{}/c/long' 2> /dev/null; true",
            text(&long)?,
            curl.token,
            curl.url
        );
        let answer = run(Path::new("sh"), &["-c", &command], &[])?;
        let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
        let (status, sent) = answer.split_once(' ').context("curl said nothing")?;
        ensure!(
            matches!(status, "503" | "507"),
            "900 MiB went to a disk of 384, or the refusal was lost: {status}"
        );
        let sent: u64 = sent.trim().parse()?;
        ensure!(
            sent > 32 << 20,
            "refused after {sent} bytes, not in the middle"
        );
        let (status, _) = curl.call("/c/long", &["-I"])?;
        ensure!(
            status == 404,
            "round {round}: the half of it is there: {status}"
        );
        let (status, listing) = curl.call("/c", &[])?;
        ensure!(status == 200 && listing == "kept\n", "{status}: {listing}");
    }
    let back = folder.path().join("back");
    let (status, _) = curl.call("/c/kept", &["-o", text(&back)?])?;
    ensure!(
        status == 200 && std::fs::read(&back)? == content,
        "{status}: what was there came back different"
    );
    // Nothing of the uploads takes space any more.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    for number in 0..6 {
        let path = format!("/c/again-{number}");
        loop {
            let (status, said) = curl.call(&path, &["-T", text(&kept)?])?;
            if status == 201 {
                break;
            }
            ensure!(
                std::time::Instant::now() < deadline,
                "no upload 20 s after space returned: {status} {said}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(Outcome::Passed)
}
