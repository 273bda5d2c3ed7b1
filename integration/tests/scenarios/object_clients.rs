//! Objects with clients nobody here wrote, in full: python-swiftclient's commands, rclone, openstacksdk.

use crate::needs::{need, stock_client, tool};
use crate::object::{LOGIN, random_file, system, text};
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_integration::system::{System, run, sources};
use std::path::{Path, PathBuf};

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "object_clients::every_command_of_the_stock_client_works",
        every_command,
    ),
    (
        "object_clients::rclone_syncs_and_finds_no_difference",
        rclone_sync,
    ),
    (
        "object_clients::openstacksdk_stores_and_finds_objects",
        openstack_sdk,
    ),
];

/// Bytes of a segment; the large files here have more than three.
const SEGMENT: &str = "1048576";
const LARGE_BYTES: usize = (3 << 20) + 17;

/// The stock client and the user it is run as.
struct Swift {
    program: PathBuf,
    environment: Vec<(String, String)>,
}

impl Swift {
    fn call(&self, arguments: &[&str]) -> Result<String> {
        Ok(text(&run(&self.program, arguments, &self.environment)?))
    }

    /// Runs a command whose answer must have these words.
    fn says(&self, arguments: &[&str], words: &[&str]) -> Result<()> {
        let said = self.call(arguments)?;
        for word in words {
            ensure!(said.contains(word), "{arguments:?}: no {word:?} in {said}");
        }
        Ok(())
    }
}

fn path_text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no UTF-8")
}

fn every_command() -> Result<Outcome> {
    let (program, curl) = (need!(stock_client("swift")), need!(tool("curl")));
    let system = system()?;
    let environment = system.v1(LOGIN);
    let swift = Swift {
        program,
        environment,
    };
    swift.says(&["auth"], &["export OS_STORAGE_URL=", "OS_AUTH_TOKEN="])?;
    swift.says(&["capabilities"], &["slo", "symlink", "tempurl"])?;
    swift.says(&["capabilities", "--json"], &["\"max_file_size\""])?;
    swift.call(&["post", "-m", "Temp-URL-Key:secret", "-m", "Colour:brown"])?;
    swift.says(&["stat"], &["Meta Colour: brown", "Account: AUTH_test"])?;
    swift.call(&["post", "c", "-r", ".r:*", "-w", "test:tester", "-m", "a:b"])?;
    swift.says(&["stat", "c"], &["Read ACL: .r:*", "Meta A: b"])?;
    let folder = tempfile::tempdir()?;
    uploads(&swift, folder.path())?;
    copies(&swift)?;
    let path = "/v1/AUTH_test/c/small";
    let signed = swift.call(&["tempurl", "GET", "600", path, "secret"])?;
    let url = format!("http://{}{}", system.addresses.objects, signed.trim());
    let body = text(&run(&curl, &["-sSf", &url], &[])?);
    ensure!(body == "jar", "a signed URL gave {body:?}");
    swift.call(&["delete", "c", "--prefix", "copied"])?;
    let listing = swift.call(&["list", "c"])?;
    ensure!(!listing.contains("copied"), "{listing}");
    swift.call(&["delete", "c"])?;
    ensure!(swift.call(&["list", "c"]).is_err(), "the container stayed");
    swift.call(&["delete", "--all"])?;
    let left = swift.call(&["list"])?;
    ensure!(left.is_empty(), "left after deleting everything: {left}");
    Ok(Outcome::Passed)
}

