//! `delete`: objects, containers with all that is in them, or everything.

use super::Crew;
use crate::cli::Delete;
use crate::output::{Done, printable};
use crate::store::{Listing, Name, Store};
use anyhow::Result;
use http::{HeaderMap, Method};
use std::sync::Arc;

pub(super) async fn run(store: &Arc<Store>, asked: Delete, json: bool) -> Result<()> {
    let Delete {
        container,
        objects,
        prefix,
        threads,
        ..
    } = asked;
    match container {
        Some(container) if !objects.is_empty() => {
            let mut crew = Crew::new(threads, json);
            for object in objects {
                one(store, &mut crew, (container.clone(), object), None).await?;
            }
            crew.finish().await
        }
        Some(container) => whole(store, container, prefix, (threads, json)).await,
        None => {
            let mut marker = String::new();
            loop {
                let page = store.page(&Listing::default(), &marker).await?;
                let Some(last) = page.last() else {
                    return Ok(());
                };
                last.text().clone_into(&mut marker);
                for line in page {
                    {
                        let container = line.text().to_owned();
                        whole(store, container, prefix.clone(), (threads, json)).await?
                    };
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
    (threads, json): (u8, bool),
) -> Result<()> {
    let is_part = prefix.is_some();
    let listing = Listing {
        container: Some(container.clone()),
        prefix,
        delimiter: None,
    };
    let mut crew = Crew::new(threads, json);
    let mut marker = String::new();
    loop {
        let page = store.page(&listing, &marker).await?;
        let Some(last) = page.last() else { break };
        last.text().clone_into(&mut marker);
        for line in page {
            let name = (container.clone(), line.text().to_owned());
            one(store, &mut crew, name, Some(line.slo_etag.is_some())).await?;
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
    let done = Done {
        action: "delete",
        container: None,
        text: printable(&container),
        name: container,
    };
    done.tell(json)
}

/// Deletes an object. Whether it is a large one is looked up when it is not known.
async fn one(
    store: &Arc<Store>,
    crew: &mut Crew,
    (container, object): (String, String),
    is_large: Option<bool>,
) -> Result<()> {
    let store = Arc::clone(store);
    crew.add(async move {
        let name = Name::Object(container.clone(), object.clone());
        let is_large = match is_large {
            Some(is_large) => is_large,
            None => {
                let answer = store.ask(Method::HEAD, &name, HeaderMap::new()).await?;
                let is_large = answer.header("x-static-large-object").is_some();
                store.done_with(answer);
                is_large
            }
        };
        store.delete_object(&name, is_large).await?;
        Ok(Some(Done::new("delete", &container, &object)))
    })
    .await
}
