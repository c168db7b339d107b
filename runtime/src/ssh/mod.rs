//! Keys of the caller for ssh: read from files ([`key`]), and shown to steps and to `git` by an agent of
//! this process ([`agent`]), so that no step sees a key itself.

mod agent;
mod key;

pub use agent::KeyAgent;
pub use key::{KeyError, SigningKey};
