//! The registry client against a real registry and against hostile ones.

mod hostile;
mod real;
mod server;

use std::sync::Mutex;
use std::time::Duration;

use rgraph_image::registry::{
    BlobDesc, RegistryClient, RegistryConfig, RetryPolicy, TransferEvent, Watch,
};
use rgraph_ir::{BlobDigest, Reference};

/// A runtime that outlives the client made on it.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Settings that do not make tests wait.
fn quick() -> RegistryConfig {
    RegistryConfig {
        retry: RetryPolicy {
            retries: 3,
            base: Duration::from_millis(1),
            max_delay: Duration::from_millis(5),
            max_retry_after: Duration::from_secs(2),
        },
        ..RegistryConfig::default()
    }
}

/// Runs `f` with a client on a runtime of its own.
fn with_client<T>(config: RegistryConfig, f: impl FnOnce(&RegistryClient) -> T) -> T {
    let rt = runtime();
    f(&RegistryClient::new(rt.handle().clone(), config))
}

/// Calls `f` with a watch that writes events down.
fn listening<T>(f: impl FnOnce(&Watch<'_>) -> T) -> (T, Vec<TransferEvent>) {
    let heard = Mutex::new(Vec::new());
    let on_event = |e: &TransferEvent| heard.lock().unwrap().push(e.clone());
    let out = f(&Watch { on_event: &on_event, ..Watch::QUIET });
    (out, heard.into_inner().unwrap())
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn desc(bytes: &[u8]) -> BlobDesc {
    BlobDesc { digest: BlobDigest::of(bytes), size: bytes.len() as u64 }
}

/// Bytes that do not repeat soon.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}
