//! Paths inside images, as Go's `path` package and BuildKit's `util/system` treat them. They are text:
//! nothing here looks at a disk.

use std::borrow::Cow;

pub(crate) use rgraph_ir::pattern::{clean, cleaned, is_clean};

/// Go's `path.Join` of two elements.
pub(crate) fn join(a: &str, b: &str) -> String {
    match (a.is_empty(), b.is_empty()) {
        (true, true) => String::new(),
        (true, false) => clean(b),
        (false, true) => clean(a),
        (false, false) => cleaned([a, if a.ends_with('/') { "" } else { "/" }, b].concat()),
    }
}

/// Go's `path.Base`.
pub(crate) fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/";
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}

fn slashes<'a>(path: &'a str, os: &str) -> Cow<'a, str> {
    if os == "windows" { Cow::Owned(path.replace('\\', "/")) } else { Cow::Borrowed(path) }
}

/// Without a drive letter; on Windows also cleaned.
fn without_drive<'a>(path: &'a str, os: &str, keep_slash: bool) -> Result<Cow<'a, str>, String> {
    if os != "windows" {
        return Ok(Cow::Borrowed(path));
    }
    if path.len() == 2 && path.ends_with(':') {
        return Err(format!("No relative path specified in \"{path}\""));
    }
    let path = slashes(path, os);
    if path.starts_with("//") {
        return Err("UNC paths are not supported".to_owned());
    }
    let rest = match path.split_once(':') {
        None => &*path,
        Some((drive, rest)) if drive.eq_ignore_ascii_case("c") => rest,
        Some(_) => return Err("The specified path is not on the system drive (C:)".to_owned()),
    };
    let mut cleaned = clean(rest);
    if keep_slash && cleaned.len() > 1 && rest.ends_with('/') {
        cleaned.push('/');
    }
    Ok(Cow::Owned(cleaned))
}

/// True when `path` is absolute on `os`.
pub(crate) fn is_abs(path: &str, os: &str) -> bool {
    without_drive(path, os, false).is_ok_and(|p| p.starts_with('/'))
}

/// `path` seen from `parent`, absolute. An absolute path is not cleaned on Linux.
pub(crate) fn normalize(
    parent: &str,
    path: &str,
    os: &str,
    keep_slash: bool,
) -> Result<String, String> {
    let original = slashes(path, os);
    let parent = if parent.is_empty() { Cow::Borrowed("/") } else { slashes(parent, os) };
    let mut parent = without_drive(&parent, os, keep_slash)?;
    if !parent.starts_with('/') {
        parent = Cow::Owned(join("/", &parent));
    }
    let new = if original.is_empty() { &parent } else { &original };
    let new = without_drive(new, os, keep_slash)?;
    let new = if new.starts_with('/') { new.into_owned() } else { join(&parent, &new) };
    Ok(if keep_slash { keep_end(&original, new) } else { new })
}

/// The cleaned form that keeps a final `/` or `/.`.
fn clean_keep_end(path: String) -> String {
    let bare = path.strip_suffix('/').unwrap_or(&path);
    if is_clean(bare) && bare != "/" {
        return path;
    }
    keep_end(&path, clean(&path))
}

fn keep_end(original: &str, mut new: String) -> String {
    if original.ends_with('/') && !new.ends_with('/') {
        new.push('/');
    } else if original.ends_with("/.") && !new.ends_with("/.") {
        if new != "/" {
            new.push('/');
        }
        new.push('.');
    }
    new
}

/// The destination of a copy seen from the working directory.
pub(crate) fn destination(dir: &str, path: &str, os: &str) -> Result<String, String> {
    let path = without_drive(path, os, true)?;
    let raw = if is_abs(&path, os) {
        normalize("/", &path, os, true)?
    } else if path == "." || path.is_empty() {
        normalize(dir, "./", os, true)?
    } else {
        normalize(dir, &path, os, true)?
    };
    Ok(clean_keep_end(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go() {
        for (p, want) in
            [("", "."), ("/..", "/"), ("a/../..", ".."), ("/a//b/./c/", "/a/b/c"), ("./", ".")]
        {
            assert_eq!(clean(p), want, "{p}");
        }
        for (p, want) in [("", "."), ("/", "/"), ("a/b/", "b"), ("x", "x")] {
            assert_eq!(base(p), want, "{p}");
        }
    }

    #[test]
    fn destinations() {
        for (dir, p, want) in [
            ("/w", ".", "/w/"),
            ("/w", "", "/w/"),
            ("/w", "a", "/w/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", "a/.", "/w/a/."),
            ("/w", "/x/../y/", "/y/"),
            ("/", "./", "/"),
            ("/", "/.", "/."),
            ("/", "..", "/"),
        ] {
            assert_eq!(destination(dir, p, "linux").unwrap(), want, "{dir} {p}");
        }
        assert_eq!(destination("/w", r"C:\a\b\", "windows").unwrap(), "/a/b/");
        assert!(destination("/w", r"D:\a", "windows").is_err());
        for p in ["/", "//", "/a/", "/a//", "/a/.", "/a/./", "a/", "./", ".", "", "/..", "/a/.b/"] {
            assert_eq!(clean_keep_end(p.to_owned()), keep_end(p, clean(p)), "{p}");
        }
        assert_eq!(normalize("/a", "/q/../r/", "linux", false).unwrap(), "/q/../r/");
    }
}
