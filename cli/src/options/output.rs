//! `-o`, `--push`, `--load`: where results go.

use std::path::PathBuf;

use rgraph_ir::Reference;
use rgraph_ir::annotation::Annotations;
use rgraph_ir::request::{
    ArchiveOutput, Compression, Dest, FilesForm, ImageOutput, LayerOptions, OutputSpec,
};

use super::error::{OptionsError, did_you_mean};
use super::{annotation, csv};

const FLAG: &str = "--output";
const TYPES: &[&str] = &["oci", "docker", "tar", "local", "image", "registry", "cacheonly"];
const KEYS: &[&str] = &[
    "type",
    "dest",
    "name",
    "push",
    "tar",
    "compression",
    "compression-level",
    "force-compression",
    "rewrite-timestamp",
    "oci-mediatypes",
    "registry.insecure",
    "push-by-digest",
    "name-canonical",
    "oci-artifact",
    "attestation-prefix",
    "platform-split",
    "dangling-name-prefix",
];
/// BuildKit has these; nothing here does them yet.
const LATER: &[&str] = &[
    "buildinfo",
    "mode",
    "prefer-nondist-layers",
    "store",
    "unpack",
    "unsafe-internal-store-allow-incomplete",
];

/// Reads one `-o`. `to_terminal`: stdout is one, so no archive may go there.
pub fn parse_output(line: &str, to_terminal: bool) -> Result<OutputSpec, OptionsError> {
    let bad = |why: String| OptionsError::value(FLAG, line, why);
    let mut pairs = csv::pairs(line).map_err(bad)?;
    if let [(_, None)] = pairs.as_slice() {
        // `-o DIR` and `-o -`; the key was lowered, the line was not.
        let dest = csv::fields(line).map_err(bad)?.swap_remove(0);
        pairs = match dest.as_str() {
            "" => return Err(bad("it is empty".to_owned())),
            "-" => vec![("type".into(), Some("tar".into())), ("dest".into(), Some(dest))],
            _ => vec![("type".into(), Some("local".into())), ("dest".into(), Some(dest))],
        };
    }
    let raw = Fields::read(line, pairs)?;
    raw.build(line, to_terminal)
}

#[derive(Default)]
struct Fields {
    kind: String,
    dest: Option<String>,
    names: Vec<String>,
    push: bool,
    tar: Option<bool>,
    compression: Option<Compression>,
    level: Option<i32>,
    force: bool,
    rewrite_timestamp: bool,
    oci_media_types: Option<bool>,
    insecure: bool,
    by_digest: bool,
    canonical: bool,
    annotations: Annotations,
    artifact: Option<bool>,
    dangling: Option<String>,
    form: FilesForm,
}

impl Fields {
    fn read(line: &str, pairs: Vec<(String, Option<String>)>) -> Result<Self, OptionsError> {
        let mut f = Self::default();
        for (key, value) in pairs {
            let bad = |why: String| OptionsError::value(FLAG, line, format!("`{key}`: {why}"));
            let text = || value.clone().ok_or_else(|| bad("it has no value".to_owned()));
            let switch = || csv::switch(value.as_deref()).map_err(bad);
            match key.as_str() {
                "type" => f.kind = text()?.to_ascii_lowercase(),
                "dest" | "destination" => f.dest = Some(text()?),
                "name" => {
                    for name in text()?.split(',').filter(|n| !n.is_empty()) {
                        f.names.push(normal_tag(FLAG, name)?);
                    }
                }
                "push" => f.push = switch()?,
                "tar" => f.tar = Some(switch()?),
                "compression" => f.compression = Some(compression(FLAG, line, &text()?)?),
                "compression-level" => {
                    let level = text()?.parse().map_err(|_| bad("expected a number".to_owned()))?;
                    f.level = Some(level);
                }
                "force-compression" => f.force = switch()?,
                "rewrite-timestamp" => f.rewrite_timestamp = switch()?,
                "oci-mediatypes" => f.oci_media_types = Some(switch()?),
                "registry.insecure" => f.insecure = switch()?,
                k if LATER.contains(&k) => {
                    return Err(OptionsError::Unsupported(format!("`--output {k}=`")));
                }
                "push-by-digest" => f.by_digest = switch()?,
                "name-canonical" => f.canonical = switch()?,
                "oci-artifact" => f.artifact = Some(switch()?),
                "dangling-name-prefix" => {
                    let prefix = text()?;
                    let name: Result<Reference, _> = prefix.parse();
                    match name {
                        Ok(r) if r.digest.is_none() && !prefix.ends_with(":latest") => {
                            f.dangling = Some(r.familiar_name());
                        }
                        _ => return Err(bad("it is no name without a tag".to_owned())),
                    }
                }
                "platform-split" => f.form.split = Some(switch()?),
                "attestation-prefix" => {
                    f.form.prefix = text()?;
                    if f.form.prefix.contains(['/', '\0']) {
                        return Err(bad("it is the beginning of a file's name".to_owned()));
                    }
                }
                k if k.starts_with("annotation") => match annotation::output_key(k, &text()?) {
                    Some(a) => f.annotations.0.push(a),
                    None => {
                        return Err(bad("expected annotation[-TYPE][[PLATFORM]].KEY".to_owned())
                            .with_help(
                                "types: manifest, index, manifest-descriptor, index-descriptor",
                            ));
                    }
                },
                k => return Err(bad("unknown key".to_owned()).with_help(did_you_mean(k, KEYS))),
            }
        }
        Ok(f)
    }

