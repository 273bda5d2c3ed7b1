//! `upload`: files and directories become objects.

use super::Crew;
use crate::cli::Upload;
use crate::output::Done;
use crate::segments::{self, Plan};
use crate::store::{Name, Store, headers};
use anyhow::{Context as _, Result, bail};
use http::{HeaderMap, Method};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Directories below one another.
const DEPTH_MAX: usize = 100;

pub(super) async fn run(store: &Arc<Store>, upload: Upload, json: bool) -> Result<()> {
    let Upload {
        container,
        paths,
        object_name,
        header,
        threads,
        segments,
        changed,
        skip_identical,
    } = upload;
    let plan = Plan::new(segments, &container)?;
    let all = headers(&header, "")?;
    check(&paths, object_name.as_deref())?;
    store
        .tell(
            Method::PUT,
            &Name::Container(container.clone()),
            HeaderMap::new(),
        )
        .await?;
    let mut crew = Crew::new(threads, json);
    for path in paths {
        let base = object_name.clone().map_or_else(|| own_name(&path), Ok)?;
        for (file, name) in files(path, base) {
            let (store, all, container) = (Arc::clone(store), all.clone(), container.clone());
            let plan = plan.clone();
            crew.add(async move {
                let file = file?;
                let object = Name::Object(container.clone(), name.clone());
                // What cannot be compared is not there, or cannot be seen: storing it tells.
                let is_there = (changed
                    && segments::is_unchanged(&store, &file, &object)
                        .await
                        .unwrap_or(false))
                    || (skip_identical
                        && segments::is_identical(&store, &file, &object)
                            .await
                            .unwrap_or(false));
                if is_there {
                    return Ok(None);
                }
                segments::upload(&store, &file, (&container, &name), all, &plan).await?;
                Ok(Some(Done::new("upload", &container, &name)))
            })
            .await?;
        }
    }
    crew.finish().await
}

fn check(paths: &[PathBuf], object_name: Option<&str>) -> Result<()> {
    let has_input = paths.iter().any(|path| path == Path::new("-"));
    if has_input && (object_name.is_none() || paths.len() > 1) {
        bail!("standard input needs --object-name, and stands alone");
    }
    if object_name.is_some() && paths.len() > 1 {
        bail!("--object-name names one object: give one file or directory");
    }
    Ok(())
}

/// The name an object gets from its path: without a leading `/` or `./`.
fn own_name(path: &Path) -> Result<String> {
    let mut name = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => {
                let part = part.to_str();
                name.push(part.with_context(|| {
                    format!("{} is no UTF-8: use --object-name", path.display())
                })?);
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                bail!("{}: use --object-name for a path with ..", path.display())
            }
        }
    }
    Ok(name.join("/"))
}

/// The files at or below a path, each with its object's name. Links are not followed into directories.
pub(super) fn files(
    path: PathBuf,
    name: String,
) -> impl Iterator<Item = (Result<PathBuf>, String)> {
    let mut open = vec![(path, name, 0)];
    core::iter::from_fn(move || {
        loop {
            let (path, name, depth) = open.pop()?;
            let is_directory =
                path != Path::new("-") && path.is_dir() && (depth == 0 || !path.is_symlink());
            if !is_directory {
                return Some((Ok(path), name));
            }
            if depth >= DEPTH_MAX {
                let error =
                    anyhow::anyhow!("{}: more than {DEPTH_MAX} directories deep", path.display());
                return Some((Err(error), name));
            }
            match children(&path, &name, depth + 1) {
                Ok(mut children) => open.append(&mut children),
                Err(error) => return Some((Err(error), name)),
            }
        }
    })
}

fn children(path: &Path, name: &str, depth: usize) -> Result<Vec<(PathBuf, String, usize)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| format!("reading {}", path.display()))? {
        let entry = entry?;
        let own = entry.file_name();
        let own = own
            .to_str()
            .with_context(|| format!("{} is no UTF-8", entry.path().display()))?;
        let joined = if name.is_empty() {
            own.to_owned()
        } else {
            format!("{}/{own}", name.trim_end_matches('/'))
        };
        found.push((entry.path(), joined, depth));
    }
    // The last is taken first.
    found.sort_by(|a, b| b.1.cmp(&a.1));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_paths() {
        assert_eq!(own_name(Path::new("./a/b")).unwrap(), "a/b");
        assert_eq!(own_name(Path::new("/a/b")).unwrap(), "a/b");
        assert!(own_name(Path::new("../a")).is_err());
    }

    #[test]
    fn a_directory_is_walked_in_order() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("d/e")).unwrap();
        for file in ["d/2", "d/1", "d/e/3"] {
            std::fs::File::create(root.path().join(file)).unwrap();
        }
        let names: Vec<String> = files(root.path().to_owned(), "x".to_owned())
            .map(|(_, name)| name)
            .collect();
        assert_eq!(names, ["x/d/1", "x/d/2", "x/d/e/3"]);
    }
}
