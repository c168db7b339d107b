//! Annotations that the caller adds to an image's documents (image-spec, annotations.md), and which
//! documents they stand in.

use std::collections::BTreeMap;

use crate::platform::Platform;

/// Where an annotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnotationPlace {
    /// In the image's manifest.
    Manifest,
    /// In what names the manifest: an entry of an index.
    ManifestDescriptor,
    /// In the index over several platforms.
    Index,
    /// In what names the index: an entry of a layout's list.
    IndexDescriptor,
}

/// One annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// Where.
    pub place: AnnotationPlace,
    /// Only for the image of this platform.
    pub platform: Option<Platform>,
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Annotations in the order they were given; of equal keys the last counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Annotations(pub Vec<Annotation>);

impl Annotations {
    /// What stands in one document. Those for one platform win over those for all.
    pub fn of(
        &self,
        place: AnnotationPlace,
        platform: Option<&Platform>,
    ) -> BTreeMap<String, String> {
        let pairs = |own: bool| {
            self.0
                .iter()
                .filter(move |a| a.place == place && a.platform.is_some() == own)
                .filter(move |a| a.platform.is_none() || a.platform.as_ref() == platform)
                .map(|a| (a.key.clone(), a.value.clone()))
        };
        pairs(false).chain(pairs(true)).collect()
    }

    /// Whether something is to stand in an index or in what names it.
    pub fn need_index(&self) -> bool {
        let of_index = |a: &Annotation| {
            matches!(a.place, AnnotationPlace::Index | AnnotationPlace::IndexDescriptor)
        };
        self.0.iter().any(of_index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_wins_over_all() {
        let one = |place, platform: Option<&str>, value: &str| Annotation {
            place,
            platform: platform.map(|p| p.parse().unwrap()),
            key: "k".into(),
            value: value.into(),
        };
        let all = Annotations(vec![
            one(AnnotationPlace::Manifest, Some("linux/arm64"), "arm"),
            one(AnnotationPlace::Manifest, None, "any"),
            one(AnnotationPlace::Index, None, "index"),
        ]);
        let of = |place, p: &str| all.of(place, Some(&p.parse().unwrap())).get("k").cloned();
        assert_eq!(of(AnnotationPlace::Manifest, "linux/arm64").as_deref(), Some("arm"));
        assert_eq!(of(AnnotationPlace::Manifest, "linux/amd64").as_deref(), Some("any"));
        assert_eq!(of(AnnotationPlace::ManifestDescriptor, "linux/amd64"), None);
        assert_eq!(all.of(AnnotationPlace::Index, None)["k"], "index");
        assert!(all.need_index() && !Annotations::default().need_index());
    }
}
