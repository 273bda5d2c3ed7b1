//! The target with real sockets: our own initiator machine, foreign clients, cut connections, restarts.

#[cfg(test)]
mod attack;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod lending;
#[cfg(test)]
mod model;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod reservations;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod serving;
