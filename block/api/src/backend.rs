//! The manager, asked from async code: each call runs on a blocking thread and speaks in the API's views and faults.

use crate::call::Call;
use crate::fault::{of_attachment, of_volume};
use crate::view;
use onggi_block_cinder::attachment::Connector;
use onggi_block_cinder::capacity::PoolView;
use onggi_block_cinder::quota::QuotaSet;
use onggi_block_cinder::service::ServiceView;
use onggi_block_cinder::volume::VolumeSource;
use onggi_block_cinder::volume_type::VolumeTypeView;
use onggi_block_cinder::{
    AttachmentView, CreateAttachment, CreateVolume, Fault, FaultKind, UpdateVolume, VolumeView,
};
use onggi_block_manager::{AttachmentDetail, Manager, VolumeDetail};
use onggi_block_volume::{
    AttachmentId, NewAttachment, Owner, ProjectId, Scope, VolumeChange, VolumeId, VolumeState,
    VolumeType,
};
use onggi_common_units::Uuid;
use std::sync::Arc;

/// The manager as handlers see it.
pub(crate) struct Backend {
    manager: Arc<Manager>,
}

impl Backend {
    pub(crate) const fn new(manager: Arc<Manager>) -> Self {
        Self { manager }
    }

    /// Asks the manager on a blocking thread.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Manager) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let manager = Arc::clone(&self.manager);
        // A request that is given up does not end what it began: the thread goes on to the end.
        let span = tracing::Span::current();
        let asked = tokio::task::spawn_blocking(move || span.in_scope(|| question(&manager)));
        asked.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a request broke off");
            Err(Fault::new(
                FaultKind::ComputeFault,
                "The request broke off: the reason is in the server's log.",
            ))
        })
    }

    pub(crate) async fn volumes(&self, scope: Scope) -> Result<Vec<VolumeView>, Fault> {
        self.ask(move |manager| {
            let types = manager.volume_types();
            let details = manager.volumes(&scope).map_err(of_volume)?;
            Ok(details
                .into_iter()
                .map(|detail| view::volume(detail, &types))
                .collect())
        })
        .await
    }

    pub(crate) async fn volume(&self, scope: Scope, id: Uuid) -> Result<VolumeView, Fault> {
        self.ask(move |manager| shown(manager, &scope, id)).await
    }

    /// Makes a volume, when it is made of nothing.
    pub(crate) async fn create_volume(
        &self,
        call: &Call,
        request: CreateVolume,
    ) -> Result<VolumeView, Fault> {
        let (owner, scope): (Owner, Scope) = (call.owner.clone(), call.scope_of_one());
        self.ask(move |manager| {
            if let Some(source) = &request.source {
                return Err(of_source(manager, &scope, source));
            }
            let size = view::size(request.size.unwrap_or(0))?;
            let volume = manager
                .create_volume(&owner, view::new_volume(request, size))
                .map_err(of_volume)?;
            let detail = VolumeDetail {
                volume,
                attachments: Vec::new(),
            };
            Ok(view::volume(detail, &manager.volume_types()))
        })
        .await
    }

    pub(crate) async fn update_volume(
        &self,
        scope: Scope,
        id: Uuid,
        update: UpdateVolume,
    ) -> Result<VolumeView, Fault> {
        let UpdateVolume {
            name,
            description,
            metadata,
        } = update;
        self.change_volume(
            scope,
            id,
            VolumeChange::Describe {
                name,
                description,
                metadata,
            },
        )
        .await
    }

    pub(crate) async fn change_volume(
        &self,
        scope: Scope,
        id: Uuid,
        change: VolumeChange,
    ) -> Result<VolumeView, Fault> {
        self.ask(move |manager| {
            manager
                .change_volume(&scope, VolumeId(id), change)
                .map_err(of_volume)?;
            shown(manager, &scope, id)
        })
        .await
    }

    pub(crate) async fn delete_volume(&self, scope: Scope, id: Uuid) -> Result<(), Fault> {
        self.ask(move |manager| {
            manager
                .delete_volume(&scope, VolumeId(id))
                .map_err(of_volume)
        })
        .await
    }

    /// Grows a volume; one in use only for clients that know that this can be.
    pub(crate) async fn extend_volume(
        &self,
        scope: Scope,
        id: Uuid,
        gib: u64,
        in_use_too: bool,
    ) -> Result<(), Fault> {
        self.ask(move |manager| {
            let detail = manager.volume(&scope, VolumeId(id)).map_err(of_volume)?;
            if !in_use_too && detail.volume.state == VolumeState::InUse {
                let reason = format!("Volume {id} status must be available to extend.");
                return Err(Fault::invalid_volume(reason));
            }
            manager
                .extend_volume(&scope, VolumeId(id), view::size(gib)?)
                .map_err(of_volume)
        })
        .await
    }

    pub(crate) async fn attachments(&self, scope: Scope) -> Result<Vec<AttachmentView>, Fault> {
        self.ask(move |manager| {
            let details = manager.attachments(&scope).map_err(of_attachment)?;
            Ok(details.into_iter().map(view::attachment).collect())
        })
        .await
    }

    pub(crate) async fn attachment(&self, scope: Scope, id: Uuid) -> Result<AttachmentView, Fault> {
        self.ask(move |manager| {
            manager
                .attachment(&scope, AttachmentId(id))
                .map(view::attachment)
                .map_err(of_attachment)
        })
        .await
    }

    pub(crate) async fn create_attachment(
        &self,
        call: &Call,
        request: CreateAttachment,
    ) -> Result<AttachmentView, Fault> {
        let (scope, user) = (call.scope_of_one(), call.owner.user.clone());
        self.ask(move |manager| {
            let new = NewAttachment {
                volume: VolumeId(request.volume),
                instance: request.instance,
                mode: view::access(request.mode),
                connector: request
                    .connector
                    .as_ref()
                    .map(view::connector)
                    .transpose()?,
            };
            manager
                .attachment_create(&scope, &user, new)
                .map(view::attachment)
                .map_err(of_attachment)
        })
        .await
    }

    pub(crate) async fn connect_attachment(
        &self,
        scope: Scope,
        id: Uuid,
        connector: Connector,
    ) -> Result<AttachmentView, Fault> {
        self.ask(move |manager| {
            let connector = view::connector(&connector)?;
            let updated = manager.attachment_update(&scope, AttachmentId(id), connector);
            updated.map(view::attachment).map_err(of_attachment)
        })
        .await
    }

    pub(crate) async fn complete_attachment(&self, scope: Scope, id: Uuid) -> Result<(), Fault> {
        self.ask(move |manager| {
            manager
                .attachment_complete(&scope, AttachmentId(id))
                .map_err(of_attachment)
        })
        .await
    }

    /// Takes an attachment away; the volume's others are what is left.
    pub(crate) async fn delete_attachment(
        &self,
        scope: Scope,
        id: Uuid,
    ) -> Result<Vec<AttachmentView>, Fault> {
        self.ask(move |manager| {
            let left = manager
                .attachment_delete(&scope, AttachmentId(id))
                .map_err(of_attachment)?;
            let detail = |attachment| {
                view::attachment(AttachmentDetail {
                    attachment,
                    connection: None,
                })
            };
            Ok(left.into_iter().map(detail).collect())
        })
        .await
    }

    /// The volume types; the default one is among them.
    pub(crate) fn volume_types(&self) -> Vec<VolumeTypeView> {
        self.manager
            .volume_types()
            .into_iter()
            .map(view::volume_type)
            .collect()
    }

    pub(crate) fn default_volume_type(&self) -> VolumeTypeView {
        view::volume_type(VolumeType::default_type())
    }

    pub(crate) fn availability_zone(&self) -> &str {
        self.manager.availability_zone()
    }

    pub(crate) async fn quota(&self, project: &str) -> Result<QuotaSet, Fault> {
        let project: ProjectId = project
            .parse()
            .ok()
            .ok_or_else(|| Fault::not_found("Project", project))?;
        self.ask(move |manager| {
            let (limits, usage) = manager.quota(&project).map_err(of_volume)?;
            Ok(view::quota(&limits, usage))
        })
        .await
    }

    pub(crate) async fn pools(&self) -> Result<Vec<PoolView>, Fault> {
        self.ask(|manager| Ok(manager.pools().iter().map(view::pool).collect()))
            .await
    }

    pub(crate) async fn services(&self) -> Result<Vec<ServiceView>, Fault> {
        self.ask(|manager| Ok(manager.services().into_iter().map(view::service).collect()))
            .await
    }
}

fn shown(manager: &Manager, scope: &Scope, id: Uuid) -> Result<VolumeView, Fault> {
    let detail = manager.volume(scope, VolumeId(id)).map_err(of_volume)?;
    Ok(view::volume(detail, &manager.volume_types()))
}

/// Why a volume cannot be made of this: it does not exist, or making volumes of such things is not built.
fn of_source(manager: &Manager, scope: &Scope, source: &VolumeSource) -> Fault {
    match source {
        VolumeSource::Snapshot(id) => Fault::not_found("Snapshot", &id.to_string()),
        VolumeSource::Backup(id) => Fault::not_found("Backup", &id.to_string()),
        VolumeSource::Image(_) => Fault::not_implemented("make volumes of images"),
        VolumeSource::Volume(id) => match manager.volume(scope, VolumeId(*id)) {
            Ok(_) => Fault::not_implemented("make volumes of other volumes"),
            Err(error) => of_volume(error),
        },
    }
}
