//! What is said of a result: how it was made ([`provenance`]), and what packages are in it
//! ([`packages`], [`sbom`]). Values from values; where statements are put is [`crate::export`]'s.

pub mod packages;
pub mod provenance;
pub mod purl;
pub mod sbom;

mod steps;
