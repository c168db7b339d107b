//! `COPY` and `ADD`.

use compact_str::CompactString;
use rgraph_ir::op::{
    ActionRef, CopyAction, FileAction, FileActionKind, FileMode, FileOp, GitSource, HttpSource,
    MergeOp, Op, Owner, OwnerId, SourceOp,
};
use rgraph_ir::{Diagnostic, Span, VertexMeta};

use super::draft::{Inputs, Ref};
use super::names::shown;
use super::state::StageState;
use super::url::Url;
use super::{Cx, Step, git, path};
use crate::ast::{Copy, Word};
use crate::expand::Mode;

/// What all copies of one instruction share.
struct Shared {
    dest: String,
    owner: Option<CompactString>,
    mode: Option<FileMode>,
    exclude: Vec<String>,
}

/// The actions as they come together.
struct Actions {
    start: ActionRef,
    list: Vec<FileAction>,
    inputs: Inputs,
}

impl Actions {
    fn base(&self) -> ActionRef {
        match self.list.len() {
            0 => self.start,
            n => ActionRef::Action(n as u32 - 1),
        }
    }

    fn push(
        &mut self,
        from: Option<Ref>,
        src: String,
        shared: &Shared,
        change: impl FnOnce(&mut CopyAction),
    ) {
        let base = self.base();
        let from = match from {
            Some(r) => ActionRef::Input(self.inputs.index(r)),
            None => ActionRef::Scratch,
        };
        let mut copy = CopyAction {
            from,
            src,
            dest: shared.dest.clone(),
            // Names mean what they mean before the first of the copies.
            owner: shared.owner.as_deref().map(|o| owner(o, self.start)),
            mode: shared.mode.clone(),
            follow_symlink: false,
            dir_copy_contents: false,
            attempt_unpack: false,
            create_dest_path: true,
            allow_wildcard: false,
            allow_empty_wildcard: false,
            timestamp: None,
            include_patterns: Vec::new(),
            exclude_patterns: shared.exclude.clone(),
            required_paths: Vec::new(),
        };
        change(&mut copy);
        // Nearly always the only one, and large.
        self.list.reserve_exact(1);
        self.list.push(FileAction { base, kind: FileActionKind::Copy(Box::new(copy)) });
    }
}

