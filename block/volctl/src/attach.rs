//! Attaching: reserve, connect, show the LUN to this host or a guest, complete; and all of it backwards.

use crate::cli;
use crate::client::{Client, Refused};
use crate::config::Instance;
use crate::connector;
use crate::environment::Variables;
use crate::intent::Intent;
use crate::table::Output;
use anyhow::{Context as _, Result, bail};
use onggi_block_cinder::attachment::{AttachMode, IscsiConnection};
use onggi_block_initiator::attach::local::{self, LocalPlace, LocalRecord};
use onggi_block_initiator::attach::qemu;
use onggi_block_initiator::{ChapCredentials, ConnectionSpec};
use onggi_common_units::Uuid;
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The hidden command that serves one attachment.
pub(crate) const HELPER_COMMAND: &str = "serve-attachment";

/// Where a volume is shown.
#[derive(Debug)]
enum Place {
    /// On this host.
    Host,
    /// In a running guest.
    Guest(Instance),
}

impl Place {
    fn find(instance: Option<&str>, config: Option<&Path>, variables: &Variables) -> Result<Self> {
        match instance {
            Some(argument) => {
                Instance::find(argument, config, &variables.config_candidates()).map(Self::Guest)
            }
            None => Ok(Self::Host),
        }
    }

    const fn instance_id(&self) -> Option<Uuid> {
        match self {
            Self::Host => None,
            Self::Guest(instance) => Some(instance.id),
        }
    }
}

/// What to do where.
#[derive(Debug)]
pub(crate) struct Attaching<'a> {
    pub(crate) client: &'a Client,
    pub(crate) variables: &'a Variables,
    pub(crate) config: Option<&'a Path>,
}

