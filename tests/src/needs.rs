//! What a test needs of the machine.

use std::path::PathBuf;

/// One thing a test needs.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// To be root: mounts, owners.
    Root,
    /// A program in `PATH`.
    Tool(&'static str),
}

/// Says why a need is not met.
pub fn missing(need: Need) -> Option<String> {
    match need {
        Need::Root => (!rustix::process::geteuid().is_root()).then(|| "not root".to_owned()),
        Need::Tool(name) => {
            let found = path_dirs().iter().any(|d| d.join(name).is_file());
            (!found).then(|| format!("`{name}` is not installed (.ci/setup installs it)"))
        }
    }
}

fn path_dirs() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default()
}

/// Ends the test with a shout when the machine lacks something: `need!(Root, Tool("skopeo"))`.
#[macro_export]
macro_rules! need {
    ($($name:ident $(($arg:expr))?),+ $(,)?) => {
        $(if let Some(why) = $crate::missing($crate::Need::$name $(($arg))?) {
            eprintln!("SKIPPED: {}: {why}", std::thread::current().name().unwrap_or("test"));
            return;
        })+
    };
}
