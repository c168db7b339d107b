//! Harness of the whole-program tests: they run the binary and look at what it left behind.
//!
//! Each test has a [`Case`]: a state root, a context folder and a folder for outputs of its own,
//! gone at its end. A test whose surroundings are missing says `SKIPPED: why` on stderr and passes;
//! [`need!`] is the only way to do so.

#![expect(clippy::disallowed_methods, reason = "tests are told by variables, and are no library")]

mod case;
mod docker;
mod emulator;
pub mod escape;
mod gate;
mod groups;
mod image;
mod needs;
mod net;
mod nginx;
mod process;
pub mod programs;
mod registry;
mod repository;
mod screen;
mod scripted;
mod setting;
mod sshd;
mod token;
mod user;
mod web;

pub use case::{BASE, Case, Run, base_tar, fixture};
pub use docker::Docker;
pub use emulator::{EMULATOR, FOREIGN, emulated};
pub use gate::Gate;
pub use groups::OwnGroups;
pub use image::{Entry, Image, Kind, Layer, unpack_tar};
pub use needs::{Need, missing, shout};
pub use net::{HOST, NEIGHBOUR, Net, WORLD};
pub use nginx::Nginx;
pub use process::{Background, has_process, mounts_below, wait_until};
pub use registry::{Access, Certificate, Registry};
pub use repository::Repositories;
pub use screen::Screen;
pub use scripted::{Member, Parts, digest, gzip, noise, serve, tar_of};
pub use setting::setting;
pub use sshd::{Sshd, make_key};
pub use token::Tokens;
pub use user::{Ids, SUBIDS, USER};
pub use web::{Answer, Request, Web};