impl Attaching<'_> {
    fn state(&self) -> Result<PathBuf> {
        self.variables
            .state_dir(rustix::process::geteuid().is_root())
    }

    /// Gives a volume to this host or to a guest.
    pub(crate) async fn attach(&self, request: cli::Attach) -> Result<Output> {
        let place = Place::find(request.instance.as_deref(), self.config, self.variables)?;
        let state = self.state()?;
        let volume = self.client.find_id(&request.volume).await?;
        let volume_id: Uuid = volume.parse().context("the volume's id is no UUID")?;
        // A guest's attachment names its guest; one of this host must be remembered here.
        let intent = match &place {
            Place::Host => Some(Intent::begin(&state, volume_id)?),
            Place::Guest(_) => None,
        };
        let (attachment, intent) = self.reserve(&request, volume_id, &place, intent).await?;
        match self.connect(&place, &attachment, &state).await {
            Ok(device) => {
                intent.map_or(Ok(()), Intent::end)?;
                Ok(Output::Properties(described(&place, &volume, &device)))
            }
            Err(error) => {
                let undone = match self.client.release(&attachment).await {
                    Ok(()) => intent.map_or(Ok(()), Intent::end),
                    // Still remembered: `detach` finds it.
                    Err(undo) => Err(undo),
                };
                let left = undone
                    .err()
                    .map(|undo| format!("; attachment {attachment} is left behind: {undo:#}"));
                Err(error.context(format!(
                    "volume '{}' was not attached{}",
                    request.volume,
                    left.unwrap_or_default()
                )))
            }
        }
    }

    /// Reserves a volume, and remembers the reservation.
    async fn reserve(
        &self,
        request: &cli::Attach,
        volume: Uuid,
        place: &Place,
        mut intent: Option<Intent>,
    ) -> Result<(String, Option<Intent>)> {
        let mode = if request.read_only {
            AttachMode::Ro
        } else {
            AttachMode::Rw
        };
        let reserved = self
            .client
            .reserve(&volume.to_string(), place.instance_id(), mode.name())
            .await;
        match (reserved, &mut intent) {
            (Ok(attachment), Some(known)) => {
                known.name(
                    attachment
                        .parse()
                        .context("the attachment's id is no UUID")?,
                )?;
                Ok((attachment, intent))
            }
            (Ok(attachment), None) => Ok((attachment, None)),
            (Err(error), known) => {
                let is_forgettable = known.as_ref().is_some_and(|known| {
                    // Without an answer nobody knows whether there is a reservation.
                    known.attachment.is_none() && error.is::<Refused>()
                });
                if is_forgettable && let Some(known) = intent.take() {
                    known.end()?;
                }
                Err(self.explained(error, request, volume, place))
            }
        }
    }

    /// Adds to a refused attaching that the volume is here already, and where.
    fn explained(
        &self,
        error: anyhow::Error,
        request: &cli::Attach,
        volume: Uuid,
        place: &Place,
    ) -> anyhow::Error {
        if matches!(place, Place::Guest(_)) {
            return error;
        }
        let name = &request.volume;
        let known = self.state().and_then(|state| {
            let left = Intent::find(&state, volume)?.is_some();
            Ok((on_this_host(volume, &state)?, left))
        });
        match known {
            Ok((entries, _)) if entries.iter().any(|entry| entry.device.is_some()) => {
                let devices: Vec<String> = devices(&entries).collect();
                let devices = devices.join(", ");
                error.context(format!("volume '{name}' is attached to this host already, as {devices}"))
            }
            Ok((entries, left)) if left || !entries.is_empty() => error.context(format!(
                "an earlier attaching of volume '{name}' to this host has died: `volctl detach {name}` clears it away"
            )),
            Ok(_) | Err(_) => error,
        }
    }

    /// What to say when a volume has grown that is attached here: its device has not.
    pub(crate) fn remark_on_size(&self, volume: &str) -> Option<String> {
        let volume = volume.parse().ok()?;
        let entries = on_this_host(volume, &self.state().ok()?).ok()?;
        let devices: Vec<String> = devices(&entries).collect();
        (!devices.is_empty()).then(|| {
            let devices = devices.join(", ");
            format!("{devices} on this host keeps its old size until the volume is detached and attached again")
        })
    }

    /// From a reservation to a device.
    async fn connect(&self, place: &Place, attachment: &str, state: &Path) -> Result<String> {
        let connector = connector::of_this_host(state)?;
        let initiator = connector["initiator"].as_str().unwrap_or("").to_owned();
        let info = self.client.connect(attachment, connector).await?;
        let spec = spec(&info, initiator)?;
        let device = show(place, spec.clone(), state.to_owned()).await?;
        if let Err(error) = self.client.complete(attachment).await {
            let hidden = hide(place, spec.volume, spec.attachment, state.to_owned()).await;
            let left = hidden
                .err()
                .map(|undo| format!("; {device} is left behind: {undo:#}"));
            return Err(error.context(format!(
                "completing the attachment{}",
                left.unwrap_or_default()
            )));
        }
        Ok(device)
    }

    /// Takes a volume away from this host or from a guest.
    pub(crate) async fn detach(&self, request: cli::Detach) -> Result<Output> {
        let place = Place::find(request.instance.as_deref(), self.config, self.variables)?;
        let state = self.state()?;
        let (volume_id, volume, attachments) = self.find_attached(&request.volume, &state).await?;
        let (shown, unseen) = match &place {
            Place::Guest(instance) => (of_instance(&attachments, instance.id), Vec::new()),
            Place::Host => {
                let entries = on_this_host(volume_id, &state)?.into_iter();
                let shown: Vec<Uuid> = entries.map(|entry| entry.attachment).collect();
                let mut unseen = left_by_this_host(&volume, &connector::host_name(), &shown);
                if let Some(intent) = Intent::find(&state, volume_id)? {
                    unseen.extend(half_made(&intent, &attachments));
                }
                unseen.sort();
                unseen.dedup();
                unseen.retain(|attachment| !shown.contains(attachment));
                (shown, unseen)
            }
        };
        // Half-made ones first: the file that remembers them is needed for the others.
        for attachment in &unseen {
            self.client.release(&attachment.to_string()).await?;
        }
        for attachment in &shown {
            if matches!(place, Place::Host) {
                // Its record goes with its device; the service may not be there to hear of it.
                Intent::begin(&state, volume_id)?.name(*attachment)?;
            }
            hide(&place, volume_id, *attachment, state.clone()).await?;
            self.client.release(&attachment.to_string()).await?;
        }
        if matches!(place, Place::Host) {
            Intent::forget(&state, volume_id)?;
        }
        if shown.is_empty() && unseen.is_empty() {
            bail!("{}", nowhere(&request.volume, &place, &attachments));
        }
        Ok(Output::Nothing)
    }

    /// A volume's id, the volume and its attachments. One the service does not have any more, but this host has, is
    /// found by its id and has none.
    async fn find_attached(&self, wanted: &str, state: &Path) -> Result<(Uuid, Value, Vec<Value>)> {
        match self.client.find_volume(wanted).await {
            Ok(volume) => {
                let volume_id: Uuid = id(&volume).context("the volume's id is no UUID")?;
                let attachments = self.client.attachments(&volume_id.to_string()).await?;
                Ok((volume_id, volume, attachments))
            }
            Err(error) => match wanted.parse::<Uuid>() {
                Ok(id)
                    if !on_this_host(id, state)?.is_empty()
                        && self.client.volume(wanted).await?.is_none() =>
                {
                    Ok((id, Value::Null, Vec::new()))
                }
                Ok(_) | Err(_) => Err(error),
            },
        }
    }
}

