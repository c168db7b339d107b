//! The table of hadolint's rules that are kept here, under their own ids.

use crate::lint::rules::{Rule, Set};

/// One rule per id, and all of them in order.
macro_rules! table {
    ($($(#[$doc:meta])* $id:ident),* $(,)?) => {
        $($(#[$doc])* pub(super) static $id: Rule = Rule {
            id: stringify!($id),
            url: Some(concat!("https://github.com/hadolint/hadolint/wiki/", stringify!($id))),
            set: Set::Hadolint,
        };)*
        /// In order.
        pub(in crate::lint) static ALL: &[&Rule] = &[$(&$id),*];
    };
}

table! {
    /// The last `USER` of a stage is root.
    DL3002,
    /// A base without a tag.
    DL3006,
    /// A base with the tag `latest`.
    DL3007,
    /// `ADD` where `COPY` does.
    DL3020,
    /// Several sources and a destination without `/` at its end.
    DL3021,
    /// `COPY --from` of an image that has no tag.
    DL3022,
    /// `ENV` uses a name that it sets itself.
    DL3044,
    /// `COPY` to a relative path without `WORKDIR`.
    DL3045,
    /// A label's name is malformed.
    DL3048,
    /// `USER` by name.
    DL3066,
    /// `COPY --from` of a whole root.
    DL3067,
}
