//! Device nodes that this user may not make. A file stands for each, and says so in an attribute;
//! in a tar it is the device.

use std::io;
use std::os::fd::AsFd;

use super::fs::{self, Xattrs};
use crate::tar::{Kind, Member};

/// The attribute of a file that stands for a device.
pub const DEVICE_ATTRIBUTE: &str = "user.rgraph.device";

/// What the attribute says: `c 1:3`.
pub fn device_note(block: bool, major: u32, minor: u32) -> String {
    format!("{} {major}:{minor}", if block { 'b' } else { 'c' })
}

/// Makes a file that stands for the device of `m`.
pub(super) fn stand_in(dir: impl AsFd, name: &[u8], m: &Member) -> io::Result<()> {
    let file = fs::create_file(dir, name, 0o600)?;
    let note = device_note(m.kind == Kind::Block, m.dev_major, m.dev_minor);
    fs::set_xattr(&file, DEVICE_ATTRIBUTE.as_bytes(), note.as_bytes())
}

/// Takes the note out of a file's attributes: kind, major and minor number.
pub(super) fn take(xattrs: &mut Xattrs) -> Option<(Kind, u32, u32)> {
    let at = xattrs.iter().position(|(n, _)| n == DEVICE_ATTRIBUTE.as_bytes())?;
    let found = parse(&xattrs[at].1)?;
    xattrs.remove(at);
    Some(found)
}

fn parse(note: &[u8]) -> Option<(Kind, u32, u32)> {
    let (kind, numbers) = std::str::from_utf8(note).ok()?.split_once(' ')?;
    let kind = match kind {
        "c" => Kind::Char,
        "b" => Kind::Block,
        _ => return None,
    };
    let (major, minor) = numbers.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    // To overlayfs that one means a deletion.
    (kind == Kind::Block || (major, minor) != (0, 0)).then_some((kind, major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes() {
        for (note, want) in [
            (device_note(false, 1, 3), Some((Kind::Char, 1, 3))),
            (device_note(true, 7, 1_048_575), Some((Kind::Block, 7, 1_048_575))),
            (device_note(true, 0, 0), Some((Kind::Block, 0, 0))),
            (device_note(false, 0, 0), None),
            ("p 1:3".into(), None),
            ("c 1".into(), None),
            ("c -1:3".into(), None),
            (String::new(), None),
        ] {
            let name = DEVICE_ATTRIBUTE.as_bytes().to_vec();
            let mut xattrs = vec![(b"user.a".to_vec(), vec![1]), (name, note.clone().into_bytes())];
            assert_eq!(take(&mut xattrs), want, "{note}");
            assert_eq!(xattrs.len(), if want.is_some() { 1 } else { 2 }, "{note}");
        }
    }
}
