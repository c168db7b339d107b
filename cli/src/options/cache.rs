//! `--cache-from` and `--cache-to`: which caches are read and written. Keys to sign with or to trust
//! are read at once.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rgraph_ir::Reference;
use rgraph_ir::request::{
    CacheFrom, CachePlace, CacheSource, CacheStore, CacheTo, Compression, LayerOptions, PublicKey,
    Secret,
};
use rgraph_runtime::cache::sign::{public_key, signing_seed};

use super::csv;
use super::error::{OptionsError, did_you_mean};
use super::output::{compression, level};

const FROM: &str = "--cache-from";
const TO: &str = "--cache-to";
const TYPES: &[&str] = &["local", "registry", "inline", "gha", "s3", "azblob"];
/// The cache of a folder that is meant when no tag is given.
const TAG: &str = "latest";
/// Largest key file, bytes.
const MAX_KEY: u64 = 64 << 10;

/// One flag's fields, split and with its type.
struct Fields<'a> {
    flag: &'static str,
    line: &'a str,
    kind: String,
    pairs: Vec<(String, Option<String>)>,
}

impl<'a> Fields<'a> {
    fn read(flag: &'static str, line: &'a str) -> Result<Self, OptionsError> {
        let bad = |why: String| OptionsError::value(flag, line, why);
        let mut pairs = csv::pairs(line).map_err(bad)?;
        let kind = pairs.iter().position(|(k, _)| k == "type").map(|at| pairs.remove(at).1);
        let kind = match kind.flatten() {
            Some(k) if TYPES.contains(&k.as_str()) => k,
            Some(k) => {
                let help = did_you_mean(&k, TYPES);
                return Err(bad(format!("unknown type `{k}`")).with_help(help));
            }
            None => {
                let help = "`type=local,...` or `type=registry,...`";
                return Err(bad("`type` is missing".to_owned()).with_help(help));
            }
        };
        if matches!(kind.as_str(), "gha" | "s3" | "azblob") {
            return Err(OptionsError::Unsupported(format!("`{flag} type={kind}`")));
        }
        Ok(Self { flag, line, kind, pairs })
    }

    fn bad(&self, why: impl Into<String>) -> OptionsError {
        OptionsError::value(self.flag, self.line, why)
    }

    fn text<'v>(&self, key: &str, value: &'v Option<String>) -> Result<&'v str, OptionsError> {
        match value.as_deref() {
            Some("") | None => Err(self.bad(format!("`{key}` has no value"))),
            Some(v) => Ok(v),
        }
    }

    fn switch(&self, key: &str, value: &Option<String>) -> Result<bool, OptionsError> {
        csv::switch(value.as_deref()).map_err(|why| self.bad(format!("`{key}`: {why}")))
    }

    fn unknown(&self, key: &str, known: &[&str]) -> OptionsError {
        self.bad(format!("unknown key `{key}`")).with_help(did_you_mean(key, known))
    }

    fn need<T>(&self, key: &str, value: Option<T>) -> Result<T, OptionsError> {
        value.ok_or_else(|| self.bad(format!("`{key}` is missing")))
    }

    fn reference(&self, text: &str) -> Result<Reference, OptionsError> {
        text.parse().map_err(|e: rgraph_ir::reference::ReferenceError| {
            self.bad(format!("invalid reference format: {}", e.why))
        })
    }

    /// A tag is a folder's name too.
    fn tag(&self, text: &str) -> Result<String, OptionsError> {
        match format!("x:{text}").parse::<Reference>() {
            Ok(r) if r.tag.as_deref() == Some(text) && r.digest.is_none() => Ok(text.to_owned()),
            _ => Err(self.bad(format!("`{text}` is no tag"))),
        }
    }
}

/// Reads every `--cache-from`.
pub fn cache_from(lines: &[String]) -> Result<Vec<CacheFrom>, OptionsError> {
    let mut out = Vec::new();
    for line in lines {
        let fields = csv::fields(line).map_err(|why| OptionsError::value(FROM, line, why))?;
        if fields.iter().any(|f| f.contains('=')) {
            out.push(one_from(line)?);
            continue;
        }
        // `--cache-from IMAGE`, as Docker's older builder had it.
        for name in &fields {
            let reference = name.parse().map_err(|e: rgraph_ir::reference::ReferenceError| {
                OptionsError::value(FROM, name, format!("invalid reference format: {}", e.why))
                    .with_help("`type=local,src=FOLDER` reads a folder")
            })?;
            out.push(CacheFrom { source: CacheSource::Registry(reference), keys: Vec::new() });
        }
    }
    Ok(out)
}

