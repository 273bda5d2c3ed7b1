//! The control plane's side of the control socket.

use super::{Answer, LINE_BYTES_MAX, RefusalCode, Request};
use crate::export::{Access, ExportSpec, ExportStatus, PortalStatus, SessionStatus};
use core::time::Duration;
use onggi_block_medium::MediumSpec;
use onggi_common_units::Uuid;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// How long a request may take: a cut waits for I/O under way, a drain for initiators before that.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(70);

/// Asks a target over its control socket. Blocks; each request is a connection of its own, so that a restarted
/// target is simply found again.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// A request that was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The target is not there.
    #[error("the target at {socket} cannot be reached: {source}", socket = socket.display())]
    Unreachable {
        /// Its control socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke before the answer: whether the request was carried out is not known. It may be repeated.
    #[error("the target at {socket} gave no answer: {source}", socket = socket.display())]
    Unknown {
        /// Its control socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What came back is no answer to this request.
    #[error("the target at {socket} gave an answer that makes no sense: {line:?}", socket = socket.display())]
    Nonsense {
        /// Its control socket.
        socket: PathBuf,
        /// The beginning of it.
        line: String,
    },
    /// The target refused.
    #[error("the target refused: {message}")]
    Refused {
        /// What kind of trouble.
        code: RefusalCode,
        /// What was wrong.
        message: String,
    },
}

impl ClientError {
    /// Whether the target said that there is no such export.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: RefusalCode::NotFound,
                ..
            }
        )
    }
}

impl Client {
    /// A client of the target behind this socket.
    #[must_use]
    pub fn new(socket: impl AsRef<Path>) -> Self {
        Self {
            socket: socket.as_ref().to_owned(),
        }
    }

    /// Exports a volume, or makes the export of this name so.
    ///
    /// # Errors
    /// When the target is not there or refuses the spec.
    pub fn put_export(&self, export: &ExportSpec) -> Result<(), ClientError> {
        self.done(&Request::PutExport {
            export: export.clone(),
        })
    }

    /// Stops exporting; removing what is not there is done already. Sessions are cut before this returns.
    ///
    /// # Errors
    /// When the target is not there or the sessions' I/O does not end in time.
    pub fn remove_export(&self, iqn: &str) -> Result<(), ClientError> {
        self.done(&Request::RemoveExport {
            iqn: iqn.to_owned(),
        })
    }

    /// Gives an attachment access to an export.
    ///
    /// # Errors
    /// When the target is not there, there is no such export, or the access cannot be used.
    pub fn grant(&self, iqn: &str, access: &Access) -> Result<(), ClientError> {
        self.done(&Request::Grant {
            iqn: iqn.to_owned(),
            access: access.clone(),
        })
    }

    /// Takes an attachment's access away; its sessions are cut before this returns.
    ///
    /// # Errors
    /// When the target is not there, there is no such export, or the sessions' I/O does not end in time.
    pub fn revoke(&self, iqn: &str, attachment: Uuid) -> Result<(), ClientError> {
        self.done(&Request::Revoke {
            iqn: iqn.to_owned(),
            attachment,
        })
    }

    /// Serves an export by a new map: it has grown.
    ///
    /// # Errors
    /// When the target is not there, there is no such export, or the medium cannot be opened.
    pub fn resize(&self, iqn: &str, medium: &MediumSpec) -> Result<(), ClientError> {
        self.done(&Request::Resize {
            iqn: iqn.to_owned(),
            medium: medium.clone(),
        })
    }

    /// Refuses all I/O on an export until it is put or resized with a fresh map.
    ///
    /// # Errors
    /// When the target is not there or there is no such export.
    pub fn fence(&self, iqn: &str) -> Result<(), ClientError> {
        self.done(&Request::Fence {
            iqn: iqn.to_owned(),
        })
    }

    /// Takes no new sessions at an export, or at any, and ends those there are: initiators are asked to log out
    /// within a time (at most 30 s) and are sent to another address, if one is given, when they log in again.
    ///
    /// # Errors
    /// When the target is not there, the address is none, or the sessions' I/O does not end in time.
    pub fn drain(
        &self,
        iqn: Option<&str>,
        to: Option<&str>,
        within: Duration,
    ) -> Result<(), ClientError> {
        self.done(&Request::Drain {
            iqn: iqn.map(str::to_owned),
            to: to.map(str::to_owned),
            within: u16::try_from(within.as_secs()).unwrap_or(u16::MAX),
        })
    }

    /// Takes sessions again at an export, or at all.
    ///
    /// # Errors
    /// When the target is not there.
    pub fn serve(&self, iqn: Option<&str>) -> Result<(), ClientError> {
        self.done(&Request::Serve {
            iqn: iqn.map(str::to_owned),
        })
    }

    /// Which exports there are.
    ///
    /// # Errors
    /// When the target is not there.
    pub fn exports(&self) -> Result<Vec<ExportStatus>, ClientError> {
        match self.ask(&Request::ListExports)? {
            Answer::Exports { exports } => Ok(exports),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Which sessions there are.
    ///
    /// # Errors
    /// When the target is not there.
    pub fn sessions(&self) -> Result<Vec<SessionStatus>, ClientError> {
        match self.ask(&Request::Sessions)? {
            Answer::Sessions { sessions } => Ok(sessions),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Where the target listens.
    ///
    /// # Errors
    /// When the target is not there.
    pub fn portals(&self) -> Result<Vec<PortalStatus>, ClientError> {
        match self.ask(&Request::Portals)? {
            Answer::Portals { portals } => Ok(portals),
            other => Err(self.unexpected(&other)),
        }
    }

    fn done(&self, request: &Request) -> Result<(), ClientError> {
        match self.ask(request)? {
            Answer::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    fn unexpected(&self, answer: &Answer) -> ClientError {
        let line: String = format!("{answer:?}").chars().take(200).collect();
        ClientError::Nonsense {
            socket: self.socket.clone(),
            line,
        }
    }

    fn ask(&self, request: &Request) -> Result<Answer, ClientError> {
        let unreachable = |source| ClientError::Unreachable {
            socket: self.socket.clone(),
            source,
        };
        let unknown = |source| ClientError::Unknown {
            socket: self.socket.clone(),
            source,
        };
        let stream = UnixStream::connect(&self.socket).map_err(unreachable)?;
        stream
            .set_read_timeout(Some(ANSWER_TIME_MAX))
            .map_err(unreachable)?;
        stream
            .set_write_timeout(Some(ANSWER_TIME_MAX))
            .map_err(unreachable)?;
        let mut line = serde_json::to_vec(request)
            .map_err(|error| unreachable(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        line.push(b'\n');
        (&stream).write_all(&line).map_err(unknown)?;
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        let mut answer = String::new();
        BufReader::new((&stream).take(limit))
            .read_line(&mut answer)
            .map_err(unknown)?;
        if !answer.ends_with('\n') {
            return Err(unknown(io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_str(&answer) {
            Ok(Answer::Refused { code, message }) => Err(ClientError::Refused { code, message }),
            Ok(answer) => Ok(answer),
            Err(_) => {
                let line = answer.chars().take(200).collect();
                Err(ClientError::Nonsense {
                    socket: self.socket.clone(),
                    line,
                })
            }
        }
    }
}
