//! Registries: pull and push over the OCI distribution API.
//!
//! The face is blocking and meant for plain threads; tokio stays inside. Purpose and place: ops and
//! exporters ask a [`RegistryClient`] for manifests and blobs by [`rgraph_ir::Reference`] and
//! digest; nothing here knows what a manifest says, and nothing is kept on disk.
//!
//! Invariants, each with a test:
//! - what was asked for by digest is that, byte for byte, or an error: a reader of a blob sees its
//!   end only after size and digest were checked ([`BlobReader`]);
//! - no answer is read further than its limit (`rgraph_ir::limits`) or its descriptor;
//! - credentials and tokens reach only the host they are for (`auth`, `endpoint`);
//! - every wait and every number of tries is bounded (`retry`, idle timeouts in `http`), and
//!   ends within a moment once the caller's [`Watch`] says so.
//!
//! Files by URL come through the same door (`download`), so that trust, redirects and retries are one
//! thing.
//!
//! Spec: OCI distribution-spec 1.1; distribution's token specification.

mod auth;
mod client;
mod config;
mod credentials;
mod download;
mod endpoint;
mod error;
mod http;
mod list;
mod login;
mod push;
mod reader;
mod retry;
mod search;
mod transfer;
mod watch;

pub use client::{ManifestBytes, ManifestRef, RegistryClient, Resolved};
pub use config::{HostConfig, Mirror, Proxies, RegistryConfig};
pub use credentials::{Credential, CredentialStore};
pub use download::{FileHead, FileRequest, FileSink, decoded, shown_url};
pub use error::RegistryError;
pub use login::{CredentialFile, Kept, LoginError};
pub use push::Pushed;
pub use reader::{BlobDesc, BlobReader};
pub use retry::RetryPolicy;
pub use search::SearchHit;
pub use watch::{TransferEvent, Watch};
