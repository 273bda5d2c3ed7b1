//! `sync`: a directory's files and a container's objects are made the same, in one direction.
//!
//! Things are the same when they have the same length and bytes. What has to go (`--delete`) goes last, and only when
//! everything else was done.

use super::Crew;
use super::upload::files;
use crate::cli::Sync;
use crate::output::{Done, printable};
use crate::segments::{self, Plan};
use crate::store::{Listing, Name, Store};
use crate::transfer::{Target, digest_of, download, local_path};
use anyhow::{Context as _, Result, bail};
use http::{HeaderMap, Method};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An object of the container.
#[derive(Debug, Clone)]
struct Object {
    bytes: u64,
    hash: String,
    is_large: bool,
}

pub(super) async fn run(store: &Arc<Store>, asked: Sync, json: bool) -> Result<()> {
    if asked.download {
        down(store, &asked, json).await
    } else {
        up(store, &asked, json).await
    }
}

/// The container's objects by name, without those that stand for directories.
async fn objects(store: &Store, asked: &Sync) -> Result<BTreeMap<String, Object>> {
    let listing = Listing {
        container: Some(asked.container.clone()),
        prefix: Some(asked.prefix.clone()),
        delimiter: None,
    };
    let (mut found, mut marker) = (BTreeMap::new(), String::new());
    loop {
        let page = store.page(&listing, &marker).await?;
        let Some(last) = page.last() else {
            return Ok(found);
        };
        last.text().clone_into(&mut marker);
        for line in page {
            let Some(name) = line.name.filter(|name| !name.ends_with('/')) else {
                continue;
            };
            let object = Object {
                bytes: line.bytes.unwrap_or_default(),
                hash: line.hash.unwrap_or_default(),
                is_large: line.slo_etag.is_some(),
            };
            found.insert(name, object);
        }
    }
}

/// The directory's files by the names of their objects.
fn local(asked: &Sync) -> Result<BTreeMap<String, PathBuf>> {
    let root = &asked.directory;
    if !root.is_dir() {
        bail!("{} is no directory", root.display());
    }
    let mut found = BTreeMap::new();
    for (path, name) in files(root.clone(), String::new()) {
        let path = path?;
        if path.is_file() {
            found.insert(format!("{}{name}", asked.prefix), path);
        }
    }
    Ok(found)
}

/// Whether an object has a file's bytes.
async fn is_same(store: &Store, path: &Path, name: Name, object: &Object) -> Result<bool> {
    let length = tokio::fs::metadata(path).await?.len();
    if length != object.bytes {
        return Ok(false);
    }
    if object.is_large {
        return segments::is_identical(store, path, &name).await;
    }
    Ok(digest_of(path, 0, length).await? == object.hash)
}

async fn up(store: &Arc<Store>, asked: &Sync, json: bool) -> Result<()> {
    let plan = Plan::new(asked.segments.clone(), &asked.container)?;
    let container = Name::Container(asked.container.clone());
    if !asked.dry_run {
        store
            .tell(Method::PUT, &container, HeaderMap::new())
            .await?;
    }
    let (files, mut there) = (local(asked)?, objects(store, asked).await?);
    let mut crew = Crew::new(asked.threads, json);
    for (object, path) in files {
        let (store, plan, known) = (Arc::clone(store), plan.clone(), there.remove(&object));
        let (container, dry_run) = (asked.container.clone(), asked.dry_run);
        crew.add(async move {
            let name = Name::Object(container.clone(), object.clone());
            if let Some(known) = known
                && is_same(&store, &path, name, &known).await?
            {
                return Ok(None);
            }
            if !dry_run {
                let to = (container.as_str(), object.as_str());
                segments::upload(&store, &path, to, HeaderMap::new(), &plan).await?;
            }
            Ok(Some(Done::with_action("upload", &container, &object)))
        })
        .await?;
    }
    crew.finish().await?;
    if !asked.delete {
        return Ok(());
    }
    let mut crew = Crew::new(asked.threads, json);
    for (object, known) in there {
        let (store, dry_run) = (Arc::clone(store), asked.dry_run);
        let container = asked.container.clone();
        let name = Name::Object(container.clone(), object.clone());
        crew.add(async move {
            if !dry_run {
                store.delete_object(&name, known.is_large).await?;
            }
            Ok(Some(Done::with_action("delete", &container, &object)))
        })
        .await?;
    }
    crew.finish().await
}

async fn down(store: &Arc<Store>, asked: &Sync, json: bool) -> Result<()> {
    if !asked.dry_run {
        std::fs::create_dir_all(&asked.directory)
            .with_context(|| format!("making {}", asked.directory.display()))?;
    }
    let there = objects(store, asked).await?;
    // By their paths: two names may lead to one file.
    let mut files: BTreeSet<PathBuf> = if asked.directory.is_dir() {
        local(asked)?.into_values().collect()
    } else {
        BTreeSet::new()
    };
    let mut crew = Crew::new(asked.threads, json);
    for (object, known) in there {
        let own = object.strip_prefix(&asked.prefix).unwrap_or(&object);
        let target = local_path(&asked.directory, own);
        let is_there = target.as_ref().is_ok_and(|target| target.is_file());
        if let Ok(target) = &target {
            files.remove(target);
        }
        let (store, dry_run) = (Arc::clone(store), asked.dry_run);
        let container = asked.container.clone();
        let name = Name::Object(container.clone(), object.clone());
        crew.add(async move {
            let target = target?;
            if is_there && is_same(&store, &target, name.clone(), &known).await? {
                return Ok(None);
            }
            if !dry_run {
                download(&store, &name, Target::Below(&target)).await?;
            }
            Ok(Some(Done::with_action("download", &container, &object)))
        })
        .await?;
    }
    crew.finish().await?;
    if !asked.delete {
        return Ok(());
    }
    for path in files {
        if !asked.dry_run {
            std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        let name = path.display().to_string();
        let done = Done {
            action: "delete",
            container: None,
            text: format!("delete {}", printable(&name)),
            name,
        };
        done.tell(json)?;
    }
    Ok(())
}
