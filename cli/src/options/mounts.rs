//! What `run` mounts: `-v`, `--mount`, `--tmpfs`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rgraph_runtime::container::{Bind, TmpfsMount};

use super::error::OptionsError;
use super::{container_name, csv, parse_size};

/// A volume; without a name one is made for this container alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedVolume {
    /// `None`: one is found.
    pub name: Option<String>,
    /// Absolute path in the container.
    pub dest: String,
    /// No writes.
    pub readonly: bool,
    /// When it is empty it takes what the image has in its place.
    pub copy: bool,
}

/// All that is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts {
    /// Folders and files of the host.
    pub binds: Vec<Bind>,
    /// Volumes.
    pub volumes: Vec<NamedVolume>,
    /// Memory.
    pub tmpfs: Vec<TmpfsMount>,
}

impl Mounts {
    /// Reads all three flags. No two may have the same target.
    pub fn new(
        volumes: &[String],
        mounts: &[String],
        tmpfs: &[String],
        cwd: &Path,
    ) -> Result<Self, OptionsError> {
        let mut out = Self::default();
        for line in volumes {
            out.volume(line, cwd)?;
        }
        for line in mounts {
            out.mount(line)?;
        }
        for line in tmpfs {
            out.tmpfs(line)?;
        }
        let mut seen = BTreeSet::new();
        for dest in out.targets() {
            if !seen.insert(dest.trim_end_matches('/')) {
                return Err(OptionsError::Conflict(format!("duplicate mount point: {dest}")));
            }
        }
        Ok(out)
    }

    /// All targets.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        let binds = self.binds.iter().map(|b| b.dest.as_str());
        let volumes = self.volumes.iter().map(|v| v.dest.as_str());
        binds.chain(volumes).chain(self.tmpfs.iter().map(|t| t.dest.as_str()))
    }

    /// `PATH`, `NAME:PATH[:OPTIONS]` or `/HOST:PATH[:OPTIONS]`.
    fn volume(&mut self, line: &str, cwd: &Path) -> Result<(), OptionsError> {
        let wrong = |why: &str| OptionsError::value("--volume", line, why);
        let parts: Vec<&str> = line.split(':').collect();
        let (source, dest, options) = match parts[..] {
            [dest] => ("", dest, ""),
            [source, dest] if !source.is_empty() => (source, dest, ""),
            [source, dest, options] if !source.is_empty() => (source, dest, options),
            _ => return Err(wrong("expected [SOURCE:]PATH[:OPTIONS]")),
        };
        let dest = target("--volume", line, dest)?;
        let (mut readonly, mut copy) = (false, true);
        for option in options.split(',').filter(|o| !o.is_empty()) {
            match option {
                "ro" => readonly = true,
                "rw" => readonly = false,
                "nocopy" => copy = false,
                // Labels of SELinux, which there is no use for here.
                "z" | "Z" => {}
                _ => return Err(wrong("the mode must be `ro` or `rw`, or `nocopy`")),
            }
        }
        if source.starts_with(['/', '.']) {
            let source = if source.starts_with('/') { source.into() } else { cwd.join(source) };
            self.binds.push(Bind { source, dest, readonly });
            return Ok(());
        }
        let name = (!source.is_empty()).then(|| source.to_owned());
        if let Some(name) = &name {
            container_name("--volume", name)?;
        }
        self.volumes.push(NamedVolume { name, dest, readonly, copy });
        Ok(())
    }

    /// `type=bind|volume|tmpfs,source=S,target=T,...`.
    fn mount(&mut self, line: &str) -> Result<(), OptionsError> {
        let wrong = |why: String| OptionsError::value("--mount", line, why);
        let (mut kind, mut source, mut dest) = ("volume".to_owned(), String::new(), String::new());
        let (mut readonly, mut copy, mut size) = (false, true, 0);
        for field in csv::fields(line).map_err(&wrong)? {
            let (key, value) = match field.split_once('=') {
                Some((k, v)) => (k.to_ascii_lowercase(), Some(v)),
                None => (field.to_ascii_lowercase(), None),
            };
            let text = || value.unwrap_or_default().to_owned();
            match key.as_str() {
                "type" => kind = text(),
                "source" | "src" => source = text(),
                "target" | "destination" | "dst" => dest = text(),
                "readonly" | "ro" => readonly = csv::switch(value).map_err(&wrong)?,
                "volume-nocopy" => copy = !csv::switch(value).map_err(&wrong)?,
                "tmpfs-size" => size = parse_size(&text()).map_err(&wrong)?,
                "tmpfs-mode" if matches!(value, Some("1777" | "01777")) => {}
                "bind-propagation" if matches!(value, Some("rprivate" | "private")) => {}
                "tmpfs-mode" | "bind-propagation" | "volume-opt" | "volume-driver"
                | "volume-label" | "bind-nonrecursive" | "bind-recursive" | "consistency" => {
                    return Err(OptionsError::Unsupported(format!("`--mount {key}`")));
                }
                _ => return Err(wrong(format!("unknown field `{key}`"))),
            }
        }
        let dest = target("--mount", line, &dest)?;
        match kind.as_str() {
            "bind" => {
                let source = PathBuf::from(source);
                if !source.is_absolute() {
                    return Err(wrong("the source must be an absolute path".to_owned()));
                }
                if !source.exists() {
                    return Err(wrong(format!("`{}` does not exist", source.display())));
                }
                self.binds.push(Bind { source, dest, readonly });
            }
            "volume" => {
                let name = (!source.is_empty()).then_some(source);
                if let Some(name) = &name {
                    container_name("--mount", name)?;
                }
                self.volumes.push(NamedVolume { name, dest, readonly, copy });
            }
            "tmpfs" if !source.is_empty() => {
                return Err(wrong("memory has no source".to_owned()));
            }
            "tmpfs" if readonly => {
                return Err(OptionsError::Unsupported("`--mount type=tmpfs,readonly`".to_owned()));
            }
            "tmpfs" => self.tmpfs.push(TmpfsMount { dest, size }),
            kind => {
                return Err(OptionsError::word(
                    "--mount",
                    kind,
                    "type",
                    &["bind", "volume", "tmpfs"],
                ));
            }
        }
        Ok(())
    }

    /// `PATH[:OPTIONS]`, options as of mount(8).
    fn tmpfs(&mut self, line: &str) -> Result<(), OptionsError> {
        let (dest, options) = line.split_once(':').unwrap_or((line, ""));
        let dest = target("--tmpfs", line, dest)?;
        let mut size = 0;
        for option in options.split(',').filter(|o| !o.is_empty()) {
            match option.split_once('=') {
                Some(("size", n)) => {
                    size =
                        parse_size(n).map_err(|why| OptionsError::value("--tmpfs", line, why))?;
                }
                Some(("mode", "1777" | "01777")) => {}
                // As it is in any case.
                None if ["rw", "noexec", "nosuid", "nodev"].contains(&option) => {}
                _ => {
                    return Err(OptionsError::Unsupported(format!("`--tmpfs` option `{option}`")));
                }
            }
        }
        self.tmpfs.push(TmpfsMount { dest, size });
        Ok(())
    }
}

