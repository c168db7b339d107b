//! dpkg's `status`: paragraphs of `Field: value` (deb822(5), dpkg-query(1)).

use super::{Manager, Package, field};

/// The packages of the file. `status`: each says whether it is installed, and only those that are
/// count.
pub(super) fn parse(bytes: &[u8], status: bool) -> Vec<Package> {
    let mut out = Vec::new();
    let new = || Package::new(Manager::Deb, String::new(), String::new());
    let (mut now, mut installed) = (new(), !status);
    for line in bytes.split(|b| *b == b'\n').chain([&b""[..]]) {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end_matches('\r');
        if line.trim().is_empty() {
            let done = std::mem::replace(&mut now, new());
            if std::mem::replace(&mut installed, !status)
                && !done.name.is_empty()
                && !done.version.is_empty()
            {
                out.push(done);
            }
            continue;
        }
        // The rest of a longer value.
        if line.starts_with([' ', '\t']) {
            continue;
        }
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = field(value);
        if value.is_empty() {
            continue;
        }
        match key.to_ascii_lowercase().as_str() {
            "package" => now.name = value,
            "version" => now.version = value,
            "architecture" => now.arch = value,
            "status" => installed = value.split_whitespace().last() == Some("installed"),
            "source" => now.source = Some(value),
            "maintainer" => now.maker = Some(value),
            "homepage" => now.homepage = Some(value),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_dpkg_writes() {
        let text = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\n\
                    Source: glibc (2.36-9)\nVersion: 2.36-9+deb12u4\nDescription: x\n Package: no\n\n\
                    Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                    Package: bare\nVersion: 1\n";
        let all = parse(text.as_bytes(), true);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!((&*all[0].name, &*all[0].version), ("libc6", "2.36-9+deb12u4"));
        assert_eq!(all[0].source.as_deref(), Some("glibc (2.36-9)"));
        let names: Vec<_> = parse(text.as_bytes(), false).into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["libc6", "bare"]);
        assert!(parse(&[b':'; 5000], false).is_empty());
    }

    #[test]
    fn a_long_field_is_cut() {
        let text = format!("Package: {}\nVersion: 1\n", "é".repeat(5000));
        assert!(parse(text.as_bytes(), false)[0].name.len() <= super::super::MAX_FIELD);
    }
}
