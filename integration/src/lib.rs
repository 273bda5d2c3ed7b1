//! Real daemons, foreign clients, crashes, guests, tidy: what the scenarios and `integration/serve` share.

pub mod exported;
pub mod guest;
pub mod powercut;
pub mod relay;
pub mod serve;
pub mod serve_target;
pub mod system;
