//! Large files in segments: several at a time, and what an upload that broke off has stored is not sent again.
//!
//! A segment's name has the file's date, its length and the segment size in it, so that segments of another state of the
//! file are never taken for its own: `NAME/slo/MTIME/LENGTH/SIZE/NUMBER`. The manifest comes last: readers see the old
//! object or the whole new one.

use crate::progress;
use crate::store::{Listing, Name, Store};
use crate::transfer::{self, digest_of};
use anyhow::{Context as _, Result, bail, ensure};
use http::{HeaderMap, HeaderValue, Method};
use indicatif::ProgressBar;
use md5::{Digest as _, Md5};
use onggi_object_model::manifest::SEGMENTS_MAX;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Files above this size have to be cut.
const WHOLE_BYTES_MAX: u64 = 5 << 30;
/// How they are cut when nothing is said.
const SEGMENT_BYTES: u64 = 1 << 30;

/// How files are stored.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Bytes of a segment, if it was said.
    pub(crate) size: Option<u64>,
    /// The container of segments.
    pub(crate) container: String,
    /// Segments at a time.
    pub(crate) threads: u8,
}

impl Plan {
    /// How the command line says it.
    pub(crate) fn new(asked: crate::cli::Segments, container: &str) -> Result<Self> {
        let size = asked.segment_size.map(onggi_common_units::ByteCount::bytes);
        ensure!(
            size.is_none_or(|size| (1..=WHOLE_BYTES_MAX).contains(&size)),
            "a segment has between 1 B and 5 GiB"
        );
        let own = || format!("{container}_segments");
        Ok(Self {
            size,
            container: asked.segment_container.unwrap_or_else(own),
            threads: asked.segment_threads,
        })
    }

    /// The size of a file's segments; `None` when it is stored in one piece.
    fn cut(&self, length: u64) -> Option<u64> {
        match self.size {
            Some(size) => (length > size).then_some(size),
            None => (length > WHOLE_BYTES_MAX).then_some(SEGMENT_BYTES),
        }
    }
}

/// A segment of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    name: String,
    start: u64,
    length: u64,
}

fn segments(prefix: &str, length: u64, size: u64) -> Result<Vec<Segment>> {
    let count = length.div_ceil(size);
    let most = u64::try_from(SEGMENTS_MAX).unwrap_or(u64::MAX);
    if count > most {
        bail!(
            "{count} segments are too many: with --segment-size {} it would be {most}",
            length.div_ceil(most)
        );
    }
    let cut = |index: u64| Segment {
        name: format!("{prefix}{index:08}"),
        start: index * size,
        length: size.min(length - index * size),
    };
    Ok((0..count).map(cut).collect())
}

/// When a file was changed, as `swift` writes it beside an object.
pub(crate) fn mtime(metadata: &std::fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt as _;
    format!("{}.{:06}", metadata.mtime(), metadata.mtime_nsec() / 1_000)
}

/// A line of a manifest that was asked for.
#[derive(Debug, Clone, Deserialize)]
struct Listed {
    name: String,
    hash: String,
    bytes: u64,
}

/// The segments of a large object; none when it is none.
async fn listed(store: &Store, name: &Name) -> Result<Vec<Listed>> {
    let mut answer = match store
        .ask_with(Method::GET, name, "?multipart-manifest=get")
        .await
    {
        Ok(answer) => answer,
        Err(_missing) => return Ok(Vec::new()),
    };
    let is_large = answer.header("x-static-large-object").is_some();
    if !is_large {
        return Ok(Vec::new());
    }
    let body = answer.bytes().await?;
    store.done_with(answer);
    serde_json::from_slice(&body).with_context(|| format!("the manifest of {name} is malformed"))
}