    fn layers(&self, oci_by_default: bool) -> Result<LayerOptions, OptionsError> {
        let compression = self.compression.unwrap_or_default();
        let level = level(FLAG, compression, self.level)?;
        let oci_media_types = self.oci_media_types.unwrap_or(oci_by_default);
        if !oci_media_types && compression == Compression::Zstd {
            return Err(OptionsError::Conflict(
                "`compression=zstd` needs `oci-mediatypes=true`: Docker's media types have no zstd"
                    .to_owned(),
            ));
        }
        Ok(LayerOptions {
            compression,
            level,
            force: self.force,
            oci_media_types,
            rewrite_timestamp: self.rewrite_timestamp,
        })
    }

    fn build(self, line: &str, to_terminal: bool) -> Result<OutputSpec, OptionsError> {
        let bad = |why: &str| OptionsError::value(FLAG, line, why);
        let stream = |dest: &Option<String>| match dest.as_deref() {
            None | Some("-") if to_terminal => Err(bad("an archive does not go to a terminal")
                .with_help("add `dest=FILE`, or redirect stdout")),
            None | Some("-") => Ok(Dest::Stdout),
            Some("") => Err(bad("`dest` is empty")),
            Some(path) => Ok(Dest::Path(PathBuf::from(path))),
        };
        let archive = |dest, oci: bool| {
            let layers = self.layers(oci)?;
            let tar = self.tar.unwrap_or(true);
            let (names, annotations) = (self.names.clone(), self.annotations.clone());
            let artifact = self.artifact.unwrap_or(true);
            Ok::<_, OptionsError>(ArchiveOutput { dest, tar, names, layers, annotations, artifact })
        };
        let image = |push: bool| {
            Ok(ImageOutput {
                names: self.names.clone(),
                push,
                layers: self.layers(true)?,
                insecure: self.insecure,
                by_digest: self.by_digest,
                canonical: self.canonical,
                annotations: self.annotations.clone(),
                artifact: self.artifact.unwrap_or(true),
                dangling_prefix: self.dangling.clone(),
            })
        };
        let no_dest = || match self.dest {
            Some(_) => Err(bad("this type has no `dest`")),
            None => Ok(()),
        };
        match self.kind.as_str() {
            "" => Err(bad("`type` is missing").with_help(format!("known: {}", TYPES.join(", ")))),
            "oci" if self.tar == Some(false) => match self.dest.as_deref() {
                None | Some("" | "-") => Err(bad("`tar=false` needs `dest=FOLDER`")),
                Some(d) => Ok(OutputSpec::Oci(archive(Dest::Path(d.into()), true)?)),
            },
            "oci" => Ok(OutputSpec::Oci(archive(stream(&self.dest)?, true)?)),
            "docker" if self.tar == Some(false) => Err(bad("`tar=false` is of `type=oci` only")),
            // `docker buildx build --load` is `type=docker` without a file.
            "docker" if self.dest.is_none() => Ok(OutputSpec::Image(image(self.push)?)),
            "docker" => Ok(OutputSpec::Docker(archive(stream(&self.dest)?, false)?)),
            "tar" => Ok(OutputSpec::Tar { dest: stream(&self.dest)?, form: self.form }),
            "local" => match self.dest.as_deref() {
                None | Some("") => Err(bad("`type=local` needs `dest=FOLDER`")),
                Some("-") => {
                    Err(bad("a folder does not go to stdout").with_help("`type=tar` does"))
                }
                Some(d) => Ok(OutputSpec::Local { dest: d.into(), form: self.form }),
            },
            "image" => {
                no_dest()?;
                Ok(OutputSpec::Image(image(self.push)?))
            }
            "registry" => {
                no_dest()?;
                Ok(OutputSpec::Registry(image(true)?))
            }
            "cacheonly" => {
                no_dest()?;
                Ok(OutputSpec::CacheOnly)
            }
            other => {
                let why = format!("unknown type `{other}`");
                Err(bad(&why).with_help(did_you_mean(other, TYPES)))
            }
        }
    }
}

