//! Our lookups beside Swift's own `Ring` class, both ways: its files read by us, our files read by it.

use super::*;
use crate::builder::{NewDevice, RingBuilder};
use crate::hash::HashSecrets;
use onggi_common_units::{Secret, UtcTime};
use onggi_object_model::ObjectPath;
use std::io::Write as _;

/// Prints, for each of 2,000 paths, the partition, primaries and handoffs Swift finds; with `make`, builds a ring by
/// Swift's own builder first.
const SCRIPT: &str = r#"
import sys
from swift.common import utils
utils.HASH_PATH_PREFIX, utils.HASH_PATH_SUFFIX = b'jar', b'endcap'
utils.validate_configuration = lambda: None
from swift.common.ring import ring as module, RingBuilder
module.validate_configuration = lambda: None
path, make = sys.argv[1], sys.argv[2] == 'make'
if make:
    builder = RingBuilder(9, 2.6, 0)
    for n in range(14):
        builder.add_dev({'region': 1 + n % 2, 'zone': 1 + n % 3, 'ip': '10.0.0.%d' % (n // 2),
                         'port': 6200, 'device': 'd%d' % n, 'weight': 50.0 + 10 * n, 'meta': 'jar'})
    builder.rebalance(seed=3)
    builder.remove_dev(5)
    builder.rebalance(seed=4)
    builder.get_ring().save(path)
ring = module.Ring(path)
for n in range(2000):
    part, nodes = ring.get_nodes('AUTH_test', 'c', 'o/%d' % n)
    more = [d['id'] for d in ring.get_more_nodes(part)]
    print(part, ','.join(str(d['id']) for d in nodes), ','.join(map(str, more)))
"#;

/// Runs the script; `None`, with the reason printed, where Swift is not installed.
#[expect(
    clippy::disallowed_methods,
    reason = "a judge of this pure crate's own tests, which may not depend on host"
)]
fn swift(ring_file: &std::path::Path, what: &str) -> Option<String> {
    let python = std::env::var("ONGGI_SWIFT_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let run = |arguments: &[&str]| std::process::Command::new(&python).args(arguments).output();
    if !run(&["-c", "import swift.common.ring"]).is_ok_and(|output| output.status.success()) {
        println!("skipped, because {python} has no swift: set ONGGI_SWIFT_PYTHON to one that has");
        return None;
    }
    let output = run(&["-c", SCRIPT, ring_file.to_str().unwrap(), what]).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8(output.stdout).unwrap())
}

fn ours(ring: &Ring) -> String {
    let secrets = HashSecrets::new(Secret::new("jar"), Secret::new("endcap"));
    let ids = |devices: Vec<&Device>| {
        let ids: Vec<String> = devices.iter().map(|device| device.id.to_string()).collect();
        ids.join(",")
    };
    let mut lines = String::new();
    for n in 0..2000 {
        let path = ObjectPath {
            account: "AUTH_test".parse().unwrap(),
            container: "c".parse().unwrap(),
            object: format!("o/{n}").parse().unwrap(),
        };
        let partition = ring.partition(&secrets.object(&path));
        let (nodes, more) = (
            ring.primaries(partition),
            ring.handoffs(partition).collect(),
        );
        lines.push_str(&format!("{partition} {} {}\n", ids(nodes), ids(more)));
    }
    lines
}

fn scratch(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("onggi-{}-{name}.ring.gz", std::process::id()))
}

#[test]
fn a_ring_of_swifts_builder_gives_the_same_lookups() {
    let file = scratch("theirs");
    let Some(theirs) = swift(&file, "make") else {
        return;
    };
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let ring = Ring::from_bytes(&bytes).unwrap();
    assert_eq!(ours(&ring), theirs);
    // Written by us and read again, it is still the same ring.
    assert_eq!(Ring::from_bytes(&ring.to_bytes()).unwrap(), ring);
}

#[test]
fn swift_reads_our_ring_and_finds_the_same() {
    for (power, replicas) in [(7, 3.0), (10, 2.5), (17, 2.0)] {
        let mut builder = RingBuilder::new(PartPower::new(power).unwrap(), replicas, 1).unwrap();
        for n in 0..9u32 {
            let ip = format!("127.0.{}.{}", n % 3, n);
            let new = NewDevice::new(1, 1 + n % 3, &ip, 6200, &format!("d{n}"), f64::from(10 + n));
            builder.add(new).unwrap();
        }
        builder.rebalance(1, UtcTime::EPOCH).unwrap();
        let ring = builder.ring().unwrap();
        let file = scratch(&format!("ours-{power}"));
        std::fs::File::create(&file)
            .unwrap()
            .write_all(&ring.to_bytes())
            .unwrap();
        let theirs = swift(&file, "read");
        std::fs::remove_file(&file).unwrap();
        let Some(theirs) = theirs else { return };
        assert_eq!(ours(&ring), theirs, "part power {power}");
    }
}
