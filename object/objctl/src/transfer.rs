//! Bytes between files and objects, with their MD5 checked both ways.

use crate::http1::{Body, BodyError};
use crate::output;
use crate::progress;
use crate::store::{Name, Store};
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use core::pin::Pin;
use core::task::{Context, Poll};
use http::{HeaderMap, HeaderValue};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use indicatif::ProgressBar;
use md5::{Digest as _, Md5};
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _, SeekFrom};
use tokio::sync::{mpsc, oneshot};

/// Bytes read at a time.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces on their way.
const PIECES_MAX: usize = 4;

/// A body that another task reads.
struct Pieces {
    pieces: mpsc::Receiver<Result<Bytes, std::io::Error>>,
    length: Option<u64>,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.pieces
            .poll_recv(context)
            .map(|piece| piece.map(|piece| piece.map(Frame::data).map_err(Into::into)))
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Reads a source into a body; its MD5 is told at the end.
fn reading(
    mut source: impl AsyncRead + Unpin + Send + 'static,
    length: Option<u64>,
    bar: ProgressBar,
) -> (Body, oneshot::Receiver<String>) {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let (digest, told) = oneshot::channel();
    tokio::spawn(async move {
        let mut hasher = Md5::new();
        // A file that grows meanwhile is sent as long as it was announced.
        let mut left = length.unwrap_or(u64::MAX);
        loop {
            let mut buffer = bytes::BytesMut::with_capacity(PIECE_BYTES);
            let piece = match source.read_buf(&mut buffer).await {
                Ok(_) => {
                    let most = usize::try_from(left).unwrap_or(usize::MAX);
                    buffer.truncate(most.min(buffer.len()));
                    buffer.freeze()
                }
                Err(error) => {
                    // The request ends as broken either way.
                    drop(sender.send(Err(error)).await);
                    return;
                }
            };
            if piece.is_empty() {
                break;
            }
            hasher.update(&piece);
            left -= u64::try_from(piece.len()).unwrap_or(left);
            bar.inc(u64::try_from(piece.len()).unwrap_or(0));
            if sender.send(Ok(piece)).await.is_err() {
                return;
            }
        }
        // Nobody asks when the request has failed.
        drop(digest.send(hex(&hasher.finalize())));
    });
    (Pieces { pieces, length }.boxed_unsync(), told)
}

/// Bytes as lower-case digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A part of a file, from its first byte on.
async fn part_of(path: &Path, start: u64) -> Result<tokio::fs::File> {
    let mut file = tokio::fs::File::open(path)
        .await
        .with_context(|| format!("opening {}", path.display()))?;
    file.seek(SeekFrom::Start(start))
        .await
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(file)
}

/// The MD5 of a part of a file.
pub(crate) async fn digest_of(path: &Path, start: u64, length: u64) -> Result<String> {
    let mut part = part_of(path, start).await?.take(length);
    let (mut hasher, mut buffer) = (Md5::new(), vec![0; PIECE_BYTES]);
    loop {
        let count = part
            .read(&mut buffer)
            .await
            .with_context(|| format!("reading {}", path.display()))?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
    }
}

/// Compares what was sent with what the store says it has.
async fn sent(
    name: &Name,
    path: &Path,
    etag: Option<String>,
    told: oneshot::Receiver<String>,
) -> Result<String> {
    let sent = told
        .await
        .with_context(|| format!("{} was not read to its end", path.display()))?;
    match etag {
        Some(etag) if etag.eq_ignore_ascii_case(&sent) => Ok(sent),
        Some(etag) => bail!("{name}: the store has {etag}, {sent} was sent"),
        None => bail!("{name}: the answer has no ETag to compare with"),
    }
}

/// Stores so many bytes of a file, from a first one on, as an object; its tag comes back.
pub(crate) async fn upload_part(
    store: &Store,
    path: &Path,
    (start, length): (u64, u64),
    name: &Name,
    bar: &ProgressBar,
) -> Result<String> {
    let part = part_of(path, start).await?.take(length);
    let mut headers = HeaderMap::new();
    headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    let (body, told) = reading(part, Some(length), bar.clone());
    let etag = store.put(name, headers, body).await?;
    sent(name, path, etag, told).await
}

/// Stores a file, or standard input when the path is `-`.
pub(crate) async fn upload(
    store: &Store,
    path: &Path,
    name: Name,
    headers: HeaderMap,
) -> Result<()> {
    let mut headers = headers;
    let label = name.to_string();
    let (body, told, bar) = if path == Path::new("-") {
        let input = std::io::stdin().as_fd().try_clone_to_owned()?;
        let input = tokio::fs::File::from_std(input.into());
        let bar = progress::bar(&label, None);
        let (body, told) = reading(input, None, bar.clone());
        (body, told, bar)
    } else {
        let file = tokio::fs::File::open(path)
            .await
            .with_context(|| format!("opening {}", path.display()))?;
        let metadata = file.metadata().await?;
        if !metadata.is_file() {
            bail!("{} is no file", path.display());
        }
        let length = metadata.len();
        headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
        let bar = progress::bar(&label, Some(length));
        let (body, told) = reading(file, Some(length), bar.clone());
        (body, told, bar)
    };
    let stored = store.put(&name, headers, body).await;
    bar.finish_and_clear();
    sent(&name, path, stored?, told).await?;
    Ok(())
}

/// Fetches an object.
pub(crate) async fn download(store: &Store, name: &Name, target: Target<'_>) -> Result<()> {
    let mut answer = store.get(name).await?;
    let length = answer
        .header("content-length")
        .and_then(|text| text.parse::<u64>().ok());
    // A large object's tag is made of its segments' tags, not of its bytes.
    let is_whole = ["x-static-large-object", "x-object-manifest"]
        .iter()
        .all(|header| answer.header(header).is_none());
    let etag = answer
        .header("etag")
        .filter(|_| is_whole)
        .map(|etag| etag.trim_matches('"').to_owned());
    let bar = progress::bar(&name.to_string(), length);
    let mut sink = Sink::open(target).await?;
    let (mut hasher, mut count) = (Md5::new(), 0u64);
    while let Some(bytes) = answer
        .next()
        .await
        .with_context(|| format!("fetching {name}"))?
    {
        hasher.update(&bytes);
        count += u64::try_from(bytes.len()).unwrap_or(0);
        bar.inc(u64::try_from(bytes.len()).unwrap_or(0));
        sink.write(&bytes).await?;
    }
    bar.finish_and_clear();
    if length.is_some_and(|length| length != count) {
        bail!(
            "{name}: {count} bytes came, {} were announced",
            length.unwrap_or(0)
        );
    }
    let came = hex(&hasher.finalize());
    if let Some(etag) = etag.filter(|etag| etag.len() == 32 && !etag.eq_ignore_ascii_case(&came)) {
        bail!("{name}: the bytes that came are {came}, the store says {etag}");
    }
    sink.finish().await?;
    store.done_with(answer);
    Ok(())
}

/// Where an object is to go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// Standard output.
    Output,
    /// The file the user names: its directory must be there.
    Exactly(&'a Path),
    /// A file named after the object: directories of its name are made.
    Below(&'a Path),
}

/// Where fetched bytes go.
enum Sink {
    /// A file that appears whole or not at all.
    File {
        file: tokio::fs::File,
        part: PathBuf,
        target: PathBuf,
        is_done: bool,
    },
    /// Something that bytes go through: standard output, a device, a FIFO. It stays what it is.
    Through { file: tokio::fs::File, name: String },
}

impl Sink {
    async fn open(target: Target<'_>) -> Result<Self> {
        let path = match target {
            Target::Output => {
                let output = std::io::stdout().as_fd().try_clone_to_owned()?;
                return Ok(Self::Through {
                    file: tokio::fs::File::from_std(output.into()),
                    name: "standard output".to_owned(),
                });
            }
            Target::Exactly(path) => path,
            Target::Below(path) => {
                if let Some(parent) = parent(path) {
                    tokio::fs::create_dir_all(parent)
                        .await
                        .with_context(|| format!("making {}", parent.display()))?;
                }
                path
            }
        };
        match tokio::fs::metadata(path).await {
            Ok(there) if there.is_dir() => bail!("{} is a directory", path.display()),
            Ok(there) if there.is_file() => {
                // Through symbolic links, so that they stay what they are.
                let real = tokio::fs::canonicalize(path).await;
                Self::file(real.with_context(|| format!("finding {}", path.display()))?).await
            }
            Ok(_special) => Self::through(path).await,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if path.is_symlink() {
                    bail!("{} is a symbolic link to nothing", path.display());
                }
                if let Some(parent) = parent(path).filter(|parent| !parent.is_dir()) {
                    bail!(
                        "{}: there is no directory {}",
                        path.display(),
                        parent.display()
                    );
                }
                Self::file(path.to_owned()).await
            }
            Err(error) => Err(error).with_context(|| format!("opening {}", path.display())),
        }
    }

    async fn file(target: PathBuf) -> Result<Self> {
        let mut part = target.as_os_str().to_owned();
        part.push(format!(".part-{}", std::process::id()));
        let part = PathBuf::from(part);
        let file = tokio::fs::File::create(&part)
            .await
            .with_context(|| format!("making {}", part.display()))?;
        Ok(Self::File {
            file,
            part,
            target,
            is_done: false,
        })
    }

    async fn through(path: &Path) -> Result<Self> {
        let opened = tokio::fs::OpenOptions::new().write(true).open(path).await;
        Ok(Self::Through {
            file: opened.with_context(|| format!("opening {}", path.display()))?,
            name: path.display().to_string(),
        })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::File { file, part, .. } => file
                .write_all(bytes)
                .await
                .with_context(|| format!("writing {}", part.display())),
            Self::Through { file, name } => file
                .write_all(bytes)
                .await
                .with_context(|| format!("writing {name}")),
        }
    }