/// Reads a compression.
pub(super) fn compression(
    flag: &'static str,
    line: &str,
    word: &str,
) -> Result<Compression, OptionsError> {
    match word {
        "uncompressed" | "none" => Ok(Compression::Uncompressed),
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        "estargz" => Err(OptionsError::Missing {
            what: "`compression=estargz` is not supported yet".to_owned(),
            help: Some(
                "write `gzip` or `zstd`; `nerdctl image convert --estargz --oci` makes estargz of an \
                 image that was pushed"
                    .to_owned(),
            ),
        }),
        _ => Err(OptionsError::value(flag, line, format!("unknown compression `{word}`"))
            .with_help(did_you_mean(word, &["uncompressed", "gzip", "zstd", "estargz"]))),
    }
}

/// Checks a level against its compression.
pub(super) fn level(
    flag: &'static str,
    how: Compression,
    level: Option<i32>,
) -> Result<Option<i32>, OptionsError> {
    let most = match how {
        Compression::Uncompressed => 0,
        Compression::Gzip => 9,
        Compression::Zstd => 22,
    };
    match level {
        Some(n) if !(1..=most).contains(&n) => {
            let why = match most {
                0 => "an uncompressed layer has no level".to_owned(),
                most => format!("a level is 1 to {most} here"),
            };
            Err(OptionsError::value(flag, &format!("compression-level={n}"), why))
        }
        level => Ok(level),
    }
}

/// A name for a result: normalised, with a tag, without a digest.
pub fn normal_tag(flag: &'static str, text: &str) -> Result<String, OptionsError> {
    let r: Reference = text.parse().map_err(|e: rgraph_ir::reference::ReferenceError| {
        OptionsError::value(flag, text, format!("invalid reference format: {}", e.why))
    })?;
    if r.digest.is_some() {
        return Err(OptionsError::value(flag, text, "a result cannot be named by a digest"));
    }
    if reads_as_digest(&r) {
        return Err(OptionsError::value(flag, text, "it reads as a digest"));
    }
    Ok(r.to_string())
}