impl Cx<'_> {
    pub(super) fn copy_step(
        &mut self,
        st: &mut StageState,
        step: &Step<'_>,
        copy: &Copy,
        add: bool,
        source: Option<usize>,
    ) -> Result<(), Box<Diagnostic>> {
        let expanded = |cx: &mut Self, w: &Option<Word>| match w {
            Some(w) => cx.expand(st, step, w).map(|v| Some(v).filter(|v| !v.is_empty())),
            None => Ok(None),
        };
        let chown = expanded(self, &copy.chown)?;
        let chmod = expanded(self, &copy.chmod)?;
        let checksum = expanded(self, &copy.checksum)?;
        let mut sources = Vec::with_capacity(copy.sources.len());
        for w in &copy.sources {
            sources.push((self.expand(st, step, w)?, w.span));
        }
        let dest_shown = self.expand(st, step, &copy.dest)?;
        let mut files = Vec::with_capacity(copy.files.len());
        for f in &copy.files {
            let mut body = f.content();
            if f.expand {
                let span = step.instruction.span;
                body = self.expand_mode(st, step, &body, span, Mode::body())?.into();
            }
            files.push((&f.name, body));
        }
        let (from, from_node) = match source {
            None => (Some(self.context), None),
            Some(at) if self.nodes[at].dispatched => (self.nodes[at].root, Some(at)),
            Some(_) => {
                let name = copy.from.as_ref().map_or("", |f| f.text.as_str());
                return Err(step.error(
                    "stage-order",
                    format!(
                        "cannot copy from stage \"{name}\", it needs to be defined before current stage \"{}\"",
                        self.nodes[step.node].label
                    ),
                ));
            }
        };
        let platform = st.platform.clone();
        let os = platform.os.as_str();
        let wrong = |e: String| step.error("path", e);
        let shared = Shared {
            dest: path::destination(&st.cwd, &dest_shown, os).map_err(wrong)?,
            mode: match &chmod {
                Some(text) => {
                    Some(mode(text, copy.chmod.as_ref().map_or(step.instruction.span, |w| w.span))?)
                }
                None => None,
            },
            owner: chown.clone(),
            exclude: copy.exclude.clone(),
        };
        if checksum.is_some() {
            check_checksum(copy, &sources)?;
        }
        let link = copy.link && chmod.is_none();
        let mut actions =
            Actions { start: ActionRef::Scratch, list: Vec::new(), inputs: Inputs::default() };
        if let (Some(root), false) = (st.root, link) {
            actions.start = ActionRef::Input(actions.inputs.index(root));
        }
        let text = shown(&step.instruction.text, &st.vars, self.mode());
        let title = self.nodes[step.node].counter.next(&text, step.onbuild, Some(st), &platform);
        let mut said = String::with_capacity(step.instruction.text.len() + 16);
        said.push_str(if add { "ADD" } else { "COPY" });
        if copy.parents {
            said.push_str(" --parents");
        }
        for (flag, value) in [("chown", &chown), ("chmod", &chmod)] {
            if let Some(v) = value {
                said.extend([" --", flag, "=", v]);
            }
        }
        for (src, span) in &sources {
            said.extend([" ", src]);
            let fault = |m: String| Box::new(Diagnostic::error("source", *span, m));
            if let Some(g) = git::parse(src).map_err(fault)? {
                if !add {
                    return Err(Box::new(
                        fault("source can't be a git ref for COPY".to_owned())
                            .help("use ADD for repositories"),
                    ));
                }
                let op = git_source(&g, copy, checksum.as_deref()).map_err(fault)?;
                let meta = VertexMeta { name: title.clone(), ..self.meta(step, String::new()) };
                let tree =
                    self.draft.add(Op::Source(SourceOp::Git(Box::new(op))), Vec::new(), None, meta);
                actions.push(Some(tree), "/".to_owned(), &shared, |_| {});
            } else if git::is_http(src) {
                if !add {
                    return Err(Box::new(
                        fault("source can't be a URL for COPY".to_owned()).help("use ADD for URLs"),
                    ));
                }
                if let Some(c) = &checksum {
                    let span = copy.checksum.as_ref().map_or(*span, |w| w.span);
                    valid_digest(c)
                        .map_err(|e| Box::new(Diagnostic::error("checksum", span, e)))?;
                }
                let filename = url_filename(src);
                let op = SourceOp::Http(Box::new(HttpSource {
                    url: src.to_string(),
                    filename: filename.clone(),
                    checksum: checksum.as_ref().map(CompactString::to_string),
                }));
                let meta = VertexMeta { name: title.clone(), ..self.meta(step, String::new()) };
                let tree = self.draft.add(Op::Source(op), Vec::new(), None, meta);
                let unpack = copy.unpack.unwrap_or(false);
                actions.push(Some(tree), path::join("/", &filename), &shared, |c| {
                    c.attempt_unpack = unpack;
                });
            } else {
                if copy.from.is_none() {
                    self.lint_ignored(step, src, add);
                }
                let parents =
                    copy.parents.then(|| Parents::of(src, os)).transpose().map_err(wrong)?;
                let src = parents.as_ref().map_or(src.as_str(), |p| p.src.as_str());
                let src = path::cleaned(path::normalize("/", src, os, false).map_err(wrong)?);
                actions.push(from, src, &shared, |c| {
                    c.follow_symlink = true;
                    c.dir_copy_contents = true;
                    c.allow_wildcard = true;
                    c.allow_empty_wildcard = true;
                    c.attempt_unpack = copy.unpack.unwrap_or(add);
                    if let Some(p) = parents {
                        c.include_patterns = vec![p.pattern];
                        c.required_paths = p.required;
                    }
                });
            }
        }
        for (name, body) in files {
            said.extend([" <<", name]);
            let tree = self.inline_file(name, body, 0o644);
            actions.push(Some(tree), path::join("/", name), &shared, |_| {});
        }
        said.extend([" ", &dest_shown, " # buildkit"]);
        self.note_paths(add, from_node, &sources);

        let mut meta = self.meta(step, title);
        meta.ignore_cache = self.nodes[step.node].ignore_cache;
        let op = Op::File(FileOp { actions: actions.list });
        let done = match (link, st.root) {
            (true, Some(root)) => {
                let counter = &self.nodes[step.node].counter;
                let name =
                    counter.again(&format!("LINK {text}"), step.onbuild, Some(st), &platform);
                let progress_group = Some(meta.name.as_str().into());
                let merge = VertexMeta { name, progress_group, ..meta.clone() };
                let copied = self.draft.add(op, actions.inputs.0, None, meta);
                self.draft.add(Op::Merge(MergeOp {}), vec![root, copied], None, merge)
            }
            _ => self.draft.add(op, actions.inputs.0, None, meta),
        };
        st.root = Some(done);
        st.commit(said, Some(done), step.instruction.span);
        Ok(())
    }

    /// Remembers which paths of the source are read.
    fn note_paths(&mut self, add: bool, from: Option<usize>, sources: &[(CompactString, Span)]) {
        let set = from.map_or(self.context_paths, |at| self.nodes[at].paths);
        let paths = &mut self.draft.paths[set];
        for (src, _) in sources {
            let url = src.starts_with("http://") || src.starts_with("https://");
            if !(add && url) {
                paths.add(|| path::join("/", src));
            }
        }
    }
}

