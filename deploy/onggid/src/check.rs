//! `onggid check-config`: what a configuration would run.

use anyhow::Result;
use onggi_common_service::Config;
use onggi_common_service::config::PoolKind;

/// Whether the realms of container sync can be read, where there are any.
///
/// # Errors
/// When they cannot.
pub(crate) fn realms(config: &Config) -> Result<()> {
    let sync = config
        .object
        .as_ref()
        .and_then(|object| object.container_sync.as_ref());
    if let Some(sync) = sync {
        crate::roles::realms::load(&sync.realms)?;
    }
    Ok(())
}

/// A configuration in words, a line per listener and store.
pub(crate) fn describe(config: &Config) -> String {
    let mut text = format!(
        "The configuration is good. State: {}",
        config.state.display()
    );
    let mut line = |words: String| text.extend(["\n  ", &words]);
    if config.block.is_some() || config.object.is_some() {
        line(format!("identity  http://{}", config.identity.listen));
    }
    if let Some(block) = &config.block {
        line(format!("volumes   http://{}", block.listen));
        let place = match (block.pool.kind, &block.pool.device) {
            (PoolKind::File, _) => "sparse files".to_owned(),
            (PoolKind::Lvm, Some(device)) => format!(
                "volume group {} on {}",
                block.pool.volume_group,
                device.display()
            ),
            (PoolKind::Lvm, None) => {
                format!(
                    "volume group {} on a file of {}",
                    block.pool.volume_group, block.pool.size
                )
            }
        };
        line(format!("pool      {place}"));
        for portal in &block.target.portals {
            line(format!("iSCSI     {portal}"));
        }
    }
    if let Some(object) = &config.object {
        line(format!(
            "objects   http://{}, {} copies",
            object.listen, object.replicas
        ));
        if let Some(encryption) = &object.encryption {
            let what = match encryption.enabled {
                true => "objects are encrypted",
                false => "encrypted objects are read, none is written",
            };
            let keys = encryption.key_file.display();
            line(format!("encryption {what}; root secrets in {keys}"));
        }
        if let Some(sync) = &object.container_sync {
            line(format!("realms    {}", sync.realms.display()));
        }
        for node in &object.nodes {
            let devices: Vec<_> = node.devices.iter().map(String::as_str).collect();
            line(format!(
                "node      {} zone {} devices {}",
                node.address,
                node.zone,
                devices.join(" ")
            ));
        }
    }
    text
}
