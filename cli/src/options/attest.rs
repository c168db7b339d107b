//! `--attest`, `--provenance`, `--sbom`: what is said of a result. Keys as BuildKit has them.

use rgraph_ir::attest::{Attestations, Detail, Provenance, SlsaVersion};

use super::csv;
use super::error::{OptionsError, did_you_mean};

const TYPES: &[&str] = &["provenance", "sbom"];
const PROVENANCE_KEYS: &[&str] = &[
    "type",
    "disabled",
    "mode",
    "version",
    "builder-id",
    "reproducible",
    "inline-only",
    "filename",
];
const SBOM_KEYS: &[&str] = &["type", "disabled"];

/// Reads all of them; of one type the last counts, and the short forms come after `--attest`.
pub fn attestations(
    attest: &[String],
    provenance: Option<&str>,
    sbom: Option<&str>,
) -> Result<Attestations, OptionsError> {
    let mut out = Attestations::default();
    for line in attest {
        let pairs = csv::pairs(line).map_err(|why| OptionsError::value("--attest", line, why))?;
        let kind = pairs.iter().find(|(k, _)| k == "type").and_then(|(_, v)| v.clone());
        match kind.as_deref() {
            Some("provenance") => out.provenance = read_provenance("--attest", line, &pairs)?,
            Some("sbom") => out.sbom = read_sbom("--attest", line, &pairs)?,
            Some(other) => {
                return Err(OptionsError::value(
                    "--attest",
                    line,
                    format!("unknown type `{other}`"),
                )
                .with_help(did_you_mean(other, TYPES)));
            }
            None => {
                return Err(OptionsError::value("--attest", line, "`type` is missing")
                    .with_help("known: provenance, sbom"));
            }
        }
    }
    if let Some(line) = provenance {
        out.provenance = match short(line) {
            Some(true) => Some(Provenance::default()),
            Some(false) => None,
            None => read_provenance("--provenance", line, &pairs("--provenance", line)?)?,
        };
    }
    if let Some(line) = sbom {
        out.sbom = match short(line) {
            Some(on) => on,
            None => read_sbom("--sbom", line, &pairs("--sbom", line)?)?,
        };
    }
    Ok(out)
}

fn pairs(flag: &'static str, line: &str) -> Result<Vec<(String, Option<String>)>, OptionsError> {
    csv::pairs(line).map_err(|why| OptionsError::value(flag, line, why))
}

/// `true` or `false` alone.
fn short(line: &str) -> Option<bool> {
    csv::switch(Some(line)).ok()
}

/// `None`: it is off.
fn read_provenance(
    flag: &'static str,
    line: &str,
    pairs: &[(String, Option<String>)],
) -> Result<Option<Provenance>, OptionsError> {
    let mut out = Provenance::default();
    let mut disabled = false;
    for (key, value) in pairs {
        let bad = |why: String| OptionsError::value(flag, line, format!("`{key}`: {why}"));
        let text = || value.clone().ok_or_else(|| bad("it has no value".to_owned()));
        let switch = || csv::switch(value.as_deref()).map_err(bad);
        match key.as_str() {
            "type" => {}
            "disabled" => disabled = switch()?,
            "mode" => {
                out.detail = match text()?.as_str() {
                    "min" => Detail::Min,
                    "max" | "full" => Detail::Max,
                    _ => return Err(bad("expected `min` or `max`".to_owned())),
                }
            }
            "version" => {
                out.version = match text()?.as_str() {
                    "v1" => SlsaVersion::V1,
                    "v0.2" => SlsaVersion::V02,
                    _ => return Err(bad("expected `v1` or `v0.2`".to_owned())),
                }
            }
            "builder-id" => out.builder_id = Some(text()?).filter(|id| !id.is_empty()),
            "reproducible" => out.reproducible = switch()?,
            "inline-only" => out.inline_only = switch()?,
            "filename" => {
                let name = text()?;
                if name.is_empty() || matches!(&*name, "." | "..") || name.contains(['/', '\0']) {
                    return Err(bad("it is no name of a file".to_owned()));
                }
                out.filename = name;
            }
            k => return Err(unknown(flag, line, k, PROVENANCE_KEYS)),
        }
    }
    Ok((!disabled).then_some(out))
}

fn read_sbom(
    flag: &'static str,
    line: &str,
    pairs: &[(String, Option<String>)],
) -> Result<bool, OptionsError> {
    let mut on = true;
    for (key, value) in pairs {
        match key.as_str() {
            "type" => {}
            "disabled" => {
                let off = csv::switch(value.as_deref());
                on = !off.map_err(|why| OptionsError::value(flag, line, why))?;
            }
            "generator" => {
                return Err(OptionsError::Unsupported(format!(
                    "`{flag} generator=`: packages are found without one, a scanner in an image"
                )));
            }
            k => return Err(unknown(flag, line, k, SBOM_KEYS)),
        }
    }
    Ok(on)
}

fn unknown(flag: &'static str, line: &str, key: &str, known: &[&str]) -> OptionsError {
    OptionsError::value(flag, line, format!("`{key}`: unknown key"))
        .with_help(did_you_mean(key, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads() {
        let of = |attest: &[&str], p: Option<&str>, s: Option<&str>| {
            let attest: Vec<String> = attest.iter().map(|a| (*a).to_owned()).collect();
            attestations(&attest, p, s).map_err(|e| e.to_string())
        };
        assert_eq!(of(&[], None, None).unwrap(), Attestations::default());
        let all = of(&["type=sbom", "type=provenance,mode=min,version=v0.2"], None, None).unwrap();
        let p = all.provenance.unwrap();
        assert!(all.sbom && p.detail == Detail::Min && p.version == SlsaVersion::V02);
        let p = of(&[], Some("mode=max,builder-id=b,inline-only=true"), None).unwrap();
        let p = p.provenance.unwrap();
        assert!(p.inline_only && p.builder_id.as_deref() == Some("b"));
        for off in [Some("false"), Some("0"), Some("disabled=true")] {
            assert!(!of(&["type=provenance"], off, off).unwrap().any());
        }
        assert_eq!(
            of(&[], Some("true"), Some("1")).unwrap().provenance,
            Some(Provenance::default())
        );
        for (attest, p, s, text) in [
            (&["mode=min"][..], None, None, "`type` is missing"),
            (&["type=prov"], None, None, "unknown type `prov`"),
            (&["type=sbom,mode=min"], None, None, "`mode`: unknown key"),
            (&[], Some("mode=some"), None, "expected `min` or `max`"),
            (&[], Some("filename=a/b"), None, "no name of a file"),
            (&[], Some("maybe"), None, "`maybe`: unknown key"),
            (&[], None, Some("generator=img"), "not supported yet"),
        ] {
            let e = of(attest, p, s).unwrap_err();
            assert!(e.contains(text), "{e}");
        }
    }
}