/// `--parents`: `a/./b` copies `b` below `a`, keeping its folders.
struct Parents {
    src: String,
    pattern: String,
    required: Vec<String>,
}

impl Parents {
    fn of(src: &str, os: &str) -> Result<Self, String> {
        let (base, pattern) = src.split_once("/./").unwrap_or(("/", src));
        let pattern = path::normalize("/", pattern, os, false)?;
        let required = if has_wildcard(base) || has_wildcard(&pattern) {
            Vec::new()
        } else {
            vec![path::normalize("/", &path::join(base, &pattern), os, false)?]
        };
        let pattern = pattern.strip_prefix('/').unwrap_or(&pattern).to_owned();
        Ok(Self { src: base.to_owned(), pattern, required })
    }
}

fn has_wildcard(s: &str) -> bool {
    let mut chars = s.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}

/// `user[:group]`; numbers and `root` need no lookup.
pub(super) fn owner(text: &str, lookup: ActionRef) -> Owner {
    let id = |s: &str| match s {
        "root" | "" => OwnerId::Id(0),
        s => match s.parse::<i32>() {
            Ok(n) => OwnerId::Id(n as u32),
            Err(_) => OwnerId::Name(s.to_owned()),
        },
    };
    let (user, group) = match text.split_once(':') {
        Some((u, g)) => (u, Some(g)),
        None => (text, None),
    };
    Owner { user: Some(id(user)), group: group.map(id), lookup }
}

fn mode(text: &str, span: Span) -> Result<FileMode, Box<Diagnostic>> {
    let err = |m: String| Box::new(Diagnostic::error("chmod", span, m));
    let octal = !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    if octal && let Ok(n @ 0..=0o7777) = u32::from_str_radix(text, 8) {
        return Ok(FileMode::Bits(n));
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(err(format!(
            "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        )));
    }
    let symbolic = FileMode::Symbolic(text.to_owned());
    if let Err(e) = symbolic.apply(0, false) {
        return Err(Box::new(
            err(format!("invalid chmod parameter: {e}"))
                .help("write an octal number such as `0644`, or clauses such as `u=rwX,go=rX`"),
        ));
    }
    Ok(symbolic)
}

fn check_checksum(copy: &Copy, sources: &[(CompactString, Span)]) -> Result<(), Box<Diagnostic>> {
    let span = copy.checksum.as_ref().map_or(copy.dest.span, |w| w.span);
    let err = |m: &str| Err(Box::new(Diagnostic::error("checksum", span, m)));
    let [(src, _)] = sources else {
        return err("checksum can't be specified for multiple sources");
    };
    if !git::is_http(src) && !git::is_repository(src) {
        return err("checksum requires HTTP(S) or Git sources");
    }
    Ok(())
}

/// `sha256:` and 64 hex digits, or the longer kinds.
fn valid_digest(text: &str) -> Result<(), String> {
    let Some((algorithm, hex)) =
        text.split_once(':').filter(|(a, h)| !a.is_empty() && !h.is_empty())
    else {
        return Err(format!("invalid checksum digest format: `{text}`"));
    };
    let len = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(format!("unsupported digest algorithm: `{algorithm}`")),
    };
    if hex.len() != len {
        return Err(format!("invalid checksum digest length: {} digits, not {len}", hex.len()));
    }
    if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(format!("invalid checksum digest format: `{text}`"));
    }
    Ok(())
}

fn git_source(g: &git::GitRef, copy: &Copy, checksum: Option<&str>) -> Result<GitSource, String> {
    if let (Some(a), Some(b)) = (copy.keep_git_dir, g.keep_git_dir)
        && a != b
    {
        return Err("inconsistent keep-git-dir configuration".to_owned());
    }
    let keep = g.keep_git_dir.or(copy.keep_git_dir).unwrap_or(false);
    let checksum = match (checksum, g.checksum.as_str()) {
        (Some(a), b) if !b.is_empty() && a != b => {
            return Err(format!("checksum mismatch \"{a}\" != \"{b}\""));
        }
        (Some(a), _) => a,
        (None, b) => b,
    };
    Ok(g.source(keep, checksum))
}

/// The last element of a URL's path.
fn url_filename(url: &str) -> String {
    let name = Url::parse(url).map(|u| path::base(&u.path).to_owned());
    name.filter(|n| !matches!(n.as_str(), "." | "/")).unwrap_or_else(|| "__unnamed__".to_owned())
}
