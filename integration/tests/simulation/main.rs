//! The object store in a seeded world: real storage nodes, real proxies, and everything around them simulated.
//!
//! Nodes and proxies run as they are shipped, in one thread and in virtual time; connections, stores, clocks and entropy
//! are those of `common/sim`. Clients work while a nemesis makes trouble; then everything is well again, the daemons make
//! their passes, and what was promised is looked for. A seed decides all of it:
//!
//! `ONGGI_SEED=7 cargo test --release -p onggi-integration --test simulation one_seed -- --nocapture` shows what happened.

#[cfg(test)]
mod cases;
#[cfg(test)]
mod check;
#[cfg(test)]
mod client;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod history;
#[cfg(test)]
mod lies;
#[cfg(test)]
mod nemesis;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod stamps;