fn target(flag: &'static str, line: &str, dest: &str) -> Result<String, OptionsError> {
    if !dest.starts_with('/') || dest.trim_end_matches('/').is_empty() {
        let why = "the path in the container must be absolute, and not `/`";
        return Err(OptionsError::value(flag, line, why));
    }
    Ok(dest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(volumes: &[&str], mounts: &[&str], tmpfs: &[&str]) -> Result<Mounts, OptionsError> {
        let own = |l: &[&str]| -> Vec<String> { l.iter().map(|s| (*s).to_owned()).collect() };
        Mounts::new(&own(volumes), &own(mounts), &own(tmpfs), Path::new("/w"))
    }

    #[test]
    fn forms() {
        let volume = |name: Option<&str>, dest: &str, readonly, copy| NamedVolume {
            name: name.map(str::to_owned),
            dest: dest.to_owned(),
            readonly,
            copy,
        };
        let bind = |source: &str, dest: &str, readonly| Bind {
            source: source.into(),
            dest: dest.to_owned(),
            readonly,
        };
        let m = read(
            &["/data", "db:/db:ro", "/h:/b:ro", "./x:/x", "c1:/c:nocopy,z"],
            &[
                "type=bind,src=/,dst=/r,ro",
                "type=volume,source=v1,target=/v,volume-nocopy",
                "target=/anon",
                "type=tmpfs,target=/t,tmpfs-size=1m",
            ],
            &["/run:size=64k,rw"],
        )
        .unwrap();
        assert_eq!(
            m.binds,
            [bind("/h", "/b", true), bind("/w/./x", "/x", false), bind("/", "/r", true)]
        );
        assert_eq!(
            m.volumes,
            [
                volume(None, "/data", false, true),
                volume(Some("db"), "/db", true, true),
                volume(Some("c1"), "/c", false, false),
                volume(Some("v1"), "/v", false, false),
                volume(None, "/anon", false, true),
            ]
        );
        let sizes: Vec<u64> = m.tmpfs.iter().map(|t| t.size).collect();
        assert_eq!(sizes, [1 << 20, 64 << 10]);
    }

    #[test]
    fn refusals() {
        for (volume, mount, tmpfs, part) in [
            (Some("a:b"), None, None, "must be absolute"),
            (Some("a/b:/c"), None, None, "only [a-zA-Z0-9]"),
            (Some("/a:/b:rx"), None, None, "must be `ro` or `rw`"),
            (Some(":/b"), None, None, "expected [SOURCE:]PATH"),
            (None, Some("type=bind,source=x,target=/y"), None, "absolute path"),
            (None, Some("type=bind,source=/no/where,target=/y"), None, "does not exist"),
            (None, Some("type=nfs,target=/y"), None, "nfs"),
            (None, Some("type=volume,targt=/y"), None, "unknown field"),
            (None, Some("type=volume,volume-opt=a,target=/y"), None, "not supported yet"),
            (None, None, Some("/x:exec"), "not supported yet"),
            (Some("/x"), None, Some("/x/"), "duplicate mount point"),
        ] {
            let own = |o: Option<&'static str>| o.into_iter().collect::<Vec<_>>();
            let e = read(&own(volume), &own(mount), &own(tmpfs)).unwrap_err().to_string();
            assert!(e.contains(part), "{volume:?} {mount:?} {tmpfs:?}: {e}");
        }
    }
}