fn one_from(line: &str) -> Result<CacheFrom, OptionsError> {
    let f = Fields::read(FROM, line)?;
    let (mut dir, mut tag, mut digest, mut reference) = (None, None, None, None);
    let mut keys = Vec::new();
    let known: &[&str] = match f.kind.as_str() {
        "local" => &["type", "src", "tag", "digest", "key"],
        "registry" => &["type", "ref", "key"],
        _ => {
            return Err(f
                .bad("an inline cache is read from its image")
                .with_help("`--cache-from IMAGE` or `type=registry,ref=IMAGE`"));
        }
    };
    for (key, value) in &f.pairs {
        if !known.contains(&key.as_str()) {
            return Err(f.unknown(key, known));
        }
        let text = f.text(key, value)?;
        match key.as_str() {
            "src" => dir = Some(text.into()),
            "tag" => tag = Some(f.tag(text)?),
            "digest" => {
                digest = Some(text.parse().map_err(|e| f.bad(format!("`digest`: {e}")))?);
            }
            "ref" => reference = Some(f.reference(text)?),
            _ => keys.push(trusted(&f, text)?),
        }
    }
    let source = match f.kind.as_str() {
        "local" => CacheSource::Local {
            dir: f.need("src", dir)?,
            tag: tag.unwrap_or_else(|| TAG.to_owned()),
            digest,
        },
        _ => CacheSource::Registry(f.need("ref", reference)?),
    };
    Ok(CacheFrom { source, keys })
}

/// A public key: in a file, or the text itself.
fn trusted(f: &Fields<'_>, text: &str) -> Result<PublicKey, OptionsError> {
    if let Some(key) = public_key(text) {
        return Ok(key);
    }
    let bytes = key_file(f, text)?;
    std::str::from_utf8(&bytes).ok().and_then(public_key).ok_or_else(|| {
        f.bad(format!("`{text}` holds no ed25519 public key"))
            .with_help("`openssl pkey -in KEY -pubout` writes one")
    })
}

