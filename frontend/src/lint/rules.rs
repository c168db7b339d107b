//! The table of rules.

/// One rule.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Its name.
    pub id: &'static str,
    /// Where to read more.
    pub url: Option<&'static str>,
    /// Whose it is.
    pub set: Set,
}

/// Whose a rule is: that says what turns it on and whether `check=error=true` counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Set {
    /// BuildKit's: on, counted.
    Buildkit,
    /// BuildKit's that must be asked for; counted.
    Experimental,
    /// Our own: on, not counted, for BuildKit builds the file.
    Own,
    /// hadolint's: must be asked for, and is counted then.
    Hadolint,
}

const fn buildkit(id: &'static str, url: &'static str) -> Rule {
    Rule { id, url: Some(url), set: Set::Buildkit }
}

const fn own(id: &'static str) -> Rule {
    Rule { id, url: None, set: Set::Own }
}

/// A stage's name has capitals.
pub(crate) static STAGE_NAME_CASING: Rule =
    buildkit("StageNameCasing", "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/");
/// `FROM` and `as` differ in case.
pub(crate) static FROM_AS_CASING: Rule =
    buildkit("FromAsCasing", "https://docs.docker.com/go/dockerfile/rule/from-as-casing/");
/// An empty line within a continued instruction.
pub(crate) static NO_EMPTY_CONTINUATION: Rule = buildkit(
    "NoEmptyContinuation",
    "https://docs.docker.com/go/dockerfile/rule/no-empty-continuation/",
);
/// A keyword's case differs from most others.
pub(crate) static CONSISTENT_INSTRUCTION_CASING: Rule = buildkit(
    "ConsistentInstructionCasing",
    "https://docs.docker.com/go/dockerfile/rule/consistent-instruction-casing/",
);
/// Two stages have one name.
pub(crate) static DUPLICATE_STAGE_NAME: Rule = buildkit(
    "DuplicateStageName",
    "https://docs.docker.com/go/dockerfile/rule/duplicate-stage-name/",
);
/// A stage is called `scratch` or `context`.
pub(crate) static RESERVED_STAGE_NAME: Rule = buildkit(
    "ReservedStageName",
    "https://docs.docker.com/go/dockerfile/rule/reserved-stage-name/",
);
/// `CMD` or `ENTRYPOINT` in shell form without `SHELL`.
pub(crate) static JSON_ARGS_RECOMMENDED: Rule = buildkit(
    "JSONArgsRecommended",
    "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
);
/// `MAINTAINER`.
pub(crate) static MAINTAINER_DEPRECATED: Rule = buildkit(
    "MaintainerDeprecated",
    "https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/",
);
/// `FROM` uses an `ARG` that is not declared.
pub(crate) static UNDEFINED_ARG_IN_FROM: Rule = buildkit(
    "UndefinedArgInFrom",
    "https://docs.docker.com/go/dockerfile/rule/undefined-arg-in-from/",
);
/// A stage's first `WORKDIR` is relative.
pub(crate) static WORKDIR_RELATIVE_PATH: Rule = buildkit(
    "WorkdirRelativePath",
    "https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/",
);
/// A variable that nothing sets.
pub(crate) static UNDEFINED_VAR: Rule =
    buildkit("UndefinedVar", "https://docs.docker.com/go/dockerfile/rule/undefined-var/");
/// A second `CMD`, `ENTRYPOINT` or `HEALTHCHECK`.
pub(crate) static MULTIPLE_INSTRUCTIONS_DISALLOWED: Rule = buildkit(
    "MultipleInstructionsDisallowed",
    "https://docs.docker.com/go/dockerfile/rule/multiple-instructions-disallowed/",
);
/// `ENV k v`, `LABEL k v`.
pub(crate) static LEGACY_KEY_VALUE_FORMAT: Rule = buildkit(
    "LegacyKeyValueFormat",
    "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/",
);
/// A base is of another platform than asked.
pub(crate) static INVALID_BASE_IMAGE_PLATFORM: Rule =
    Rule { id: "InvalidBaseImagePlatform", url: None, set: Set::Buildkit };
/// `--platform=$TARGETPLATFORM`.
pub(crate) static REDUNDANT_TARGET_PLATFORM: Rule = buildkit(
    "RedundantTargetPlatform",
    "https://docs.docker.com/go/dockerfile/rule/redundant-target-platform/",
);
/// A variable's name sounds secret.
pub(crate) static SECRETS_USED_IN_ARG_OR_ENV: Rule = buildkit(
    "SecretsUsedInArgOrEnv",
    "https://docs.docker.com/go/dockerfile/rule/secrets-used-in-arg-or-env/",
);
/// A base name is empty or wrong when no build arg is given.
pub(crate) static INVALID_DEFAULT_ARG_IN_FROM: Rule = buildkit(
    "InvalidDefaultArgInFrom",
    "https://docs.docker.com/go/dockerfile/rule/invalid-default-arg-in-from/",
);
/// A constant `--platform`.
pub(crate) static FROM_PLATFORM_FLAG_CONST_DISALLOWED: Rule = buildkit(
    "FromPlatformFlagConstDisallowed",
    "https://docs.docker.com/go/dockerfile/rule/from-platform-flag-const-disallowed/",
);
/// A source is hidden by the ignore file.
pub(crate) static COPY_IGNORED_FILE: Rule =
    buildkit("CopyIgnoredFile", "https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/");
/// A comment above `FROM` or `ARG` describes something else.
pub(crate) static INVALID_DEFINITION_DESCRIPTION: Rule = Rule {
    id: "InvalidDefinitionDescription",
    url: Some("https://docs.docker.com/go/dockerfile/rule/invalid-definition-description/"),
    set: Set::Experimental,
};
/// A protocol in capitals.
pub(crate) static EXPOSE_PROTO_CASING: Rule = buildkit(
    "ExposeProtoCasing",
    "https://docs.docker.com/go/dockerfile/rule/expose-proto-casing/",
);
/// `EXPOSE` with an address or host port.
pub(crate) static EXPOSE_INVALID_FORMAT: Rule = buildkit(
    "ExposeInvalidFormat",
    "https://docs.docker.com/go/dockerfile/rule/expose-invalid-format/",
);
/// Steps in a row that could be one.
pub(crate) static CHAINED_RUN: Rule = own("ChainedRun");
/// `# cache=ttl=` that has no effect.
pub(crate) static CACHE_COMMENT: Rule = own("CacheComment");
/// `# syntax=` names a frontend that is not this one.
pub(crate) static FOREIGN_SYNTAX: Rule = own("ForeignSyntax");
/// Build args that no `ARG` takes.
pub(crate) static UNCONSUMED_BUILD_ARGS: Rule = own("UnconsumedBuildArgs");
/// Close to the largest number of layers.
pub(crate) static TOO_MANY_LAYERS: Rule = own("TooManyLayers");