/// Whether an object has a file's bytes.
pub(crate) async fn is_identical(store: &Store, path: &Path, name: &Name) -> Result<bool> {
    let answer = store.ask(Method::HEAD, name, HeaderMap::new()).await?;
    let text = |header: &str| {
        answer
            .header(header)
            .map(|text| text.trim_matches('"').to_owned())
    };
    let (length, etag) = (text("content-length"), text("etag").unwrap_or_default());
    let is_large = answer.header("x-static-large-object").is_some();
    store.done_with(answer);
    let own = tokio::fs::metadata(path).await?.len();
    if length.as_deref() != Some(own.to_string().as_str()) {
        return Ok(false);
    }
    if !is_large {
        return Ok(digest_of(path, 0, own).await? == etag);
    }
    let (mut start, mut all) = (0, true);
    for segment in listed(store, name).await? {
        all = all && digest_of(path, start, segment.bytes).await? == segment.hash;
        start += segment.bytes;
    }
    Ok(all && start == own)
}

/// Whether an object was made of a file with this size and date.
pub(crate) async fn is_unchanged(store: &Store, path: &Path, name: &Name) -> Result<bool> {
    let answer = store.ask(Method::HEAD, name, HeaderMap::new()).await?;
    let own = tokio::fs::metadata(path).await?;
    let same = answer.header("content-length") == Some(own.len().to_string().as_str())
        && answer.header("x-object-meta-mtime") == Some(mtime(&own).as_str());
    store.done_with(answer);
    Ok(same)
}

/// Stores a file, in segments when it is large.
pub(crate) async fn upload(
    store: &Arc<Store>,
    path: &Path,
    (container, object): (&str, &str),
    mut headers: HeaderMap,
    plan: &Plan,
) -> Result<()> {
    let name = Name::Object(container.to_owned(), object.to_owned());
    if path == Path::new("-") {
        return transfer::upload(store, path, name, headers).await;
    }
    let opening = || format!("opening {}", path.display());
    let own = tokio::fs::metadata(path).await.with_context(opening)?;
    let date = mtime(&own);
    headers.insert("x-object-meta-mtime", HeaderValue::from_str(&date)?);
    let Some(size) = plan.cut(own.len()) else {
        return transfer::upload(store, path, name, headers).await;
    };
    let prefix = format!("{object}/slo/{date}/{}/{size}/", own.len());
    let before = listed(store, &name).await?;
    let job = Job {
        store: Arc::clone(store),
        path: path.to_owned(),
        container: plan.container.clone(),
        bar: progress::bar(&name.to_string(), Some(own.len())),
    };
    let stored = job
        .run(segments(&prefix, own.len(), size)?, &prefix, plan.threads)
        .await?;
    let now = tokio::fs::metadata(path).await.with_context(opening)?;
    ensure!(
        now.len() == own.len() && mtime(&now) == date,
        "{} was changed while it was stored",
        path.display()
    );
    put_manifest(store, &name, headers, (&plan.container, &stored)).await?;
    // Only what the object before was made of, and what this program had named for it.
    let ours = format!("/{}/{object}/slo/", plan.container);
    for old in before.iter().filter(|old| old.name.starts_with(&ours)) {
        let Some(segment) = old.name.strip_prefix(&format!("/{}/", plan.container)) else {
            continue;
        };
        if stored.iter().any(|(new, _)| new.name == segment) {
            continue;
        }
        let old = Name::Object(plan.container.clone(), segment.to_owned());
        store.tell(Method::DELETE, &old, HeaderMap::new()).await?;
    }
    Ok(())
}

/// A file that is being stored in segments.
#[derive(Clone)]
struct Job {
    store: Arc<Store>,
    path: PathBuf,
    container: String,
    bar: ProgressBar,
}

