//! `rgraph version`.

use rgraph_ir::Platform;
use serde_json::json;

use super::print;
use crate::args::VersionArgs;
use crate::options::{host_platform, version_template};
use crate::report::CliError;

/// Runs the command. There is no server: what is asked of a client is true of all of it.
pub fn run(args: &VersionArgs) -> Result<(), CliError> {
    let version = env!("CARGO_PKG_VERSION");
    let Some(template) = version_template(args.format.as_deref())? else {
        return print(format!("rgraph {version}\n").as_bytes());
    };
    let Platform { os, architecture: arch, .. } = host_platform();
    let client = json!({ "Version": version, "Os": os, "Arch": arch });
    let all = json!({ "Version": version, "Os": os, "Arch": arch, "Client": client });
    let text = template.render(&all).map_err(|e| CliError::usage(e.to_string()))?;
    print(format!("{text}\n").as_bytes())
}
