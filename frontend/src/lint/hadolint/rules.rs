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
    /// A program that has nothing to do in a build.
    DL3001,
    /// The last `USER` of a stage is root.
    DL3002,
    /// `cd` in a `RUN`.
    DL3003,
    /// `sudo`.
    DL3004,
    /// A base without a tag.
    DL3006,
    /// A base with the tag `latest`.
    DL3007,
    /// `apt-get install` without versions.
    DL3008,
    /// `apt-get update` leaves its lists.
    DL3009,
    /// `COPY` of an archive that a `RUN` unpacks.
    DL3010,
    /// `pip install` without versions.
    DL3013,
    /// `apt-get install` without `-y`.
    DL3014,
    /// `apt-get install` without `--no-install-recommends`.
    DL3015,
    /// `npm install` without versions.
    DL3016,
    /// `apk add` without versions.
    DL3018,
    /// `apk add` without `--no-cache`.
    DL3019,
    /// `ADD` where `COPY` does.
    DL3020,
    /// Several sources and a destination without `/` at its end.
    DL3021,
    /// `COPY --from` of an image that has no tag.
    DL3022,
    /// `apt`.
    DL3027,
    /// `gem install` without versions.
    DL3028,
    /// `yum install` without `-y`.
    DL3030,
    /// `yum install` leaves its cache.
    DL3032,
    /// `yum install` without versions.
    DL3033,
    /// `zypper install` that asks.
    DL3034,
    /// `zypper dist-upgrade`.
    DL3035,
    /// `zypper install` leaves its cache.
    DL3036,
    /// `zypper install` without versions.
    DL3037,
    /// `dnf install` without `-y`.
    DL3038,
    /// `dnf install` leaves its cache.
    DL3040,
    /// `dnf install` without versions.
    DL3041,
    /// `pip install` keeps its cache.
    DL3042,
    /// `ENV` uses a name that it sets itself.
    DL3044,
    /// `COPY` to a relative path without `WORKDIR`.
    DL3045,
    /// `useradd` with a large user id.
    DL3046,
    /// `wget` prints a progress bar.
    DL3047,
    /// A label's name is malformed.
    DL3048,
    /// `yarn install` leaves its cache.
    DL3060,
    /// `go install` without a version.
    DL3062,
    /// `USER` by name.
    DL3066,
    /// `COPY --from` of a whole root.
    DL3067,
    /// `wget` and `curl` in one stage.
    DL4001,
    /// `ln` replaces `/bin/sh`.
    DL4005,
    /// A pipe without `pipefail`.
    DL4006,
}
