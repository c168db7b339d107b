//! apk's `installed`: a letter, a colon and a value on each line, an empty line behind each package.

use super::{Manager, Package, field};

/// The packages of the file. Lines that are none are passed over.
pub(super) fn parse(bytes: &[u8]) -> Vec<Package> {
    let mut out = Vec::new();
    let mut now = Package::new(Manager::Apk, String::new(), String::new());
    for line in bytes.split(|b| *b == b'\n').chain([&b""[..]]) {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end_matches('\r');
        if line.is_empty() {
            let empty = Package::new(Manager::Apk, String::new(), String::new());
            let done = std::mem::replace(&mut now, empty);
            if !done.name.is_empty() && !done.version.is_empty() {
                out.push(done);
            }
            continue;
        }
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = field(value);
        if value.is_empty() {
            continue;
        }
        match key {
            "P" => now.name = value,
            "V" => now.version = value,
            "A" => now.arch = value,
            "L" => now.license = Some(value),
            "o" => now.source = Some(value),
            "U" => now.homepage = Some(value),
            "m" => now.maker = Some(value),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_apk_writes() {
        let text = "C:Q1abc=\nP:musl\nV:1.2.5-r0\nA:x86_64\nS:1\nT:the c library\nU:https://musl/\n\
                    L:MIT\no:musl\nm:Some One <a@b>\nF:lib\nR:ld\n\nP:half\n\nnonsense\nP:z\nV:1";
        let all = parse(text.as_bytes());
        let names: Vec<_> = all.iter().map(|p| (&*p.name, &*p.version)).collect();
        assert_eq!(names, [("musl", "1.2.5-r0"), ("z", "1")]);
        assert_eq!(all[0].license.as_deref(), Some("MIT"));
        assert_eq!(all[0].maker.as_deref(), Some("Some One <a@b>"));
        assert!(parse(&[0xff; 1000]).is_empty());
    }
}
