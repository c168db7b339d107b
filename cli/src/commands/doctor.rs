//! `rgraph doctor`: what this host allows.

use rgraph_ir::request::NetworkFallback;
use rgraph_runtime::host::Level;
use rgraph_runtime::sandbox::{Runner, SandboxError, probe_groups};
use rgraph_sys::seccomp;

use super::{Context, print};
use crate::args::DoctorArgs;
use crate::options::{Config, Format};
use crate::report::{self, CliError};
use crate::session;
use crate::table::Table;

/// Runs the command.
pub fn run(cx: &Context, args: DoctorArgs) -> Result<(), CliError> {
    let format = Format::parse(args.format.as_deref())?;
    let config = Config::load(cx.dirs.config.as_deref())
        .map_err(|e| CliError::failed(rgraph_runtime::report(&e)))?;
    let store = session::open_store(cx.root())?;
    let level = cx.host()?;
    let lease = store.lease().map_err(|e| session::store_error(&e))?;
    let decided = level.snapshotter(|| store.prepare(&lease));
    let has_seccomp = seccomp::is_available();
    let cgroups = match probe_groups() {
        Ok(what) => (true, what),
        Err(why) => (false, format!("steps cannot have limits (--memory and others): {why}")),
    };
    let runner = Runner::start();
    let sandbox = sandbox(&runner);
    let network = network(&config, &runner);
    let rights = rights(&level.level);
    let filter = match has_seccomp {
        true => "system calls of steps are filtered",
        false => "the kernel or this machine's kind has no filter: steps see every system call",
    };
    let rows = [
        ("state", true, cx.root().display().to_string()),
        ("rights", rights.0, rights.1),
        ("snapshotter", decided.lacks.is_empty(), decided.to_string()),
        ("sandbox", sandbox.0, sandbox.1),
        ("seccomp", has_seccomp, filter.to_owned()),
        ("cgroups", cgroups.0, cgroups.1),
        ("network", network.0, network.1),
    ];
    if format == Format::Json {
        let object: serde_json::Map<String, serde_json::Value> = rows
            .iter()
            .map(|(n, ok, text)| ((*n).to_owned(), serde_json::json!({ "ok": ok, "detail": text })))
            .collect();
        return print(format!("{}\n", serde_json::Value::Object(object)).as_bytes());
    }
    let mut table = Table::new(["WHAT", "STATE", "DETAIL"]);
    for (name, ok, text) in &rows {
        table.row([*name, if *ok { "ok" } else { "missing" }, text.as_str()]);
    }
    let mut out = Vec::new();
    table.write(&mut out).map_err(|e| CliError::failed("cannot write the table").because(e))?;
    print(&out)
}

/// How building gets its rights.
fn rights(level: &Level) -> (bool, String) {
    match level {
        Level::Root => (true, "root of this machine".into()),
        Level::Namespace => (true, "root of the user namespace that this runs in".into()),
        Level::FullMap { ids } => {
            let text = format!("a user namespace of your own with {ids} users and groups");
            // Where `nobody` is 65534, images use it.
            match *ids >= 65_535 {
                true => (true, text),
                false => {
                    (false, format!("{text}; images may need 65536 (/etc/subuid, /etc/subgid)"))
                }
            }
        }
        Level::SingleId { why } => (
            false,
            format!(
                "a user namespace of your own with one user, you as root; the owners of files and \
                 the users of steps are recorded, which is slower and keeps no users apart: {why}: {}",
                why.help
            ),
        ),
    }
}

/// Whether steps can run, within whatever this is in.
fn sandbox(runner: &Result<Runner, SandboxError>) -> (bool, String) {
    let why = match runner.as_ref().map(Runner::probe) {
        Ok(Ok(Ok(()))) => {
            return (true, "steps have their own files and see their own processes".into());
        }
        Ok(Ok(Err(why))) => rgraph_runtime::report(&why),
        Ok(Err(e)) => rgraph_runtime::report(&e),
        Err(e) => rgraph_runtime::report(e),
    };
    let help = report::remedy(&why).map(|help| format!(": {help}")).unwrap_or_default();
    (false, format!("steps cannot run: {why}{help}"))
}

/// What steps have that say nothing about their network.
fn network(config: &Config, runner: &Result<Runner, SandboxError>) -> (bool, String) {
    let why = match runner.as_ref().map(Runner::probe_network) {
        Ok(Ok(Ok(how))) => return (true, how),
        Ok(Ok(Err(why))) if why.help.is_empty() => why.to_string(),
        Ok(Ok(Err(why))) => format!("{why}: {}", why.help),
        Ok(Err(e)) => rgraph_runtime::report(&e),
        Err(e) => rgraph_runtime::report(e),
    };
    let instead = match config.network_fallback() {
        NetworkFallback::Host => "steps get the host's network",
        NetworkFallback::None => "steps get no network",
        NetworkFallback::Error => "steps are not run",
    };
    (false, format!("{why}; {instead} (network.fallback in the config file)"))
}
