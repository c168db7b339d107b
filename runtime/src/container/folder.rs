//! The folder of a container: what is in it, and how it goes.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rgraph_ir::ConfigDigest;
use rgraph_store::ImageRow;
use rgraph_store::layout::Layout;

use super::{ContainerError, Record, at};

/// What is known of a container, in its folder.
pub(super) const RECORD: &str = "record.json";

/// What gc keeps for a container: nothing that is newer, its image, its file system.
pub(super) fn holds(image: &ImageRow) -> String {
    let config: ConfigDigest = image.config;
    let mut text = format!("{max} {max}\n", max = i64::MAX);
    text.push_str(&format!("B{}\nB{}\n", image.manifest.hex(), config.hex()));
    if let Some(s) = image.snapshot {
        text.push_str(&format!("S{s}\n"));
    }
    text
}

/// The record in a container's folder, as it stands there; `None`: there is none.
pub(super) fn read_record(folder: &Path) -> Result<Option<Record>, ContainerError> {
    let path = folder.join(RECORD);
    let text = match fs::read(&path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        r => r.map_err(at("read", &path))?,
    };
    let damaged = |source| ContainerError::Damaged {
        id: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        folder: folder.to_owned(),
        source,
    };
    let mut record: Record = serde_json::from_slice(&text).map_err(damaged)?;
    // Beside the record, which the supervisor may write at the same time.
    if let Ok(name) = fs::read_to_string(folder.join("name")) {
        record.name = name;
    }
    Ok(Some(record))
}

/// Replaces the record in a container's folder.
pub(super) fn write_record(folder: &Path, record: &Record) -> Result<(), ContainerError> {
    let path = folder.join(RECORD);
    let tmp = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut f = fs::File::create(&tmp)?;
        f.write_all(&serde_json::to_vec(record)?)?;
        fs::rename(&tmp, &path)
    };
    write().map_err(at("write", &path))
}

/// Removes a container's folder, and its volumes without a name that no other container has.
pub(super) fn remove_with_volumes(folder: &Path, record: &Record) -> Result<(), ContainerError> {
    remove_folder(folder)?;
    remove_volumes(folder, record)
}

/// As [`remove_with_volumes`], at once: gives what is left of it, without a name, to be deleted. Whoever
/// comes first does that: it lies where a lease looks.
pub(super) fn discard(folder: &Path, record: &Record) -> Result<PathBuf, ContainerError> {
    let root = folder.parent().and_then(Path::parent).unwrap_or(folder);
    let rubbish = Layout::new(root.to_owned()).trash().join(&record.id);
    fs::rename(folder, &rubbish).map_err(at("remove", folder))?;
    remove_volumes(folder, record)?;
    Ok(rubbish)
}

/// Removes the volumes without a name of a container that is gone.
fn remove_volumes(folder: &Path, record: &Record) -> Result<(), ContainerError> {
    let (Some(all), true) = (folder.parent(), record.settings.volumes.iter().any(|v| v.anonymous))
    else {
        return Ok(());
    };
    let mut used = std::collections::HashSet::new();
    for entry in fs::read_dir(all).map_err(at("read", all))? {
        let dir = entry.map_err(at("read", all))?.path();
        let other = read_record(&dir)?;
        used.extend(other.into_iter().flat_map(|r| r.settings.volumes).map(|v| v.name));
    }
    let volumes = crate::volumes::folder_of(all.parent().unwrap_or(all));
    for v in record.settings.volumes.iter().filter(|v| v.anonymous && !used.contains(&v.name)) {
        crate::volumes::remove_folder(&volumes.join(&v.name))?;
    }
    Ok(())
}

/// Removes a container's folder.
pub(super) fn remove_folder(dir: &Path) -> Result<(), ContainerError> {
    // Without a record it is nobody's any more, whatever happens next.
    let record = dir.join(RECORD);
    match fs::remove_file(&record) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at("remove", &record)(e)),
        _ => {}
    }
    remove_tree(dir).map_err(at("remove", dir))
}

pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

pub(super) fn modified(path: &Path) -> i64 {
    let time = fs::metadata(path).and_then(|m| m.modified()).ok();
    time.and_then(|t| jiff::Timestamp::try_from(t).ok()).map_or_else(now, |t| t.as_second())
}

/// Folders that their owner may not read are no hindrance to their owner.
pub(super) fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        r => r,
    }
}
