//! Serves one file as a LUN, for trying foreign initiators on the target alone.
//!
//! `serve STATE_DIR PORTAL[,PORTAL…] SIZE_MIB [USER:SECRET]` prints one line of JSON when it is ready and runs until it
//! is killed. A second start with the same state directory takes the exports from there.

use anyhow::Context as _;
use onggi_block_medium::{ExtentMap, MediumKind, MediumSpec};
use onggi_block_target::{Access, ChapPair, Client, ExportSpec, Options, Target};
use onggi_common_units::{ByteCount, Secret, Uuid};
use std::io::Write as _;
use std::path::{Path, PathBuf};

const IQN: &str = "iqn.2026-11.org.onggi:serve";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, state_dir, portals, size_mib, rest @ ..] = arguments.as_slice() else {
        anyhow::bail!("serve STATE_DIR PORTAL[,PORTAL…] SIZE_MIB [USER:SECRET]");
    };
    let state_dir = PathBuf::from(state_dir);
    let portals = portals
        .split(',')
        .map(str::parse)
        .collect::<Result<Vec<_>, _>>()?;
    let options = Options::new(portals, state_dir.clone());
    let target = Target::start(&options)?;
    let client = Client::new(&options.socket);
    if client.exports()?.is_empty() {
        client.put_export(&spec(
            &state_dir,
            size_mib.parse()?,
            rest.first().map(String::as_str),
        )?)?;
    }
    let portals: Vec<String> = target
        .portals()
        .iter()
        .map(|portal| format!("\"{}\"", portal.address))
        .collect();
    writeln!(
        std::io::stdout(),
        "{{\"portals\":[{}],\"iqn\":\"{IQN}\",\"lun\":1,\"pid\":{}}}",
        portals.join(","),
        std::process::id()
    )?;
    loop {
        std::thread::park();
    }
}

fn spec(state_dir: &Path, size_mib: u64, chap: Option<&str>) -> anyhow::Result<ExportSpec> {
    let path = state_dir.join("volume.img");
    let size = ByteCount::from_mib(size_mib);
    std::fs::File::create(&path)?.set_len(size.bytes())?;
    let chap = chap
        .map(|pair| -> anyhow::Result<ChapPair> {
            let (user, secret) = pair.split_once(':').context("USER:SECRET")?;
            Ok(ChapPair {
                user: user.to_owned(),
                secret: Secret::new(secret),
            })
        })
        .transpose()?;
    Ok(ExportSpec {
        iqn: IQN.to_owned(),
        lun: 1,
        volume: Uuid::from_bytes([0x5e; 16]),
        medium: MediumSpec {
            path,
            kind: MediumKind::File,
            extents: ExtentMap::linear(size)?,
            fence: None,
        },
        block_size: 512,
        read_only: false,
        access: vec![Access {
            attachment: Uuid::from_bytes([1; 16]),
            initiator: None,
            chap,
            mutual: None,
        }],
    })
}
