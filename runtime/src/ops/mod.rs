//! One file per kind of op.

pub mod agent;
pub mod devices;
pub mod earlier;
pub mod exec;
pub mod file;
pub mod limits;
pub mod merge;
pub mod network;
pub mod services;
pub mod source;
