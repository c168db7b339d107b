//! Whole-program tests: the binary, its exit codes, its text, and what it leaves on disk.

mod build;
mod cache;
mod cache_folder;
mod cache_hostile;
mod cache_racing;
mod cache_registry;
mod cache_writers;
mod check;
mod concurrency;
mod copy;
mod crash;
mod errors;
mod explain;
mod graph;
mod host;
mod images;
mod layers;
mod limits;
mod login;
mod network;
mod rebuilt_base;
mod registry;
mod soundness;
mod sources;
mod steps;
mod store;
