//! Cinder v3's requests, views, faults and microversions as types: what the volume API serves and `volctl` speaks.
//!
//! Requests are parsed once, as strictly as Cinder's schemas do and with the same messages; views render exactly the
//! fields a microversion has. Nothing here does I/O: bytes and facts come in, values and faults go out.
#![forbid(unsafe_code)]

pub mod action;
pub mod attachment;
pub mod capacity;
pub mod fault;
pub mod filter;
pub mod json;
pub mod link;
pub mod list;
pub mod message;
pub mod microversion;
pub mod quota;
pub mod schema;
pub mod service;
pub mod version;
pub mod volume;
pub mod volume_type;

pub use action::VolumeAction;
pub use attachment::{AttachMode, AttachmentView, Connector, CreateAttachment, UpdateAttachment};
pub use fault::{Fault, FaultKind};
pub use link::Links;
pub use list::{ListQuery, Page};
pub use message::MessageView;
pub use microversion::Microversion;
pub use volume::{CreateVolume, Rendering, UpdateVolume, VolumeView};
