//! `onggid object locate`: where an object should be by the ring, and which devices really hold it.

use crate::roles::{rings, secrets};
use anyhow::{Context as _, Result, bail};
use onggi_common_host::{SystemClock, SystemEntropy};
use onggi_common_service::Config;
use onggi_object_client::{GetAnswer, HttpClient, Nodes, Timeouts};
use onggi_object_model::{ObjectPath, PolicyIndex};
use onggi_object_ring::{Device, Ring};
use onggi_object_wire::Place;
use onggi_object_wire::object::{Get, Which};
use serde::Serialize;
use std::process::ExitCode;
use std::sync::Arc;

/// Handoffs that are asked beside the primaries.
const HANDOFFS: usize = 3;

/// One device's word on the object.
#[derive(Debug, Serialize)]
struct Line {
    device: String,
    role: &'static str,
    timestamp: Option<String>,
    detail: String,
}

/// Asks the primaries and the first handoffs of `ACCOUNT/CONTAINER/OBJECT` and prints what each holds.
///
/// # Errors
/// When the path is none, or the rings or keys cannot be read.
pub(crate) async fn show(config: &Config, path: &str, json: bool) -> Result<ExitCode> {
    let path = parse(path)?;
    let object = config
        .object
        .as_ref()
        .context("the configuration has no [object]")?;
    let key_ring = secrets::key_ring(config)?;
    let ring_path = rings::folder(config, object).join("object.ring.gz");
    let bytes =
        std::fs::read(&ring_path).with_context(|| format!("reading {}", ring_path.display()))?;
    let ring = Ring::from_bytes(&bytes).with_context(|| ring_path.display().to_string())?;
    let timeouts = Timeouts::default();
    let clock = Arc::new(SystemClock::new());
    let client = HttpClient::new(
        secrets::cluster_keys(&key_ring)?,
        clock,
        &SystemEntropy,
        timeouts,
    );
    let nodes = Nodes::new(Arc::new(client), timeouts);
    let partition = ring.partition(&secrets::hash_secrets(&key_ring).object(&path));
    let primaries = ring
        .primaries(partition)
        .into_iter()
        .map(|device| ("primary", device));
    let handoffs = ring
        .handoffs(partition)
        .take(HANDOFFS)
        .map(|device| ("handoff", device));
    let get = Get {
        which: Which::whole(PolicyIndex::default(), path),
        range: None,
        version: None,
    };
    let mut lines = Vec::new();
    for (role, device) in primaries.chain(handoffs) {
        lines.push(ask(&nodes, role, device, &get).await?);
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        for line in &lines {
            let stamp = line.timestamp.as_deref().unwrap_or("-");
            println!(
                "{:<8} {:<32} {stamp:<18} {}",
                line.role, line.device, line.detail
            );
        }
    }
    let held = lines
        .iter()
        .filter(|line| line.role == "primary")
        .all(|line| line.timestamp.is_some());
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(u8::from(!json))
    })
}

async fn ask(nodes: &Nodes, role: &'static str, device: &Device, get: &Get) -> Result<Line> {
    let place = Place {
        address: device.address(),
        device: device.device.parse()?,
    };
    let (timestamp, detail) = match nodes.head_object(&place, get).await {
        Ok(GetAnswer::Found { found, .. }) => (
            Some(found.info.timestamp().to_string()),
            format!("{} bytes", found.info.length),
        ),
        Ok(GetAnswer::Missing {
            tombstone: Some(when),
        }) => (None, format!("deleted at {when}")),
        Ok(GetAnswer::Missing { tombstone: None }) => (None, "missing".to_owned()),
        Ok(GetAnswer::Damaged { .. }) => (None, "damaged".to_owned()),
        Ok(GetAnswer::Failed { status }) => (None, format!("status {status}")),
        Ok(GetAnswer::Unsatisfiable { .. } | GetAnswer::OtherVersion) => {
            (None, "another version".to_owned())
        }
        Err(error) => (None, error.to_string()),
    };
    Ok(Line {
        device: place.to_string(),
        role,
        timestamp,
        detail,
    })
}

fn parse(text: &str) -> Result<ObjectPath> {
    let mut parts = text.trim_start_matches('/').splitn(3, '/');
    let (Some(account), Some(container), Some(object)) = (parts.next(), parts.next(), parts.next())
    else {
        bail!(
            "{text:?} is no object: write ACCOUNT/CONTAINER/OBJECT, for example AUTH_test/c1/FILE"
        );
    };
    Ok(ObjectPath {
        account: account.parse()?,
        container: container.parse()?,
        object: object.parse()?,
    })
}
