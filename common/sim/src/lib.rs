//! A seeded world for tests: virtual time, a lossy network, disks that lose and rot.
//!
//! Everything runs on one thread, time moves when nobody has anything to do, and every choice comes from one seed: the
//! same seed gives the same order of events, which [`World::trace`] proves. What is simulated ends at the seams of the
//! code under test: its connections ([`network`]), its store ([`disk`]), its clock ([`world::SimClock`]).

pub mod disk;
pub mod network;
pub mod random;
pub mod world;

pub use disk::Disk;
pub use network::{Host, Network};
pub use random::Random;
pub use world::{SimClock, SimEntropy, World};
