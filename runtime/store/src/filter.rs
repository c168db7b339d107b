//! Which records a rule or a list is about: BuildKit's filters, as far as they mean something here.

use std::str::FromStr;

use crate::entry::{Entry, Kind};

/// What can be asked of a record.
const FIELDS: [&str; 9] =
    ["id", "type", "description", "parents", "inuse", "shared", "private", "mutable", "immutable"];

/// BuildKit's types of records that this store never has.
const ELSEWHERE: [&str; 4] = ["internal", "frontend", "source.local", "source.git.checkout"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Id,
    Type,
    Description,
    Parents,
    InUse,
    Shared,
    Private,
    Mutable,
    Immutable,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    There,
    Is(String),
    IsNot(String),
    Has { text: String, start: bool, end: bool },
}

/// Tests that all have to hold; none holds for everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter(Vec<(Field, Test)>);

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No such field.
    #[error("unknown filter `{0}` (known: {known})", known = FIELDS.join(", "))]
    Field(String),
    /// No such type of record.
    #[error(
        "no records are of type `{0}` (known: regular, exec.cachemount, {elsewhere})",
        elsewhere = ELSEWHERE.join(", ")
    )]
    Type(String),
    /// The operator does not fit the field.
    #[error("filter `{0}` is a yes-or-no question: write it without a value, or `=true`, `=false`")]
    NotAFlag(String),
    /// A field without a value that needs one.
    #[error("filter `{0}` needs a value: `{0}=VALUE`")]
    NoValue(String),
    /// A regular expression that is more than a text.
    #[error("`~=` takes a plain text here, with `^` and `$` at its ends: `{0}`")]
    Regex(String),
}

impl Filter {
    /// The cache mounts of an id.
    pub fn cache_mount(id: &str) -> Self {
        Self(vec![
            (Field::Type, Test::Is(Kind::CacheMount.to_string())),
            (Field::Id, Test::Is(id.to_owned())),
        ])
    }

    /// Adds the tests of another.
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// True when it holds for everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a record is meant.
    pub fn matches(&self, e: &Entry) -> bool {
        self.0.iter().all(|(field, test)| {
            let flag = |yes: bool| match test {
                Test::IsNot(_) => !yes,
                _ => yes,
            };
            match field {
                Field::Id => text(test, &e.id),
                Field::Type => text(test, &e.kind.to_string()),
                Field::Description => text(test, &e.description),
                Field::Parents => text(test, &e.parents.join(";")),
                Field::InUse => flag(e.in_use),
                Field::Shared => flag(e.shared),
                Field::Private => flag(!e.shared),
                Field::Mutable => flag(e.kind == Kind::CacheMount),
                Field::Immutable => flag(e.kind != Kind::CacheMount),
            }
        })
    }
}

fn text(test: &Test, is: &str) -> bool {
    match test {
        Test::There => !is.is_empty(),
        Test::Is(v) => is == v,
        Test::IsNot(v) => is != v,
        Test::Has { text, start, end } => match (start, end) {
            (true, true) => is == text,
            (true, false) => is.starts_with(text),
            (false, true) => is.ends_with(text),
            (false, false) => is.contains(text),
        },
    }
}

