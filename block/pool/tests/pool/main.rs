//! The LVM pool on real loop devices, with the real worker and the machine's own `vgs`, `lvs` and `losetup` as judges.
//!
//! Needs root and loop devices, some also device-mapper; a test that cannot run says so and passes. Where there is no
//! cargo, as in a guest, `ONGGI_LVM_WORKER` names the worker.

#[cfg(test)]
mod crash;
#[cfg(test)]
mod ground;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod life;
