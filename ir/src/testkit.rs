//! Plans for the tests of this crate.

use crate::env::Env;
use crate::graph::{Edge, GraphBuilder, VertexId};
use crate::image_config::ImageConfig;
use crate::meta::VertexMeta;
use crate::op::{
    ActionRef, CacheMount, CacheSharing, CopyAction, ExecOp, FileAction, FileActionKind, FileOp,
    ImageSource, InputIndex, LocalSource, Mount, MountKind, NetworkMode, Op, ResolveMode,
    SecurityMode, SourceOp,
};
use crate::plan::{BuildPlan, HistoryEntry, Target, TargetBase};
use crate::platform::Platform;
use crate::span::{SourceMap, Span};

/// A plan and its texts.
pub struct Kit {
    pub plan: BuildPlan,
    pub map: SourceMap,
}

const TEXT: &str = "FROM golang AS build\n\
    COPY . /src\n\
    RUN --mount=type=cache,target=/root/.cache go build -o /out/app ./... && echo \"<&>\" \\\\\n\
    RUN unused\n\
    FROM scratch\n\
    COPY --from=build /out/app /app\n\
    RUN [\"/app\", \"--version\"]\n";

pub fn ids(list: &[VertexId]) -> Vec<u32> {
    list.iter().map(|v| v.0).collect()
}

pub fn image(name: &str) -> Op {
    let reference = format!("docker.io/library/{name}:latest");
    Op::Source(SourceOp::Image(ImageSource { reference, resolve: ResolveMode::Default }))
}

pub fn exec(line: &str, root: Option<u32>) -> ExecOp {
    ExecOp {
        args: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        env: Env::new().with("PATH", "/bin"),
        cwd: "/".to_owned(),
        user: String::new(),
        root: root.map(InputIndex),
        mounts: Vec::new(),
        network: NetworkMode::Default,
        security: SecurityMode::Sandbox,
        secret_env: Vec::new(),
        devices: Vec::new(),
        proxy_env: None,
        extra_hosts: Vec::new(),
        hostname: None,
        ulimits: Vec::new(),
        cgroup_parent: None,
        services: Vec::new(),
    }
}

pub fn copy(base: ActionRef, from: u32, src: &str, dest: &str) -> Op {
    let kind = FileActionKind::Copy(Box::new(CopyAction {
        from: ActionRef::Input(InputIndex(from)),
        src: src.to_owned(),
        dest: dest.to_owned(),
        owner: None,
        mode: None,
        follow_symlink: true,
        dir_copy_contents: true,
        attempt_unpack: false,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        timestamp: None,
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        required_paths: Vec::new(),
    }));
    Op::File(FileOp { actions: vec![FileAction { base, kind }] })
}

impl Kit {
    /// A build stage (one of its steps not needed) and a final stage on nothing, four and five
    /// layers with the three that the base is said to have.
    pub fn two_stages() -> Self {
        let mut map = SourceMap::default();
        let file = map.add("Dockerfile", TEXT);
        let line = |n: usize| {
            let start: usize = TEXT.lines().take(n - 1).map(|l| l.len() + 1).sum();
            Span { file, start: start as u32, end: start as u32 + 4 }
        };
        let meta = |name: &str, stage: &str, at: usize| VertexMeta {
            name: name.to_owned(),
            stage: (!stage.is_empty()).then(|| stage.into()),
            span: Some(line(at)),
            command: TEXT.lines().nth(at - 1).map(Into::into),
            ..VertexMeta::default()
        };
        let amd = || Some(Platform::linux_amd64().into());
        let base = ActionRef::Input(InputIndex(0));
        let mut g = GraphBuilder::new();
        let golang =
            g.add(image("golang"), vec![], amd(), meta("[build 1/3] FROM golang", "build", 1));
        let context = Op::Source(SourceOp::Local(Box::new(LocalSource {
            name: "context".to_owned(),
            follow_paths: None,
            include: vec![],
            exclude: vec![],
            shared_key_hint: None,
        })));
        let context_meta = VertexMeta {
            name: "[internal] load build context".to_owned(),
            ..VertexMeta::default()
        };
        let context = g.add(context, vec![], None, context_meta);
        let copied = g.add(
            copy(base, 1, "/", "/src"),
            vec![Edge::main(golang), Edge::main(context)],
            None,
            meta("[build 2/3] COPY . /src", "build", 2),
        );
        let mut build = exec("go build -o /out/app ./...", Some(0));
        build.mounts.push(Mount {
            dest: "/root/.cache".to_owned(),
            kind: MountKind::Cache(CacheMount {
                id: "//root/.cache".to_owned(),
                sharing: CacheSharing::Shared,
                from: None,
                selector: "/".to_owned(),
                readonly: false,
            }),
        });
        let built = g.add(
            build.into(),
            vec![Edge::main(copied)],
            amd(),
            meta("[build 3/3] RUN go build -o /out/app ./... && echo \"<&>\" \\", "build", 3),
        );
        g.add(
            exec("unused", Some(0)).into(),
            vec![Edge::main(built)],
            amd(),
            meta("[build 4/3] RUN unused", "build", 4),
        );
        let out = g.add(
            copy(ActionRef::Scratch, 0, "/out/app", "/app"),
            vec![Edge::main(built)],
            None,
            meta("[stage-1 1/2] COPY --from=build /out/app /app", "stage-1", 6),
        );
        let mut last = exec("", Some(0));
        last.args = ["/app", "--version"].map(str::to_owned).to_vec();
        let last = g.add(
            last.into(),
            vec![Edge::main(out)],
            amd(),
            meta("[stage-1 2/2] RUN [\"/app\", \"--version\"]", "stage-1", 7),
        );
        let entry = |text: &str, layer, at| HistoryEntry {
            created_by: text.to_owned(),
            comment: "buildkit.dockerfile.v0".into(),
            author: None,
            layer,
            span: Some(line(at)),
        };
        let target = Target {
            stage: "stage-1".to_owned(),
            platform: Platform::linux_amd64(),
            root: Some(Edge::main(last)),
            config: ImageConfig::empty(Platform::linux_amd64()),
            history: vec![
                entry("COPY /out/app /app # buildkit", Some(Edge::main(out)), 6),
                entry("ENV A=1", None, 6),
                entry("RUN /app --version # buildkit", Some(Edge::main(last)), 7),
            ],
            base: TargetBase { layers: 3, ..TargetBase::default() },
        };
        Self { plan: BuildPlan { graph: g.finish(), targets: vec![target] }, map }
    }
}
