//! The registry client, made when the first question needs it: a build that asks nobody starts no
//! thread and opens no socket for it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use rgraph_image::registry::{
    CredentialStore, HostConfig, RegistryClient, RegistryConfig, RegistryError,
};

/// See the module.
pub struct LazyRegistry {
    hosts: BTreeMap<String, HostConfig>,
    auth_files: Vec<PathBuf>,
    user_agent: &'static str,
    made: OnceLock<Result<(tokio::runtime::Runtime, RegistryClient), String>>,
}

impl LazyRegistry {
    /// `hosts`: how each is reached; `insecure`: more of them, over plain HTTP or with unknown
    /// certificates; `auth_files`: Docker's
    /// `config.json` and others in its form, the first that exists counts.
    pub fn new(
        hosts: BTreeMap<String, HostConfig>,
        insecure: &[String],
        auth_files: Vec<PathBuf>,
        user_agent: &'static str,
    ) -> Self {
        let mut config = RegistryConfig { hosts, ..RegistryConfig::default() };
        insecure.iter().for_each(|host| config.allow_insecure(host));
        Self { hosts: config.hosts, auth_files, user_agent, made: OnceLock::new() }
    }

    /// The client.
    ///
    /// # Errors
    /// The network threads could not be started.
    pub fn get(&self) -> Result<&RegistryClient, RegistryError> {
        let made = self.made.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("rgraph-net")
                .enable_all()
                .build()
                .map_err(|e| format!("cannot start the network threads: {e}"))?;
            let credentials =
                CredentialStore { files: self.auth_files.clone(), ..CredentialStore::default() };
            let config = RegistryConfig {
                hosts: self.hosts.clone(),
                user_agent: self.user_agent.to_owned(),
                credentials,
                ..RegistryConfig::default()
            };
            let client = RegistryClient::new(runtime.handle().clone(), config);
            Ok((runtime, client))
        });
        match made {
            Ok((_, client)) => Ok(client),
            Err(e) => {
                let source = std::io::Error::other(e.clone());
                Err(RegistryError::Local { what: "starting the network threads", source })
            }
        }
    }
}
