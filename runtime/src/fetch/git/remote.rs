//! What is said of a repository before it is asked: its URL, the login for it, and names in it.

use rgraph_image::registry::shown_url;

/// A URL as `git` is given it, and the `Authorization` that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Without a login where that is a password.
    pub url: String,
    /// `user:password` of the URL.
    pub login: Option<String>,
}

impl Remote {
    /// Takes a URL apart. `Err`: why it is none that is fetched from.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.starts_with('-') || text.chars().any(|c| c.is_control() || c == ' ') {
            return Err("it begins with `-` or has control characters or spaces");
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            // `user@host:path`.
            let known = text.split_once(':').is_some_and(|(host, path)| {
                host.contains('@') && !host.contains('/') && !path.starts_with(':')
            });
            return match known {
                true => Ok(Self { url: text.to_owned(), login: None }),
                false => Err("only https, http, ssh and git are fetched from"),
            };
        };
        match scheme {
            "ssh" | "git" => Ok(Self { url: text.to_owned(), login: None }),
            "https" | "http" => {
                let end = rest.find('/').unwrap_or(rest.len());
                let (host, path) = rest.split_at(end);
                let (login, host) = match host.rsplit_once('@') {
                    Some((login, host)) => (Some(login.to_owned()), host),
                    None => (None, host),
                };
                Ok(Self { url: format!("{scheme}://{host}{path}"), login })
            }
            _ => Err("only https, http, ssh and git are fetched from"),
        }
    }

    /// Whether logins of HTTP apply.
    pub fn is_http(&self) -> bool {
        self.url.starts_with("http://") || self.url.starts_with("https://")
    }

    /// As messages hold it.
    pub fn shown(&self) -> String {
        if self.is_http() { shown_url(&self.url) } else { self.url.clone() }
    }

    /// The URL of a submodule as `.gitmodules` gives it: `./` and `../` are relative to this one.
    pub fn join(&self, url: &str) -> Result<Self, &'static str> {
        if !url.starts_with("./") && !url.starts_with("../") {
            return Self::parse(url);
        }
        let mut base = self.url.trim_end_matches('/').to_owned();
        let mut rest = url;
        loop {
            if let Some(r) = rest.strip_prefix("./") {
                rest = r;
            } else if let Some(r) = rest.strip_prefix("../") {
                rest = r;
                let least = base.find("://").map_or(0, |at| at + 3);
                match base[least..].rfind(['/', ':']) {
                    Some(at) => base.truncate(least + at),
                    None => return Err("it leads above the host"),
                }
            } else {
                break;
            }
        }
        let same_login = Self::parse(&format!("{base}/{rest}"))?;
        Ok(Self { login: self.login.clone(), ..same_login })
    }
}

/// Whether a text can be the name of a branch, a tag or a commit.
pub fn is_name(text: &str) -> bool {
    let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    !text.is_empty()
        && text.len() <= 1024
        && !text.starts_with(['-', '/', '.'])
        && !text.ends_with(['/', '.'])
        && !["..", "//", "@{", "/."].iter().any(|bad| text.contains(bad))
        && !text.chars().any(odd)
}

/// A whole commit id.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_hex(text)
}

/// The begin of one, long enough to be meant as that.
pub fn is_short_commit(text: &str) -> bool {
    (7..64).contains(&text.len()) && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// What a remote says that a name is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Found {
    /// The whole name of the ref; a commit asked for by id has none.
    pub full: Option<String>,
    /// The commit.
    pub commit: String,
    /// The tag itself, where it is an object.
    pub tag: Option<String>,
}

