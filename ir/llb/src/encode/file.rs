//! File actions (`client/llb/fileop.go`).

use rgraph_ir::op::{ActionRef, FileAction, FileActionKind, FileMode, FileOp, Owner, OwnerId};

use super::Inputs;
use crate::pb;

pub(super) fn file(op: &FileOp, inputs: &mut Inputs<'_>) -> pb::FileOp {
    // Actions are numbered after all inputs, so inputs come first.
    for a in &op.actions {
        for r in [Some(a.base), source_of(a)].into_iter().flatten() {
            if let ActionRef::Input(i) = r {
                inputs.at(i);
            }
        }
    }
    for o in op.actions.iter().filter_map(|a| a.kind.owner()) {
        if let ActionRef::Input(i) = o.lookup
            && by_name(o)
        {
            inputs.at(i);
        }
    }
    let count = inputs.list.len() as i64;
    let mut number = |r: ActionRef| match r {
        ActionRef::Scratch => pb::NO_INPUT,
        ActionRef::Input(i) => inputs.at(i),
        ActionRef::Action(k) => count + i64::from(k),
    };
    let last = op.actions.len().saturating_sub(1);
    let actions = op
        .actions
        .iter()
        .enumerate()
        .map(|(i, a)| pb::FileAction {
            input: number(a.base),
            secondary_input: source_of(a).map_or(pb::NO_INPUT, &mut number),
            output: if i == last { 0 } else { pb::NO_OUTPUT },
            action: Some(action(&a.kind, &mut number)),
        })
        .collect();
    pb::FileOp { actions }
}

fn source_of(a: &FileAction) -> Option<ActionRef> {
    match &a.kind {
        FileActionKind::Copy(c) => Some(c.from),
        _ => None,
    }
}

fn by_name(o: &Owner) -> bool {
    [&o.user, &o.group].into_iter().any(|id| matches!(id, Some(OwnerId::Name(_))))
}

fn action(kind: &FileActionKind, number: &mut impl FnMut(ActionRef) -> i64) -> pb::Action {
    let time = |t: Option<i64>| t.unwrap_or(pb::KEEP);
    let bits = |mode: u32| mode as i32;
    match kind {
        FileActionKind::Copy(c) => {
            let (mode, mode_str) = match &c.mode {
                None => (pb::KEEP as i32, String::new()),
                Some(FileMode::Bits(b)) => (bits(*b), String::new()),
                Some(FileMode::Symbolic(s)) => (0, s.clone()),
            };
            pb::Action::Copy(pb::FileActionCopy {
                src: c.src.clone(),
                dest: c.dest.clone(),
                owner: owner(c.owner.as_ref(), number),
                mode,
                follow_symlink: c.follow_symlink,
                dir_copy_contents: c.dir_copy_contents,
                attempt_unpack: c.attempt_unpack,
                create_dest_path: c.create_dest_path,
                allow_wildcard: c.allow_wildcard,
                allow_empty_wildcard: c.allow_empty_wildcard,
                timestamp: time(c.timestamp),
                include_patterns: c.include_patterns.clone(),
                exclude_patterns: c.exclude_patterns.clone(),
                always_replace: false,
                mode_str,
                required_paths: c.required_paths.clone(),
            })
        }
        FileActionKind::Mkfile(a) => pb::Action::Mkfile(pb::FileActionMkFile {
            path: a.path.clone(),
            mode: bits(a.mode),
            data: a.data.to_vec(),
            owner: owner(a.owner.as_ref(), number),
            timestamp: time(a.timestamp),
        }),
        FileActionKind::Mkdir(a) => pb::Action::Mkdir(pb::FileActionMkDir {
            path: a.path.clone(),
            mode: bits(a.mode),
            make_parents: a.make_parents,
            owner: owner(a.owner.as_ref(), number),
            timestamp: time(a.timestamp),
        }),
        FileActionKind::Rm(a) => pb::Action::Rm(pb::FileActionRm {
            path: a.path.clone(),
            allow_not_found: a.allow_not_found,
            allow_wildcard: a.allow_wildcard,
        }),
        FileActionKind::Symlink(a) => pb::Action::Symlink(pb::FileActionSymlink {
            oldpath: a.target.clone(),
            newpath: a.path.clone(),
            owner: owner(a.owner.as_ref(), number),
            timestamp: time(a.timestamp),
        }),
    }
}

fn owner(o: Option<&Owner>, number: &mut impl FnMut(ActionRef) -> i64) -> Option<pb::ChownOpt> {
    let Owner { user, group, lookup } = o?;
    let mut one = |id: &Option<OwnerId>| {
        id.as_ref().map(|id| pb::UserOpt {
            user: Some(match id {
                OwnerId::Id(n) => pb::User::ById(*n),
                OwnerId::Name(name) => pb::User::ByName(pb::NamedUserOpt {
                    name: name.clone(),
                    input: number(*lookup),
                }),
            }),
        })
    };
    Some(pb::ChownOpt { user: one(user), group: one(group) })
}
