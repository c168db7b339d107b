//! How long or how often, said from outside.

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |t| t.parse().unwrap_or_else(|_| panic!("{name}={t} is no number")))
}
