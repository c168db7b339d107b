//! `rgraph login` and `logout`: credentials in Docker's config file, or with its helper.

use std::io::{BufRead as _, Read as _, Write as _};
use std::path::PathBuf;

use rgraph_image::registry::{
    Credential, CredentialFile, CredentialStore, Kept, RegistryError, Watch,
};
use rgraph_runtime::fetch::registry::LazyRegistry;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::{Context, note, print};
use crate::args::{LoginArgs, LogoutArgs};
use crate::options::{LoginOptions, Password, logout_server};
use crate::report::CliError;
use crate::session;

/// Longest password, bytes.
const MAX_PASSWORD: u64 = 64 << 10;

/// Where credentials are kept.
fn file(cx: &Context) -> Result<PathBuf, CliError> {
    cx.env.auth_files().into_iter().next().ok_or_else(|| {
        CliError::failed("there is no place for credentials")
            .help("set HOME or DOCKER_CONFIG to a folder")
    })
}

/// Runs `login`.
pub fn login(cx: &Context, args: LoginArgs) -> Result<(), CliError> {
    let opts = LoginOptions::new(args, &cx.env)?;
    let path = file(cx)?;
    let mut config =
        session::registry_config(&cx.env, &session::config(&cx.dirs)?, &opts.insecure_registries);
    let host = &opts.server;
    if opts.user.is_none() && opts.password == Password::Ask {
        let known = CredentialStore { files: vec![path.clone()], ..CredentialStore::default() };
        let denied = |e: RegistryError| CliError::failed(format!("login to {host}")).because(e);
        if known.lookup(host).map_err(denied)?.is_some() {
            note("Authenticating with existing credentials...");
            match check(cx, config.clone(), host) {
                Ok(()) => return print(b"Login Succeeded\n"),
                Err(RegistryError::Denied { .. }) => note("They are not accepted any more."),
                Err(e) => return Err(denied(e)),
            }
        }
    }
    let credential = credential(cx, &opts)?;
    config.credentials.fixed = vec![(host.clone(), credential.clone())];
    check(cx, config, host).map_err(|e| CliError::failed(format!("login to {host}")).because(e))?;
    let kept = CredentialFile::new(path.clone())
        .store(host, &credential)
        .map_err(|e| CliError::failed(e.to_string()))?;
    if kept == Kept::File {
        note(&format!("WARNING! Your password is stored unencrypted in {}.", path.display()));
        note("A credential helper (`credsStore` in that file) keeps it safer.");
    }
    print(b"Login Succeeded\n")
}

fn check(
    cx: &Context,
    config: rgraph_image::registry::RegistryConfig,
    host: &str,
) -> Result<(), RegistryError> {
    let cancelled = || cx.cancel.is_cancelled();
    let watch = Watch { cancelled: &cancelled, ..Watch::QUIET };
    LazyRegistry::new(config).get()?.check_login(host, &watch)
}

/// Name and password, from wherever they come.
fn credential(cx: &Context, opts: &LoginOptions) -> Result<Credential, CliError> {
    let ask = opts.user.is_none() || opts.password == Password::Ask;
    if ask && !cx.terminals.can_ask() {
        return Err(CliError::failed("cannot ask for a name or password: there is no terminal")
            .help("give `--username NAME --password-stdin`"));
    }
    let broken = |e: std::io::Error| CliError::failed("cannot read standard input").because(e);
    let user = match &opts.user {
        Some(u) => u.clone(),
        None => prompt("Username: ").map_err(broken)?,
    };
    let password = match &opts.password {
        Password::Given(p) => {
            note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            p.clone()
        }
        Password::Stdin => {
            let mut text = String::new();
            std::io::stdin().take(MAX_PASSWORD).read_to_string(&mut text).map_err(broken)?;
            // What `echo` adds is none of it.
            let line = text.strip_suffix('\n').unwrap_or(&text);
            line.strip_suffix('\r').unwrap_or(line).to_owned()
        }
        Password::Ask => hidden("Password: ").map_err(broken)?,
    };
    if user.is_empty() || password.is_empty() {
        return Err(CliError::failed("a name and a password are needed"));
    }
    Ok(Credential::Basic { user, password })
}

fn prompt(question: &str) -> std::io::Result<String> {
    let mut err = std::io::stderr().lock();
    err.write_all(question.as_bytes())?;
    err.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().take(MAX_PASSWORD).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// As [`prompt`], and what is typed is not shown.
fn hidden(question: &str) -> std::io::Result<String> {
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let answer = prompt(question);
    tcsetattr(&stdin, OptionalActions::Flush, &before)?;
    note("");
    answer
}

/// Runs `logout`.
pub fn logout(cx: &Context, args: LogoutArgs) -> Result<(), CliError> {
    let host = logout_server(args)?;
    let gone =
        CredentialFile::new(file(cx)?).erase(&host).map_err(|e| CliError::failed(e.to_string()))?;
    print(
        match gone {
            true => format!("Removing login credentials for {host}\n"),
            false => format!("Not logged in to {host}\n"),
        }
        .as_bytes(),
    )
}
