//! The calls that make files: what would be root's the kernel makes, the rest is made here as the kernel
//! would have made it, and its owner recorded.

use std::os::fd::OwnedFd;

use rgraph_image::layer::owner;
use rgraph_image::layer::{DEVICE_ATTRIBUTE, device_note};
use rgraph_sys::seccomp::asked::{At, Call};
use rgraph_sys::seccomp::notify;
use rgraph_sys::{ns, other};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::caller::{Entry, View};
use super::people::{Person, errno};
use super::{Answer, Asked, DONE, KERNEL, keep, owner_of};

/// Makes what would not be root's; the kernel makes the rest.
pub(super) fn make(
    view: &View,
    thread: u32,
    who: &Person,
    call: Call,
    asked: Asked<'_>,
) -> Result<Answer, Errno> {
    let (at, open) = match call {
        Call::Open(at, flags, mode) => (at, Some((flags, mode))),
        Call::Open2(at, how, size) => match open_how(thread, how, size)? {
            Some(open) => (at, Some(open)),
            None => return Ok(KERNEL),
        },
        Call::MakeDir(at, _) | Call::MakeLink(at, _) | Call::MakeNode(at, _, _) => (at, None),
        _ => return Ok(KERNEL),
    };
    let device = matches!(call, Call::MakeNode(_, mode, _) if is_device(mode));
    if device && !who.is_root() {
        return Err(Errno::PERM);
    }
    view.within(thread, |view| {
        if let Some((flags, mode)) = open
            && OFlags::from_bits_retain(flags as u32).contains(OFlags::TMPFILE)
        {
            return unnamed(thread, view, who, at, (flags, mode), asked);
        }
        let Ok(mut entry) = view.entry(thread, at) else { return Ok(KERNEL) };
        let flags = open.map(|(flags, _)| OFlags::from_bits_retain(flags as u32));
        let follows = flags.is_some_and(|f| !f.intersects(OFlags::EXCL | OFlags::NOFOLLOW));
        if follows {
            match view.behind_links(entry) {
                Ok(new) => entry = new,
                Err(_) => return Ok(KERNEL),
            }
        }
        let stat = rustix::fs::fstat(&entry.folder)?;
        let Some(owner) = owner_of_new(who, &entry.folder, &stat)? else {
            // A device is made by nobody here.
            return match call {
                Call::MakeNode(_, mode, device) if is_device(mode) => {
                    ns::set_umask(view.umask(thread)?);
                    asked()?;
                    make_node(&entry, mode, device, (0, 0))
                }
                _ => Ok(KERNEL),
            };
        };
        let exists =
            rustix::fs::statat(&entry.folder, entry.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW);
        if exists.is_ok() {
            return Ok(KERNEL);
        }
        let target = match call {
            Call::MakeLink(_, target) => notify::read_path(thread, target).map_err(errno)?,
            _ => Vec::new(),
        };
        ns::set_umask(view.umask(thread)?);
        // All of that was about whoever calls, or it is not used.
        asked()?;
        let name = entry.name.as_slice();
        match call {
            Call::MakeDir(_, mode) => {
                rustix::fs::mkdirat(&entry.folder, name, Mode::from_raw_mode(mode & 0o7777))?;
            }
            Call::MakeLink(..) => {
                rustix::fs::symlinkat(target.as_slice(), &entry.folder, name)?;
            }
            Call::MakeNode(_, mode, device) => {
                return make_node(&entry, mode, device, owner);
            }
            _ => {
                let Some((flags, mode)) = open else { return Ok(KERNEL) };
                let flags = OFlags::from_bits_retain(flags as u32);
                let cloexec = flags.contains(OFlags::CLOEXEC);
                let flags = flags | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mode = Mode::from_raw_mode(mode & 0o7777);
                let file = match rustix::fs::openat(&entry.folder, name, flags, mode) {
                    // Somebody else made it meanwhile.
                    Err(Errno::EXIST) => return Ok(KERNEL),
                    file => file?,
                };
                keep(owner::record(View::path(&file).as_str(), true, owner))?;
                return Ok(Answer::File(file, cloexec));
            }
        }
        let made = rustix::fs::openat(
            &entry.folder,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let plain = owner::is_plain(rustix::fs::fstat(&made)?.st_mode);
        keep(owner::record(View::path(&made).as_str(), plain, owner))?;
        Ok(DONE)
    })
}

/// A file that has no name yet (`O_TMPFILE`).
fn unnamed(
    thread: u32,
    view: &View,
    who: &Person,
    at: At,
    (flags, mode): (i32, u32),
    asked: Asked<'_>,
) -> Result<Answer, Errno> {
    let Ok(folder) = view.handle(thread, at) else { return Ok(KERNEL) };
    let stat = rustix::fs::fstat(&folder)?;
    let Some(owner) = owner_of_new(who, &folder, &stat)? else { return Ok(KERNEL) };
    ns::set_umask(view.umask(thread)?);
    asked()?;
    let flags = OFlags::from_bits_retain(flags as u32);
    let mode = Mode::from_raw_mode(mode & 0o7777);
    let file = rustix::fs::openat(&folder, c".", flags | OFlags::CLOEXEC, mode)?;
    keep(owner::record(View::path(&file).as_str(), true, owner))?;
    Ok(Answer::File(file, flags.contains(OFlags::CLOEXEC)))
}

/// Who a new file in `folder` belongs to; `None`: root, as the kernel would have it.
fn owner_of_new(who: &Person, folder: &OwnedFd, stat: &Stat) -> Result<Option<(u32, u32)>, Errno> {
    let mut owner = (who.user.files, who.group.files);
    if Mode::from_raw_mode(stat.st_mode).contains(Mode::SGID) {
        owner.1 = owner_of(folder, stat)?.map_or(stat.st_gid, |o| o.1);
    }
    Ok((owner != (0, 0)).then_some(owner))
}

fn is_device(mode: u32) -> bool {
    let kind = FileType::from_raw_mode(mode);
    matches!(kind, FileType::CharacterDevice | FileType::BlockDevice)
}

/// Makes a file of any kind; for a device one that stands for it (see [`super::nodes`]).
fn make_node(entry: &Entry, mode: u32, device: u32, owner: (u32, u32)) -> Result<Answer, Errno> {
    let (folder, name) = (&entry.folder, entry.name.as_slice());
    let bits = Mode::from_raw_mode(mode & 0o7777);
    let plain = if is_device(mode) {
        let block = FileType::from_raw_mode(mode) == FileType::BlockDevice;
        let (major, minor) = notify::device_numbers(device);
        // That one means a deletion to overlayfs.
        if !block && (major, minor) == (0, 0) {
            return Err(Errno::PERM);
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, name, flags, bits)?;
        let note = device_note(block, major, minor);
        if rustix::fs::fsetxattr(&file, DEVICE_ATTRIBUTE, note.as_bytes(), XattrFlags::empty())
            .is_err()
        {
            let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
            return Err(Errno::PERM);
        }
        true
    } else {
        let kind = match FileType::from_raw_mode(mode) {
            // No kind means a regular file.
            FileType::Unknown => FileType::RegularFile,
            kind => kind,
        };
        rustix::fs::mknodat(folder, name, kind, bits, 0)?;
        kind == FileType::RegularFile
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    keep(owner::record(View::path(&made).as_str(), plain, owner))?;
    Ok(DONE)
}

/// Flags and mode of `openat2`; `None`: it makes nothing.
fn open_how(thread: u32, how: u64, size: u64) -> Result<Option<(i32, u32)>, Errno> {
    let mut bytes = [0; 24];
    if size < bytes.len() as u64 {
        return Ok(None);
    }
    other::read_exact(thread, how, &mut bytes).map_err(errno)?;
    let word = |n: usize| u64::from_ne_bytes(bytes[n * 8..][..8].try_into().expect("eight"));
    let (flags, mode, resolve) = (word(0), word(1), word(2));
    let unnamed = OFlags::TMPFILE.difference(OFlags::DIRECTORY);
    let creates = flags & u64::from((OFlags::CREATE | unnamed).bits()) != 0;
    // Where it may not go is for the kernel to judge.
    Ok((creates && resolve == 0).then_some((flags as i32, mode as u32)))
}