fn key_file(f: &Fields<'_>, path: &str) -> Result<Vec<u8>, OptionsError> {
    let failed = |source| OptionsError::Read {
        flag: f.flag.to_owned(),
        path: Path::new(path).to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_KEY).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// The seed of a private key in a file.
fn signer(f: &Fields<'_>, path: &str) -> Result<Secret, OptionsError> {
    let bytes = key_file(f, path)?;
    let seed = std::str::from_utf8(&bytes).ok().and_then(signing_seed);
    seed.map(Secret::new).ok_or_else(|| {
        f.bad(format!("`{path}` holds no ed25519 private key"))
            .with_help("`openssl genpkey -algorithm ed25519 -out KEY` makes one")
    })
}

/// Reads one `--cache-to`.
pub fn cache_to(line: &str) -> Result<CacheTo, OptionsError> {
    let f = match csv::fields(line) {
        // `--cache-to IMAGE`
        Ok(fields) if fields.len() == 1 && !line.is_empty() && !line.contains('=') => Fields {
            flag: TO,
            line,
            kind: "registry".to_owned(),
            pairs: vec![("ref".to_owned(), fields.into_iter().next())],
        },
        _ => Fields::read(TO, line)?,
    };
    let known: &[&str] = match f.kind.as_str() {
        "inline" => &["type", "mode", "sign-key"],
        kind => &[
            "type",
            if kind == "local" { "dest" } else { "ref" },
            if kind == "local" { "tag" } else { "mode" },
            "mode",
            "compression",
            "compression-level",
            "force-compression",
            "image-manifest",
            "oci-mediatypes",
            "ignore-error",
            "reset",
            "sign-key",
        ],
    };
    let (mut dir, mut tag, mut reference, mut sign) = (None, None, None, None);
    let (mut max, mut image_manifest, mut ignore_error, mut reset) = (false, true, false, false);
    let (mut how, mut level_text, mut force, mut oci) = (None, None, false, true);
    for (key, value) in &f.pairs {
        if !known.contains(&key.as_str()) {
            return Err(f.unknown(key, known));
        }
        match key.as_str() {
            "dest" => dir = Some(f.text(key, value)?.into()),
            "tag" => tag = Some(f.tag(f.text(key, value)?)?),
            "ref" => reference = Some(f.reference(f.text(key, value)?)?),
            "mode" => {
                max = match f.text(key, value)? {
                    "min" => false,
                    "max" if f.kind == "inline" => {
                        return Err(f.bad("an inline cache holds the result only: `mode=min`"));
                    }
                    "max" => true,
                    m => {
                        let help = did_you_mean(m, &["min", "max"]);
                        return Err(f.bad(format!("unknown mode `{m}`")).with_help(help));
                    }
                }
            }
            "compression" => how = Some(compression(TO, line, f.text(key, value)?)?),
            "compression-level" => {
                let n = f.text(key, value)?.parse::<i32>();
                level_text = Some(n.map_err(|_| f.bad("`compression-level`: expected a number"))?);
            }
            "force-compression" => force = f.switch(key, value)?,
            "image-manifest" => image_manifest = f.switch(key, value)?,
            "oci-mediatypes" => oci = f.switch(key, value)?,
            "ignore-error" => ignore_error = f.switch(key, value)?,
            "reset" => reset = f.switch(key, value)?,
            _ => sign = Some(signer(&f, f.text(key, value)?)?),
        }
    }
    let place = match f.kind.as_str() {
        "inline" => return Ok(CacheTo::Inline { sign }),
        "local" => CachePlace::Local {
            dir: f.need("dest", dir)?,
            tag: tag.unwrap_or_else(|| TAG.to_owned()),
        },
        _ => {
            let r: Reference = f.need("ref", reference)?;
            if r.digest.is_some() {
                return Err(f.bad("a cache cannot be written to a digest"));
            }
            CachePlace::Registry(r)
        }
    };
    // zstd: three times gzip's speed. Docker's media types have no name for it.
    let how = how.unwrap_or(if oci { Compression::Zstd } else { Compression::Gzip });
    if !oci && how == Compression::Zstd {
        return Err(OptionsError::Conflict(
            "`compression=zstd` needs `oci-mediatypes=true`: Docker's media types have no zstd"
                .to_owned(),
        ));
    }
    let level = level(TO, how, level_text)?;
    let layers = LayerOptions {
        compression: how,
        level,
        force,
        oci_media_types: oci,
        rewrite_timestamp: false,
    };
    Ok(CacheTo::Store(CacheStore { place, max, layers, image_manifest, ignore_error, reset, sign }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(tag: &str) -> CacheStore {
        CacheStore {
            place: CachePlace::Local { dir: "d".into(), tag: tag.into() },
            max: false,
            layers: LayerOptions { compression: Compression::Zstd, ..LayerOptions::default() },
            image_manifest: true,
            ignore_error: false,
            reset: false,
            sign: None,
        }
    }

    #[test]
    fn what_is_written() {
        let plain = folder("latest");
        let layers = |compression| LayerOptions { compression, ..LayerOptions::default() };
        let registry = CachePlace::Registry("r.example/app:c".parse().unwrap());
        for (line, want) in [
            ("type=local,dest=d", plain.clone()),
            ("type=local,dest=d,mode=max", CacheStore { max: true, ..plain.clone() }),
            ("type=local,dest=d,tag=b1", folder("b1")),
            (
                "type=local,dest=d,compression=gzip,compression-level=3,force-compression=true",
                CacheStore {
                    layers: LayerOptions {
                        level: Some(3),
                        force: true,
                        ..layers(Compression::Gzip)
                    },
                    ..plain.clone()
                },
            ),
            (
                "type=local,dest=d,oci-mediatypes=false,image-manifest=false",
                CacheStore {
                    image_manifest: false,
                    layers: LayerOptions { oci_media_types: false, ..layers(Compression::Gzip) },
                    ..plain.clone()
                },
            ),
            (
                "type=registry,ref=r.example/app:c,reset,ignore-error=true",
                CacheStore {
                    place: registry.clone(),
                    reset: true,
                    ignore_error: true,
                    ..plain.clone()
                },
            ),
            ("r.example/app:c", CacheStore { place: registry, ..plain.clone() }),
        ] {
            assert_eq!(cache_to(line).unwrap(), CacheTo::Store(want), "{line}");
        }
        assert_eq!(cache_to("type=inline,mode=min").unwrap(), CacheTo::Inline { sign: None });
    }

    #[test]
    fn what_is_read() {
        let local = |tag: &str, digest: Option<&str>| CacheSource::Local {
            dir: "d".into(),
            tag: tag.into(),
            digest: digest.map(|d| d.parse().unwrap()),
        };
        let d = format!("sha256:{}", "a".repeat(64));
        let image = |r: &str| CacheSource::Registry(r.parse().unwrap());
        for (line, want) in [
            ("type=local,src=d".to_owned(), vec![local("latest", None)]),
            ("type=local,src=d,tag=x".to_owned(), vec![local("x", None)]),
            (format!("type=local,src=d,digest={d}"), vec![local("latest", Some(&d))]),
            ("type=registry,ref=r.example/a".to_owned(), vec![image("r.example/a")]),
            ("user/App".to_owned(), vec![]),
            ("user/app".to_owned(), vec![image("user/app")]),
            ("user/app:1,user/app:2".to_owned(), vec![image("user/app:1"), image("user/app:2")]),
        ] {
            let got = cache_from(std::slice::from_ref(&line)).unwrap_or_default();
            let got: Vec<_> = got.into_iter().map(|c| c.source).collect();
            assert_eq!(got, want, "{line}");
        }
    }

    #[test]
    fn keys_are_read_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = (dir.path().join("key"), dir.path().join("pub"));
        // An empty seed's worth of PKCS#8 and its public half.
        std::fs::write(
            &private,
            "-----BEGIN PRIVATE KEY-----\n\
             MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
             -----END PRIVATE KEY-----\n",
        )
        .unwrap();
        let text = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        std::fs::write(&public, text).unwrap();
        let line = format!("type=local,dest=d,sign-key={}", private.display());
        let CacheTo::Store(CacheStore { sign: Some(seed), .. }) = cache_to(&line).unwrap() else {
            panic!("no key was read");
        };
        assert_eq!(seed.expose().len(), 32);
        for key in [public.display().to_string(), text.to_owned()] {
            let line = format!("type=local,src=d,key={key}");
            let got = cache_from(&[line]).unwrap();
            assert_eq!(got[0].keys.len(), 1);
        }
        let wrong = format!("type=local,dest=d,sign-key={}", public.display());
        assert!(cache_to(&wrong).unwrap_err().to_string().contains("no ed25519 private key"));
        let wrong = format!("type=local,src=d,key={}", private.display());
        assert!(cache_from(&[wrong]).unwrap_err().to_string().contains("no ed25519 public key"));
        assert!(cache_to("type=local,dest=d,sign-key=/nonexistent/x").is_err());
    }

    #[test]
    fn what_is_refused() {
        for (line, write, text, usage) in [
            ("type=local,dest=d,mode=mix", true, "unknown mode `mix`", true),
            ("type=local,src=d", true, "unknown key `src`", true),
            ("type=local,dest=d,compresion=gzip", true, "unknown key `compresion`", true),
            ("type=local,dest=d,compression=gzp", true, "unknown compression `gzp`", true),
            ("type=local,dest=d,compression-level=23", true, "a level is", true),
            ("type=local,dest=d,oci-mediatypes=false,compression=zstd", true, "no zstd", true),
            ("type=local,dest=d,reset=maybe", true, "`reset`", true),
            ("type=local,dest=d,tag=a/b", true, "`a/b` is no tag", true),
            ("type=local,dest=d,tag=..", true, "`..` is no tag", true),
            ("type=local,dest=", true, "`dest` has no value", true),
            ("type=registry,dest=d", true, "unknown key `dest`", true),
            ("type=registry,ref=A:b", true, "invalid reference format", true),
            ("type=inline,mode=max", true, "holds the result only", true),
            ("type=inline,dest=d", true, "unknown key `dest`", true),
            ("dest=d", true, "`type` is missing", true),
            ("type=local", false, "`src` is missing", true),
            ("type=lcal,src=d", false, "unknown type `lcal`", true),
            ("type=local,src=d,digest=sha256:1", false, "`digest`", true),
            ("type=registry", false, "`ref` is missing", true),
            ("type=inline", false, "is read from its image", true),
            ("type=gha", false, "`--cache-from type=gha` is not supported yet", false),
            ("type=s3,bucket=b", true, "`--cache-to type=s3` is not supported yet", false),
        ] {
            let e = match write {
                true => cache_to(line).unwrap_err(),
                false => cache_from(&[line.to_owned()]).unwrap_err(),
            };
            assert!(e.to_string().contains(text), "{line}: {e}");
            assert_eq!(e.is_usage(), usage, "{line}: {e}");
        }
    }
}
