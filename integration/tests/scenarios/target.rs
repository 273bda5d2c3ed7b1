//! The target by itself, as `integration/serve target` starts it, with initiators nobody here wrote.

use crate::needs::{need, tool};
use crate::served::Served;
use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::entropy::{Entropy as _, SystemEntropy};
use onggi_integration::system::run;
use std::path::Path;

pub(crate) const SCENARIOS: &[Scenario] = &[
    (
        "target::iscsi_ls_and_iscsi_inq_see_the_volume",
        libiscsi_tools,
    ),
    ("target::qemu_img_converts_and_compares_with_chap", qemu_img),
    ("target::a_wrong_secret_is_refused", wrong_secret),
    ("target::the_benchmark_measures_something", benchmark),
];

const USER: &str = "onggi-user";
const SECRET: &str = "sixteen-letters!";

/// Serves a target with CHAP.
fn serve(folder: &Path, arguments: &[&str]) -> Result<Served> {
    let chap = folder.join("chap");
    durable::replace(
        &chap,
        format!("{USER}:{SECRET}\n").as_bytes(),
        Visibility::Owner,
    )?;
    let fixed = [
        "target",
        "--size",
        "256M",
        "--chap-file",
        chap.to_str().context("path")?,
    ];
    Served::start(&[&fixed, arguments].concat())
}

/// The LUN as libiscsi and QEMU name it.
fn url(served: &Served, secret: &str) -> Result<String> {
    let (portal, iqn) = (served.text("portal")?, served.text("iqn")?);
    Ok(format!(
        "iscsi://{USER}%{secret}@{portal}/{iqn}/{}",
        served.description["lun"]
    ))
}

fn text(program: &Path, arguments: &[&str]) -> Result<String> {
    Ok(String::from_utf8_lossy(&run(program, arguments, &[])?.stdout).into_owned())
}

/// A short run of `integration/bench`: that it works, not how fast anything is.
fn benchmark() -> Result<Outcome> {
    let bench = onggi_integration::system::program("onggi-integration")?;
    let arguments = [
        "bench",
        "iscsi",
        "--alone",
        "--runs",
        "1",
        "--seconds",
        "0.2",
        "--size",
        "64M",
    ];
    let workloads = [
        "--workload",
        "randrw70",
        "--workload",
        "seqwrite",
        "--workload",
        "x4",
    ];
    let table = text(&bench, &[&arguments[..], &workloads].concat())?;
    for workload in ["randrw70-4k-qd32", "randread-4k-qd32x4", "seqwrite-1m-qd8"] {
        let line = table.lines().find(|line| line.starts_with(workload));
        let measured = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        ensure!(
            measured.is_some_and(|count| count > 0),
            "{workload}: {table}"
        );
    }
    Ok(Outcome::Passed)
}

fn libiscsi_tools() -> Result<Outcome> {
    let (ls, inq) = (need!(tool("iscsi-ls")), need!(tool("iscsi-inq")));
    let folder = tempfile::tempdir()?;
    let served = serve(folder.path(), &["--portals", "2"])?;
    let discovery = format!("iscsi://{USER}%{SECRET}@{}", served.text("portal")?);
    let seen = text(&ls, &["-s", &discovery])?;
    ensure!(
        seen.contains(served.text("iqn")?) && seen.contains("Size:25"),
        "iscsi-ls -s shows {seen}"
    );
    let portals = served.description["portals"]
        .as_array()
        .context("no portals")?
        .len();
    ensure!(portals == 2, "{portals} portals");
    let inquiry = text(&inq, &[&url(&served, SECRET)?])?;
    ensure!(
        inquiry.contains("Vendor:ONGGI") || inquiry.to_lowercase().contains("onggi"),
        "{inquiry}"
    );
    served.stop()?;
    Ok(Outcome::Passed)
}

fn qemu_img() -> Result<Outcome> {
    let (img, io) = (need!(tool("qemu-img")), need!(tool("qemu-io")));
    let folder = tempfile::tempdir()?;
    let served = serve(folder.path(), &[])?;
    let url = url(&served, SECRET)?;
    let image = folder.path().join("image");
    let mut content = vec![0; 256 << 20];
    SystemEntropy.fill(&mut content[..40 << 20]);
    durable::replace(&image, &content, Visibility::World)?;
    let image = image.to_str().context("path")?;
    let info = match text(&img, &["info", "-f", "raw", &url]) {
        Ok(info) => info,
        Err(error) if format!("{error:#}").contains("Unknown protocol") => {
            return Ok(Outcome::Skipped(
                "QEMU has no iSCSI (package qemu-block-extra)".to_owned(),
            ));
        }
        Err(error) => return Err(error),
    };
    ensure!(info.contains("256 MiB"), "{info}");
    text(
        &img,
        &["convert", "-n", "-f", "raw", "-O", "raw", image, &url],
    )?;
    text(&img, &["compare", "-f", "raw", "-F", "raw", image, &url])?;
    text(
        &io,
        &[
            "-f",
            "raw",
            "-c",
            "write -P 0x5a 1M 64k",
            "-c",
            "flush",
            "-c",
            "read -P 0x5a 1M 64k",
            &url,
        ],
    )?;
    text(
        &io,
        &[
            "-f",
            "raw",
            "-c",
            "discard 2M 1M",
            "-c",
            "write -z 4M 64k",
            "-c",
            "read -P 0 4M 64k",
            &url,
        ],
    )?;
    ensure!(
        text(&img, &["compare", "-f", "raw", "-F", "raw", image, &url]).is_err(),
        "a changed volume compares equal"
    );
    served.stop()?;
    Ok(Outcome::Passed)
}

fn wrong_secret() -> Result<Outcome> {
    let (ls, inq) = (need!(tool("iscsi-ls")), need!(tool("iscsi-inq")));
    let folder = tempfile::tempdir()?;
    let served = serve(folder.path(), &[])?;
    ensure!(
        text(&inq, &[&url(&served, "a-wrong-secret!!")?]).is_err(),
        "a wrong secret was let in"
    );
    let (portal, iqn) = (served.text("portal")?, served.text("iqn")?);
    let without = format!("iscsi://{portal}/{iqn}/{}", served.description["lun"]);
    ensure!(text(&inq, &[&without]).is_err(), "no secret was let in");
    let seen = text(&ls, &["-s", &format!("iscsi://{portal}")]).unwrap_or_default();
    ensure!(
        !seen.contains(iqn),
        "discovery without a secret shows {seen}"
    );
    // The right one still gets in.
    text(&inq, &[&url(&served, SECRET)?])?;
    served.stop()?;
    Ok(Outcome::Passed)
}
