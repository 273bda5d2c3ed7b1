//! `delete`: objects, containers with all that is in them, or everything.

use super::Crew;
use crate::cli::Delete;
use crate::output::printable;
use crate::store::{Listing, Name, Store};
use anyhow::Result;
use http::{HeaderMap, Method};
use std::sync::Arc;

pub(super) async fn run(store: &Arc<Store>, asked: Delete) -> Result<()> {
    let Delete {
        container,
        objects,
        prefix,
        threads,
        ..
    } = asked;
    match container {
        Some(container) if !objects.is_empty() => {
            let mut crew = Crew::new(threads);
            for object in objects {
                one(store, &mut crew, container.clone(), object).await?;
            }
            crew.finish().await
        }
        Some(container) => whole(store, container, prefix, threads).await,
        None => {
            let mut marker = String::new();
            loop {
                let page = store.page(&Listing::default(), &marker).await?;
                let Some(last) = page.last() else {
                    return Ok(());
                };
                last.text().clone_into(&mut marker);
                for line in page {
                    whole(store, line.text().to_owned(), prefix.clone(), threads).await?;
                }
            }
        }
    }
}

/// A container's objects, then the container; with a prefix only the objects.
async fn whole(
    store: &Arc<Store>,
    container: String,
    prefix: Option<String>,
    threads: u8,
) -> Result<()> {
    let is_part = prefix.is_some();
    let listing = Listing {
        container: Some(container.clone()),
        prefix,
        delimiter: None,
    };
    let mut crew = Crew::new(threads);
    let mut marker = String::new();
    loop {
        let page = store.page(&listing, &marker).await?;
        let Some(last) = page.last() else { break };
        last.text().clone_into(&mut marker);
        for line in page {
            one(store, &mut crew, container.clone(), line.text().to_owned()).await?;
        }
    }
    crew.finish().await?;
    if is_part {
        return Ok(());
    }
    store
        .tell(
            Method::DELETE,
            &Name::Container(container.clone()),
            HeaderMap::new(),
        )
        .await?;
    crate::output::line(&printable(&container))
}

async fn one(store: &Arc<Store>, crew: &mut Crew, container: String, object: String) -> Result<()> {
    let store = Arc::clone(store);
    crew.add(async move {
        let name = Name::Object(container, object.clone());
        store.tell(Method::DELETE, &name, HeaderMap::new()).await?;
        Ok(printable(&object))
    })
    .await
}
