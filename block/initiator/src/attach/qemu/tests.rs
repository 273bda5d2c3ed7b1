//! The QMP conversation against a QEMU that follows a script.

use super::*;
use crate::spec::ChapCredentials;
use onggi_common_units::Secret;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

fn spec() -> ConnectionSpec {
    ConnectionSpec {
        volume: Uuid::from_bytes([7; 16]),
        attachment: Uuid::from_bytes([8; 16]),
        portals: vec!["127.0.0.1:1".to_owned(), "127.0.0.1:3260".to_owned()],
        iqn: "iqn.2026-01.org.example:vol".to_owned(),
        lun: 1,
        initiator_name: "iqn.2026-01.org.example:host".to_owned(),
        chap: Some(ChapCredentials {
            user: "cinder".to_owned(),
            secret: Secret::new("secretsecret12"),
        }),
        mutual_chap: None,
        is_read_only: false,
    }
}

/// Answers each command by a rule; gives back what it was asked.
fn qemu(
    socket: &Path,
    rule: impl Fn(&Value) -> Vec<Value> + Send + 'static,
) -> JoinHandle<Vec<Value>> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"{\"QMP\":{}}\n").unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        let mut asked = Vec::new();
        for line in reader.lines() {
            let Ok(line) = line else { break };
            let command: Value = serde_json::from_str(&line).unwrap();
            for answer in rule(&command) {
                stream.write_all(format!("{answer}\n").as_bytes()).unwrap();
            }
            asked.push(command);
        }
        asked
    })
}

fn refusal(message: &str) -> Vec<Value> {
    vec![json!({ "error": { "class": "GenericError", "desc": message } })]
}

fn commands(asked: &[Value]) -> Vec<&str> {
    asked
        .iter()
        .map(|command| command["execute"].as_str().unwrap())
        .collect()
}

#[test]
fn a_disk_is_plugged_at_the_portal_that_answers_and_into_the_port_that_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("qmp");
    let qemu = qemu(&socket, |command| {
        let arguments = &command["arguments"];
        match command["execute"].as_str().unwrap() {
            "query-block" => vec![json!({ "return": [
                { "qdev": "/machine/peripheral/disk0/virtio-backend" },
                { "qdev": "/machine/peripheral-anon/device[3]" },
            ]})],
            "blockdev-add" if arguments["portal"] == "127.0.0.1:1" => refusal("no route"),
            "device_add" if arguments.get("bus").is_none() => {
                refusal("Bus 'pcie.0' does not support hotplugging")
            }
            "query-pci" => vec![json!({ "return": [{ "devices": [
                { "qdev_id": "", "pci_bridge": { "devices": [] } },
                { "qdev_id": "rp0", "pci_bridge": { "devices": [{}] } },
                { "qdev_id": "rp1", "pci_bridge": {} },
            ]}]})],
            "query-named-block-nodes" | "qom-list" => vec![json!({ "return": [] })],
            _ => vec![json!({ "event": "SOMETHING" }), json!({ "return": {} })],
        }
    });
    let attached = attach(&socket, &spec()).unwrap();
    assert_eq!(attached.device, "/dev/vdb");
    let asked = qemu.join().unwrap();
    let last = &asked[asked.len() - 1];
    assert_eq!(
        (&last["execute"], &last["arguments"]["bus"]),
        (&json!("device_add"), &json!("rp1"))
    );
    assert_eq!(last["arguments"]["serial"], "07070707-0707-0707-0");
}

#[test]
fn a_wrong_secret_is_told_and_nothing_stays() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("qmp");
    let names = Names::of(spec().volume);
    let secret = names.secret.clone();
    let qemu = qemu(&socket, move |command| {
        match command["execute"].as_str().unwrap() {
            "blockdev-add" => {
                refusal("iSCSI: Failed to connect to LUN : Authentication failure(513)")
            }
            "qom-list" => vec![json!({ "return": [{ "name": secret }] })],
            _ => vec![json!({ "return": [] })],
        }
    });
    let error = attach(&socket, &spec()).unwrap_err();
    assert!(
        error.to_string().contains("Authentication failure"),
        "{error}"
    );
    assert!(!error.to_string().contains("secretsecret"));
    let asked = qemu.join().unwrap();
    assert_eq!(commands(&asked).last(), Some(&"object-del"));
}

#[test]
fn a_volume_that_is_plugged_in_is_answered_and_unplugged_with_all_that_belongs_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let names = Names::of(spec().volume);
    let (device, node) = (names.device.clone(), names.node.clone());
    let rule = move |command: &Value| match command["execute"].as_str().unwrap() {
        "query-block" => vec![json!({ "return": [
            { "qdev": "/machine/peripheral/disk0/virtio-backend" },
            { "qdev": format!("/machine/peripheral/{device}/virtio-backend") },
        ]})],
        "device_del" => vec![
            json!({ "return": {} }),
            json!({ "event": "DEVICE_DELETED", "data": { "device": device } }),
        ],
        "query-named-block-nodes" => vec![json!({ "return": [{ "node-name": node }] })],
        _ => vec![json!({ "return": [] })],
    };
    let socket = dir.path().join("again");
    let again = qemu(&socket, rule.clone());
    assert_eq!(attach(&socket, &spec()).unwrap().device, "/dev/vdb");
    assert!(!commands(&again.join().unwrap()).contains(&"device_add"));
    let socket = dir.path().join("out");
    let out = qemu(&socket, rule);
    detach(&socket, spec().volume).unwrap();
    let asked = out.join().unwrap();
    let wanted = [
        "device_del",
        "query-named-block-nodes",
        "blockdev-del",
        "qom-list",
    ];
    assert_eq!(commands(&asked)[2..], wanted);
}

#[test]
fn a_socket_without_a_guest_is_named() {
    let error = attach(Path::new("/nowhere/qmp"), &spec()).unwrap_err();
    assert!(error.to_string().contains("/nowhere/qmp"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("qmp");
    let listener = UnixListener::bind(&socket).unwrap();
    let stranger = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 smtp\n").unwrap();
    });
    let error = attach(&socket, &spec()).unwrap_err();
    assert!(matches!(error, QmpError::NotQemu { .. }), "{error}");
    stranger.join().unwrap();
}

#[test]
fn letters_go_on_after_z() {
    let names: Vec<_> = [0, 1, 25, 26, 51, 52].map(device_name).to_vec();
    assert_eq!(
        names,
        [
            "/dev/vda",
            "/dev/vdb",
            "/dev/vdz",
            "/dev/vdaa",
            "/dev/vdaz",
            "/dev/vdba"
        ]
    );
}
