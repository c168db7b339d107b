//! What a test needs of the machine.

use std::io::Write as _;
use std::path::PathBuf;

/// One thing a test needs.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// To be root: mounts, owners.
    Root,
    /// A program in `PATH`.
    Tool(&'static str),
    /// A kernel of at least this version.
    Kernel((u32, u32)),
}

/// Says why a need is not met.
pub fn missing(need: Need) -> Option<String> {
    match need {
        Need::Root => (!rustix::process::geteuid().is_root()).then(|| "not root".to_owned()),
        Need::Kernel(least) => {
            let uname = rustix::system::uname();
            let release = uname.release().to_string_lossy();
            let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
            let mut number = || numbers.next().and_then(Result::ok).unwrap_or(0);
            let version = (number(), number());
            let (major, minor) = least;
            (version < least).then(|| format!("Linux {release} is older than {major}.{minor}"))
        }
        Need::Tool(name) => {
            let found = path_dirs().iter().any(|d| d.join(name).is_file());
            (!found).then(|| format!("`{name}` is not installed (.ci/setup installs it)"))
        }
    }
}

fn path_dirs() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default()
}

/// Says that a test is skipped: on stderr, and in the file `RGRAPH_SKIPPED` names, since runners keep
/// the output of tests that pass.
pub fn shout(why: &str) {
    let line = format!("SKIPPED: {}: {why}\n", std::thread::current().name().unwrap_or("test"));
    eprint!("{line}");
    if let Some(path) = std::env::var_os("RGRAPH_SKIPPED") {
        let file = std::fs::File::options().append(true).create(true).open(path);
        file.and_then(|mut f| f.write_all(line.as_bytes())).expect("RGRAPH_SKIPPED can be written");
    }
}

/// Ends the test with a shout when the machine lacks something: `need!(Root, Tool("skopeo"))`.
#[macro_export]
macro_rules! need {
    ($($name:ident $(($arg:expr))?),+ $(,)?) => {
        $(if let Some(why) = $crate::missing($crate::Need::$name $(($arg))?) {
            $crate::shout(&why);
            return;
        })+
    };
}
