//! The options of commands on registries.

use super::error::OptionsError;
use super::{Layout, filters, insecure_registries, is_registry, switch_value};
use crate::args::{Environment, LoginArgs, LogoutArgs, SearchArgs};

/// Most results of a search, as Docker Hub has it.
const MOST: usize = 100;

/// The registry that a person means: without a scheme and a path, Docker Hub for nothing.
fn server(text: Option<&str>) -> Result<String, OptionsError> {
    let text = text.unwrap_or_default();
    let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = bare.unwrap_or(text).split('/').next().unwrap_or_default();
    match host {
        "" | "index.docker.io" | "registry-1.docker.io" => Ok("docker.io".to_owned()),
        h if is_registry(h) => Ok(h.to_owned()),
        _ => Err(OptionsError::value("SERVER", text, "expected HOST[:PORT]")),
    }
}

/// Where a password comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// It was typed among the arguments.
    Given(String),
    /// Standard input, to its end.
    Stdin,
    /// Who sits there.
    Ask,
}

/// `login`.
#[derive(Clone, PartialEq, Eq)]
pub struct LoginOptions {
    /// `host[:port]`.
    pub server: String,
    /// `None`: asked for.
    pub user: Option<String>,
    /// Its source.
    pub password: Password,
    /// Registries over plain HTTP or with an unknown certificate.
    pub insecure_registries: Vec<String>,
}

impl LoginOptions {
    /// The one conversion.
    pub fn new(raw: LoginArgs, env: &Environment) -> Result<Self, OptionsError> {
        let conflict = |text: &str| Err(OptionsError::Conflict(text.to_owned()));
        let password = match (raw.password, raw.password_stdin) {
            (Some(_), true) => {
                return conflict("--password and --password-stdin are mutually exclusive");
            }
            (None, true) if raw.username.is_none() => {
                return conflict("must provide --username with --password-stdin");
            }
            (None, true) => Password::Stdin,
            (Some(p), false) => Password::Given(p),
            (None, false) => Password::Ask,
        };
        Ok(Self {
            server: server(raw.server.as_deref())?,
            user: raw.username.filter(|u| !u.is_empty()),
            password,
            insecure_registries: insecure_registries(&raw.registry.insecure_registry, env)?,
        })
    }
}

/// `logout`: the registry, `host[:port]`.
pub fn logout_server(raw: LogoutArgs) -> Result<String, OptionsError> {
    server(raw.server.as_deref())
}

/// `search`.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchOptions {
    /// `host[:port]`.
    pub server: String,
    /// The word; may be empty for a registry that lists all it has.
    pub term: String,
    /// Most results.
    pub limit: usize,
    /// Least stars.
    pub stars: u64,
    /// Docker's own, or not.
    pub official: Option<bool>,
    /// Descriptions are cut.
    pub cut: bool,
    /// How it is written.
    pub format: Layout,
    /// Registries over plain HTTP or with an unknown certificate.
    pub insecure_registries: Vec<String>,
}

impl SearchOptions {
    /// The one conversion.
    pub fn new(raw: SearchArgs, env: &Environment) -> Result<Self, OptionsError> {
        if !(1..=MOST).contains(&raw.limit) {
            let text = raw.limit.to_string();
            return Err(OptionsError::value("--limit", &text, format!("expected 1 to {MOST}")));
        }
        // As in names of images: what has a dot, a port or is `localhost` is a host.
        let host = |h: &str| (h.contains(['.', ':']) || h == "localhost") && is_registry(h);
        let (server, term) = match raw.term.split_once('/') {
            Some((h, term)) if host(h) => (h.to_owned(), term.to_owned()),
            _ => ("docker.io".to_owned(), raw.term.clone()),
        };
        let (mut stars, mut official) = (0, None);
        for (name, value) in filters(&raw.filter, &["stars", "is-official", "is-automated"])? {
            let bad =
                |why: String| OptionsError::value("--filter", &format!("{name}={value}"), why);
            match name.as_str() {
                "stars" => {
                    stars = value.parse().map_err(|_| bad("expected a number".to_owned()))?;
                }
                "is-official" => official = Some(switch_value(&value).map_err(bad)?),
                // Registries say it of nothing any more.
                _ => {
                    switch_value(&value).map_err(bad)?;
                }
            }
        }
        Ok(Self {
            server,
            term,
            limit: raw.limit,
            stars,
            official,
            cut: !raw.no_trunc,
            format: Layout::parse(raw.format.as_deref())?,
            insecure_registries: insecure_registries(&raw.registry.insecure_registry, env)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, parse};

    fn command(words: &[&str]) -> Command {
        parse(["rgraph"].iter().chain(words).map(Into::into)).unwrap().command
    }

    #[test]
    fn servers() {
        for (text, want) in [
            (None, "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("localhost:5000"), "localhost:5000"),
            (Some("https://r.example/v2/"), "r.example"),
        ] {
            assert_eq!(server(text).unwrap(), want, "{text:?}");
        }
        assert!(server(Some("a b")).unwrap_err().is_usage());
    }

    #[test]
    fn searches() {
        let search = |words: &[&str]| match command(&[&["search"], words].concat()) {
            Command::Search(a) => SearchOptions::new(a, &Environment::default()),
            other => panic!("{other:?}"),
        };
        for (term, server, word) in [
            ("nginx", "docker.io", "nginx"),
            ("team/app", "docker.io", "team/app"),
            ("localhost:5000/team/app", "localhost:5000", "team/app"),
            ("r.example/", "r.example", ""),
        ] {
            let o = search(&[term]).unwrap();
            assert_eq!((&o.server[..], &o.term[..]), (server, word), "{term}");
        }
        let o = search(&["x", "-f", "stars=3", "--filter=is-official=true"]).unwrap();
        assert_eq!((o.stars, o.official), (3, Some(true)));
        for bad in [&["x", "--limit", "101"][..], &["x", "-f", "stars=many"], &["x", "-f", "a=b"]] {
            assert!(search(bad).unwrap_err().is_usage(), "{bad:?}");
        }
    }

    #[test]
    fn passwords() {
        let login = |words: &[&str]| match command(&[&["login"], words].concat()) {
            Command::Login(a) => LoginOptions::new(a, &Environment::default()),
            other => panic!("{other:?}"),
        };
        assert!(login(&["-u", "a", "--password-stdin"]).unwrap().password == Password::Stdin);
        assert!(login(&["--password-stdin"]).is_err_and(|e| e.is_usage()));
        assert!(login(&["-u", "a", "-p", "b", "--password-stdin"]).is_err_and(|e| e.is_usage()));
        assert!(login(&["r.example"]).unwrap().password == Password::Ask);
    }
}
