//! `--annotation [TYPE[PLATFORM]:]KEY=VALUE` and `annotation[-TYPE][[PLATFORM]].KEY=VALUE` of `-o`.

use rgraph_ir::Platform;
use rgraph_ir::annotation::{Annotation, AnnotationPlace};

use super::error::OptionsError;

const FLAG: &str = "--annotation";

fn place(word: &str) -> Option<AnnotationPlace> {
    Some(match word {
        "" | "manifest" => AnnotationPlace::Manifest,
        "manifest-descriptor" => AnnotationPlace::ManifestDescriptor,
        "index" => AnnotationPlace::Index,
        "index-descriptor" => AnnotationPlace::IndexDescriptor,
        _ => return None,
    })
}

/// `TYPE` or `TYPE[PLATFORM]`; `None`: it is neither.
fn target(text: &str) -> Option<(AnnotationPlace, Option<Platform>)> {
    let Some((word, rest)) = text.split_once('[') else { return Some((place(text)?, None)) };
    let platform: Platform = rest.strip_suffix(']')?.parse().ok()?;
    let place = place(word)?;
    // An index is of all platforms.
    let whole = matches!(place, AnnotationPlace::Index | AnnotationPlace::IndexDescriptor);
    (!whole).then(|| (place, Some(platform.normalize())))
}

/// Reads a key of `-o` that begins with `annotation`; `None`: it is none of these.
pub(super) fn output_key(key: &str, value: &str) -> Option<Annotation> {
    let rest = key.strip_prefix("annotation")?;
    // A platform has no dot.
    let (head, name) = rest.split_once('.')?;
    let typed = head.starts_with('-');
    let head = head.strip_prefix('-').unwrap_or(head);
    let (place, platform) =
        target(head).filter(|_| typed || head.is_empty() || head.starts_with('['))?;
    (!name.is_empty()).then(|| Annotation {
        place,
        platform,
        key: name.to_owned(),
        value: value.to_owned(),
    })
}

/// The type that a word is nearly.
fn slip(text: &str) -> Option<&'static str> {
    let word = text.split_once('[').map_or(text, |(word, _)| word);
    let types = ["manifest", "manifest-descriptor", "index", "index-descriptor"];
    rgraph_ir::near::nearest(word, types).filter(|meant| *meant != word)
}

/// Reads the flag; several types separated by commas give as many annotations.
pub(super) fn flag(text: &str) -> Result<Vec<Annotation>, OptionsError> {
    let bad = |why: &str| OptionsError::value(FLAG, text, why);
    let (key, value) = text.split_once('=').ok_or_else(|| bad("expected KEY=VALUE"))?;
    let typed = key.split_once(':').and_then(|(types, name)| {
        let targets: Option<Vec<_>> = types.split(',').map(target).collect();
        Some((targets?, name))
    });
    // A key may have a colon, but hardly after a type with a slip in it.
    if typed.is_none()
        && let Some((types, _)) = key.split_once(':')
        && let Some(meant) = types.split(',').find_map(slip)
    {
        let help = format!("did you mean `{meant}`?");
        return Err(bad("unknown type of annotation").with_help(help));
    }
    let (targets, name) = typed.unwrap_or((vec![(AnnotationPlace::Manifest, None)], key));
    if name.is_empty() {
        return Err(bad("the key is empty"));
    }
    let one = |(place, platform)| Annotation {
        place,
        platform,
        key: name.to_owned(),
        value: value.to_owned(),
    };
    Ok(targets.into_iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(a: &Annotation) -> String {
        let platform = a.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{:?}[{platform}] {}={}", a.place, a.key, a.value)
    }

    #[test]
    fn keys_of_outputs() {
        for (key, want) in [
            ("annotation.a.b", Some("Manifest[] a.b=v")),
            ("annotation-manifest.a", Some("Manifest[] a=v")),
            ("annotation-index.a", Some("Index[] a=v")),
            (
                "annotation-manifest-descriptor[linux/arm64].a",
                Some("ManifestDescriptor[linux/arm64] a=v"),
            ),
            ("annotation[linux/amd64].a", Some("Manifest[linux/amd64] a=v")),
            ("annotation-index[linux/amd64].a", None),
            ("annotation-layer.a", None),
            ("annotation.", None),
            ("annotations.a", None),
        ] {
            let got = output_key(key, "v").as_ref().map(show);
            assert_eq!(got.as_deref(), want, "{key}");
        }
    }

    #[test]
    fn flags() {
        for (text, want) in [
            ("a=v", "Manifest[] a=v"),
            ("org:a=v", "Manifest[] org:a=v"),
            ("index:a=v=w", "Index[] a=v=w"),
            (
                "index,manifest-descriptor[linux/arm64]:a=",
                "Index[] a=, ManifestDescriptor[linux/arm64] a=",
            ),
        ] {
            let got: Vec<_> = flag(text).unwrap().iter().map(show).collect();
            assert_eq!(got.join(", "), want, "{text}");
        }
        for bad in ["a", "=v", "index:=v", "manifst:a=v", "indx,manifest:a=v"] {
            assert!(flag(bad).unwrap_err().is_usage(), "{bad}");
        }
    }
}
