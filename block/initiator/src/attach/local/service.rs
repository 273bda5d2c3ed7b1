//! The helper process: it serves one attachment until its file system is unmounted.

use super::fuse::LunFile;
use super::helper::HelperSpec;
use super::{LocalError, detach_mount, loops_showing, step};
use crate::disk::Disk;
use crate::session::{Session, SessionTimes};
use onggi_common_host::loopback::LoopDevice;
use rustix::mm::MlockAllFlags;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::time::Duration;

const INPUT_BYTES_MAX: u64 = 64 << 10;
/// How often it is looked whether the target was given up.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// What the hidden command does: it reads what to serve from standard input, says `ready` or `error` in one line on
/// standard output, and serves until the file system is unmounted. What happens later is written to standard error.
///
/// # Errors
/// When the LUN cannot be served; standard output has said so too.
pub fn serve_attachment() -> Result<(), LocalError> {
    let outcome = begin();
    let line = match &outcome {
        Ok((_, disk, _)) => format!("ready {}\n", disk.block_bytes()),
        Err(error) => format!("error {}\n", error.to_string().replace('\n', " ")),
    };
    let told = io::stdout()
        .write_all(line.as_bytes())
        .and_then(|()| io::stdout().flush());
    let (session, disk, mount) = outcome?;
    // A starter that is gone before it heard us has told nobody of this attachment.
    told.map_err(step("telling the starter of", &mount))?;
    let ended = wait_for_end(session, &disk, &mount)?;
    // The kernel flushed when the device was closed; this is for what came by other ways.
    if let Err(error) = disk.flush() {
        note(&format!("flushing at the end: {error}"));
    }
    ended.map_err(step("serving", Path::new("the file system")))
}

/// Waits until the file system is unmounted, or the session has given its target up: then nothing can be served any
/// more, and this process ends, which fails whatever the kernel still wants of it.
fn wait_for_end(
    session: fuser::BackgroundSession,
    disk: &Disk,
    mount: &Path,
) -> Result<io::Result<()>, LocalError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || drop(sender.send(session.join())));
    loop {
        match receiver.recv_timeout(LOOK_PAUSE) {
            Ok(ended) => return Ok(ended),
            Err(RecvTimeoutError::Timeout) if !disk.is_given_up() => {}
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => return Ok(Ok(())),
        }
    }
    let devices = loops_showing(mount);
    for device in devices
        .iter()
        .filter_map(|path| LoopDevice::from_path(path))
    {
        // One that is open is let go of when it is closed.
        if let Err(error) = device.detach() {
            note(&format!("at the end: {error}"));
        }
    }
    // A mount that a device still shows must keep its name: by it the device is found.
    if loops_showing(mount).is_empty()
        && let Err(error) = detach_mount(mount)
    {
        note(&format!("at the end: {error}"));
    }
    let message = "the target no longer knows this attachment: given up".to_owned();
    Err(LocalError::Target { message })
}

fn begin() -> Result<(fuser::BackgroundSession, Arc<Disk>, PathBuf), LocalError> {
    let stdin = Path::new("standard input");
    let mut text = String::new();
    io::stdin()
        .take(INPUT_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(step("reading", stdin))?;
    let refused = |message: String| LocalError::Target { message };
    let spec = HelperSpec::parse(&text).map_err(|error| refused(error.to_string()))?;
    let (spec, mount) = spec.into_parts();
    drop(text);
    stand_alone();
    let session = Session::open(&spec, SessionTimes::default());
    let session = session.map_err(|error| refused(error.to_string()))?;
    let disk = Arc::new(Disk::open(session).map_err(|error| refused(error.to_string()))?);
    let file = LunFile::new(Arc::clone(&disk), spec.is_read_only);
    let background = fuser::spawn_mount(file, &mount, &LunFile::mount_options(spec.volume))
        .map_err(step("mounting", &mount))?;
    Ok((background, disk, mount))
}

/// Makes this process independent of its starter, and fit to be in the way of memory being freed: the kernel may write
/// dirty pages through us because it is short of memory, so we must not be swapped out or killed for memory.
fn stand_alone() {
    if let Err(errno) = rustix::process::setsid() {
        note(&format!("setsid: {errno}"));
    }
    if let Err(errno) = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
        note(&format!(
            "memory is not locked (mlockall: {errno}): under memory pressure I/O may stall"
        ));
    }
    let score = std::fs::File::options()
        .write(true)
        .open("/proc/self/oom_score_adj");
    if let Err(error) = score.and_then(|mut file| file.write_all(b"-1000")) {
        note(&format!("oom_score_adj: {error}"));
    }
}

/// The helper's log is its standard error: it runs without a subscriber.
fn note(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}