/// Finds a name in the answer of `ls-remote`: as it is, then a branch, then a tag, as `git checkout`
/// takes them. The empty name is HEAD.
pub fn find(answer: &str, name: &str) -> Option<Found> {
    let all: Vec<(&str, &str)> = answer.lines().filter_map(|l| l.split_once('\t')).collect();
    let get = |name: &str| all.iter().find(|(_, n)| *n == name).map(|(id, _)| *id);
    let names = match name {
        "" | "HEAD" => vec!["HEAD".to_owned()],
        name => {
            let rest = |prefix: &str| name.strip_prefix(prefix).unwrap_or(name);
            vec![
                format!("refs/{}", rest("refs/")),
                format!("refs/heads/{}", rest("refs/heads/")),
                format!("refs/tags/{}", rest("refs/tags/")),
            ]
        }
    };
    names.into_iter().find_map(|full| {
        let id = get(&full).filter(|id| is_commit(id))?.to_owned();
        let peeled = get(&format!("{full}^{{}}")).filter(|id| is_commit(id)).map(str::to_owned);
        Some(match peeled {
            Some(commit) => Found { full: Some(full), commit, tag: Some(id) },
            None => Found { full: Some(full), commit: id, tag: None },
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, want) in [
            ("https://h/a.git", Some(("https://h/a.git", None))),
            ("https://u:p@h:8/a.git", Some(("https://h:8/a.git", Some("u:p")))),
            ("ssh://git@h:22/a", Some(("ssh://git@h:22/a", None))),
            ("git@h:a/b.git", Some(("git@h:a/b.git", None))),
            ("file:///etc", None),
            ("ext::sh -c x", None),
            ("ext::sh", None),
            ("/etc", None),
            ("u@h::x", None),
            ("-oProxyCommand=x@h:p", None),
            ("https://h/a\n.git", None),
        ] {
            let got = Remote::parse(text).ok();
            let got = got.as_ref().map(|r| (r.url.as_str(), r.login.as_deref()));
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn submodules_are_relative_to_their_repository() {
        let base = Remote::parse("https://u:p@h/a/b.git").unwrap();
        for (url, want) in [
            ("../c.git", Some("https://h/a/c.git")),
            ("./c", Some("https://h/a/b.git/c")),
            ("../../../../c", None),
            ("https://o/x", Some("https://o/x")),
            ("ext::sh", None),
            ("/etc/x", None),
            ("file:///x", None),
        ] {
            assert_eq!(base.join(url).ok().map(|r| r.url).as_deref(), want, "{url}");
        }
        assert_eq!(base.join("../c").unwrap().login.as_deref(), Some("u:p"));
        assert_eq!(base.join("https://o/x").unwrap().login, None);
        let ssh = Remote::parse("git@h:a/b.git").unwrap();
        assert_eq!(ssh.join("../c").unwrap().url, "git@h:a/c");
    }

    #[test]
    fn names() {
        for good in ["main", "v1.0", "refs/heads/a/b", "a@b", "abc1234"] {
            assert!(is_name(good), "{good}");
        }
        for bad in
            ["", "-x", "--upload-pack=x", "a..b", "a b", "a:b", "a^", "a*", "x/", ".a", "a\n"]
        {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn refs_of_an_answer() {
        let (a, b, c, d) = ("a".repeat(40), "b".repeat(40), "c".repeat(40), "d".repeat(40));
        let answer = format!(
            "{a}\tHEAD\n{a}\trefs/heads/main\n{b}\trefs/heads/v1\n{c}\trefs/tags/v1\n{d}\trefs/tags/v1^{{}}\n{b}\trefs/heads/x/v2\n"
        );
        let full = |s: &str| Some(s.to_owned());
        for (name, want) in [
            ("", Some((full("HEAD"), &a, None))),
            ("main", Some((full("refs/heads/main"), &a, None))),
            ("v1", Some((full("refs/heads/v1"), &b, None))),
            ("refs/tags/v1", Some((full("refs/tags/v1"), &d, Some(&c)))),
            ("tags/v1", Some((full("refs/tags/v1"), &d, Some(&c)))),
            ("v2", None),
        ] {
            let got = find(&answer, name);
            let got = got.map(|f| (f.full, f.commit, f.tag));
            let want = want.map(|(f, c, t)| (f, c.clone(), t.cloned()));
            assert_eq!(got, want, "{name}");
        }
        assert_eq!(find("x\trefs/heads/main\n", "main"), None);
    }
}
