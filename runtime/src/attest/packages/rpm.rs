//! rpm's database: headers (rpm-software-management/rpm, docs/manual/format_header.md) in the table
//! `Packages` of an SQLite file.

use super::sqlite::{self, Value};
use super::{MAX_FIELD, MAX_PACKAGES, Manager, Package, field};

/// Tags of a header, `include/rpm/rpmtag.h`.
const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const VENDOR: u32 = 1011;
const LICENSE: u32 = 1014;
const URL: u32 = 1020;
const ARCH: u32 = 1022;
const SOURCE: u32 = 1044;

/// Most entries of a header; rpm's own limit.
const MAX_ENTRIES: usize = 65_535;

/// Types of an entry.
const INT32: u32 = 4;
const STRING: u32 = 6;
const STRING_ARRAY: u32 = 8;
const I18N_STRING: u32 = 9;

/// The packages of the file. Keys of signers, which stand among them, are left out.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Package>, String> {
    let mut out = Vec::new();
    sqlite::rows(bytes, "Packages", &mut |cells| {
        let Some(Value::Blob(header)) = cells.iter().find(|c| matches!(c, Value::Blob(_))) else {
            return Ok(());
        };
        if out.len() < MAX_PACKAGES
            && let Some(package) = package(header)
            && package.name != "gpg-pubkey"
        {
            out.push(package);
        }
        Ok(())
    })?;
    Ok(out)
}

/// `None`: it is no header of a package.
fn package(header: &[u8]) -> Option<Package> {
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?))
    };
    let count = word(0)? as usize;
    if count > MAX_ENTRIES {
        return None;
    }
    let data = header.get(8 + count.checked_mul(16)?..)?;
    let mut out = Package::new(Manager::Rpm, String::new(), String::new());
    let mut release = String::new();
    for i in 0..count {
        let at = 8 + 16 * i;
        let (tag, kind, offset) = (word(at)?, word(at + 4)?, word(at + 8)? as usize);
        let text = || {
            let bytes = data.get(offset..)?;
            let end = bytes.iter().take(MAX_FIELD).position(|b| *b == 0)?;
            let text = field(&String::from_utf8_lossy(&bytes[..end]));
            (matches!(kind, STRING | STRING_ARRAY | I18N_STRING) && !text.is_empty())
                .then_some(text)
        };
        // Each tag stands once: what comes again is not looked at.
        match tag {
            NAME if out.name.is_empty() => out.name = text().unwrap_or_default(),
            VERSION if out.version.is_empty() => out.version = text().unwrap_or_default(),
            RELEASE if release.is_empty() => release = text().unwrap_or_default(),
            ARCH if out.arch.is_empty() => out.arch = text().unwrap_or_default(),
            VENDOR if out.maker.is_none() => out.maker = text(),
            LICENSE if out.license.is_none() => out.license = text(),
            URL if out.homepage.is_none() => out.homepage = text(),
            SOURCE if out.source.is_none() => out.source = text(),
            EPOCH if kind == INT32 => {
                let bytes = data.get(offset..offset.checked_add(4)?)?;
                out.epoch = Some(u32::from_be_bytes(bytes.try_into().ok()?));
            }
            _ => {}
        }
    }
    if out.name.is_empty() || out.version.is_empty() {
        return None;
    }
    if !release.is_empty() {
        out.version = format!("{}-{release}", out.version);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by rpm's own rules: 60 packages on pages of 512 bytes, so that there are inner pages and
    /// headers that go over several.
    const DATABASE: &[u8] = include_bytes!("../../../../fixtures/packages/rpmdb.sqlite");

    #[test]
    fn reads_a_database() {
        let all = parse(DATABASE).unwrap();
        assert_eq!(all.len(), 60);
        let seven = all.iter().find(|p| p.name == "package7").unwrap();
        assert_eq!((&*seven.version, &*seven.arch), ("1.7-2.fc40", "x86_64"));
        assert_eq!((seven.epoch, seven.license.as_deref()), (Some(1), Some("MIT AND GPLv2+")));
        assert_eq!(seven.source.as_deref(), Some("package7-1.7-2.fc40.src.rpm"));
        assert_eq!(all.iter().filter(|p| p.epoch.is_none()).count(), 59);
    }

    #[test]
    fn a_damaged_database_is_an_error_or_less() {
        assert!(parse(b"").is_err() && parse(&[0; 4096]).is_err());
        let mut seed = 7u64;
        for round in 0..3000 {
            let mut bytes = DATABASE.to_vec();
            for _ in 0..1 + round % 8 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (seed >> 20) as usize % bytes.len();
                bytes[at] = (seed >> 56) as u8;
            }
            if round % 3 == 0 {
                bytes.truncate((seed >> 30) as usize % DATABASE.len());
            }
            // Whatever it says, it ends, and no panic.
            if let Ok(all) = parse(&bytes) {
                assert!(all.len() <= 200, "more than there is room for");
            }
        }
    }

    #[test]
    fn cells_over_each_other_are_not_read_for_ever() {
        // The one leaf of the schema says that it has as many rows as pointers fit, all the same one.
        let mut bytes = DATABASE[..512].to_vec();
        let cell = u16::from_be_bytes([bytes[108], bytes[109]]);
        let count = 150u16;
        bytes[103..105].copy_from_slice(&count.to_be_bytes());
        for i in 0..usize::from(count) {
            bytes[108 + 2 * i..110 + 2 * i].copy_from_slice(&cell.to_be_bytes());
        }
        assert!(parse(&bytes).is_err());
    }
}
