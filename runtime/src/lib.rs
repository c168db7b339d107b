//! The world: containers, snapshots, downloads and exports behind the solver's ports.

pub mod sandbox;
