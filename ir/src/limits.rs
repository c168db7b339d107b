//! Every limit on what comes from outside, in one place. Each has a test at the limit and one past.

/// Most layers an image may have, base included: overlayfs stacks and Docker's own limit of 125
/// read-only layers plus two make more unusable.
pub const MAX_LAYERS: usize = 127;
/// From here on a warning: the Docker engine refuses to run more (`max depth exceeded`).
pub const WARN_LAYERS: usize = 125;

/// Most platforms that are found out for one build: more that the bases have is an error.
pub const MAX_PLATFORMS: usize = 64;

/// Largest Dockerfile, bytes.
pub const MAX_DOCKERFILE: usize = 16 << 20;
/// Longest logical line, bytes (BuildKit's scanner stops at 64 KiB for one physical line).
pub const MAX_LINE: usize = 64 * 1024 - 1;
/// Most stages in one file.
pub const MAX_STAGES: usize = 20_000;
/// Largest result of one expansion, bytes.
pub const MAX_EXPANSION: usize = 1 << 20;
/// Most ports one `EXPOSE` may come to: two protocols have as many.
pub const MAX_PORTS: usize = 2 * 65_536;
/// Most mounts of one step.
pub const MAX_MOUNTS: usize = 10_000;
/// Deepest nesting of `${...}` and of JSON.
pub const MAX_NESTING: usize = 64;
/// Most patterns in one ignore file.
pub const MAX_PATTERNS: usize = 10_000;
/// Largest ignore file, bytes.
pub const MAX_IGNORE_FILE: usize = 1 << 20;
/// Largest lock file, bytes.
pub const MAX_LOCK_FILE: usize = 1 << 20;

/// Largest manifest or index, bytes.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Largest image config, bytes.
pub const MAX_CONFIG: u64 = 8 << 20;
/// Largest answer of a token service, bytes.
pub const MAX_TOKEN_ANSWER: u64 = 1 << 20;
/// How much of an error body is read, bytes.
pub const MAX_ERROR_BODY: u64 = 64 << 10;
/// Most names in a list of tags or repositories.
pub const MAX_LIST_ENTRIES: usize = 100_000;
/// Largest single PAX header block, bytes.
pub const MAX_PAX_HEADER: u64 = 1 << 20;
/// Most members in one archive.
pub const MAX_TAR_MEMBERS: u64 = 10_000_000;
/// Longest path in an archive, bytes.
pub const MAX_TAR_PATH: usize = 4096;
/// Largest secret, bytes (BuildKit's limit).
pub const MAX_SECRET: u64 = 500 * 1024;

/// Largest record of a shared cache, bytes: [`MAX_LAYERS`] layers need some 40 KiB.
pub const MAX_CACHE_RECORD: u64 = 1 << 20;
/// Largest batch of a shared cache's entries, bytes as it is kept.
pub const MAX_CACHE_BATCH: u64 = 16 << 20;
/// The same unpacked.
pub const MAX_CACHE_BATCH_PLAIN: u64 = 128 << 20;
/// Most batches of one cache.
pub const MAX_CACHE_BATCHES: usize = 64;
/// Most layers that one cache lists.
pub const MAX_CACHE_BLOBS: usize = 20_000;
/// Most results, and most digests, in an image's config.
pub const MAX_INLINE_KEYS: usize = 100_000;

/// Largest serialised LLB definition that is read, bytes.
pub const MAX_LLB: usize = 32 << 20;
/// Most protobuf fields in one.
pub const MAX_LLB_FIELDS: usize = 2_000_000;

/// Processes and threads of a step for which the caller says nothing: enough for what builds do, and far from
/// all that a machine has.
pub const STEP_PROCESSES: u32 = 4096;

/// Largest bake file, bytes.
pub const MAX_BAKE_FILE: usize = 1 << 20;
/// Most bake files of one definition.
pub const MAX_BAKE_FILES: usize = 64;
/// What is read of a process' command line, bytes: it is the process that says how long it is.
pub const MAX_COMMAND_LINE: u64 = 4096;
/// Largest value of an expression in a bake file, bytes, with all its parts.
pub const MAX_BAKE_VALUE: usize = 1 << 20;
/// All values of a bake definition together, bytes, those in between too.
pub const MAX_BAKE_BYTES: u64 = 64 << 20;
/// Most steps that a bake definition may take to evaluate.
pub const MAX_BAKE_STEPS: u64 = 4 << 20;
/// Most targets and groups of a bake definition, those of a matrix counted.
pub const MAX_BAKE_TARGETS: usize = 5_000;
