//! The parts of `headwater up`, each as a process of its own: for clusters on one machine, and for
//! functions that somebody else runs.

pub mod database;
pub mod functions;
pub mod gateway;
