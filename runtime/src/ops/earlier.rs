//! Finds the layer that the last build of this place made of the same copy, for
//! [`crate::tree::earlier`].

use rgraph_ir::SnapshotId;
use rgraph_ir::op::{ActionRef, CopyAction, FileAction, FileActionKind, FileOp, has_wildcard};
use rgraph_solver::key::{InputKey, op_digest};
use rgraph_solver::{Task, Tree};
use rgraph_store::ResultRow;

use crate::cache::wire::recipe_from_bytes;
use crate::tree::earlier::Earlier;
use crate::worker::LocalWorker;

/// The files that `op` would copy once more onto `base`. `None`: they are few, or the op is no plain copy
/// out of a caller's folder, or nothing is known (or to be known, with `--no-cache`) of an earlier one on
/// the same base.
pub fn find(
    w: &LocalWorker<'_>,
    op: &FileOp,
    task: &Task<'_>,
    base: Option<SnapshotId>,
) -> Option<Earlier> {
    if task.meta.ignore_cache {
        return None;
    }
    let input = plain_copy(op)?;
    let Tree::Context(_) = task.inputs[input] else { return None };
    let (sel, now) = w.digest_in_key(task, input)?;
    if !w.files.are_many(&sel, now) {
        return None;
    }
    let description = op_digest(task.op, task.platform);
    let mut past = w.journal.last().steps.iter().filter(|s| s.op == description);
    past.find_map(|step| {
        let row: ResultRow = w.store.known_result(&step.canonical).ok()??;
        let [top] = row.outputs[..] else { return None };
        let record = w.store.snapshot(top).ok()??;
        let InputKey::Content(before, then) =
            recipe_from_bytes(&row.recipe)?.inputs.into_iter().nth(input)?
        else {
            return None;
        };
        if record.parent != base || before != sel {
            return None;
        }
        let same = w.files.in_common(&sel, then, now)?;
        Earlier::open(&record.dir?, same, w.host.owners).ok()
    })
}

/// The input that an op copies from, path by path, if it does nothing else. (With several copies, or
/// with a pattern, one file may take another's place.)
fn plain_copy(op: &FileOp) -> Option<usize> {
    let [FileAction { kind: FileActionKind::Copy(copy), .. }] = &op.actions[..] else {
        return None;
    };
    let CopyAction { from: ActionRef::Input(input), src, attempt_unpack: false, .. } = &**copy
    else {
        return None;
    };
    (!has_wildcard(src)).then(|| input.at())
}
