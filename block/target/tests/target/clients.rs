//! Clients we did not write: libiscsi's tools and QEMU.

use crate::harness::{SECRET, Served, USER};
use onggi_common_host::run::{Run, RunError};
use std::time::Duration;

/// What a tool printed; `None`, said aloud, when it is not installed.
fn tool(name: &str, arguments: &[&str]) -> Option<String> {
    let run = Run::new(name)
        .args(arguments)
        .time_limit(Duration::from_secs(60));
    match run.output() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(RunError::Start { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped, because {name} is not installed");
            None
        }
        Err(error) => panic!("{name} {arguments:?}: {error}"),
    }
}

fn url(served: &Served) -> String {
    format!("iscsi://{USER}%{SECRET}@{}", served.portal)
}

#[test]
fn libiscsi_lists_and_inquires() {
    let (served, spec) = Served::with_volume();
    let Some(listed) = tool("iscsi-ls", &["-s", &url(&served)]) else {
        return;
    };
    assert!(
        listed.contains(&spec.iqn) && listed.contains("Lun:1"),
        "{listed}"
    );
    let lun = format!("{}/{}/1", url(&served), spec.iqn);
    let Some(inquiry) = tool("iscsi-inq", &[&lun]) else {
        return;
    };
    assert!(inquiry.contains("Vendor:ONGGI"), "{inquiry}");
    let Some(serial) = tool("iscsi-inq", &["-e", "1", "-c", "128", &lun]) else {
        return;
    };
    assert!(serial.contains(&spec.volume.to_string()), "{serial}");
}

#[test]
fn qemu_converts_compares_and_writes() {
    let (served, spec) = Served::with_volume();
    let lun = format!("{}/{}/1", url(&served), spec.iqn);
    let Some(_) = tool("qemu-img", &["--version"]) else {
        return;
    };
    let supported = tool("qemu-img", &["--help"]).unwrap_or_default();
    if !supported.contains("iscsi") {
        println!("skipped, because this qemu-img has no iSCSI driver");
        return;
    }
    let source = served.dir.path().join("source.raw");
    let bytes: Vec<u8> = (0..8u32 << 20)
        .map(|at| u8::try_from(at % 253).unwrap())
        .collect();
    let mut file = std::fs::File::create(&source).unwrap();
    std::io::Write::write_all(&mut file, &bytes).unwrap();
    file.set_len(crate::harness::MIB << 20).unwrap();
    let source = source.to_str().unwrap();
    tool(
        "qemu-img",
        &["convert", "-n", "-f", "raw", "-O", "raw", source, &lun],
    );
    tool(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", source, &lun],
    );
    let commands = [
        "write -P 90 1M 64k",
        "flush",
        "discard 1M 64k",
        "read -P 0 1M 64k",
        "write -z 2M 1M",
        "read -P 0 2M 1M",
    ];
    let mut arguments = vec!["-f", "raw", &lun];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    let Some(printed) = tool("qemu-io", &arguments) else {
        return;
    };
    assert!(!printed.contains("failed"), "{printed}");
}
