//! The target with real sockets: our own initiator machine, foreign clients, cut connections, restarts.

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
mod reservations;
#[cfg(test)]
mod serving;
