//! Serves identity from memory on a free port of 127.0.0.1, for trying stock clients: prints the path of an `openrc`.
//!
//! `cargo run --release -p onggi-common-identity --example identity -- DIRECTORY [OBJECT_URL]`

use anyhow::Context;
use onggi_common_host::{Clock, SystemClock, SystemEntropy};
use onggi_common_identity::{Identity, Options, V1User, keys};
use onggi_common_meta::control::Embedded;
use onggi_common_service::Drain;
use onggi_common_service::http::{Limits, serve};
use onggi_common_service::telemetry::{self, LogFormat};
use onggi_common_units::Secret;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

fn v1_user(account: &str, user: &str, key: &str, groups: &[&str]) -> V1User {
    V1User {
        account: account.to_owned(),
        user: user.to_owned(),
        key: Secret::new(key),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    telemetry::start("debug,hyper=info", LogFormat::Text)?;
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(
        arguments
            .next()
            .context("name a directory for keys and credentials")?,
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let mut options = Options {
        identity_url: format!("http://{}", listener.local_addr()?),
        v1_users: vec![
            v1_user("test", "tester", "testing", &[".admin"]),
            v1_user("test", "tester3", "testing3", &[]),
        ],
        ..Options::default()
    };
    if let Some(object_url) = arguments.next() {
        options.object_url = object_url;
    }
    let ring = keys::load_or_create(&directory.join("keys/cluster.json"), &SystemEntropy)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let store = Arc::new(Embedded::in_memory(Arc::clone(&clock)));
    let identity = Identity::open(store, &ring, clock, Arc::new(SystemEntropy), options)?;
    identity.bootstrap(&directory)?;
    writeln!(
        std::io::stdout(),
        "{}",
        directory.join("admin-openrc").display()
    )?;
    let drain = Drain::new();
    drain.on_signals()?;
    serve(listener, identity, Limits::default(), drain).await;
    Ok(())
}
