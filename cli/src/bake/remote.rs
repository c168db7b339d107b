//! Definitions from elsewhere: a repository, an archive or a file by URL. Folders of their targets are
//! there too; `cwd://` and paths of secrets, caches and outputs are of the working folder.

use std::collections::BTreeMap;
use std::path::Path;

use rgraph_bake::{Resolved, Target, is_folder};
use rgraph_ir::op::GitSource;
use rgraph_ir::request::Secret;

use crate::context::{Brought, Origin};
use crate::report::CliError;

/// Where a definition comes from.
pub enum Definitions {
    /// The working folder.
    Here,
    /// Elsewhere.
    There(Box<There>),
}

/// What was brought from elsewhere.
pub struct There {
    /// As it was asked for, without a login.
    pub shown: String,
    /// As it was asked for.
    pub url: String,
    /// What came. It goes with this value.
    pub brought: Brought,
    /// Of a repository: the commit, so that all targets are built from one; else empty.
    pub commit: String,
    /// What the repository is fetched with.
    pub secrets: BTreeMap<String, Secret>,
}

impl Definitions {
    /// True when it does not come from here.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::There(_))
    }

    /// The folder that came.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::There(t) if t.brought.dockerfile.is_none() => Some(t.brought.path()),
            _ => None,
        }
    }

    /// The one file that came, with its URL.
    pub fn text(&self) -> Option<(&str, Result<String, CliError>)> {
        let Self::There(t) = self else { return None };
        let bytes = t.brought.dockerfile.as_ref()?;
        let text = String::from_utf8(bytes.clone())
            .map_err(|_| CliError::failed(format!("`{}` is not valid UTF-8", t.shown)));
        Some((&t.shown, text))
    }

    /// What repositories are fetched with.
    pub fn secrets(&self) -> BTreeMap<String, Secret> {
        match self {
            Self::There(t) => t.secrets.clone(),
            Self::Here => BTreeMap::new(),
        }
    }

    /// The targets as they are printed: with the URLs of their contexts.
    pub fn shown(&self, all: &Resolved) -> Resolved {
        let mut out = all.clone();
        if let Self::There(there) = self {
            for context in out.targets.values_mut().filter_map(|t| t.context.as_mut()) {
                *context = there.shown(context);
            }
        }
        out
    }

    /// A target as it is built.
    pub fn placed(&self, t: &Target) -> Target {
        let mut out = t.clone();
        if let Self::There(there) = self {
            for context in out.context.iter_mut().chain(out.contexts.values_mut()) {
                *context = there.built(context);
            }
        }
        out
    }
}

impl There {
    /// A folder of the caller, or what is no folder.
    fn elsewhere(&self, folder: &str) -> Option<String> {
        match folder.strip_prefix("cwd://") {
            Some("") => Some(".".to_owned()),
            Some(here) => Some(here.to_owned()),
            None => (!is_folder(folder)).then(|| folder.to_owned()),
        }
    }

    fn shown(&self, folder: &str) -> String {
        self.elsewhere(folder).unwrap_or_else(|| match &self.brought.origin {
            Origin::Repository(g) => of_repository(&self.url, g, folder, None),
            _ => folder.to_owned(),
        })
    }

    fn built(&self, folder: &str) -> String {
        self.elsewhere(folder).unwrap_or_else(|| match &self.brought.origin {
            Origin::Repository(g) => of_repository(&self.url, g, folder, Some(&self.commit)),
            // A lone file has no folders beside it.
            _ if self.brought.dockerfile.is_some() => folder.to_owned(),
            _ => self.brought.path().join(folder).display().to_string(),
        })
    }
}

/// The URL of a folder of a repository. `commit`: what its reference means.
fn of_repository(url: &str, g: &GitSource, folder: &str, commit: Option<&str>) -> String {
    let above = g.subdir.as_deref().unwrap_or_default();
    let below = match folder {
        "." | "" => above.to_owned(),
        folder if above.is_empty() => folder.to_owned(),
        folder => format!("{above}/{folder}"),
    };
    // What a query says else has to stay; it may not be given together with a fragment.
    if let Some((base, query)) = url.split_once('?') {
        let mut parts: Vec<&str> =
            query.split('&').filter(|p| !p.is_empty() && !p.starts_with("subdir=")).collect();
        let subdir = format!("subdir={below}");
        parts.extend((!below.is_empty()).then_some(subdir.as_str()));
        return format!("{base}?{}", parts.join("&"));
    }
    if commit.is_none() && below == above {
        return url.to_owned();
    }
    let base = url.split('#').next().unwrap_or(url);
    let reference = commit.or(g.reference.as_deref()).unwrap_or_default();
    match below.is_empty() {
        true => format!("{base}#{reference}"),
        false => format!("{base}#{reference}:{below}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The printed forms are those of buildx.
    #[test]
    fn urls_of_folders() {
        for (url, folder, shown, built) in [
            ("https://h/a.git", ".", "https://h/a.git", "https://h/a.git#C"),
            ("https://h/a.git", "x/y", "https://h/a.git#:x/y", "https://h/a.git#C:x/y"),
            ("https://h/a.git#v1", "x", "https://h/a.git#v1:x", "https://h/a.git#C:x"),
            ("https://h/a.git#v1:up", ".", "https://h/a.git#v1:up", "https://h/a.git#C:up"),
            ("https://h/a.git#v1:up", "x", "https://h/a.git#v1:up/x", "https://h/a.git#C:up/x"),
            ("git@h:u/a.git", "x", "git@h:u/a.git#:x", "git@h:u/a.git#C:x"),
            (
                "https://h/a.git?ref=v1&subdir=up",
                "x",
                "https://h/a.git?ref=v1&subdir=up/x",
                "https://h/a.git?ref=v1&subdir=up/x",
            ),
        ] {
            let g = rgraph_frontend::git_source(url).expect("it reads").expect("a repository");
            assert_eq!(of_repository(url, &g, folder, None), shown, "{url} {folder}");
            assert_eq!(of_repository(url, &g, folder, Some("C")), built, "{url} {folder}");
        }
    }
}
