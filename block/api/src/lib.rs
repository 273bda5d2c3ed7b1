//! Cinder v3 over HTTP: translate in, call, translate out.
//!
//! A request is authenticated, routed and read into the types of `block/cinder`; the manager is asked; what it says is
//! rendered for the microversion the client speaks. No rule about volumes lives here.
#![forbid(unsafe_code)]

mod actions;
mod answer;
mod attachments;
mod backend;
mod call;
mod catalog;
mod fault;
mod messages;
mod metadata;
mod route;
mod server;
mod view;
mod volumes;

pub use server::Api;