/// Small and segmented objects go up, are listed and shown, and come back.
fn uploads(swift: &Swift, folder: &Path) -> Result<()> {
    let (small, large) = (folder.join("small"), folder.join("large"));
    durable::replace(&small, b"jar", Visibility::World)?;
    let content = random_file(&large, LARGE_BYTES)?;
    let (small, large) = (path_text(&small)?, path_text(&large)?);
    swift.call(&["upload", "c", small, "--object-name", "small"])?;
    swift.call(&["upload", "c", small, "--object-name", "dir/small"])?;
    for (name, kind) in [("slo", "--use-slo"), ("dlo", "--use-dlo")] {
        let arguments = ["upload", "c", large, "--object-name", name, "-S", SEGMENT];
        swift.call(&[&arguments[..], &[kind]].concat())?;
        let back = folder.join(name);
        swift.call(&["download", "c", name, "-o", path_text(&back)?])?;
        ensure!(
            std::fs::read(&back)? == content,
            "{name} came back different"
        );
        swift.says(&["stat", "c", name], &["Content Length: 3145745"])?;
    }
    let again = ["upload", "c", large, "--object-name", "slo", "-S", SEGMENT];
    let skipped = [&again[..], &["--use-slo", "--skip-identical"]].concat();
    swift.call(&skipped)?;
    swift.says(&["list", "c_segments"], &["slo/", "dlo/"])?;
    swift.says(&["list", "c", "-d", "/"], &["dir/\n", "slo\n"])?;
    swift.says(&["list", "c", "-p", "dir/"], &["dir/small\n"])?;
    swift.says(
        &["list", "c", "--json"],
        &["\"slo_etag\"", "\"bytes\": 3145745"],
    )?;
    swift.says(&["list", "c", "--lh"], &["3.0M", "dir/small"])?;
    let segments = swift.call(&["list", "c_segments", "-p", "slo/"])?;
    ensure!(segments.lines().count() == 4, "{segments}");
    swift.call(&["delete", "c", "slo"])?;
    let left = swift.call(&["list", "c_segments", "-p", "slo/"])?;
    ensure!(
        left.is_empty(),
        "a deleted object's segments stayed: {left}"
    );
    let all = folder.join("all");
    durable::create_dir_all(&all)?;
    swift.call(&["download", "c", "-D", path_text(&all)?])?;
    ensure!(std::fs::read(all.join("dir/small"))? == b"jar", "dir/small");
    ensure!(std::fs::read(all.join("dlo"))? == content, "dlo");
    Ok(())
}

fn copies(swift: &Swift) -> Result<()> {
    swift.call(&["post", "c", "small", "-m", "Lid:yes"])?;
    swift.call(&["copy", "-d", "/c/copied", "c", "small", "-m", "Handle:no"])?;
    let words = ["Meta Lid: yes", "Meta Handle: no", "Content Length: 3"];
    swift.says(&["stat", "c", "copied"], &words)?;
    swift.call(&["copy", "-d", "/c2", "-M", "c", "small"])?;
    let fresh = swift.call(&["stat", "c2", "small"])?;
    ensure!(!fresh.contains("Meta Lid"), "{fresh}");
    Ok(())
}

/// rclone's settings of the back end, which it calls `o`.
fn rclone_environment(system: &System, folder: &Path) -> Vec<(String, String)> {
    let of = |name: &str| {
        let variables = system.v1(LOGIN);
        let found = variables.into_iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value).unwrap_or_default()
    };
    [
        ("RCLONE_CONFIG", folder.join("none").display().to_string()),
        ("RCLONE_CONFIG_O_TYPE", "swift".to_owned()),
        ("RCLONE_CONFIG_O_AUTH", of("ST_AUTH")),
        ("RCLONE_CONFIG_O_USER", of("ST_USER")),
        ("RCLONE_CONFIG_O_KEY", of("ST_KEY")),
        ("RCLONE_SWIFT_CHUNK_SIZE", "1M".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn rclone_sync() -> Result<Outcome> {
    let rclone = need!(tool("rclone"));
    let system = system()?;
    let folder = tempfile::tempdir()?;
    let environment = rclone_environment(&system, folder.path());
    let call = |arguments: &[&str]| run(&rclone, arguments, &environment);
    let (there, back) = (folder.path().join("there"), folder.path().join("back"));
    durable::create_dir_all(&there.join("sub"))?;
    for (name, bytes) in [
        ("empty", 0),
        ("옹기 jar", 100),
        ("sub/small", 70 << 10),
        ("sub/large", LARGE_BYTES),
    ] {
        random_file(&there.join(name), bytes)?;
    }
    let (from, to) = (path_text(&there)?, path_text(&back)?);
    call(&["sync", from, "o:c"])?;
    call(&["check", "--download", from, "o:c"])?;
    random_file(&there.join("sub/small"), 10)?;
    std::fs::remove_file(there.join("empty"))?;
    ensure!(
        call(&["check", "--download", from, "o:c"]).is_err(),
        "a difference was not found"
    );
    call(&["sync", from, "o:c"])?;
    call(&["sync", "o:c", to])?;
    call(&["check", "--download", from, to])?;
    let listed = text(&call(&["lsf", "-R", "--files-only", "o:c"])?);
    let mut names: Vec<&str> = listed.lines().collect();
    names.sort_unstable();
    ensure!(
        names == ["sub/large", "sub/small", "옹기 jar"],
        "listed: {names:?}"
    );
    call(&["purge", "o:c"])?;
    Ok(Outcome::Passed)
}

fn openstack_sdk() -> Result<Outcome> {
    let python = need!(stock_client("python"));
    let system = system()?;
    let script = sources()?.join("object_sdk.py");
    run(&python, &[path_text(&script)?], &system.openrc("demo")?)?;
    Ok(Outcome::Passed)
}
