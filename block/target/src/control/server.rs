//! The target's side of the control socket.

use super::{Answer, LINE_BYTES_MAX, RefusalCode, Request};
use crate::export::PortalStatus;
use crate::peer::Shared;
use crate::redirect::{ADDRESS_BYTES_MAX, AWAY_MAX, is_address};
use crate::registry::RegistryError;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::Mode;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How many requests are worked on at a time.
const REQUESTS_MAX: usize = 32;
/// How long initiators may be given to log out.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a caller may take to send its line and to take the answer.
const LINE_TIME_MAX: Duration = Duration::from_secs(10);

/// The control socket, served.
#[derive(Debug)]
pub(crate) struct ControlServer {
    path: PathBuf,
    stop: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl ControlServer {
    /// Listens at `path`; a socket that nobody listens on any more is replaced.
    pub(crate) fn start(
        path: &Path,
        shared: Arc<Shared>,
        portals: Vec<PortalStatus>,
    ) -> io::Result<Self> {
        match UnixStream::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another target listens there",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => std::fs::remove_file(path)?,
        }
        let listener = UnixListener::bind(path)?;
        rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || listen(&listener, &told, &shared, &portals))?;
        Ok(Self {
            path: path.to_owned(),
            stop,
            thread,
        })
    }

    /// Closes the socket. Requests under way end by themselves.
    pub(crate) fn stop(self) {
        if let Err(errno) = rustix::io::write(&*self.stop, &1u64.to_ne_bytes()) {
            tracing::error!(%errno, "the control thread cannot be told to stop");
            return;
        }
        if self.thread.join().is_err() {
            tracing::error!("the control thread panicked");
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "removing the control socket");
        }
    }
}

fn listen(listener: &UnixListener, stop: &OwnedFd, shared: &Arc<Shared>, portals: &[PortalStatus]) {
    let running = Arc::new(AtomicUsize::new(0));
    loop {
        let mut watched = [
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        if let Err(errno) = poll(&mut watched, None)
            && errno != rustix::io::Errno::INTR
        {
            tracing::error!(%errno, "waiting for control requests failed");
            return;
        }
        if !watched[0].revents().is_empty() {
            return;
        }
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        if running.fetch_add(1, Ordering::AcqRel) >= REQUESTS_MAX {
            running.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!("control request refused: {REQUESTS_MAX} are being worked on");
            continue;
        }
        let (shared, portals, counter) =
            (Arc::clone(shared), portals.to_vec(), Arc::clone(&running));
        let spawned = std::thread::Builder::new()
            .name("request".to_owned())
            .spawn(move || {
                if let Err(error) = converse(&stream, &shared, &portals) {
                    tracing::debug!(%error, "a control request broke off");
                }
                counter.fetch_sub(1, Ordering::AcqRel);
            });
        if let Err(error) = spawned {
            running.fetch_sub(1, Ordering::AcqRel);
            tracing::error!(%error, "a thread for a control request cannot be started");
        }
    }
}

// Any number of lines on a connection, one answer each.
fn converse(stream: &UnixStream, shared: &Shared, portals: &[PortalStatus]) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LINE_TIME_MAX))?;
    stream.set_write_timeout(Some(LINE_TIME_MAX))?;
    let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if (&mut reader).take(limit).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = match serde_json::from_str(&line) {
            Ok(request) => answer(request, shared, portals),
            // The line may hold secrets: the error says where it is wrong, not what it is.
            Err(error) => Answer::Refused {
                code: RefusalCode::Invalid,
                message: format!(
                    "no request: line {}, column {}",
                    error.line(),
                    error.column()
                ),
            },
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        (&mut &*stream).write_all(&text)?;
    }
}

fn answer(request: Request, shared: &Shared, portals: &[PortalStatus]) -> Answer {
    let registry = &shared.registry;
    match request {
        Request::ListExports => Answer::Exports {
            exports: registry.list(),
        },
        Request::Sessions => Answer::Sessions {
            sessions: shared.sessions.list(),
        },
        Request::Portals => Answer::Portals {
            portals: portals.to_vec(),
        },
        change => match make(change, shared) {
            Ok(()) => Answer::Done,
            Err(error) => {
                tracing::warn!(%error, "control request refused");
                Answer::Refused {
                    code: code(&error),
                    message: error.to_string(),
                }
            }
        },
    }
}

fn make(change: Request, shared: &Shared) -> Result<(), RegistryError> {
    let registry = &shared.registry;
    match change {
        Request::PutExport { export } => {
            let iqn = export.iqn.clone();
            registry.put(export)?;
            tracing::info!(%iqn, "export put");
        }
        Request::RemoveExport { iqn } => {
            registry.remove(&iqn)?;
            tracing::info!(%iqn, "export removed");
        }
        Request::Grant { iqn, access } => {
            let attachment = access.attachment;
            registry.grant(&iqn, access)?;
            tracing::info!(%iqn, %attachment, "access granted");
        }
        Request::Revoke { iqn, attachment } => {
            registry.revoke(&iqn, attachment)?;
            tracing::info!(%iqn, %attachment, "access revoked");
        }
        Request::Resize { iqn, medium } => {
            let size = medium.size();
            registry.resize(&iqn, medium)?;
            tracing::info!(%iqn, %size, "export resized");
        }
        Request::Fence { iqn } => registry.fence(&iqn)?,
        Request::Drain { iqn, to, within } => drain(shared, iqn.as_deref(), to, within)?,
        Request::Serve { iqn } => {
            shared.redirects.take_back(iqn.as_deref());
            tracing::info!(?iqn, "sessions are taken again");
        }
        Request::ListExports | Request::Sessions | Request::Portals => {}
    }
    Ok(())
}

fn drain(
    shared: &Shared,
    iqn: Option<&str>,
    to: Option<String>,
    within: u16,
) -> Result<(), RegistryError> {
    if let Some(to) = to.as_ref().filter(|to| !is_address(to)) {
        let to = to.chars().take(ADDRESS_BYTES_MAX).collect();
        return Err(RegistryError::Address { to });
    }
    if let Some(iqn) = iqn
        && shared.registry.find(iqn).is_none()
    {
        return Err(RegistryError::NotFound {
            iqn: iqn.to_owned(),
        });
    }
    tracing::info!(?iqn, ?to, within, "draining");
    if !shared.redirects.send_away(iqn, to) {
        return Err(RegistryError::TooMany {
            what: "drained targets",
            max: AWAY_MAX,
        });
    }
    let within = Duration::from_secs(u64::from(within)).min(DRAIN_TIME_MAX);
    shared.registry.drain(iqn, within)
}

const fn code(error: &RegistryError) -> RefusalCode {
    match error {
        RegistryError::Name(_)
        | RegistryError::NotNormal { .. }
        | RegistryError::Lun(_)
        | RegistryError::BlockSize(_)
        | RegistryError::Capacity(_)
        | RegistryError::Access { .. }
        | RegistryError::TooMany { .. }
        | RegistryError::Address { .. }
        | RegistryError::Shrinks { .. } => RefusalCode::Invalid,
        RegistryError::NotFound { .. } => RefusalCode::NotFound,
        RegistryError::Conflict { .. } => RefusalCode::Conflict,
        RegistryError::Medium(_) => RefusalCode::Medium,
        RegistryError::Busy { .. } => RefusalCode::Busy,
        RegistryError::Store(_) | RegistryError::Reservations(_) => RefusalCode::Internal,
    }
}
