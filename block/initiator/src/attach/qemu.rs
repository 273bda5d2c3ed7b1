//! A LUN as a disk of a running QEMU guest, plugged in over the guest's QMP socket.
//!
//! QEMU logs in to the target itself. Three objects are made, all named after the volume: the CHAP secret, the block
//! node and the virtio disk; they go in the reverse order. What a broken attempt left is cleared before a new one.

mod qmp;

pub use qmp::QmpError;

use crate::spec::ConnectionSpec;
use onggi_common_units::Uuid;
use qmp::Qmp;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// How long the guest has to let go of a disk.
const UNPLUG_TIME_MAX: Duration = Duration::from_secs(60);
/// A guest that is still starting drops the request: it is asked again after this long.
const UNPLUG_AGAIN: Duration = Duration::from_secs(5);
/// virtio-blk tells the guest 20 bytes of the serial number.
const SERIAL_BYTES_MAX: usize = 20;

/// A LUN that is a disk of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestAttachment {
    /// What a Linux guest most probably calls it; it is surely found by its serial number, the volume's id.
    pub device: String,
    /// The disk's name in QEMU.
    pub id: String,
}

/// The names of what belongs to a volume. QEMU allows 31 characters in the name of a block node.
struct Names {
    device: String,
    node: String,
    secret: String,
}

impl Names {
    fn of(volume: Uuid) -> Self {
        let digits: String = volume
            .to_string()
            .chars()
            .filter(|c| *c != '-')
            .take(24)
            .collect();
        Self {
            device: format!("volume-{digits}"),
            node: format!("node-{digits}"),
            secret: format!("secret-{digits}"),
        }
    }
}

/// Plugs a LUN into a running guest. A volume that is plugged in already is answered as it is.
///
/// # Errors
/// When nothing answers at the socket, QEMU cannot log in to the target, or the guest has no free slot.
pub fn attach(socket: &Path, spec: &ConnectionSpec) -> Result<GuestAttachment, QmpError> {
    let names = Names::of(spec.volume);
    let mut qmp = Qmp::connect(socket)?;
    let disks = virtio_disks(&mut qmp)?;
    if let Some(index) = disks.iter().position(|path| is_device(path, &names.device)) {
        return Ok(GuestAttachment {
            device: device_name(index),
            id: names.device,
        });
    }
    remove_backing(&mut qmp, &names)?;
    let outcome =
        add_backing(&mut qmp, spec, &names).and_then(|()| add_device(&mut qmp, spec, &names));
    if let Err(error) = outcome {
        // The first error is the one to tell; what is left is cleared by the next attempt.
        remove_backing(&mut qmp, &names).ok();
        return Err(error);
    }
    Ok(GuestAttachment {
        device: device_name(disks.len()),
        id: names.device,
    })
}

/// Unplugs a volume. One that is not plugged in is fine.
///
/// # Errors
/// When nothing answers at the socket, or the guest does not let go of the disk.
pub fn detach(socket: &Path, volume: Uuid) -> Result<(), QmpError> {
    let names = Names::of(volume);
    let mut qmp = Qmp::connect(socket)?;
    let disks = virtio_disks(&mut qmp)?;
    if disks.iter().any(|path| is_device(path, &names.device)) {
        unplug(&mut qmp, &names.device)?;
    }
    remove_backing(&mut qmp, &names)
}

fn unplug(qmp: &mut Qmp, device: &str) -> Result<(), QmpError> {
    let mut waited = Duration::ZERO;
    while waited < UNPLUG_TIME_MAX {
        match qmp.execute("device_del", &json!({ "id": device })) {
            Ok(_) => {}
            // Asked already, or gone in between.
            Err(QmpError::Refused { class, message, .. })
                if class == "DeviceNotFound" || message.contains("in the process of unplug") => {}
            Err(error) => return Err(error),
        }
        let is_it = |data: &Value| data["device"] == device;
        if qmp.wait_for_event("DEVICE_DELETED", is_it, UNPLUG_AGAIN)? {
            return Ok(());
        }
        waited = waited.saturating_add(UNPLUG_AGAIN);
        if !virtio_disks(qmp)?
            .iter()
            .any(|path| is_device(path, device))
        {
            return Ok(());
        }
    }
    Err(QmpError::GuestHolds {
        device: device.to_owned(),
        limit: UNPLUG_TIME_MAX,
    })
}