    async fn finish(mut self) -> Result<()> {
        match &mut self {
            Self::File {
                file,
                part,
                target,
                is_done,
            } => {
                file.flush().await?;
                tokio::fs::rename(&*part, &*target)
                    .await
                    .with_context(|| format!("writing {}", target.display()))?;
                *is_done = true;
                Ok(())
            }
            Self::Through { file, name } => file
                .flush()
                .await
                .with_context(|| format!("writing {name}")),
        }
    }
}

/// The directory a path says it is in, if it says one.
fn parent(path: &Path) -> Option<&Path> {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Self::File {
            part,
            is_done: false,
            ..
        } = self
            && let Err(error) = std::fs::remove_file(&*part)
        {
            output::complain(
                &anyhow::Error::new(error).context(format!("removing {}", part.display())),
            );
        }
    }
}

/// Where an object of this name is written: below `directory`, never outside it.
pub(crate) fn local_path(directory: &Path, name: &str) -> Result<PathBuf> {
    let mut path = directory.to_owned();
    let mut is_empty = true;
    for part in name
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        if part == ".." {
            bail!(
                "object {}: its name leads out of the directory: fetch it alone, with -o",
                output::printable(name)
            );
        }
        path.push(part);
        is_empty = false;
    }
    if is_empty {
        bail!(
            "object {}: its name is no file name: fetch it alone, with -o",
            output::printable(name)
        );
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::symlink;

    async fn put(target: Target<'_>, bytes: &[u8]) -> Result<()> {
        let mut sink = Sink::open(target).await?;
        sink.write(bytes).await?;
        sink.finish().await
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn what_is_no_file_is_written_to_and_stays() {
        let home = tempfile::tempdir().unwrap();
        let link = home.path().join("link");
        let (mut reader, writer) = std::io::pipe().unwrap();
        symlink(format!("/proc/self/fd/{}", writer.as_raw_fd()), &link).unwrap();
        put(Target::Exactly(&link), b"through").await.unwrap();
        put(Target::Below(&link), b" twice").await.unwrap();
        assert!(link.is_symlink());
        assert_eq!(names(home.path()), ["link"]);
        drop(writer);
        let mut came = String::new();
        reader.read_to_string(&mut came).unwrap();
        assert_eq!(came, "through twice");
    }

    #[tokio::test]
    async fn a_link_to_a_file_stays_and_the_file_changes() {
        let home = tempfile::tempdir().unwrap();
        let (file, link) = (home.path().join("file"), home.path().join("link"));
        put(Target::Exactly(&file), b"old").await.unwrap();
        symlink("file", &link).unwrap();
        put(Target::Exactly(&link), b"new").await.unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        // Given up half way, it leaves what was there.
        let mut sink = Sink::open(Target::Exactly(&link)).await.unwrap();
        sink.write(b"half").await.unwrap();
        drop(sink);
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert_eq!(names(home.path()), ["file", "link"]);
    }

    #[tokio::test]
    async fn only_an_objects_own_name_makes_directories() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("a/b");
        let error = put(Target::Exactly(&deep), b"x").await.unwrap_err();
        assert!(error.to_string().contains("there is no directory"));
        assert!(names(home.path()).is_empty());
        put(Target::Below(&deep), b"x").await.unwrap();
        assert_eq!(std::fs::read(&deep).unwrap(), b"x");
        assert!(put(Target::Exactly(home.path()), b"x").await.is_err());
        let nowhere = home.path().join("nowhere");
        symlink("missing", &nowhere).unwrap();
        assert!(put(Target::Exactly(&nowhere), b"x").await.is_err());
    }

    #[test]
    fn names_stay_below_the_directory() {
        let local = |name| local_path(Path::new("d"), name);
        assert_eq!(local("a/b").unwrap(), Path::new("d/a/b"));
        assert_eq!(local("/etc/passwd").unwrap(), Path::new("d/etc/passwd"));
        assert_eq!(local("a//./b").unwrap(), Path::new("d/a/b"));
        for bad in ["../x", "a/../../x", "..", "/", "."] {
            assert!(local(bad).is_err(), "{bad}");
        }
    }
}
