//! OCI and Docker images: their JSON, their layers as tar, their archives, their registries. Knows
//! no Dockerfile and no build.
//!
//! Reading order: [`tar`] (the byte format, hostile in, deterministic out), [`layer`] (a folder of
//! overlay's upper form to a layer and back, compression), [`config`] and [`manifest`] (the JSON
//! documents), [`assemble`] (a target and its layers to an image), [`attestation`] (what is said of
//! one), [`blobs`] (where blobs come from), [`layout`] and [`archive`] (images as files),
//! [`registry`] (images over the network).

mod chunk;
mod hash;
mod json;
pub mod tar;

pub mod layer;

pub mod config;
pub mod manifest;

pub mod assemble;
pub mod attestation;

pub mod blobs;

pub mod archive;
pub mod layout;

pub mod registry;

pub use chunk::{CopyFault, copy_beside};
pub use hash::{Mismatch, VerifyReader};
pub use json::JsonError;
