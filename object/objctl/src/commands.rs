//! The verbs.

mod capabilities;
mod copy;
mod delete;
mod download;
mod list;
mod post;
mod stat;
mod sync;
mod tempurl;
mod upload;

use crate::cli::{Arguments, Command};
use crate::credentials;
use crate::http1::Client;
use crate::login::login;
use crate::output::{self, Done};
use crate::store::Store;
use anyhow::{Result, bail};
use core::future::Future;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Does what the command line asks.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let credentials = credentials::find()?;
    let client = Client::default();
    let session = login(&client, &credentials).await?;
    let store = Arc::new(Store::new(client, session));
    match arguments.command {
        Command::Post(post) => post::run(&store, post).await,
        Command::Upload(upload) => upload::run(&store, upload, arguments.json).await,
        Command::Download(download) => download::run(&store, download, arguments.json).await,
        Command::List(list) => list::run(&store, list, arguments.json).await,
        Command::Stat(stat) => stat::run(&store, stat, arguments.json).await,
        Command::Delete(delete) => delete::run(&store, delete, arguments.json).await,
        Command::Sync(sync) => sync::run(&store, sync, arguments.json).await,
        Command::Copy(copy) => copy::run(&store, copy, arguments.json).await,
        Command::Tempurl(asked) => tempurl::run(&store, asked, arguments.json).await,
        Command::Capabilities => capabilities::run(&store, arguments.json).await,
        Command::Auth => auth(&store),
    }
}

fn auth(store: &Store) -> Result<()> {
    let quote = |text: &str| text.replace('\'', "'\\''");
    output::line(&format!(
        "export OS_STORAGE_URL='{}'",
        quote(&store.session().storage_url)
    ))?;
    output::line(&format!(
        "export OS_AUTH_TOKEN='{}'",
        quote(store.session().token.expose())
    ))
}

/// Runs tasks, so many at a time. Each failure is told; the first error stops nothing.
pub(crate) struct Crew {
    tasks: JoinSet<Result<Option<Done>>>,
    at_once: usize,
    json: bool,
    failed: usize,
}

impl Crew {
    pub(crate) fn new(at_once: u8, json: bool) -> Self {
        Self {
            tasks: JoinSet::new(),
            at_once: usize::from(at_once),
            json,
            failed: 0,
        }
    }

    /// Adds a task whose result is told, if there is one; waits while all hands are busy.
    pub(crate) async fn add(
        &mut self,
        task: impl Future<Output = Result<Option<Done>>> + Send + 'static,
    ) -> Result<()> {
        while self.tasks.len() >= self.at_once {
            self.next().await?;
        }
        self.tasks.spawn(task);
        Ok(())
    }

    async fn next(&mut self) -> Result<bool> {
        let Some(done) = self.tasks.join_next().await else {
            return Ok(false);
        };
        match done? {
            Ok(None) => {}
            Ok(Some(done)) => done.tell(self.json)?,
            Err(error) => {
                self.failed += 1;
                output::complain(&error);
            }
        }
        Ok(true)
    }

    /// Waits for all tasks.
    pub(crate) async fn finish(mut self) -> Result<()> {
        while self.next().await? {}
        if self.failed > 0 {
            bail!("{} of the transfers failed", self.failed);
        }
        Ok(())
    }
}
