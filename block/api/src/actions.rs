//! `POST /volumes/{id}/action`.

use crate::answer::Answer;
use crate::backend::Backend;
use crate::call::Call;
use crate::volumes::volume_id;
use http::StatusCode;
use onggi_block_cinder::microversion::since;
use onggi_block_cinder::{Fault, VolumeAction};
use onggi_block_volume::VolumeChange;

/// Does what the body asks for.
pub(crate) async fn act(backend: &Backend, call: &Call, id: &str) -> Result<Answer, Fault> {
    let id = volume_id(id)?;
    let action = VolumeAction::parse(&call.json()?)?;
    match action {
        VolumeAction::Extend { new_size } => {
            let in_use_too = call.version() >= since::EXTEND_IN_USE;
            backend
                .extend_volume(call.scope_of_one(), id, new_size, in_use_too)
                .await?;
            Ok(Answer::accepted())
        }
        VolumeAction::SetBootable { bootable } => {
            let change = VolumeChange::Bootable(bootable);
            backend
                .change_volume(call.scope_of_one(), id, change)
                .await?;
            Ok(Answer::status(StatusCode::OK))
        }
        VolumeAction::Unavailable { operation } => {
            // Whose volume it is comes first: nobody learns of another project's volumes by trying actions.
            backend.volume(call.scope_of_one(), id).await?;
            Err(Fault::not_implemented(operation))
        }
    }
}