/// One test: `field`, `field==value` (or one `=`), `field!=value`, `field~=text`.
fn test(part: &str) -> Result<(Field, Test), FilterError> {
    let cut = part.find(['=', '!', '~']).unwrap_or(part.len());
    let (name, rest) = part.split_at(cut);
    let name = name.trim().to_ascii_lowercase();
    let (op, value) = match rest.split_at_checked(2) {
        Some((op @ ("==" | "!=" | "~="), value)) => (op, value),
        _ if rest.starts_with('=') => ("==", &rest[1..]),
        _ if rest.is_empty() => ("", ""),
        _ => return Err(FilterError::Field(part.to_owned())),
    };
    let value = value.trim().trim_matches('"');
    let field = match name.as_str() {
        "id" => Field::Id,
        "type" => Field::Type,
        "description" => Field::Description,
        "parents" | "parent" => Field::Parents,
        "inuse" => Field::InUse,
        "shared" => Field::Shared,
        "private" => Field::Private,
        "mutable" => Field::Mutable,
        "immutable" => Field::Immutable,
        _ => return Err(FilterError::Field(name)),
    };
    if !matches!(field, Field::Id | Field::Type | Field::Description | Field::Parents) {
        let yes = match (op, value) {
            ("", _) | ("==", "true" | "1") | ("!=", "false" | "0") => true,
            ("==", "false" | "0") | ("!=", "true" | "1") => false,
            _ => return Err(FilterError::NotAFlag(name)),
        };
        return Ok((field, if yes { Test::There } else { Test::IsNot(String::new()) }));
    }
    let test = match op {
        "" => Test::There,
        _ if value.is_empty() => return Err(FilterError::NoValue(name)),
        "~=" => {
            let (start, bare) = value.strip_prefix('^').map_or((false, value), |v| (true, v));
            let (end, bare) = bare.strip_suffix('$').map_or((false, bare), |v| (true, v));
            if bare.contains(['\\', '*', '+', '?', '[', ']', '(', ')', '{', '}', '|', '^', '$']) {
                return Err(FilterError::Regex(value.to_owned()));
            }
            Test::Has { text: bare.to_owned(), start, end }
        }
        "!=" => Test::IsNot(value.to_owned()),
        _ => Test::Is(value.to_owned()),
    };
    if field == Field::Type
        && let Test::Is(v) | Test::IsNot(v) = &test
        && !["regular", "exec.cachemount"].contains(&v.as_str())
        && !ELSEWHERE.contains(&v.as_str())
    {
        return Err(FilterError::Type(v.clone()));
    }
    Ok((field, test))
}

impl FromStr for Filter {
    type Err = FilterError;

    /// Several tests stand between commas, as in BuildKit.
    fn from_str(text: &str) -> Result<Self, FilterError> {
        text.split(',')
            .filter(|p| !p.trim().is_empty())
            .map(test)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, kind: Kind) -> Entry {
        Entry {
            id: id.to_owned(),
            kind,
            size: 1,
            created: 0,
            used: None,
            parents: vec!["1".to_owned()],
            description: "[2/3] RUN make".to_owned(),
            in_use: false,
            shared: true,
            reclaimable: false,
        }
    }

    #[test]
    fn every_field_and_operator() {
        let layer = entry("7", Kind::Regular);
        let mount = entry("/root/.cache", Kind::CacheMount);
        // (filter, holds for the layer, for the mount)
        for (text, on_layer, on_mount) in [
            ("", true, true),
            ("id=7", true, false),
            ("id==/root/.cache", false, true),
            ("id!=7", false, true),
            ("id~=^/root", false, true),
            ("id~=cache$", false, true),
            ("id", true, true),
            ("type=regular", true, false),
            ("type==exec.cachemount", false, true),
            ("type!=exec.cachemount", true, false),
            ("type=source.local", false, false),
            ("TYPE=regular", true, false),
            ("description~=RUN make", true, true),
            ("description~=RUN mak$", false, false),
            ("description=\"[2/3] RUN make\"", true, true),
            ("parents=1", true, true),
            ("inuse", false, false),
            ("inuse=false", true, true),
            ("inuse!=true", true, true),
            ("shared", true, true),
            ("private", false, false),
            ("mutable", false, true),
            ("immutable", true, false),
            ("mutable==true", false, true),
            ("type=exec.cachemount,id=/root/.cache", false, true),
            ("type=exec.cachemount,id=/root", false, false),
        ] {
            let f: Filter = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((f.matches(&layer), f.matches(&mount)), (on_layer, on_mount), "{text}");
        }
    }

    #[test]
    fn what_is_no_filter_says_why() {
        for (text, want) in [
            ("size=3", FilterError::Field("size".into())),
            ("label=x", FilterError::Field("label".into())),
            ("id~7", FilterError::Field("id~7".into())),
            ("id=", FilterError::NoValue("id".into())),
            ("type=layer", FilterError::Type("layer".into())),
            ("shared=maybe", FilterError::NotAFlag("shared".into())),
            ("shared~=t", FilterError::NotAFlag("shared".into())),
            ("description~=a.*b", FilterError::Regex("a.*b".into())),
        ] {
            assert_eq!(text.parse::<Filter>(), Err(want), "{text}");
        }
    }
}