fn described(place: &Place, volume: &str, device: &str) -> Map<String, Value> {
    let mut map = Map::from_iter([("device".to_owned(), json!(device))]);
    if let Place::Guest(instance) = place {
        // As Nova prints an attached volume: its id is the volume's.
        map.insert("id".to_owned(), json!(volume));
        map.insert("serverId".to_owned(), json!(instance.id));
        map.insert("volumeId".to_owned(), json!(volume));
    }
    map
}

/// How to reach the LUN the service has exported.
fn spec(info: &Value, initiator_name: String) -> Result<ConnectionSpec> {
    let connection = IscsiConnection::parse(info)?;
    let first = connection
        .paths
        .first()
        .context("the service named no portal")?;
    let lun = u16::try_from(first.lun)
        .ok()
        .context("the unit's number is too large")?;
    let iqn = first.iqn.clone();
    let portals = connection
        .paths
        .iter()
        .filter(|path| path.iqn == iqn && path.lun == u64::from(lun));
    Ok(ConnectionSpec {
        volume: connection.volume_id,
        attachment: connection.attachment_id,
        portals: portals.map(|path| path.portal.clone()).collect(),
        iqn,
        lun,
        initiator_name,
        chap: connection
            .chap
            .map(|(user, secret)| ChapCredentials { user, secret }),
        mutual_chap: None,
        is_read_only: connection.mode == AttachMode::Ro,
    })
}

/// Shows the LUN; says what device it is there.
async fn show(place: &Place, spec: ConnectionSpec, state_dir: PathBuf) -> Result<String> {
    let socket = match place {
        Place::Host => None,
        Place::Guest(instance) => Some(instance.socket.clone()),
    };
    let helper_program = std::env::current_exe().context("finding this program")?;
    let blocking = move || match socket {
        Some(socket) => Ok(qemu::attach(&socket, &spec)?.device),
        None => {
            let helper_arguments = vec![OsString::from(HELPER_COMMAND)];
            let place = LocalPlace {
                state_dir,
                helper_program,
                helper_arguments,
            };
            Ok(local::attach(&spec, &place)?.device.display().to_string())
        }
    };
    tokio::task::spawn_blocking(blocking).await?
}

/// Takes the device away.
async fn hide(place: &Place, volume: Uuid, attachment: Uuid, state_dir: PathBuf) -> Result<()> {
    let socket = match place {
        Place::Host => None,
        Place::Guest(instance) => Some(instance.socket.clone()),
    };
    let blocking = move || match socket {
        Some(socket) => Ok(qemu::detach(&socket, volume)?),
        None => Ok(local::detach(attachment, &state_dir)?),
    };
    tokio::task::spawn_blocking(blocking).await?
}

/// The attachments of a volume this host remembers, dead ones too.
fn on_this_host(volume: Uuid, state_dir: &Path) -> Result<Vec<LocalRecord>> {
    let mut entries = local::list(state_dir)?;
    entries.retain(|entry| entry.volume == volume);
    Ok(entries)
}

/// The devices of those that are alive.
fn devices(entries: &[LocalRecord]) -> impl Iterator<Item = String> {
    let devices = entries.iter().filter_map(|entry| entry.device.as_ref());
    devices.map(|device| device.display().to_string())
}

/// The attachments a killed `attach` of this host left half made. When it was killed before the service had told it
/// which, they are those that no guest has and that are not complete.
fn half_made(intent: &Intent, attachments: &[Value]) -> Vec<Uuid> {
    if let Some(attachment) = intent.attachment {
        return vec![attachment];
    }
    let incomplete = attachments.iter().filter(|attachment| {
        let is_incomplete =
            attachment["status"] == "reserved" || attachment["status"] == "attaching";
        is_incomplete && attachment["instance"].is_null()
    });
    incomplete.filter_map(id).collect()
}

