//! The registry client, made when the first question needs it: a build that asks nobody starts no
//! thread and opens no socket for it.

use std::sync::OnceLock;

use rgraph_image::registry::{RegistryClient, RegistryConfig, RegistryError};

/// See the module.
pub struct LazyRegistry {
    config: RegistryConfig,
    made: OnceLock<Result<(tokio::runtime::Runtime, RegistryClient), String>>,
}

impl LazyRegistry {
    /// How registries are reached, with what credentials and through which proxies.
    pub fn new(config: RegistryConfig) -> Self {
        Self { config, made: OnceLock::new() }
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
            let client = RegistryClient::new(runtime.handle().clone(), self.config.clone());
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