fn add_backing(qmp: &mut Qmp, spec: &ConnectionSpec, names: &Names) -> Result<(), QmpError> {
    let mut node = json!({
        "driver": "iscsi",
        "node-name": names.node,
        "transport": "tcp",
        "target": spec.iqn,
        "lun": spec.lun,
        "initiator-name": spec.initiator_name,
        "discard": "unmap",
        "cache": { "direct": true },
        "read-only": spec.is_read_only,
    });
    if let Some(chap) = &spec.chap {
        let secret =
            json!({ "qom-type": "secret", "id": names.secret, "data": chap.secret.expose() });
        qmp.execute("object-add", &secret)?;
        node["user"] = json!(chap.user);
        node["password-secret"] = json!(names.secret);
    }
    let mut outcome = Err(QmpError::NoPortal);
    for portal in &spec.portals {
        node["portal"] = json!(portal);
        outcome = qmp.execute("blockdev-add", &node).map(drop);
        if outcome.is_ok() {
            break;
        }
    }
    outcome.map_err(|error| match error {
        QmpError::Refused { message, .. } => QmpError::Target { message },
        other => other,
    })
}

fn add_device(qmp: &mut Qmp, spec: &ConnectionSpec, names: &Names) -> Result<(), QmpError> {
    let serial: String = spec
        .volume
        .to_string()
        .chars()
        .take(SERIAL_BYTES_MAX)
        .collect();
    let mut device = json!({
        "driver": "virtio-blk-pci",
        "id": names.device,
        "drive": names.node,
        "serial": serial,
    });
    let first = match qmp.execute("device_add", &device) {
        Ok(_) => return Ok(()),
        Err(error @ QmpError::Refused { .. }) => error,
        Err(error) => return Err(error),
    };
    // q35 plugs only into root ports that were there at start, one device each.
    for port in free_ports(qmp)? {
        device["bus"] = json!(port);
        match qmp.execute("device_add", &device) {
            Ok(_) => return Ok(()),
            Err(QmpError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    match first {
        QmpError::Refused { message, .. } if message.contains("hotplug") => {
            Err(QmpError::NoSlot { message })
        }
        error => Err(error),
    }
}

/// The names of bridges and root ports with nothing behind them.
fn free_ports(qmp: &mut Qmp) -> Result<Vec<String>, QmpError> {
    let buses = qmp.execute("query-pci", &Value::Null)?;
    let devices = buses
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|bus| bus["devices"].as_array());
    let free = devices.flatten().filter(|device| {
        let behind = &device["pci_bridge"]["devices"];
        device.get("pci_bridge").is_some() && behind.as_array().is_none_or(Vec::is_empty)
    });
    let names = free.filter_map(|device| device["qdev_id"].as_str());
    Ok(names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

/// Removes node and secret as far as they are there.
fn remove_backing(qmp: &mut Qmp, names: &Names) -> Result<(), QmpError> {
    let nodes = qmp.execute("query-named-block-nodes", &json!({ "flat": true }))?;
    let is_there = |node: &Value| node["node-name"] == names.node.as_str();
    if nodes.as_array().into_iter().flatten().any(is_there) {
        qmp.execute("blockdev-del", &json!({ "node-name": names.node }))?;
    }
    let objects = qmp.execute("qom-list", &json!({ "path": "/objects" }))?;
    let is_there = |object: &Value| object["name"] == names.secret.as_str();
    if objects.as_array().into_iter().flatten().any(is_there) {
        qmp.execute("object-del", &json!({ "id": names.secret }))?;
    }
    Ok(())
}

/// The paths of the guest's virtio disks, in the order QEMU has them.
fn virtio_disks(qmp: &mut Qmp) -> Result<Vec<String>, QmpError> {
    let blocks = qmp.execute("query-block", &Value::Null)?;
    let paths = blocks
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|block| block["qdev"].as_str());
    Ok(paths
        .filter(|path| path.ends_with("/virtio-backend"))
        .map(str::to_owned)
        .collect())
}

fn is_device(path: &str, device: &str) -> bool {
    path.split('/').any(|part| part == device)
}

/// Linux gives letters by the lowest free index: `vda` … `vdz`, `vdaa` ….
fn device_name(index: usize) -> String {
    let letter =
        |index: usize| u8::try_from(index % 26).map_or('?', |offset| char::from(b'a' + offset));
    let mut letters = String::from(letter(index));
    let mut rest = index / 26;
    while rest > 0 {
        letters.insert(0, letter(rest - 1));
        rest = (rest - 1) / 26;
    }
    format!("/dev/vd{letters}")
}

#[cfg(test)]
mod tests;
