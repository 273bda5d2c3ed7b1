//! One volume behind a target process of its own, for tests that grow it, kill the target and start it again.

use crate::serve_target::{Daemon, write_config};
use crate::system::free_port;
use anyhow::{Context as _, Result};
use onggi_block_medium::{ExtentMap, MediumKind, MediumSpec};
use onggi_block_target::{Access, ChapPair, Client, ExportSpec};
use onggi_common_host::durable;
use onggi_common_host::entropy::{Entropy as _, SystemEntropy};
use onggi_common_units::{ByteCount, Secret};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The logical unit number of the volume.
pub const LUN: u16 = 1;
/// The CHAP user.
pub const USER: &str = "initiator";

/// A volume that is exported.
#[derive(Debug)]
pub struct Exported {
    state: PathBuf,
    config: PathBuf,
    daemon: Option<Daemon>,
    spec: ExportSpec,
    /// The CHAP secret.
    pub secret: String,
}

/// Addresses a target can take.
///
/// # Errors
/// When no port is free.
pub fn free_portals(count: usize) -> Result<Vec<SocketAddr>> {
    let local = [127, 0, 0, 1];
    let portal = |_| Ok(SocketAddr::from((local, free_port(local, 0)?)));
    (0..count).map(portal).collect()
}

/// An address of this machine's loopback as a guest reaches it.
#[must_use]
pub fn from_guest(address: SocketAddr) -> SocketAddr {
    SocketAddr::from(([10, 0, 2, 2], address.port()))
}

impl Exported {
    /// Exports a sparse file below a folder through these portals; initiators are told the advertised addresses.
    ///
    /// # Errors
    /// When the target does not start or refuses the export.
    pub fn start(
        folder: &Path,
        size: ByteCount,
        portals: &[SocketAddr],
        advertised: &[SocketAddr],
    ) -> Result<Self> {
        let state = folder.join("state");
        durable::create_dir_all(&state.join("keys"))?;
        let config = write_config(&state, portals, advertised)?;
        let path = folder.join("volume.img");
        std::fs::File::create(&path)
            .and_then(|file| file.set_len(size.bytes()))
            .context("making the volume")?;
        let volume = SystemEntropy.uuid();
        let secret = SystemEntropy.alphanumeric(16);
        let spec = ExportSpec {
            iqn: format!("iqn.2010-10.org.openstack:volume-{volume}"),
            lun: LUN,
            volume,
            medium: medium(path, size)?,
            block_size: 512,
            read_only: false,
            access: vec![Access {
                attachment: SystemEntropy.uuid(),
                initiator: None,
                chap: Some(ChapPair {
                    user: USER.to_owned(),
                    secret: Secret::new(&secret),
                }),
                mutual: None,
            }],
        };
        let mut exported = Self {
            state,
            config,
            daemon: None,
            spec,
            secret,
        };
        exported.launch()?;
        exported.client().put_export(&exported.spec)?;
        Ok(exported)
    }

    /// Starts the target's process over what is in its state folder, and waits until it serves.
    ///
    /// # Errors
    /// When it does not start.
    pub fn launch(&mut self) -> Result<()> {
        self.daemon = Some(Daemon::start(&self.config, &self.state)?);
        Ok(())
    }

    /// Ends the target's process with SIGKILL.
    pub fn kill(&mut self) {
        // Dropping it kills it and waits for its end.
        drop(self.daemon.take());
    }

    /// Ends the target in order.
    ///
    /// # Errors
    /// When it does not end with status 0.
    pub fn stop(mut self) -> Result<()> {
        match self.daemon.take() {
            Some(mut daemon) => daemon.stop(),
            None => Ok(()),
        }
    }

    /// The target's name.
    #[must_use]
    pub fn iqn(&self) -> &str {
        &self.spec.iqn
    }

    /// The volume's file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.spec.medium.path
    }

    /// The space the volume takes.
    ///
    /// # Errors
    /// When its file cannot be examined.
    pub fn allocated(&self) -> Result<ByteCount> {
        // A file's blocks are counted in units of 512 bytes, whatever its file system's are.
        let blocks = self
            .file()
            .metadata()
            .context("the volume's file")?
            .blocks();
        Ok(ByteCount::new(blocks.saturating_mul(512)))
    }

    /// Makes the volume larger while it is served.
    ///
    /// # Errors
    /// When the target refuses.
    pub fn grow(&mut self, size: ByteCount) -> Result<()> {
        let path = self.file().to_owned();
        let file = std::fs::File::options().write(true).open(&path);
        file.and_then(|file| file.set_len(size.bytes()))
            .context("growing the volume")?;
        self.spec.medium = medium(path, size)?;
        self.client().resize(&self.spec.iqn, &self.spec.medium)?;
        Ok(())
    }

    fn client(&self) -> Client {
        Client::new(self.state.join("run/target.sock"))
    }
}

fn medium(path: PathBuf, size: ByteCount) -> Result<MediumSpec> {
    Ok(MediumSpec {
        path,
        kind: MediumKind::File,
        extents: ExtentMap::linear(size)?,
        fence: None,
    })
}
