//! What a spec must be before it is served.

use super::{ACCESSES_MAX, RegistryError};
use crate::export::{Access, ExportSpec};
use crate::opening::capacity_of;
use onggi_block_iscsi::{IscsiName, chap};
use onggi_block_scsi::Lun;
use std::collections::HashSet;

/// Checks a spec and brings its names into normal form.
pub(super) fn check(spec: &mut ExportSpec) -> Result<IscsiName, RegistryError> {
    let name: IscsiName = spec.iqn.parse()?;
    if name.as_str() != spec.iqn {
        return Err(RegistryError::NotNormal {
            given: spec.iqn.clone(),
            normal: name.to_string(),
        });
    }
    Lun::new(u64::from(spec.lun))?;
    capacity_of(spec)?;
    if spec.access.len() > ACCESSES_MAX {
        return Err(RegistryError::TooMany {
            what: "accesses",
            max: ACCESSES_MAX,
        });
    }
    let mut attachments = HashSet::new();
    for access in &mut spec.access {
        let refuse = |why| RegistryError::Access {
            attachment: access.attachment,
            why,
        };
        if !attachments.insert(access.attachment) {
            return Err(refuse("there is another access of the same attachment"));
        }
        if let Some(initiator) = &access.initiator {
            access.initiator = Some(initiator.parse::<IscsiName>()?.to_string());
        }
        check_chap(access).map_err(refuse)?;
    }
    Ok(name)
}

fn check_chap(access: &Access) -> Result<(), &'static str> {
    let pairs = [access.chap.as_ref(), access.mutual.as_ref()];
    for pair in pairs.into_iter().flatten() {
        if pair.user.is_empty() || pair.user.len() > chap::NAME_BYTES_MAX {
            return Err("a CHAP user name has 1 to 255 bytes");
        }
        if pair.secret.expose().len() < chap::SECRET_BYTES_MIN {
            return Err("a CHAP secret has 12 bytes or more");
        }
    }
    match (&access.chap, &access.mutual) {
        (None, Some(_)) => Err("mutual CHAP needs one-way CHAP too"),
        // RFC 7143 §12.1.3: the same secret in both directions would answer its own challenge.
        (Some(one), Some(other)) if one.secret == other.secret => {
            Err("the two CHAP secrets must differ")
        }
        _ => Ok(()),
    }
}