/// Whether a name is one that nobody could find the image by: `sha256:abc` begins a digest.
pub fn reads_as_digest(name: &Reference) -> bool {
    name.familiar_name() == "sha256"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(line: &str) -> String {
        match parse_output(line, false) {
            Ok(o) => format!("{o:?}"),
            Err(e) => match e.help() {
                Some(h) => format!("{e} ({h})"),
                None => e.to_string(),
            },
        }
    }

    #[test]
    fn reads() {
        let layers = LayerOptions::default();
        let archive = |dest: &str| ArchiveOutput {
            dest: if dest == "-" { Dest::Stdout } else { Dest::Path(dest.into()) },
            tar: true,
            names: vec![],
            layers: layers.clone(),
            annotations: Annotations::default(),
            artifact: true,
        };
        let form = FilesForm::default;
        let image = ImageOutput::default();
        for (line, want) in [
            ("out", OutputSpec::Local { dest: "out".into(), form: form() }),
            ("Out/Dir", OutputSpec::Local { dest: "Out/Dir".into(), form: form() }),
            ("-", OutputSpec::Tar { dest: Dest::Stdout, form: form() }),
            (
                "type=tar,dest=a.tar",
                OutputSpec::Tar { dest: Dest::Path("a.tar".into()), form: form() },
            ),
            ("type=local,dest=o", OutputSpec::Local { dest: "o".into(), form: form() }),
            ("type=cacheonly", OutputSpec::CacheOnly),
            ("type=image", OutputSpec::Image(image.clone())),
            ("type=docker", OutputSpec::Image(image.clone())),
            (
                "type=image,push=true",
                OutputSpec::Image(ImageOutput { push: true, ..image.clone() }),
            ),
            (
                "type=registry,name=a,registry.insecure=true",
                OutputSpec::Registry(ImageOutput {
                    names: vec!["docker.io/library/a:latest".into()],
                    push: true,
                    insecure: true,
                    ..image.clone()
                }),
            ),
            ("type=oci,dest=o.tar", OutputSpec::Oci(archive("o.tar"))),
            ("type=oci", OutputSpec::Oci(archive("-"))),
            (
                "type=oci,dest=d,tar=false",
                OutputSpec::Oci(ArchiveOutput { tar: false, ..archive("d") }),
            ),
            (
                "type=docker,dest=d.tar",
                OutputSpec::Docker(ArchiveOutput {
                    layers: LayerOptions { oci_media_types: false, ..layers.clone() },
                    ..archive("d.tar")
                }),
            ),
            (
                "type=oci,\"name=a,b:2\",dest=o,compression=zstd,compression-level=19,force-compression=true,\
                 rewrite-timestamp=true,annotation.k=v",
                OutputSpec::Oci(ArchiveOutput {
                    names: vec![
                        "docker.io/library/a:latest".into(),
                        "docker.io/library/b:2".into(),
                    ],
                    annotations: Annotations(vec![
                        annotation::output_key("annotation.k", "v").unwrap(),
                    ]),
                    layers: LayerOptions {
                        compression: Compression::Zstd,
                        level: Some(19),
                        force: true,
                        oci_media_types: true,
                        rewrite_timestamp: true,
                    },
                    ..archive("o")
                }),
            ),
        ] {
            assert_eq!(parse_output(line, false).ok(), Some(want), "{line}: {}", show(line));
        }
    }

    #[test]
    fn refuses_with_a_near_name() {
        for (line, text) in [
            ("type=ocii,dest=x", "unknown type `ocii` (did you mean `oci`?)"),
            ("type=oci,detst=x", "`detst`: unknown key (did you mean `dest`?)"),
            ("type=oci,dest=x,compression=gzp", "unknown compression `gzp` (did you mean `gzip`?)"),
            ("type=oci,dest=x,compression=estargz", "`compression=estargz` is not supported yet"),
            ("type=oci,dest=x,compression-level=10", "a level is 1 to 9 here"),
            ("type=oci,dest=x,compression=uncompressed,compression-level=1", "has no level"),
            ("type=docker,dest=x,compression=zstd", "needs `oci-mediatypes=true`"),
            ("type=oci,tar=false", "needs `dest=FOLDER`"),
            ("type=local", "needs `dest=FOLDER`"),
            ("type=image,dest=x", "this type has no `dest`"),
            ("type=oci,dest=", "`dest` is empty"),
            ("type=oci,name=UPPER,dest=x", "invalid reference format"),
            ("type=oci,push=maybe,dest=x", "expected `true` or `false`"),
            ("type=image,store=false", "is not supported yet"),
            ("type=image,annotation-layer.a=b", "expected annotation[-TYPE]"),
            ("dest=x", "`type` is missing"),
            ("", "it is empty"),
            ("type=oci,\"dest=x", "not closed"),
        ] {
            let got = show(line);
            assert!(got.contains(text), "{line}: {got}");
        }
        for line in ["-", "type=oci", "type=docker,dest=-", "type=tar"] {
            assert!(parse_output(line, true).is_err(), "{line} to a terminal");
        }
    }
}
