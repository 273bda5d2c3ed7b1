//! `download`: objects become files.

use super::Crew;
use crate::cli::Download;
use crate::output::Done;
use crate::store::{Listing, Name, Store};
use crate::transfer::{Target, download, local_path};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) async fn run(store: &Arc<Store>, asked: Download, json: bool) -> Result<()> {
    let Download {
        container,
        objects,
        output,
        output_dir,
        prefix,
        threads,
        ..
    } = asked;
    if let Some(output) = output {
        let (Some(container), [object]) = (container, objects.as_slice()) else {
            bail!("-o is for one object");
        };
        let target = if output == Path::new("-") {
            Target::Output
        } else {
            Target::Exactly(&output)
        };
        return download(store, &Name::Object(container, object.clone()), target).await;
    }
    let directory = output_dir.unwrap_or_else(|| PathBuf::from("."));
    let mut crew = Crew::new(threads, json);
    match container {
        Some(container) if !objects.is_empty() => {
            for object in objects {
                fetch(store, &mut crew, &directory, container.clone(), object).await?;
            }
        }
        Some(container) => fetch_all(store, &mut crew, &directory, container, prefix).await?,
        None => {
            let mut marker = String::new();
            loop {
                let page = store.page(&Listing::default(), &marker).await?;
                let Some(last) = page.last() else { break };
                last.text().clone_into(&mut marker);
                for line in &page {
                    let container = line.text().to_owned();
                    let below = local_path(&directory, &container)?;
                    fetch_all(store, &mut crew, &below, container, prefix.clone()).await?;
                }
            }
        }
    }
    crew.finish().await
}

async fn fetch_all(
    store: &Arc<Store>,
    crew: &mut Crew,
    directory: &Path,
    container: String,
    prefix: Option<String>,
) -> Result<()> {
    let listing = Listing {
        container: Some(container.clone()),
        prefix,
        delimiter: None,
    };
    let mut marker = String::new();
    loop {
        let page = store.page(&listing, &marker).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        last.text().clone_into(&mut marker);
        for line in page {
            fetch(
                store,
                crew,
                directory,
                container.clone(),
                line.text().to_owned(),
            )
            .await?;
        }
    }
}

async fn fetch(
    store: &Arc<Store>,
    crew: &mut Crew,
    directory: &Path,
    container: String,
    object: String,
) -> Result<()> {
    let (store, target) = (Arc::clone(store), local_path(directory, &object));
    crew.add(async move {
        let target = target?;
        let name = Name::Object(container.clone(), object.clone());
        download(&store, &name, Target::Below(&target)).await?;
        Ok(Some(Done::new("download", &container, &object)))
    })
    .await
}