impl Job {
    /// Stores the segments; each with its tag comes back.
    async fn run(
        &self,
        segments: Vec<Segment>,
        prefix: &str,
        threads: u8,
    ) -> Result<Vec<(Segment, String)>> {
        let container = Name::Container(self.container.clone());
        self.store
            .tell(Method::PUT, &container, HeaderMap::new())
            .await?;
        let mut there = self.there(prefix).await?;
        let (mut tasks, mut stored) = (JoinSet::new(), Vec::new());
        for segment in segments {
            if tasks.len() >= usize::from(threads)
                && let Some(done) = tasks.join_next().await
            {
                stored.push(done??);
            }
            let (job, known) = (self.clone(), there.remove(&segment.name));
            tasks.spawn(async move { job.segment(segment, known).await });
        }
        while let Some(done) = tasks.join_next().await {
            stored.push(done??);
        }
        self.bar.finish_and_clear();
        stored.sort_by_key(|(segment, _)| segment.start);
        Ok(stored)
    }

    /// Segments that are there already: their lengths and tags.
    async fn there(&self, prefix: &str) -> Result<HashMap<String, (u64, String)>> {
        let listing = Listing {
            container: Some(self.container.clone()),
            prefix: Some(prefix.to_owned()),
            delimiter: None,
        };
        let (mut found, mut marker) = (HashMap::new(), String::new());
        loop {
            let page = self.store.page(&listing, &marker).await?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            last.text().clone_into(&mut marker);
            for line in page {
                if let (Some(name), Some(bytes), Some(hash)) = (line.name, line.bytes, line.hash) {
                    found.insert(name, (bytes, hash));
                }
            }
        }
    }

    async fn segment(
        &self,
        segment: Segment,
        known: Option<(u64, String)>,
    ) -> Result<(Segment, String)> {
        if let Some((bytes, hash)) = known
            && bytes == segment.length
            && digest_of(&self.path, segment.start, segment.length).await? == hash
        {
            self.bar.inc(segment.length);
            return Ok((segment, hash));
        }
        let name = Name::Object(self.container.clone(), segment.name.clone());
        let part = (segment.start, segment.length);
        let etag = transfer::upload_part(&self.store, &self.path, part, &name, &self.bar).await?;
        Ok((segment, etag))
    }
}

async fn put_manifest(
    store: &Store,
    name: &Name,
    headers: HeaderMap,
    (container, stored): (&str, &[(Segment, String)]),
) -> Result<()> {
    let line = |(segment, etag): &(Segment, String)| {
        serde_json::json!({
            "path": format!("/{container}/{}", segment.name),
            "etag": etag,
            "size_bytes": segment.length,
        })
    };
    let manifest: Vec<_> = stored.iter().map(line).collect();
    let tags: String = stored.iter().map(|(_, etag)| etag.as_str()).collect();
    let expected = transfer::hex(&Md5::digest(tags));
    let put = store.put_manifest(name, headers, serde_json::to_vec(&manifest)?);
    match put.await? {
        Some(etag) if etag == expected => Ok(()),
        Some(etag) => bail!("{name}: the store has {etag}, its segments make {expected}"),
        None => bail!("{name}: the answer has no ETag to compare with"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(size: Option<u64>) -> Plan {
        Plan {
            size,
            container: "c_segments".to_owned(),
            threads: 4,
        }
    }

    #[test]
    fn only_files_larger_than_a_segment_are_cut() {
        assert_eq!(plan(Some(10)).cut(10), None);
        assert_eq!(plan(Some(10)).cut(11), Some(10));
        assert_eq!(plan(None).cut(5 << 30), None);
        assert_eq!(plan(None).cut((5 << 30) + 1), Some(1 << 30));
    }

    #[test]
    fn segments_are_the_file_and_sort_by_name() {
        let cut = segments("o/slo/", 25, 10).unwrap();
        let shown: Vec<_> = cut.iter().map(|cut| (cut.start, cut.length)).collect();
        assert_eq!(shown, [(0, 10), (10, 10), (20, 5)]);
        assert_eq!(cut[2].name, "o/slo/00000002");
        let most = u64::try_from(SEGMENTS_MAX).unwrap();
        assert!(segments("", most, 1).is_ok());
        let error = segments("", most + 1, 1).unwrap_err().to_string();
        assert!(error.contains("--segment-size 2"), "{error}");
    }
}