/// The attachments the service remembers of this host (it tells admins only) whose device is gone, as after a reboot.
fn left_by_this_host(volume: &Value, host: &str, shown: &[Uuid]) -> Vec<Uuid> {
    let attachments = volume["attachments"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let of_host = attachments
        .iter()
        .filter(|entry| entry["host_name"] == *host && entry["server_id"].is_null());
    let ids = of_host.filter_map(|entry| entry["attachment_id"].as_str()?.parse().ok());
    ids.filter(|id| !shown.contains(id)).collect()
}

fn id(thing: &Value) -> Option<Uuid> {
    thing["id"].as_str()?.parse().ok()
}

fn of_instance(attachments: &[Value], instance: Uuid) -> Vec<Uuid> {
    let instance = instance.to_string();
    attachments
        .iter()
        .filter(|attachment| attachment["instance"] == *instance)
        .filter_map(id)
        .collect()
}

fn nowhere(volume: &str, place: &Place, attachments: &[Value]) -> String {
    let here = match place {
        Place::Host => "this host".to_owned(),
        Place::Guest(instance) => format!("instance '{}'", instance.name),
    };
    match attachments.len() {
        0 => format!("volume '{volume}' is not attached"),
        count => format!(
            "volume '{volume}' is not attached to {here}, but elsewhere ({count} attachments)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> Value {
        json!({"driver_volume_type": "iscsi", "target_portal": "127.0.0.1:3260", "target_iqn": "iqn.x", "target_lun": 0,
            "target_portals": ["127.0.0.1:3260", "127.0.0.2:3260"], "target_iqns": ["iqn.x", "iqn.x"], "target_luns": [0, 0],
            "auth_method": "CHAP", "auth_username": "u", "auth_password": "p", "access_mode": "ro",
            "volume_id": Uuid::from_random([1; 16]), "attachment_id": Uuid::from_random([2; 16])})
    }

    #[test]
    fn what_the_service_says_becomes_a_connection() {
        let spec = spec(&info(), "iqn.me".to_owned()).unwrap();
        assert_eq!(spec.portals, ["127.0.0.1:3260", "127.0.0.2:3260"]);
        assert!(spec.is_read_only && spec.chap.is_some());
        assert!(super::spec(&json!({}), String::new()).is_err());
    }

    #[test]
    fn a_guests_table_has_novas_rows() {
        let instance = Instance::find("vm1=/run/a.sock", None, &[]).unwrap();
        let map = described(&Place::Guest(instance), "v", "/dev/vdb");
        assert_eq!(
            map.keys().collect::<Vec<_>>(),
            ["device", "id", "serverId", "volumeId"]
        );
        assert_eq!(described(&Place::Host, "v", "/dev/loop0").len(), 1);
    }

    #[test]
    fn only_this_hosts_own_leftovers_are_taken_away() {
        let (mine, theirs) = (Uuid::from_random([1; 16]), Uuid::from_random([2; 16]));
        let volume = json!({"attachments": [
            {"attachment_id": mine, "host_name": "me", "server_id": null},
            {"attachment_id": theirs, "host_name": "other", "server_id": null},
            {"attachment_id": theirs, "host_name": null, "server_id": null}]});
        assert_eq!(left_by_this_host(&volume, "me", &[]), [mine]);
        assert_eq!(left_by_this_host(&volume, "me", &[mine]), []);
    }

    #[test]
    fn what_a_killed_attach_left_is_known_by_its_id_or_by_being_half_made() {
        let state = tempfile::tempdir().unwrap();
        let [volume, half, whole, guests] = [1, 2, 3, 4].map(|n| Uuid::from_random([n; 16]));
        let attachments = [
            json!({"id": half, "instance": null, "status": "reserved"}),
            json!({"id": whole, "instance": null, "status": "attached"}),
            json!({"id": guests, "instance": volume, "status": "attaching"}),
        ];
        let mut intent = Intent::begin(state.path(), volume).unwrap();
        assert_eq!(half_made(&intent, &attachments), [half]);
        intent.name(whole).unwrap();
        assert_eq!(half_made(&intent, &attachments), [whole]);
    }

    #[test]
    fn attachments_are_told_apart_by_their_instance() {
        let (vm1, other) = (Uuid::from_random([7; 16]), Uuid::from_random([8; 16]));
        let mine = json!({"id": other, "instance": vm1});
        let theirs = json!({"id": vm1, "instance": other});
        assert_eq!(of_instance(&[mine, theirs], vm1), [other]);
    }
}
